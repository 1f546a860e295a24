"""`auto`: whatever the clock says and whatever its members do, the text is plain decoding's; and nothing of a request stays."""

import gc
import itertools
import logging
import math
import random
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from architectures import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import (
    VOCAB,
    WAYS,
    Letters,
    Scripted,
    Watched,
    by_hand,
    check_identity,
    decode,
    expecting,
    foretold,
    misbehaving,
    request,
    toy,
)
from tiny_models import byte_tokenizer, near_copy, tiny_llama

from betoken import LLM
from betoken.draft import Draft, chain
from betoken.engine import Engine, Request
from betoken.errors import ParameterError
from betoken.params import SamplingParams
from betoken.policy.cost import Measured, Table
from betoken.proposers.auto.deciding import Auto
from betoken.proposers.base import BaseProposer, ObserveContext, ProposeContext, SeqView, Workshop, build
from betoken.stats import total
from betoken.targets.hf import HFTarget
from betoken.targets.toy import ToyTarget, markov

Clock = Callable[[], float]

# Five at most lie in one tree.
MEMBERS = (
    "mix+ngram+recycling+naive+reference",
    "reference+mix+recycling+draft",
    "draft+suffix+naive",
    "ngram",
)


def going(steps: Iterable[float]) -> Clock:
    """A clock that has moved by these steps at each look."""
    return itertools.accumulate(steps).__next__


def showing(times: Iterable[float]) -> Clock:
    """A clock that shows these times."""
    return iter(times).__next__


def dice(seed: int = 1) -> Iterator[random.Random]:
    return itertools.repeat(random.Random(seed))


# No clock of a computer is like these, and none of them may show in a text.
CLOCKS: dict[str, Callable[[], Clock]] = {
    "stands still": lambda: going(itertools.repeat(0.0)),
    "runs backwards": lambda: going(itertools.repeat(-1e-3)),
    "runs backwards by quarters": lambda: going(itertools.repeat(-0.25)),
    "jumps by hours": lambda: going(die.choice((1e-6, 3600.0, -7200.0)) for die in dice()),
    "is random": lambda: showing(die.uniform(-1e3, 1e3) for die in dice()),
    "is random near a pass": lambda: going(die.uniform(-2e-3, 3e-3) for die in dice()),
    "is no number": lambda: showing(itertools.repeat(math.nan)),
    "is no number now and then": lambda: showing(math.nan if n % 7 == 3 else n / 100 for n in itertools.count()),
    "is infinite now and then": lambda: showing(math.inf if n % 5 == 2 else n / 100 for n in itertools.count()),
    "was infinite": lambda: showing(-math.inf if n % 11 == 4 else n / 100 for n in itertools.count()),
    "alternates": lambda: showing(itertools.cycle((0.0, 1e300))),
    "alternates by a pass": lambda: showing(itertools.cycle((1e-3, 0.0))),
    "is too fine": lambda: going(itertools.repeat(5e-324)),
    "is too coarse": lambda: going(itertools.repeat(1e307)),
}
CURVES: dict[str, Callable[[], Any]] = {
    "unknown": lambda: None,
    "measured": lambda: Measured({(1, 1, 9): 1e-3, (1, 9, 9): 1.5e-3, (4, 1, 9): 2e-3, (4, 9, 9): 6e-3}),
    "given": lambda: Table({1: 1.0, 8: 1.25, 64: 4.0}),
}


def test_the_clocks_do_what_they_say() -> None:
    """A clock that behaved would prove nothing."""
    looks = {name: [clock() for clock in [make()] for _ in range(6)] for name, make in CLOCKS.items()}
    assert looks["runs backwards by quarters"] == [-0.25, -0.5, -0.75, -1.0, -1.25, -1.5]
    assert math.isnan(looks["is no number now and then"][3]) and looks["is infinite now and then"][2] == math.inf
    assert looks["alternates"][:3] == [0.0, 1e300, 0.0] and len({*looks["jumps by hours"]}) == 6


def make_auto(of: str, table: int = 0, *, curve: Any = None, clock: Clock | None = None, nodes: int = 7) -> Auto:
    """`auto` of these members over a toy vocabulary; the draft model is a table that has half forgotten the target's."""
    small = toy(table, sharpness=1.0)
    keeping = {} if clock is None else {"clock": clock}
    proposer = build(
        "auto", Workshop(toy().info, small, {"of": of, "nodes": nodes, "explore": 0.2}, curve=curve, **keeping)
    )
    assert isinstance(proposer, Auto)
    return proposer


