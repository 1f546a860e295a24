"""Whether anybody else used the processors while something was measured; if so, it is measured again.

Two threads that wait for each other at every layer stand still whenever one of them has lost its processor: a third process takes
far more from a server with two threads than its share, and from one with a single thread it takes nothing. No ratio of the two means
anything then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from serve_parts.common import Bench
from serve_parts.process import TICK_S, Server

T = TypeVar("T")
TRIES = 5
# Of a processor, and in seconds, for the system counts in ticks.
SHARE, SLACK_S = 0.1, 0.15
IDLE = (3, 4)


def quietly(bench: Bench, work: Callable[[], T]) -> T:
    """The result of the first try in which nobody else was at work, or else of the last."""
    tries = 1 if bench.settings.quick else TRIES
    for last in (*[False] * (tries - 1), True):
        start, before = time.perf_counter(), _others()
        found = work()
        if _others() - before <= SHARE * (time.perf_counter() - start) + SLACK_S:
            break
        bench.repeated += not last
        bench.disturbed += last
    return found


def _others() -> float:
    """Processor seconds of all processes, without this one and the servers it started."""
    ticks = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:8]]
    busy = sum(value for place, value in enumerate(ticks) if place not in IDLE)
    return busy * TICK_S - time.process_time() - sum(server.cpu_seconds() for server in Server.running)
