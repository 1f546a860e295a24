"""Recorded conversations under tables of costs: tokens per unit of cost, `auto` against every fixed method and budget (plain decoding, too).

No clock: members cost nothing, and a forward pass what a table says. A unit is what a plain pass costs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from figures import Figure, Found
from rich.progress import track

from auto_parts.common import AUTO, PLAIN, Bench
from betoken.bench.replay import replay_one
from betoken.engine import Engine
from betoken.logs import read_any
from betoken.methods import proposer_of, spelt
from betoken.policy.cost import Table
from betoken.proposers.base import Proposer, Workshop
from betoken.targets.base import Feed
from betoken.targets.replay import Replayed, ReplayTarget
from betoken.trace import Trace

NODES = 128
FIXED = (
    "ngram",
    *(f"suffix:nodes={nodes}" for nodes in (8, 16, 40, 64)),
    *(f"mix:nodes={nodes}" for nodes in (2, 4, 8, 16, 24, 40, 64, 128)),
)
QUICK = ("ngram", "suffix:nodes=16", "mix:nodes=16")
CURVES: dict[str, dict[int, float]] = {
    "flat": {1: 1.0, 129: 1.0},
    "CPU": {1: 97.0, 8: 110.0, 16: 116.0, 32: 165.0, 64: 242.0},
    "experts": {1: 1.0, 2: 1.45, 4: 2.1, 8: 3.0, 16: 4.1, 32: 5.2, 64: 6.0, 128: 6.6},
}


class Counted(ReplayTarget):
    """A recording that counts its steps by their widths; prompts are no steps."""

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace.vocab_size, trace.eos_ids)
        self.widths: Counter[int] = Counter()

    def score(self, feeds: Sequence[Feed]) -> Replayed:
        if all(len(feed.tokens) == 1 for feed in feeds):
            self.widths[sum(1 + len(feed.draft) for feed in feeds)] += 1
        return super().score(feeds)


@dataclass(frozen=True)
class Ran:
    """What a method did on a trace: tokens of its steps, and how many steps there were of each width."""

    emitted: int
    widths: Mapping[int, int]

    def rate(self, curve: Mapping[int, float]) -> float:
        """Tokens per plain pass's cost."""
        most = max(self.widths, default=1)
        seconds = Table(curve).seconds(1, 1, most - 1)
        cost = sum(float(seconds[width - 1]) * times for width, times in self.widths.items())
        return self.emitted * float(seconds[0]) / cost

    @property
    def nodes(self) -> float:
        """Fed, in the mean over steps."""
        return float(np.average([width - 1 for width in self.widths], weights=[*self.widths.values()]))


def curves_of(path: Path | None) -> dict[str, dict[int, float]]:
    """The tables of costs; with a file of `shapes.py`, its instead."""
    if path is None:
        return CURVES
    shapes = json.loads(path.read_text(encoding="utf-8"))["shapes"]
    return {shape["shape"]: {int(width): seconds for width, seconds in shape["replay"].items()} for shape in shapes}


def run(bench: Bench, traces: Path, limit: int | None, curves: Path | None = None) -> Found:
    found, tables = Found(), curves_of(curves)
    files = sorted(path for path in traces.iterdir() if path.name.endswith((".jsonl", ".jsonl.gz")))
    for path in files:
        trace = read_any(path, None)
        trace = Trace(trace.header, trace.conversations[:limit])
        for warm in (False, True):
            for figure, data in _trace(bench, path.name.split(".jsonl")[0], trace, warm, tables):
                found.figures.append(figure)
                found.data.append(data)
    return found


def _trace(
    bench: Bench, name: str, trace: Trace, warm: bool, tables: Mapping[str, Mapping[int, float]]
) -> list[tuple[Figure, dict[str, Any]]]:
    """All curves. What a fixed method says does not depend on them."""
    what = f"{name}, {'warm' if warm else 'cold'}"
    names = QUICK if bench.settings.quick else FIXED
    fixed = {
        method: replayed(trace, lambda method=method: _fixed(method, trace), warm)  # type: ignore[misc]
        for method in track(names, what, console=bench.console, transient=True)
    }
    found = []
    for label, curve in tables.items():
        rates = {PLAIN: 1.0, **{method: ran.rate(curve) for method, ran in fixed.items()}}
        auto = replayed(trace, lambda curve=curve: _auto(trace, curve), warm)  # type: ignore[misc]
        best = max(rates, key=rates.__getitem__)
        rate = auto.rate(curve)
        more = {"best": best, "its tokens": rates[best], "auto's tokens": rate, "auto's nodes": auto.nodes}
        figure = Figure(f"{what}, {label}", rate / rates[best], 1.0, more=more)
        bench.say(f"{figure.what}: {figure.value:.3f} of {best}")
        found.append((figure, {"trace": name, "warm": warm, "curve": label, "auto": rate, "fixed": rates}))
    return found


def _fixed(method: str, trace: Trace) -> Proposer | None:
    name, options = spelt(method)
    return proposer_of(name, Workshop(ReplayTarget(trace.vocab_size, trace.eos_ids).info, options=options))


def _auto(trace: Trace, curve: Mapping[int, float]) -> Proposer | None:
    info = ReplayTarget(trace.vocab_size, trace.eos_ids).info
    return proposer_of(AUTO, Workshop(info, None, {"nodes": NODES}, Table(curve), _still))


def _still() -> float:
    return 0.0


def replayed(trace: Trace, make: Callable[[], Proposer | None], warm: bool) -> Ran:
    """warm: what was said in earlier conversations is remembered."""
    target = Counted(trace)
    engine: Engine | None = None
    emitted = 0
    for conversation in trace.conversations:
        if engine is None or not warm:
            engine = Engine(target, make(), max_nodes=512, clock=_still)
        emitted += sum(stats.emitted_tokens for stats in replay_one(engine, target, conversation))
    return Ran(emitted, target.widths)
