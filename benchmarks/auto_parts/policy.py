"""What deciding takes: time in `auto` that its members do not take, with 40 nodes and three of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import median, quantiles
from typing import Any

from figures import Figure, Found

from auto_parts.common import AUTO, Bench, Ids
from betoken.draft import Draft
from betoken.engine import Engine, Request
from betoken.methods import proposer_of
from betoken.policy.cost import Curve, Measured, Table
from betoken.proposers.base import Levels, ObserveContext, ProposeContext, Proposer, SeqView, Workshop

BOUNDS = {1: 150.0, 16: 1000.0}  # microseconds
NODES = 40
MEMBERS = ("mix+recycling+draft", "mix+recycling+ngram")
WARM_UP = 2  # steps, after a whole batch that is not counted
TOKENS = 64  # at least
# Where a wide pass takes as long as a narrow one, and far longer than any drafter: everybody is asked, and all nodes are fed.
FLAT = {1: 1.0, 129: 1.0}


class Member:
    """A drafter and the seconds it takes; what it asks the policy meanwhile is the policy's own time."""

    def __init__(self, proposer: Proposer) -> None:
        self._proposer, self.seconds = proposer, 0.0
        self.name, self.needs = proposer.name, proposer.needs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._proposer, name)

    def begin(self, seq: SeqView) -> None:
        self._timed(lambda: self._proposer.begin(seq))

    def propose(self, ctx: ProposeContext) -> list[Draft]:
        return self._timed(lambda: self._proposer.propose(self._open(ctx)))

    def grow(self, seq: SeqView, least: float) -> Any:
        return self._timed(lambda: self._proposer.grow(seq, least))  # type: ignore[attr-defined]

    def _open(self, ctx: ProposeContext) -> ProposeContext:
        return ctx if ctx.pays is None else replace(ctx, pays=self._handed_back(ctx.pays))

    def observe(self, ctx: ObserveContext) -> None:
        self._timed(lambda: self._proposer.observe(ctx))

    def _timed(self, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        try:
            return call()
        finally:
            self.seconds += time.perf_counter() - start

    def _handed_back(self, pays: Levels) -> Levels:
        def asked(frontier: Any) -> list[bool]:
            start = time.perf_counter()
            going = pays(frontier)
            self.seconds -= time.perf_counter() - start
            return going

        return asked


@dataclass
class Policy:
    """`auto` as an engine sees it; microseconds of its own, each step."""

    auto: Any
    members: list[Member]
    proposing: list[float] = field(default_factory=list)
    observing: list[float] = field(default_factory=list)
    _before: float = 0.0  # asking whether it rests

    def __getattr__(self, name: str) -> Any:
        return getattr(self.auto, name)

    def rests(self) -> bool:
        start = time.perf_counter()
        said: bool = self.auto.rests()
        self._before = (time.perf_counter() - start) * 1e6
        if said:
            self.proposing.append(self._before)
        return said

    def rested(self, rows: int, seconds: float) -> None:
        self._own(self.observing, lambda: self.auto.rested(rows, seconds))

    def propose(self, ctx: ProposeContext) -> list[Draft]:
        said: list[Draft] = self._own(self.proposing, lambda: self.auto.propose(ctx))
        self.proposing[-1] += self._before
        return said

    def observe(self, ctx: ObserveContext) -> None:
        self._own(self.observing, lambda: self.auto.observe(ctx))

    def _own(self, kept: list[float], call: Callable[[], Any]) -> Any:
        theirs = sum(member.seconds for member in self.members)
        start = time.perf_counter()
        said = call()
        whole = time.perf_counter() - start
        kept.append((whole - sum(member.seconds for member in self.members) + theirs) * 1e6)
        return said


def run(bench: Bench) -> Found:
    found = Found()
    for rows, bound in BOUNDS.items():
        for members in MEMBERS:
            for name, curve in (("everybody asked, 40 nodes fed", Table(FLAT)), ("as it decides here", None)):
                policy, auto = _decoded(bench, rows, members, curve or Measured(bench.llm.curve().points))
                figure = _figure(f"batch {rows}, {members}, {name}", policy, auto, bound)
                found.figures.append(figure)
                found.data.append({"propose_us": policy.proposing, "observe_us": policy.observing, **figure.more})
    return found


def _figure(what: str, policy: Policy, auto: Any, bound: float) -> Figure:
    own = [sum(pair) for pair in zip(policy.proposing, policy.observing, strict=True)][WARM_UP:]
    notes = [*auto.ledger.notes][WARM_UP:]
    low, middle, high = quantiles(own, n=4, method="inclusive")
    more = {
        "of it proposing": median(policy.proposing[WARM_UP:]),
        "quartiles": f"{low:.0f}–{high:.0f}",
        "steps": len(own),
        "nodes": median(note.nodes for note in notes),
        "asked a row": sum(sum(note.asked) for note in notes) / max(sum(note.rows for note in notes), 1),
    }
    return Figure(f"{what}, µs", middle, bound, most=True, more=more)


def _decoded(bench: Bench, rows: int, members: str, curve: Curve) -> tuple[Policy, Any]:
    """Batches of mixed prompts, greedy, no row ends early; the first batch twice, for it compiles."""
    llm = bench.llm
    shop = Workshop(llm.target.info, llm._draft, {"of": members, "nodes": NODES}, curve)
    auto: Any = proposer_of(AUTO, shop)
    timed = []
    for held in auto._members:
        held.proposer = Member(held.proposer)
        timed.append(held.proposer)
    policy = Policy(auto, timed)
    engine = Engine(llm.target, policy)
    prompts = (bench.mixed() * 16)[: max(2 * rows, 4)]
    _run(bench, engine, prompts[:rows], "compiling")
    policy.proposing.clear()
    policy.observing.clear()
    auto._books.ledger = type(auto.ledger)(auto.ledger.names)
    for start in range(0, len(prompts), rows):
        _run(bench, engine, prompts[start : start + rows], "counted")
    return policy, auto


def _run(bench: Bench, engine: Engine, prompts: list[Ids], namespace: str) -> None:
    most = max(bench.settings.max_tokens, TOKENS)
    params = bench.settings.params(ignore_eos=True).replaced(max_tokens=most)
    for prompt in prompts:
        engine.add(Request(prompt, params, namespace=namespace))
    while engine.unfinished:
        engine.step()