def check_empty(auto: Auto) -> None:
    """Nothing of any sequence: neither in the policy nor in its members nor in a draft model's cache."""
    assert not auto._rows
    for member in (held.proposer for held in auto._members):
        for state in (
            "_used",
            "_read",
            "_namespaces",
            "_followers",
            "_pending",
            "_indexes",
            "_states",
            "_seen",
            "_paces",
        ):
            assert not getattr(member, state, None), (member.name, state)
        assert not getattr(member, "known", None), member.name
        if reader := getattr(member, "_reader", None):
            assert not reader._readings
        if isinstance(small := getattr(member, "_model", None), ToyTarget):
            assert not small._rows


BATCHES = st.lists(expecting(), min_size=1, max_size=4)
ENGINES: dict[str, Any] = {"max_rows": st.sampled_from((1, 2, 4)), "max_nodes": st.sampled_from((0, 1, 5, 128))}


# Text is plain decoding's.


@pytest.mark.parametrize("name", CLOCKS)
@settings(max_examples=5)
@given(batch=BATCHES, table=st.integers(0, 99), of=st.sampled_from(MEMBERS), curve=st.sampled_from([*CURVES]),
       options=st.fixed_dictionaries(ENGINES))  # fmt: skip
def test_any_text_is_plain_decodings_whatever_the_clock_does(
    name: str, batch: list[Request], table: int, of: str, curve: str, options: dict[str, int]
) -> None:
    """Decisions follow the clock: a price of less than nothing, a rate that is none, a pass that took for ever."""
    clock = CLOCKS[name]()
    auto = make_auto(of, table, curve=CURVES[curve](), clock=clock)
    check_identity(auto, 7, batch, table, clock=clock, **options)
    check_empty(auto)


TIMES = st.one_of(st.floats(), st.floats(-1e-2, 1e-2), st.sampled_from((0.0, 0.25, -0.25, -1.0, 1e-3, -1e-3)))


@settings(max_examples=40)
@given(times=st.lists(TIMES, min_size=1, max_size=12), steps=st.booleans(), batch=BATCHES, table=st.integers(0, 99),
       of=st.sampled_from(MEMBERS), curve=st.sampled_from([*CURVES]), options=st.fixed_dictionaries(ENGINES))  # fmt: skip
def test_any_text_is_plain_decodings_with_any_clock(
    times: list[float], steps: bool, batch: list[Request], table: int, of: str, curve: str, options: dict[str, int]
) -> None:
    """A clock drawn number by number, the way to it or the times themselves, again and again."""
    clock = (going if steps else showing)(itertools.cycle(times))
    auto = make_auto(of, table, curve=CURVES[curve](), clock=clock)
    check_identity(auto, 7, batch, table, clock=clock, **options)
    check_empty(auto)


def test_a_step_that_took_less_than_nothing_is_no_division_by_zero() -> None:
    """A clock set back while members were asked, by just what the pass would take: the step takes 0 s then."""
    for quarters in range(1, 30):
        for table in (Table({1: 1.0, 64: 2.0}), Table({1: quarters / 4, 64: quarters / 4})):
            clock = CLOCKS["runs backwards by quarters"]()
            auto = make_auto("mix+ngram+naive", curve=table, clock=clock)
            one = request((0, 1, 0, 1), max_tokens=12, ignore_eos=True)
            (result,) = decode([one], Watched(auto, 7), clock=clock)
            assert result.tokens == by_hand(one, toy())[0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300, -1e300])
def test_a_clock_that_went_wrong_for_a_while_is_got_over(bad: float) -> None:
    """Whoever reckons with one time that is no number has none ever after, and drafts no more, or asks all members always."""
    looks, wrong = itertools.count(), range(400, 430)
    clock = showing(bad if n in wrong else n * 1e-4 for n in looks)
    auto = make_auto("mix+recycling", curve=Measured({(1, 1, 9): 0.1, (1, 64, 9): 0.11}), clock=clock)
    target = ToyTarget(markov(VOCAB, order=1), VOCAB)
    one = request((0, 1), max_tokens=400, ignore_eos=True)
    (first,) = decode([one], Watched(auto, 7), target=target, clock=clock)
    assert next(looks) > wrong.stop, "the clock never went wrong"
    (again,) = decode([replace(one, text=Letters())], watched := Watched(auto, 7), target=target, clock=clock)
    assert first.tokens == again.tokens
    fed = sum(map(bool, watched.drafts[20:]))
    assert fed > 0.9 * len(watched.drafts[20:]), "a predictable text is hardly drafted any more"
    assert all(math.isfinite(value) for value in (auto._pace.speedup, auto._exploring.allowance, auto._curve.pace))
    assert np.isfinite(auto._prices.values).all()


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=6)
@given(batch=BATCHES, table=st.integers(0, 9), clock=st.sampled_from([*CLOCKS]), seed=st.integers(0, 99))
def test_any_text_is_plain_decodings_whatever_a_member_drafts(
    way: str, batch: list[Request], table: int, clock: str, seed: int
) -> None:
    """Foreign ids, chains past the end, the truth hidden in a tree of noise: among other members, some with the same nodes."""
    law, ticks = markov(VOCAB, seed=table), CLOCKS[clock]()
    members = {"bad": misbehaving(way, seed, law), "worse": misbehaving("tree", seed, law)}
    auto = Auto({**members, "ngram": build("ngram", Workshop(toy().info))}, nodes=9, explore=0.5, clock=ticks)  # type: ignore[dict-item]
    for member in members.values():
        member.propose = asked_of_some(member)  # type: ignore[method-assign]
    alone = [by_hand(replace(one, text=Letters()), toy(table)) for one in batch]
    for _ in range(2):
        results = decode([replace(one, text=Letters()) for one in batch], auto, target=toy(table), clock=ticks)
        assert [result.said for result in results] == alone
    check_empty(auto)


