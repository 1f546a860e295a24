"""How long the server's event loop was kept from its work at 32 clients, in its own words.

`betoken:event_loop_lag_seconds_max` is the largest lag since the last scrape: scraped before and after each round.
"""

from __future__ import annotations

from statistics import median

from figures import Figure, Found
from rich.progress import track

from serve_parts.common import CLIENTS, Bench
from serve_parts.contest import new_salt
from serve_parts.load import load
from serve_parts.process import ServerFailedError
from serve_parts.quiet import quietly
from serve_parts.sides import Betoken

METRIC = "event_loop_lag_seconds_max"
BOUND_MS = 20.0


def run(bench: Bench) -> Found:
    most = max(CLIENTS)
    with Betoken() as server:
        if METRIC not in server.metrics():
            raise ServerFailedError(f"/metrics has no betoken:{METRIC}")
        load(server.url, bench.asks(server, most, new_salt()), most).replies()
        numbers = track(range(bench.settings.rounds), "stall", console=bench.console, transient=True)
        lags = [quietly(bench, lambda: _longest_ms(bench, server, most)) for _ in numbers]
    more = {"median round": median(lags), "rounds": len(lags)}
    figure = Figure(
        f"longest stall of the event loop, {most} clients, ms", max(lags), BOUND_MS, most=True, strict=True, more=more
    )
    return Found([figure], [{"longest_ms": lags}])


def _longest_ms(bench: Bench, server: Betoken, clients: int) -> float:
    """Of one round."""
    server.metrics()
    done = load(server.url, bench.asks(server, clients, new_salt()), clients)
    lag = 1000 * server.metrics()[METRIC]
    done.replies()
    return lag
