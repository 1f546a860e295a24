"""10,000 short requests, 32 at a time, then nobody for a while: what the server's processes hold against what they held after the
first 200. Every other request streams; every third brings a salt of its own."""

from __future__ import annotations

import json
import random
import time
from dataclasses import asdict
from typing import Any

from figures import Figure, Found

from serve_parts.common import CLIENTS, Bench
from serve_parts.contest import new_salt
from serve_parts.load import Ask, load
from serve_parts.process import Footprint
from serve_parts.sides import Betoken

FIRST, FIRST_QUICK = 200, 100
BATCH = 1000
PROMPT_WORDS, MAX_TOKENS = 8, 4
BOUND = 1.05


def run(bench: Bench) -> Found:
    first = FIRST_QUICK if bench.settings.quick else FIRST
    drawn = random.Random(bench.settings.seed)
    with bench.betoken() as server:
        _sent(bench, server, drawn, 0, first)
        before, kept_before = _idle(bench, server)
        trail = []
        start = time.perf_counter()
        for done in range(first, bench.settings.requests, BATCH):
            number = min(BATCH, bench.settings.requests - done)
            _sent(bench, server, drawn, done, number)
            trail.append({"requests": done + number, **asdict(server.footprint())})
            bench.say(f"{trail[-1]['requests']} requests: {trail[-1]['rss'] / 1e6:.0f} MB")
        seconds = time.perf_counter() - start
        after, kept = _idle(bench, server)
    more = {
        "before, MB": before.rss / 1e6,
        "after, MB": after.rss / 1e6,
        "kept prefixes, MB": f"{kept_before['kept_prefix_bytes'] / 1e6:.0f} to {kept['kept_prefix_bytes'] / 1e6:.0f}",
        "requests/s": (bench.settings.requests - first) / seconds,
    }
    figures = [
        Figure(
            f"memory after {bench.settings.requests} requests/after {first}",
            after.rss / before.rss,
            BOUND,
            most=True,
            more=more,
        ),
        Figure("open files, more than before", after.files - before.files, 0, most=True),
        Figure("threads, more than before", after.threads - before.threads, 0, most=True),
        Figure(
            "requests left running or waiting",
            kept["num_requests_running"] + kept["num_requests_waiting"],
            0,
            most=True,
        ),
    ]
    return Found(figures, [{"before": asdict(before), "after": asdict(after), "trail": trail}])


def _sent(bench: Bench, server: Betoken, drawn: random.Random, first: int, number: int) -> None:
    """Whatever is no success is raised."""
    asks = [_short(bench, server, drawn, place) for place in range(first, first + number)]
    for exchange in load(server.url, asks, max(CLIENTS)).exchanges:
        assert exchange.arrivals


def _short(bench: Bench, server: Betoken, drawn: random.Random, place: int) -> Ask:
    prompt = "".join(drawn.choices(bench.words, k=PROMPT_WORDS))
    ask = server.ask(prompt, MAX_TOKENS, new_salt())
    body: dict[str, Any] = json.loads(ask.body)
    if place % 3:
        del body["cache_salt"]
    if place % 2:
        del body["stream"], body["stream_options"]
    return Ask.of(ask.path, body)


def _idle(bench: Bench, server: Betoken) -> tuple[Footprint, dict[str, float]]:
    time.sleep(bench.settings.idle_s)
    return server.footprint(), server.metrics()
