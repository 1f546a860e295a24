"""`betoken serve` against `transformers serve`: same weights and dtype, same prompts, greedy, tokens counted by one counter.

`transformers serve` runs with continuous batching (which works on a CPU) and, beside it, without. One client alone is the rival of
both, for either may be faster; without, many clients take turns, one whole answer after the other, so that against them it comes in
only where batching does not work. The faster counts. Each round of ours has salts of its own; `transformers serve` has no such thing
and may share the KV of prompts that it has seen.
"""

from __future__ import annotations

from contextlib import ExitStack
from statistics import mean, median
from typing import Any

from figures import Figure, Found, held

from serve_parts.common import CLIENTS, Bench, many
from serve_parts.contest import Outcome, Rival, contest
from serve_parts.process import ServerFailedError
from serve_parts.sides import Transformers

BOUNDS = {1: 1.5, 8: 1.5, 32: 1.2}
OURS = "betoken"


def run(bench: Bench) -> Found:
    found = Found()
    with ExitStack() as open_servers:
        ours = open_servers.enter_context(bench.betoken())
        bench.keep(ours, about=ours.about)
        rivals = [Rival(OURS, ours), *_rivals(bench, open_servers, ours.about["dtype"])]
        for clients in CLIENTS:
            theirs = rivals[1:] if clients == 1 else rivals[1:2]
            outcome = contest(bench, clients, [rivals[0], *theirs])
            found.figures.append(_figure(clients, outcome, [rival.name for rival in theirs]))
            found.data.append({"clients": clients, **outcome.as_json()})
            bench.say(f"{many(clients)}: {found.figures[-1].value:.3f} of {found.figures[-1].more['rival']}")
    return found


def _rivals(bench: Bench, open_servers: ExitStack, dtype: str) -> list[Rival]:
    """Both modes, where they work; why one does not is kept."""
    rivals = []
    for batching in (True, False):
        server = Transformers(str(bench.model), dtype, batching=batching)
        try:
            open_servers.enter_context(server)
        except ServerFailedError as failure:
            bench.say(f"{server.name} does not work here: {failure}")
            bench.keep(server, failure=f"{failure}\n{server.tail()}")
            continue
        bench.keep(server)
        rivals.append(Rival(server.name, server))
    if not rivals:
        raise ServerFailedError("transformers serve does not work here in any mode (it needs accelerate and psutil)")
    return rivals


def _figure(clients: int, outcome: Outcome, rivals: list[str]) -> Figure:
    """Against the faster mode."""
    rival = max(rivals, key=outcome.rate)
    more: dict[str, Any] = {
        "rival": rival,
        "its tokens/s": outcome.rate(rival),
        "ours": outcome.rate(OURS),
        "its first text, ms": 1000 * median(outcome.firsts[rival]),
        "ours, ms": 1000 * median(outcome.firsts[OURS]),
        "its processors": median(outcome.processors[rival]),
        "ours, too": median(outcome.processors[OURS]),
        "identical": mean(outcome.alike[rival]),
    }
    return held(f"{many(clients)}, betoken/transformers", outcome.ratios(OURS, rival), BOUNDS[clients], **more)