def asked_of_some(member: Scripted) -> Callable[[ProposeContext], list[Draft]]:
    """`Scripted.propose` for a member that is asked for some of its sequences only."""
    return lambda ctx: [member.script(seq) for seq in ctx.seqs]


PROMPTS = ((1, 2, 3), (4,), (9, 8, 7, 6, 5, 4, 3, 2, 1, 9, 8), (11, 12, 11, 12, 11))


def spoken_by(
    target: HFTarget, proposer: Any, params: SamplingParams, max_rows: int, **options: Any
) -> list[list[int]]:
    """The tokens of every prompt."""
    engine = Engine(target, proposer, max_rows=max_rows, chunk=4, **options)
    tokens: dict[int, list[int]] = {engine.add(Request(prompt, params)): [] for prompt in PROMPTS}
    engine.run(lambda event: tokens[event.seq_id].extend(event.tokens))
    return list(tokens.values())


@pytest.mark.parametrize("max_rows", [1, 4])
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_a_models_text_is_plain_decodings_whatever_the_clock_does(name: str, max_rows: int) -> None:
    """Trees of several members through masks, slots and rollback, a draft model stopped at any level."""
    target, draft = HFTarget(tiny(name), pack=False), HFTarget(tiny(name, seed=1, layers=1), pack=False)
    for temperature in (0.0, 1.0):
        params = SamplingParams(temperature=temperature, seed=5, max_tokens=16, ignore_eos=True)
        plain = spoken_by(target, None, params, max_rows)
        for clock in (
            "stands still",
            "runs backwards",
            "is random near a pass",
            "is no number now and then",
            "alternates",
        ):
            ticks = CLOCKS[clock]()
            auto = build("auto", Workshop(target.info, draft, {"explore": 1.0}, clock=ticks))
            assert spoken_by(target, auto, params, max_rows, clock=ticks) == plain, (clock, temperature)
            assert not draft._rows


def test_residual_acceptance_is_refused() -> None:
    """Nodes kept for their value would change the law that was drawn from."""
    engine = Engine(toy(), make_auto("naive"), acceptance="residual")
    engine.add(request(temperature=1.0))
    with pytest.raises(ParameterError, match="acceptance"):
        engine.run(lambda event: None)


# Nothing of a request stays, nothing of it is seen by others.


def speech(requests: list[Request], auto: Auto | None, **options: Any) -> list[list[int]]:
    proposer = None if auto is None else Watched(auto)
    return [result.tokens for result in decode(requests, proposer, **options)]


def many(count: int, **fields: Any) -> list[Request]:
    given: dict[str, Any] = {"max_tokens": 30, "ignore_eos": True, **fields}
    return [replace(request((n % VOCAB, n * n % VOCAB), **given), reference=(0, 1, 2) * n) for n in range(count)]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("of", MEMBERS)
def test_alone_after_others_or_in_a_batch_a_request_says_the_same(
    of: str, temperature: float, caplog: pytest.LogCaptureFixture
) -> None:
    """What was learnt from others may change drafts, never a text. And nobody is dropped: that would show in no text."""
    auto = make_auto(of)
    alone = [speech([one], None)[0] for one in many(5, temperature=temperature)]
    assert [speech([one], make_auto(of))[0] for one in many(5, temperature=temperature)] == alone
    assert [speech([one], auto)[0] for one in many(5, temperature=temperature)] == alone
    for max_rows in (2, 5):
        assert speech(many(5, temperature=temperature), auto, max_rows=max_rows) == alone
    check_empty(auto)
    assert not warnings_of(caplog)


@pytest.mark.parametrize("of", MEMBERS)
def test_nobody_holds_on_to_a_sequence(of: str) -> None:
    """Ended, aborted while decoding, or ended in its prefill: a list of tokens still held is a leak, wherever it is."""
    auto, target = make_auto(of), toy()
    engine = Engine(target, auto)
    ids = [engine.add(one) for one in (*many(3), *many(2, max_tokens=1))]
    held = [engine.running(seq_id).tokens for seq_id in ids]
    for step in itertools.count():
        if step == 4:
            engine.abort(ids[1])
        if not engine.unfinished:
            break
        engine.step()
    check_empty(auto)
    assert not target._rows
    gc.collect()
    references = [sys.getrefcount(held[place]) for place in range(len(held))]
    assert references == [2] * len(held)


