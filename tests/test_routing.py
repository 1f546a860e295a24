"""Several methods in one engine: each row has its own, and what one raises is no other's business."""

import logging
from typing import Any

import pytest
from strategies import VOCAB, Letters, Result, by_hand, misbehaving, request, toy

from betoken.draft import chain
from betoken.engine import Engine, Request
from betoken.errors import ParameterError
from betoken.methods import spelt
from betoken.proposers.base import BaseProposer, Needs, ObserveContext, ProposeContext, Workshop, build
from betoken.routing import Routed
from betoken.speculation import Speculation
from betoken.targets.toy import markov


class Reader(BaseProposer):
    """Wants to see so many of the likeliest tokens; checks that it sees its own rows, and that many."""

    def __init__(self, name: str, k: int) -> None:
        self.name, self.needs = name, Needs(top_ids=k)
        self.known: set[int] = set()

    def begin(self, seq: Any) -> None:
        assert seq.method == self.name
        self.known.add(seq.seq_id)

    def propose(self, ctx: ProposeContext) -> list[Any]:
        assert {seq.seq_id for seq in ctx.seqs} <= self.known
        return [chain([0, 1]) for _ in ctx.seqs]

    def observe(self, ctx: ObserveContext) -> None:
        assert {seq.seq_id for seq in ctx.seqs} <= self.known
        k = self.needs.top_ids
        assert (
            [ids.shape for ids in ctx.top_ids] == [(1 + len(draft), k) for draft in ctx.drafts]
            if k
            else not ctx.top_ids
        )
        assert [one.shape for one in ctx.top_logits] == [ids.shape for ids in ctx.top_ids]
        assert [draft.tokens for draft in ctx.drafts] and len(ctx.verdicts) == len(ctx.seqs)

    def end(self, seq_id: int) -> None:
        self.known.remove(seq_id)


class Throws(Reader):
    def __init__(self, where: str) -> None:
        super().__init__("throws", 0)
        setattr(self, where, self._fail)

    def _fail(self, *given: Any) -> Any:
        raise RuntimeError("no")


def decode(routed: Routed, methods: list[str | None]) -> list[Result]:
    target = toy()
    engine = Engine(target, routed)
    results = {}
    for place, method in enumerate(methods):
        number = engine.add(asked(place, method))
        results[number] = Result(engine._waiting[-1])
    while engine.unfinished:
        for event in engine.step():
            results[event.seq_id].take(event)
    assert not target._rows and not routed._of
    return [*results.values()]


def asked(place: int, method: str | None) -> Request:
    one = request((0, place % VOCAB), max_tokens=14, seed=place, temperature=1.0)
    enabled = method != "off"
    wish = Speculation(enabled=enabled, method=method if enabled else None)
    return Request(one.prompt, one.params, text=Letters(), speculation=wish)


def plainly(methods: list[str | None]) -> list[Any]:
    return [by_hand(asked(place, method), toy()) for place, method in enumerate(methods)]


def make(name: str) -> Any:
    found = {"a": Reader("a", 2), "b": Reader("b", 0), "c": Reader("c", 5), "plain": None}
    if name in found:
        return found[name]
    return build(spelt(name)[0], Workshop(toy().info, options=spelt(name)[1]))


def test_every_row_has_its_own_drafter() -> None:
    methods: list[str | None] = ["a", "b", None, "c", "plain", "ngram:k=3", "off", "a", "mix"]
    results = decode(Routed(make, "a"), ["a", "b", "a", *methods[3:]])
    assert [result.said for result in results] == plainly(methods)
    for result, method in zip(results, methods, strict=True):
        assert set(result.sources) <= {"target", (method or "a").partition(":")[0]}
    assert not {*results[4].sources, *results[6].sources} - {"target"}, "nobody drafts for plain"


