"""How long the server's event loop was kept from its work at 32 clients, in its own words.

`betoken:event_loop_lag_seconds_max` is the largest lag since the last scrape. It is scraped before a round, once all clients that came at
the same moment have their first text, and after the round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from statistics import median

import httpx2 as httpx
from figures import Figure, Found
from rich.progress import track

from serve_parts.common import CLIENTS, Bench
from serve_parts.contest import new_salt
from serve_parts.load import Exchange, load
from serve_parts.process import ServerFailedError
from serve_parts.quiet import quietly
from serve_parts.sides import Betoken, read_metrics

METRIC = "event_loop_lag_seconds_max"
MOST = max(CLIENTS)
BOUND_MS = 20.0


def run(bench: Bench) -> Found:
    with bench.betoken() as server:
        if METRIC not in server.metrics():
            raise ServerFailedError(f"/metrics has no betoken:{METRIC}")
        _longest_ms(bench, server)
        numbers = track(range(bench.settings.rounds), "stall", console=bench.console, transient=True)
        rounds = [quietly(bench, lambda: _longest_ms(bench, server)) for _ in numbers]
    more = {
        "median, while all come at once": median(first for first, _ in rounds),
        "later": median(later for _, later in rounds),
        "rounds": len(rounds),
    }
    longest = max(max(one) for one in rounds)
    what = f"longest stall of the event loop, {MOST} clients, ms"
    data = [{"at_once_ms": first, "later_ms": later} for first, later in rounds]
    return Found([Figure(what, longest, BOUND_MS, most=True, strict=True, more=more)], data)


def _longest_ms(bench: Bench, server: Betoken) -> tuple[float, float]:
    """Of one round: while all come at once, and later."""
    first: list[float] = []

    async def look(http: httpx.AsyncClient, exchanges: Sequence[Exchange]) -> None:
        while not all(one.arrivals for one in exchanges[:MOST]):
            await asyncio.sleep(0.01)
        first.append(1000 * read_metrics((await http.get("/metrics")).text)[METRIC])

    server.metrics()
    done = load(server.url, bench.asks(server, MOST, new_salt()), MOST, look)
    later = 1000 * server.metrics()[METRIC]
    done.replies()
    return first[0], later
