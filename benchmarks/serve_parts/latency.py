"""Waiting: for the first text at 32 clients, and in the middle of a stream while somebody else's long prompt is read."""

from __future__ import annotations

import asyncio
from statistics import mean, median

import numpy as np
import numpy.typing as npt
from figures import Figure, Found, interval
from rich.progress import track

from serve_parts.common import CLIENTS, Bench
from serve_parts.contest import new_salt
from serve_parts.load import Exchange, client, load, reply, undisturbed
from serve_parts.process import ServerFailedError
from serve_parts.quiet import quietly
from serve_parts.sides import Betoken

MOST = max(CLIENTS)
LONG_PROMPT, BOUND = 3000, 8.0
STREAM_TOKENS, JOINER_TOKENS = 1500, 8
READS_BEFORE, READS_QUICK, AFTER_S = 40, 12, 0.5


def run(bench: Bench) -> Found:
    found = Found()
    with bench.betoken() as server:
        _firsts(bench, server, found)
        _joining(bench, server, found)
    return found


def _firsts(bench: Bench, server: Betoken, found: Found) -> None:
    """Means of a round, at one client and at all; the first requests of all come at once, the later ones one by one."""
    ratios, rounds = [], []
    for _ in track(range(bench.settings.rounds), "first text", console=bench.console, transient=True):
        alone, many = (
            quietly(bench, lambda clients=clients: _first_texts(bench, server, clients))  # type: ignore[misc]
            for clients in (1, MOST)
        )
        ratios.append(mean(many) / mean(alone))
        rounds.append({"alone_s": alone, "many_s": many})
    low, high = interval(ratios)
    more = {
        "alone, ms": 1000 * median(mean(one["alone_s"]) for one in rounds),
        f"{MOST} at once, ms": 1000 * median(mean(one["many_s"][:MOST]) for one in rounds),
        "later ones, ms": 1000 * median(mean(one["many_s"][MOST:] or one["many_s"]) for one in rounds),
        "longest, ms": 1000 * max(max(one["many_s"]) for one in rounds),
    }
    found.figures.append(Figure(f"first text, {MOST} clients/one", median(ratios), None, low, high, more=more))
    found.data.append({"first_text": rounds})


def _first_texts(bench: Bench, server: Betoken, clients: int) -> list[float]:
    return [one.first for one in load(server.url, bench.asks(server, clients, new_salt()), clients).replies()]


def _joining(bench: Bench, server: Betoken, found: Found) -> None:
    """31 streams run, one with a long prompt joins: the longest wait of each stream for its next tokens meanwhile, in its own median
    waits. Past their ends some streams say special tokens, which are tokens without a text, so waits for text are longer."""
    numbers = track(range(bench.settings.rounds), "a long prompt joins", console=bench.console, transient=True)
    rounds = [quietly(bench, lambda: _joined(bench, server)) for _ in numbers]
    worst = [max(one["longest_s"] / one["median_s"] for one in waits) for _, waits in rounds]
    every = [one for _, waits in rounds for one in waits]
    more = {
        "median round": median(worst),
        "median wait, ms": 1000 * median(one["median_s"] for one in every),
        "longest wait, ms": 1000 * max(one["longest_s"] for one in every),
        "longest/median of text": max(one["longest_text_s"] / one["median_text_s"] for one in every),
        "the joiner's first text, s": median(first for first, _ in rounds),
        "streams": len(every),
    }
    what = f"longest/median wait of a stream while {LONG_PROMPT} tokens are read"
    found.figures.append(Figure(what, max(worst), BOUND, most=True, more=more))
    found.data.append({"joining": [{"first_text_s": first, "waits": waits} for first, waits in rounds]})


def _joined(bench: Bench, server: Betoken) -> tuple[float, list[dict[str, float]]]:
    """What the joiner waited for its first text, and each stream for its next; the streams are left when that is known."""
    salt = new_salt()
    prompts = [bench.prompts[place % len(bench.prompts)] for place in range(MOST - 1)]
    running = [
        Exchange(server.ask(one, STREAM_TOKENS, salt, ignore_eos=True, return_token_sources=True)) for one in prompts
    ]
    joiner = Exchange(server.ask(bench.long_text(LONG_PROMPT, salt), JOINER_TOKENS, salt, ignore_eos=True))
    reads = READS_QUICK if bench.settings.quick else READS_BEFORE

    async def work() -> None:
        async with client(server.url) as http, asyncio.TaskGroup() as group:
            tasks = [group.create_task(one.run(http)) for one in running]
            while min(len(one.arrivals) for one in running) < reads:
                await asyncio.sleep(0.01)
            await joiner.run(http)
            await asyncio.sleep(AFTER_S)
            for task in tasks:
                task.cancel()

    undisturbed(work)
    server.settled()
    first = reply(joiner).first
    return first, [_waits(one, joiner.sent, joiner.sent + first) for one in running]


def _waits(exchange: Exchange, start: float, end: float) -> dict[str, float]:
    """A stream's median wait for tokens, and its longest of those that touch a span of time; when in the span that one began and ended;
    and the same of text."""
    said = reply(exchange)
    median_s, longest_s, began = _longest(np.array(said.steps) + exchange.sent, start, end)
    median_text_s, longest_text_s, _ = _longest(np.array(said.times) + exchange.sent, start, end)
    return {
        "median_s": median_s,
        "longest_s": longest_s,
        "began_s": began - start,
        "ended_s": began - start + longest_s,
        "median_text_s": median_text_s,
        "longest_text_s": longest_text_s,
    }


def _longest(times: npt.NDArray[np.float64], start: float, end: float) -> tuple[float, float, float]:
    """The median wait, the longest that touches a span, and when that one began."""
    waits = np.diff(times)
    places = np.flatnonzero((times[1:] > start) & (times[:-1] < end))
    if not len(places):
        raise ServerFailedError("a stream was over before the long prompt was read")
    longest = places[waits[places].argmax()]
    return float(np.median(waits)), float(waits[longest]), float(times[longest])