@pytest.mark.parametrize("where", ["begin", "propose", "observe", "end"])
def test_a_drafter_that_throws_costs_its_row_its_drafts_and_nothing_else(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    methods: list[str | None] = ["throws", "b", "throws"]
    routed = Routed(lambda name: Throws(where) if name == "throws" else make(name), "b")
    with caplog.at_level(logging.WARNING, "betoken"):
        results = decode(routed, methods)
    assert [result.said for result in results] == plainly(methods)
    assert "throws" in caplog.text


@pytest.mark.parametrize("wrong", [None, [], [1, 2], "xx"])
def test_what_is_no_draft_is_none(wrong: Any) -> None:
    bad = Reader("b", 0)
    bad.propose = lambda ctx: wrong  # type: ignore[method-assign]
    methods: list[str | None] = ["b", "b"]
    assert [result.said for result in decode(Routed(lambda name: bad, "b"), methods)] == plainly(methods)


def test_a_method_there_is_not_is_refused_beforehand_and_harmless_later() -> None:
    routed = Routed(make, "a")
    with pytest.raises(ParameterError, match="one of"):
        routed.prepare("nonsense")
    methods: list[str | None] = ["nonsense", "a"]
    assert [result.said for result in decode(routed, methods)] == plainly(methods)


def test_methods_nobody_uses_any_more_are_dropped() -> None:
    """Each spelling of a method has a drafter of its own, and clients may spell as they like."""
    routed = Routed(make, "a", most=2)
    for k in range(1, 9):
        decode(routed, [f"ngram:k={k}"])
    assert set(routed._routes) == {"a", "ngram:k=7", "ngram:k=8"} and routed.proposer("ngram:k=1") is None
    assert routed.proposer() is not None
    routed.forget()


def test_misbehaving_drafters_share_an_engine() -> None:
    ways = {way: misbehaving(way, 1, markov(VOCAB)) for way in ("tree", "foreign", "oracle tree", "repeat")}
    for proposer in ways.values():
        proposer.target = None
    methods: list[str | None] = [*ways, *ways]
    results = decode(Routed(lambda name: ways[name], "tree"), methods)
    assert [result.said for result in results] == plainly(methods)
    assert all(not proposer.known for proposer in ways.values())


class Sleeper(Reader):
    """Lets two of three steps go by."""

    def __init__(self, name: str) -> None:
        super().__init__(name, 0)
        self.steps = self.gone = 0

    def propose(self, ctx: ProposeContext) -> list[Any]:
        self.steps += 1
        return super().propose(ctx)

    def rests(self) -> bool:
        return (self.steps + self.gone) % 3 > 0

    def rested(self, rows: int, seconds: float) -> None:
        assert rows >= 1 and seconds >= 0 and self.rests()
        self.gone += 1


def test_a_step_goes_by_where_the_only_drafter_rests() -> None:
    """Nothing is fed in it, and no text is another; rows for which nothing is drafted wake nobody."""
    sleeper = Sleeper("a")
    methods: list[str | None] = ["a", "a", "off"]
    results = decode(Routed(lambda method: sleeper, "a"), methods)
    assert [result.said for result in results] == plainly(methods)
    assert sleeper.gone >= 2 * (sleeper.steps - 1) > 0 and not sleeper.known


@pytest.mark.parametrize("where", ["rests", "rested"])
def test_a_drafter_that_fails_at_rest_is_dropped(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text goes on unharmed."""
    sleeper = Sleeper("a")

    def fail(*given: Any) -> Any:
        raise RuntimeError("no")

    monkeypatch.setattr(sleeper, where, fail)
    methods: list[str | None] = ["a", "a"]
    results = decode(Routed(lambda method: sleeper, "a"), methods)
    assert [result.said for result in results] == plainly(methods)
    assert sleeper.steps <= 1 and not sleeper.known


@pytest.mark.parametrize("other", [Reader("b", 0), Sleeper("b"), None])
def test_no_step_goes_by_while_another_drafts(other: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of plain decoding is nobody's."""
    sleeper = Sleeper("a")
    routed = Routed(lambda method: sleeper if method == "a" else other, "a")
    together: list[set[str]] = []
    monkeypatch.setattr(
        sleeper, "rested", lambda *_: together.append({route.method for route in routed._of.values() if route.rows})
    )
    methods: list[str | None] = ["a", "b"]
    results = decode(routed, methods)
    assert [result.said for result in results] == plainly(methods)
    assert all(drafting == {"a"} for drafting in together) and (together or other is not None)