def test_an_ended_request_is_ended_for_the_members_that_were_begun_and_no_others() -> None:
    """`Scripted.end` raises for a sequence it was not told of; a member never asked has no business with it."""
    unasked, asked = Scripted(lambda _: Draft()), Scripted(lambda seq: chain([0][: seq.room], [0.5][: seq.room]))
    auto = Auto({"reference": unasked, "asked": asked})
    asked.propose = asked_of_some(asked)  # type: ignore[method-assign]
    decode([request(max_tokens=9)], auto)
    assert not unasked.known and not asked.known
    auto.end(12345)


class ByNamespace(Watched):
    """Watches which namespace was drafted what."""

    def __init__(self, proposer: Any) -> None:
        super().__init__(proposer)
        self.tokens: dict[str, set[int]] = defaultdict(set)

    def propose(self, ctx: ProposeContext) -> list[Draft]:
        drafts = super().propose(ctx)
        for seq, draft in zip(ctx.seqs, drafts, strict=True):
            self.tokens[seq.namespace].update(draft.tokens)
        return drafts


def two_tongues(context: Any) -> Any:
    """One starts with 1 and says 2 3 4, 20 21 22, 2 3 4, ...; the other 2 3 4, 5 6 7, ...: alike for three tokens."""
    logits = np.where(np.arange(30) // 10 == 1, 1.0, 0.0)  # the likeliest of what is never said: 10 to 19
    said = len(context) - 1
    other = (20, 21, 22) if context[0] == 1 else (5, 6, 7)
    logits[(2, 3, 4, *other)[said % 6]] += 9
    return logits


@pytest.mark.parametrize("of", ["mix+recycling", "suffix+recycling+ngram+naive"])
def test_what_one_namespace_said_is_never_drafted_in_another(of: str) -> None:
    """Asked one after the other, and side by side; in the same namespace it is drafted, or there is nothing to see here."""
    seen = {}
    for namespace in ("theirs", "ours"):
        target = ToyTarget(two_tongues, 30)
        auto = build("auto", Workshop(target.info, None, {"of": of, "explore": 1.0}))
        watched = ByNamespace(auto)
        theirs = Request((1,), SamplingParams(max_tokens=150), namespace=namespace)
        ours = Request((0,), SamplingParams(max_tokens=150), namespace="ours")
        for batch in ([theirs], [ours], [theirs, ours], [ours]):
            decode([replace(one, text=Letters()) for one in batch], watched, target=target)
        seen[namespace] = watched.tokens
    assert {20, 21, 22} <= seen["theirs"]["theirs"] and {5, 6, 7} <= seen["theirs"]["ours"]
    assert not {20, 21, 22} & seen["theirs"]["ours"] and not {5, 6, 7} & seen["theirs"]["theirs"]
    assert {20, 21, 22} <= seen["ours"]["ours"]


def test_engines_in_threads_share_nothing() -> None:
    """Compiled code with room of its own for trees, and one policy an engine: interleaved at every step."""
    said: dict[int, list[list[int]]] = {}
    alone = {table: [by_hand(one, toy(table))[0] for one in many(4)] for table in range(3)}

    def run(table: int) -> None:
        said[table] = speech(many(4), make_auto(MEMBERS[0], table), target=toy(table), max_rows=2)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        in_threads([lambda table=table: run(table) for table in alone])  # type: ignore[misc]
    finally:
        sys.setswitchinterval(before)
    assert said == alone


def in_threads(jobs: Iterable[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Curves are measured once for all tests here, and no user's file is touched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BETOKEN_CACHE", str(tmp_path_factory.mktemp("curves")))
        yield


@pytest.mark.usefixtures("cache")
def test_two_llms_in_two_threads_say_what_each_says_alone() -> None:
    """Each has models, a curve and a policy of its own."""
    prompts = ["the cat", "a a a a", "the an the an"]
    params = SamplingParams(max_tokens=30, ignore_eos=True, temperature=0.8, seed=3)
    said: dict[int, Any] = {}
    with LLM((tiny_llama(0), byte_tokenizer()), near_copy(tiny_llama(0)), method="auto") as one, \
         LLM((tiny_llama(1), byte_tokenizer()), near_copy(tiny_llama(1)), method="auto") as other:  # fmt: skip
        llms = {0: one, 1: other}
        plain = {place: llm.generate(prompts, params, method="plain") for place, llm in llms.items()}

        def run(place: int) -> None:
            said[place] = [llms[place].generate(prompts, params) for _ in range(3)]

        in_threads([lambda place=place: run(place) for place in llms])  # type: ignore[misc]
    for place, results in plain.items():
        for answer in said[place]:
            assert [result.token_ids for result in answer] == [result.token_ids for result in results]
    assert said[0][0][0].stats.accepted_tokens > 0


# Members that fail.


class Bad(BaseProposer):
    """A proposer that fails in one way, from its n-th call of that kind on, for the sequences it is told to."""

    name = "bad"

    def __init__(self, way: str, first: int = 0, only: Callable[[SeqView], bool] = lambda _: True) -> None:
        self.way, self.first, self.only = way, first, only
        self.calls: Counter[str] = Counter()
        self.seen: list[int] = []

    def _fail(self, where: str, seqs: Iterable[SeqView]) -> bool:
        hit = self.way in (where, f"{where} raises") and any(map(self.only, seqs))
        self.calls[where] += hit
        return hit and self.calls[where] > self.first

    def begin(self, seq: SeqView) -> None:
        if self._fail("begin", [seq]):
            raise RuntimeError("no beginning")

    def propose(self, ctx: ProposeContext) -> list[Draft]:
        self.seen += [seq.seq_id for seq in ctx.seqs]
        if self._fail("propose", ctx.seqs):
            raise IndexError("no draft")
        good = [chain([0], [0.5]) for _ in ctx.seqs]
        make = GARBAGE.get(self.way)
        return good if make is None or not any(map(self.only, ctx.seqs)) else make(ctx)

    def observe(self, ctx: ObserveContext) -> None:
        if self._fail("observe", ctx.seqs):
            raise KeyError("nothing to see")

    def end(self, seq_id: int) -> None:
        if self.way == "end":
            raise OSError("no end")


def each(make: Callable[[SeqView], Any]) -> Callable[[ProposeContext], Any]:
    return lambda ctx: [make(seq) for seq in ctx.seqs]


# What a member may return that is no list of drafts, or cannot be laid into a tree: it is dropped.
GARBAGE: dict[str, Callable[[ProposeContext], Any]] = {
    "nothing": lambda ctx: None,
    "a number": lambda ctx: 17,
    "too few drafts": lambda ctx: [],
    "too many drafts": lambda ctx: [Draft()] * (len(ctx.seqs) + 1),
    "strings": lambda ctx: ["the cat"] * len(ctx.seqs),
    "a string": lambda ctx: "x" * len(ctx.seqs),
    "a generator": lambda ctx: (Draft() for _ in ctx.seqs),
    "a mapping": lambda ctx: dict.fromkeys(range(len(ctx.seqs)), Draft()),
    "none for each": each(lambda seq: None),
    "lists of tokens": each(lambda seq: [1, 2, 3]),
    "words for tokens": each(lambda seq: Draft(("a", "b"), (-1, -1))),  # type: ignore[arg-type]
    "words for scores": each(lambda seq: chain([1, 2], ["high", "low"])),  # type: ignore[list-item]
    "ids of seventy bits": each(lambda seq: chain([2**70], [0.5])),
}
# What can be laid into a tree, but not fed, or not believed: it is left out, or corrected by what happens.
ODD: dict[str, Callable[[ProposeContext], Any]] = {
    "foreign ids": each(lambda seq: chain([-5, VOCAB + 3, 2**62], [0.9] * 3)),
    "scores that are no numbers": each(lambda seq: chain([0, 1, 2], [math.nan] * 3)),
    "infinite scores": each(lambda seq: chain([0, 1, 2], [math.inf, -math.inf, math.inf])),
    "negative scores": each(lambda seq: chain([0, 1, 2], [-1.0, -0.5, -1e300])),
    "scores above one": each(lambda seq: chain([0, 1, 2], [2.0, 1e300, 1.0])),
    "nothing for scores": each(lambda seq: chain([0, 1], [None, None])),  # type: ignore[list-item]
    "no scores": each(lambda seq: chain([0, 1, 2])),
    "ten thousand nodes": each(lambda seq: Draft(tuple(range(10_000)), (-1,) * 10_000, (0.9,) * 10_000)),
    "ten thousand levels": each(lambda seq: chain([0] * 10_000, [0.999] * 10_000)),
    "a tuple of drafts": lambda ctx: tuple(chain([0], [0.9]) for _ in ctx.seqs),
    "numbers of numpy": each(lambda seq: chain(np.array([0, 1]), np.array([0.9, 0.8], np.float32))),
    "pinned nodes": each(lambda seq: Draft((0, 1), (-1, -1), pinned=frozenset({0, 1}))),
    "nothing at all": each(lambda seq: Draft()),
}
RAISING = ("begin raises", "propose raises", "observe raises")


def truth() -> Scripted:
    """A member that is right: what the target will say, two tokens ahead."""

    def script(seq: SeqView) -> Draft:
        right = foretold(seq, markov(VOCAB), min(2, seq.room))
        return chain(right, [0.9] * len(right))

    member = Scripted(script)
    member.propose = asked_of_some(member)  # type: ignore[method-assign]
    return member


def between(members: dict[str, Any], *, nodes: int = 20) -> Auto:
    """`auto` of these members where asking and feeding cost next to nothing: whoever is not dropped is asked, and fed."""
    return Auto(members, nodes=nodes, explore=1.0, curve=Table({1: 1.0, 64: 1.01}))


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def serve(auto: Auto, batch: list[Request], **options: Any) -> list[Any]:
    """Decode; the text must be plain decoding's, logprobs and reason too."""
    alone = [by_hand(replace(one, text=Letters()), toy()) for one in batch]
    results = decode([replace(one, text=Letters()) for one in batch], auto, **options)
    assert [result.said for result in results] == alone
    return results


@pytest.mark.parametrize(
    ("way", "first"), [*((way, 0) for way in (*RAISING, *GARBAGE)), *((way, 3) for way in RAISING[1:])]
)
def test_a_member_that_fails_is_dropped_and_said_once(
    way: str, first: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For this request only: the others go on, the text is unharmed, the next request asks it again."""
    bad, good = Bad(way, first), truth()
    auto = between({"bad": bad, "good": good})
    (result,) = serve(auto, [request(max_tokens=40, ignore_eos=True)])
    warned = warnings_of(caplog)
    assert len(warned) == 1 and "bad" in warned[0]
    asked = len(bad.seen)
    assert asked == (0 if way == "begin raises" else first + 1), "it was asked again, or never"
    assert result.running.stats.accepted_tokens > 10, "the other member was lost as well"
    monkeypatch.setattr(bad, "way", "good again")
    serve(auto, [request(max_tokens=40, ignore_eos=True)])
    assert len(bad.seen) > asked and len(warnings_of(caplog)) == 1
    check_empty(auto)


@pytest.mark.parametrize("way", ODD)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_drafts_that_cannot_be_fed_or_believed_harm_nobody(
    way: str, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fed nodes are tokens of the target with chances for scores; what another member drafted is accepted all the same."""
    monkeypatch.setitem(GARBAGE, way, ODD[way])
    auto = between({"bad": Bad(way), "good": truth()})
    watched = Watched(auto, 20)
    batch = [request((0, n), max_tokens=60, ignore_eos=True, temperature=temperature, seed=n) for n in range(3)]
    alone = [by_hand(replace(one, text=Letters()), toy()) for one in batch]
    # Watched asks for drafts that fit the room; the members here do not care, and `clip` is the engine's.
    monkeypatch.setattr(watched, "propose", auto.propose)
    monkeypatch.setattr(watched, "needs", auto.needs)
    results = decode([replace(one, text=Letters()) for one in batch], watched, max_rows=2)
    assert [result.said for result in results] == alone
    assert sum(result.running.stats.accepted_tokens for result in results) > 60
    check_empty(auto)


@pytest.mark.parametrize("way", ["foreign ids", "ten thousand nodes", "ten thousand levels"])
def test_what_cannot_be_fed_takes_no_room_from_what_can(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a budget of four nodes; a member that is sure of tokens no target knows, or goes on behind the end, fills no tree."""
    monkeypatch.setitem(GARBAGE, way, ODD[way])
    auto = between({"bad": Bad(way), "good": truth()}, nodes=4)
    (result,) = serve(auto, [request(max_tokens=200, ignore_eos=True)])
    assert result.running.stats.accepted_tokens > 80


def test_a_member_that_cannot_end_a_sequence_says_so_and_others_end_theirs(caplog: pytest.LogCaptureFixture) -> None:
    good = truth()
    auto = between({"bad": Bad("end"), "good": good})
    serve(auto, [request(max_tokens=20, ignore_eos=True)])
    assert not good.known and len(warnings_of(caplog)) == 1
    check_empty(auto)


@pytest.mark.parametrize("way", [*RAISING, "nothing", "words for scores"])
def test_a_member_may_fail_in_a_batch(way: str, caplog: pytest.LogCaptureFixture) -> None:
    """Rows that come and go, several dropped by one failure: each is said at most once."""
    good = truth()
    auto = between({"bad": Bad(way), "good": good})
    results = serve(auto, many(6), max_rows=3)
    assert sum(result.running.stats.accepted_tokens for result in results) > 60
    assert 1 <= len(warnings_of(caplog)) <= 6
    check_empty(auto)


def test_whom_a_member_cannot_begin_costs_the_others_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """One prompt of a batch is too much for a member: it is still asked for the others, and never for that one."""
    bad = Bad("begin raises", only=lambda seq: seq.prompt_length == 3)
    auto = between({"bad": bad, "good": truth()})
    serve(auto, [request((0,) * length, max_tokens=40, ignore_eos=True) for length in (2, 3, 4)])
    asked = Counter(bad.seen)
    assert asked[1] == 0 and min(asked[0], asked[2]) >= 3
    assert len(warnings_of(caplog)) == 1


def test_what_a_failing_member_remembers_is_begun_with_care(caplog: pytest.LogCaptureFixture) -> None:
    """Members with a library are begun at once, when the request comes; that, too, may fail."""
    bad = Bad("begin raises")
    bad.library = object()  # type: ignore[attr-defined]
    auto = between({"bad": bad, "good": truth()})
    serve(auto, [request(max_tokens=20, ignore_eos=True)])
    assert not bad.seen and len(warnings_of(caplog)) == 1


MALFORMED = """
import sys
sys.path.insert(0, sys.argv[1])
from test_auto import GARBAGE, Bad, Draft, between, each, many, serve, truth

for name, parts in {
    "a parent that comes later": ((1, 2), (1, -1), (0.5, 0.5)),
    "a parent that is far away": ((1, 2), (-1, 10**9), (0.5, 0.5)),
    "a parent above the root": ((1, 2), (-5, 0), (0.5, 0.5)),
    "too many scores": ((1, 2), (-1, 0), (0.5,) * 5000),
    "too few scores": ((1, 2), (-1, 0), (0.5,)),
    "too few parents": ((1, 2), (-1,), (0.5, 0.5)),
    "siblings alike": ((1, 1), (-1, -1), (0.5, 0.5)),
}.items():
    GARBAGE["malformed"] = each(lambda seq, parts=parts: Draft.trusted(*parts))
    results = serve(between({"bad": Bad("malformed"), "good": truth()}), many(4), max_rows=2)
    assert sum(result.running.stats.accepted_tokens for result in results) > 40, name
    print(name)
"""


def test_a_tree_that_is_none_does_not_crash_the_process() -> None:
    """`Draft.trusted` checks nothing, and compiled code reads where it is told to: in a process of its own."""
    here = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", MALFORMED, here], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.stdout, done.stderr[-2000:])
    assert done.stdout.splitlines()[-1] == "siblings alike"


def test_who_interrupts_is_heard() -> None:
    """Control-C in a member is no failure of the member."""

    class Interrupted(Bad):
        def propose(self, ctx: ProposeContext) -> list[Draft]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode([request(max_tokens=20)], Auto({"bad": Interrupted("")}))


def test_a_draft_model_that_breaks_leaves_no_row_behind() -> None:
    """Its forward pass fails in the middle of a tree: its cache is released at the end, the text goes on."""

    class Breaking(ToyTarget):
        def score(self, feeds: Any) -> Any:
            if self.forwards == 9:
                raise RuntimeError("out of memory")
            return super().score(feeds)

    small = Breaking(markov(VOCAB), VOCAB)
    auto = build("auto", Workshop(toy().info, small, {"of": "draft+naive"}, curve=Table({1: 1.0, 64: 1.01})))
    assert isinstance(auto, Auto)
    for _ in range(2):
        serve(auto, many(2))
        check_empty(auto)
        small.forwards += 1
    assert small.forwards > 12


# What may be asked of it.


@pytest.mark.parametrize(
    ("options", "match"),
    [({"of": "plain"}, "^of is"), ({"of": "merge"}, "^of is"), ({"of": "auto"}, "^of is"), ({"of": ""}, "^of is"),
     ({"of": "x+naive"}, "^of is"), ({"of": {}}, "^of is"), ({"nodes": 0}, "^nodes is"), ({"nodes": True}, "^nodes is"),
     ({"nodes": 10**6}, "^nodes is"), ({"nodes": 1.5}, "^nodes is"), ({"explore": -1}, "^explore is"),
     ({"explore": 2}, "^explore is"), ({"explore": math.nan}, "^explore is"), ({"explore": "x"}, "^explore is"),
     ({"k": 3}, "^k is"), ({"of": "draft"}, "^draft is"), ({"of": "naive+naive"}, "^of is"),
     ({"of": "mix+suffix+ngram+naive+reference+recycling"}, "^of is")],
)  # fmt: skip
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ParameterError, match=match):
        build("auto", Workshop(toy().info, None, options))


@pytest.mark.usefixtures("cache")
def test_an_llm_drafts_with_it() -> None:
    """The whole way: measured curve, all members, a batch, an edit of a reference, streams, forgetting."""
    params = SamplingParams(max_tokens=40, ignore_eos=True)
    with LLM((tiny_llama(), byte_tokenizer()), near_copy(tiny_llama())) as llm:
        for prompts in (["the cat"], ["the cat", "a", "an an an", "the"]):
            for temperature in (0.0, 1.0):
                asked = params.replaced(temperature=temperature, seed=2)
                plain = llm.generate(prompts, asked, method="plain")
                references = [result.text for result in plain]
                for reference in (None, references):
                    said = llm.generate(prompts, asked, method="auto", reference=reference)
                    assert [one.token_ids for one in said] == [one.token_ids for one in plain]
        assert (
            "".join(llm.stream("the cat", params, method="auto"))
            == llm.generate("the cat", params, method="plain").text
        )
        assert len(llm.memory("auto")) > 0
        llm.forget()
        assert len(llm.memory("auto")) == 0


@pytest.mark.parametrize("experts", [0, 8])
def test_the_log_says_when_experts_are_why(experts: int, caplog: pytest.LogCaptureFixture) -> None:
    """Once, and only of a mixture whose passes get longer."""
    curve = Table({1: 1.0, 9: 3.0})
    member = Scripted(lambda seq: chain([1, 2, 3, 1, 2, 3, 1, 2], [0.9] * 8))
    auto = Auto({"scripted": member}, curve=curve, experts=experts, clock=lambda: 0.0)
    with caplog.at_level("INFO", logger="betoken.auto"):
        decode([request((0, 1), max_tokens=200, ignore_eos=True)], auto)
    assert sum("experts" in record.message for record in caplog.records) == (experts > 0)


@pytest.mark.parametrize("experts", [0, 8])
def test_stats_say_when_experts_are_why(experts: int) -> None:
    """And a whole batch's do, merged."""
    curve = Table({1: 1.0, 9: 3.0})
    member = Scripted(lambda seq: chain([1, 2, 3, 1, 2, 3, 1, 2], [0.9] * 8))
    auto = Auto({"scripted": member}, curve=curve, experts=experts, clock=lambda: 0.0)
    asked = [request((0, 1), max_tokens=50, ignore_eos=True) for _ in range(2)]
    results = [result.running.stats for result in decode(asked, auto)]
    held = [stats.held_back_by_experts for stats in results]
    assert (
        held == [0, 0] if not experts else all(0 < one <= stats.steps for one, stats in zip(held, results, strict=True))
    )
    assert total(results).held_back_by_experts == sum(held)


@settings(max_examples=15)
@given(batch=BATCHES, table=st.integers(0, 9))
def test_every_token_is_ascribed_to_whoever_drafted_it(batch: list[Request], table: int) -> None:
    """To the member that was asked first of those who claim it; what nobody foresaw is the target's."""
    auto = make_auto("mix+ngram+naive", curve=Table({1: 1.0, 64: 1.01}), clock=lambda: 0.0)
    drafts: dict[int, Draft] = {}

    class Told(Watched):
        def propose(self, ctx: ProposeContext) -> list[Draft]:
            found = super().propose(ctx)
            drafts.update({seq.seq_id: draft for seq, draft in zip(ctx.seqs, found, strict=True)})
            return found

    engine = Engine(ToyTarget(markov(VOCAB, seed=table), VOCAB), Told(auto, 7))
    for one in batch:
        engine.add(replace(one, text=Letters()))
    while engine.unfinished:
        drafts.clear()
        for event in engine.step():
            assert len(event.sources) == len(event.tokens)
            draft = drafts.get(event.seq_id)
            assert {*event.sources} <= {"mix", "ngram", "naive", "target"}
            if draft is not None and draft.sources is not None:
                assert len(draft.sources) == len(draft.tokens)
                named = {(token, source) for token, source in zip(draft.tokens, draft.sources, strict=True)}
                assert all(
                    pair in named or pair[1] == "target" for pair in zip(event.tokens, event.sources, strict=True)
                )


def test_credit_is_given_for_what_was_fed_of_a_draft() -> None:
    """The engine feeds so many nodes at most, the first ones; that they were right counts for whoever drafted them."""
    member = Scripted(lambda seq: foretold_chain(seq, 6))
    auto = Auto({"scripted": member}, curve=Table({1: 1.0, 64: 1.001}), clock=lambda: 0.0)
    engine = Engine(toy(), auto, max_nodes=2)
    engine.add(request((0, 1), max_tokens=60, ignore_eos=True, temperature=0.0))
    accepted = 0
    while engine.unfinished:
        for event in engine.step():
            accepted = event.stats.accepted_tokens
    assert accepted > 20 and auto.ledger.accounts["scripted"].accepted == accepted


def foretold_chain(seq: SeqView, depth: int) -> Draft:
    """What the toy will say next."""
    tokens = foretold(seq, markov(VOCAB, seed=0), min(depth, seq.room))
    return chain(tokens, [0.95] * len(tokens))


def test_a_sequence_whose_beginning_is_interrupted_is_not_kept() -> None:
    """Nobody ends it, for nobody knows that it began."""
    auto = make_auto("mix", 0)

    def interrupted(seq: SeqView) -> None:
        raise KeyboardInterrupt

    auto._members[0].proposer.begin = interrupted  # type: ignore[method-assign]
    auto._members[0].remembers = True
    with pytest.raises(KeyboardInterrupt):
        decode([request((1, 2, 3))], auto)
    assert not auto._rows
