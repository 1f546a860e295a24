"""Who is read when, what is kept, who gives way: the output is the same whatever the engine decides."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import VOCAB, Letters, Result, Scripted, by_hand, endings, laws_of_sampling, misbehaving, request, toy

from betoken import prefixes, rows
from betoken.draft import Draft
from betoken.engine import Engine, Request
from betoken.errors import NoRoomError, ParameterError, PromptError
from betoken.params import SamplingParams
from betoken.prefixes import Prefixes
from betoken.proposers.base import ProposeContext
from betoken.scheduler import LEAST, Limits, Pace, costs, rounds, shares
from betoken.stops import FinishReason
from betoken.targets.base import Feed
from betoken.targets.toy import ToyTarget, markov

WAYS = ("nothing", "tree", "oracle tree", "foreign")


class Patient(Scripted):
    """Rows may be away for a while: they had to give way."""

    def propose(self, ctx: ProposeContext) -> list[Draft]:
        assert {seq.seq_id for seq in ctx.seqs} <= self.known
        return [self.script(seq) for seq in ctx.seqs]


def patient(way: str, seed: int) -> Patient:
    return Patient(misbehaving(way, seed, markov(VOCAB, seed=seed)).script)


@contextmanager
def worthwhile(tokens: int) -> Iterator[None]:
    with mock.patch.object(prefixes, "WORTHWHILE", tokens), mock.patch.object(rows, "WORTHWHILE", tokens):
        yield


PROMPTS = st.lists(st.integers(0, 1), min_size=1, max_size=12).map(tuple)  # two tokens: many begin alike
LIMITS = st.builds(
    Limits,
    rows=st.sampled_from((1, 2, 4)),
    chunk=st.sampled_from((1, 3, 512)),
    stall=st.sampled_from((None, 0.01, 2.0)),
    step_tokens=st.sampled_from((None, 4, 40)),
    kv_bytes=st.sampled_from((None, 60, 90, 200)),
    kept_bytes=st.sampled_from((0, 40, 10_000)),
)


@st.composite
def arrivals(draw: st.DrawFn) -> list[tuple[int, Request]]:
    """Requests, and the steps at which they come."""
    found = []
    for _ in range(draw(st.integers(1, 6))):
        params = SamplingParams(**draw(laws_of_sampling()), **draw(endings()))
        space = draw(st.sampled_from(("", "other")))
        one = Request(draw(PROMPTS), params, sample=draw(st.integers(0, 3)), text=Letters(), namespace=space)
        found.append((draw(st.integers(0, 12)), one))
    return found


def fresh(one: Request) -> Request:
    return Request(one.prompt, one.params, one.sample, Letters(), namespace=one.namespace)


def run(engine: Engine, coming: list[tuple[int, Request]], cancelled: dict[int, int] | None = None) -> list[Result]:
    """Requests by place; `cancelled`: which are aborted at which step."""
    results: dict[int, Result] = {}
    ids: dict[int, int] = {}
    for step in range(2000):
        for place, (when, one) in enumerate(coming):
            if when == step:
                ids[place] = engine.add(one)
                results[ids[place]] = Result(engine._waiting[-1])
            if cancelled and cancelled.get(place) == step and place in ids:
                engine.abort(ids[place])
        for event in engine.step():
            assert event.failure is None
            results[event.seq_id].take(event)
        if step > 12 and not engine.unfinished:
            return [results[ids[place]] for place in range(len(coming))]
    raise AssertionError("it never ends")


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=40)
@given(coming=arrivals(), limits=LIMITS, table=st.integers(0, 50))
def test_the_output_is_plain_decodings_whatever_is_decided(
    way: str, coming: list[tuple[int, Request]], limits: Limits, table: int
) -> None:
    """A prompt read in pieces, a prefix taken from another row, a row that gave way and was read again: each can lose a token of
    history, or the place in the noise."""
    alone = [by_hand(fresh(one), toy(table)) for _, one in coming]
    with worthwhile(2):
        target, proposer = toy(table), patient(way, table)
        engine = Engine(target, proposer, limits=limits, max_nodes=6)
        results = run(engine, [(when, fresh(one)) for when, one in coming])
    assert [result.said for result in results] == alone
    assert (engine.unfinished, target._rows, proposer.known) == (0, {}, set())
    assert limits.kv_bytes is None or target.limit == limits.kv_bytes
    assert engine.rows.prefixes.nbytes <= limits.kept_bytes


@settings(max_examples=40)
@given(coming=arrivals(), limits=LIMITS, table=st.integers(0, 50), data=st.data())
def test_who_cancels_takes_nobody_along(
    coming: list[tuple[int, Request]], limits: Limits, table: int, data: Any
) -> None:
    gone = data.draw(st.dictionaries(st.integers(0, len(coming) - 1), st.integers(0, 15)))
    alone = [by_hand(fresh(one), toy(table)) for _, one in coming]
    with worthwhile(2):
        target, proposer = toy(table), patient("oracle tree", table)
        engine = Engine(target, proposer, limits=limits, max_nodes=6)
        results = run(engine, [(when, fresh(one)) for when, one in coming], gone)
    for place, result in enumerate(results):
        whole = alone[place]
        assert result.said == whole or (place in gone and tuple(result.tokens) == tuple(whole[0][: len(result.tokens)]))
    assert (engine.unfinished, target._rows, proposer.known) == (0, {}, set())


def long(length: int, **fields: Any) -> Request:
    return request(tuple(place % 2 for place in range(length)), ignore_eos=True, **fields)


def test_a_long_prompt_stops_nobody() -> None:
    """It was read whole: rows that decoded waited for it."""
    target = toy()
    engine = Engine(target, limits=Limits(stall=2.0, chunk=64))
    running = engine.add(request(max_tokens=60, ignore_eos=True))
    for _ in range(3):
        engine.step()
    late = engine.add(long(400, max_tokens=2))
    said = []
    while any(seq.seq_id == late for seq in (*engine._waiting, *engine._reading)):
        events = engine.step()
        said.append([event.seq_id for event in events])
        assert target.length(late) <= 400
    assert len(said) > 400 // 64 and said[-1] == [late], "its first token is told at once"
    assert all(ids == [running] for ids in said[:-1])
    assert [event.seq_id for event in engine.step()] == [running, late], (
        "whoever decodes is next, whoever waits to be read"
    )


def test_first_tokens_hold_nobody_up() -> None:
    """Prompts that come one after the other, each read in one step: every second step decodes."""
    engine = Engine(toy(), limits=Limits(stall=2.0, chunk=64))
    running = engine.add(request(max_tokens=60, ignore_eos=True))
    engine.step()
    said = []
    for _ in range(10):
        engine.add(request(max_tokens=40, ignore_eos=True))
        said.append([event.seq_id for event in engine.step()])
    assert [running in ids for ids in said] == [True, False] * 5


def test_a_short_prompt_need_not_wait_for_a_long_one() -> None:
    engine = Engine(toy(), limits=Limits(stall=1.0, chunk=32))
    engine.add(request(max_tokens=500, ignore_eos=True))
    for _ in range(3):
        engine.step()
    engine.add(long(2000, max_tokens=2))
    short = engine.add(long(20, max_tokens=2))
    steps = next(step for step in range(100) if any(event.seq_id == short for event in engine.step()))
    assert steps <= 4
    assert len(engine._reading) == 1, "the long one is still read"


@given(left=st.lists(st.integers(1, 500), max_size=9), room=st.integers(1, 1000))
def test_what_is_shared_out(left: list[int], room: int) -> None:
    given_out = shares(left, room)
    assert all(0 <= got <= most for got, most in zip(given_out, left, strict=True))
    assert sum(given_out) == min(room, sum(left))
    if left:
        assert given_out[0] >= min(left[0], room // 2), "the oldest comes to its end whoever joins"


def took(tokens: int, context: float) -> float:
    return 0.005 + 0.0001 * tokens + 1e-7 * tokens * context


def test_the_pace_goes_by_what_took_how_long() -> None:
    pace = Pace(Limits(stall=4.0, chunk=512))
    assert pace.room(0, 0) == 512, "nobody waits"
    pace.stepped(0.010)
    assert pace.room(4, 0) == LEAST, "nothing is known"
    pace.read(16, 8, took(16, 8))
    assert 80 < pace.room(4, 0) < 100, "in proportion: 40 ms at most"
    for tokens in (90, 200, 300, 340):
        pace.read(tokens, tokens / 2, took(tokens, tokens / 2))
    assert 300 < pace.room(4, 0) < 380
    assert pace.room(4, 0) > pace.room(4, 0, context=2000) > 110, "where there is more to look at it takes longer"
    assert pace.room(4, 0, 3) == pace.room(4, 0)
    assert pace.room(4, 0, 6) > 450, "most wait for their first token"
    assert pace.room(1, 0, 30) == 512, "a pass takes no more, and nobody who decodes waits for ever, however many come"
    for _ in range(20):
        pace.stepped(0.0001)
    assert 210 < pace.room(4, 0) < 260, "30 ms are not seen"
    for _ in range(30):
        pace.read(32, 16, 0.1)
    assert pace.room(4, 0) == LEAST, "never nothing: a prompt must come to its end"


@given(st.lists(st.tuples(st.integers(1, 512), st.floats(0, 4000), st.floats(1e-9, 10)), min_size=1, max_size=24))
def test_nothing_that_took_time_was_for_less_than_nothing(passes: list[tuple[int, float, float]]) -> None:
    assert min(costs(passes)) >= 0 < max(costs(passes))


def test_a_steps_tokens_are_one_budget() -> None:
    limits = Limits(step_tokens=40)
    assert [limits.nodes(rows, 128) for rows in (1, 4, 10, 40, 100)] == [39, 9, 3, 0, 0]
    assert Limits().nodes(100, 128) == 128
    assert Pace(Limits(stall=5.0, step_tokens=100)).room(4, 60) <= 36


@pytest.mark.parametrize(
    "fields",
    [{"rows": 0}, {"chunk": 0}, {"kept_bytes": -1}, {"stall": 0.0}, {"step_tokens": 0}, {"kv_bytes": 0}],
)
def test_limits_that_are_none(fields: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        Limits(**fields)


class Watched(ToyTarget):
    """Notes what it was fed together."""

    def __init__(self) -> None:
        super().__init__(markov(VOCAB), VOCAB, eos_ids=(5,))
        self.passes: list[list[int]] = []

    def score(self, feeds: Any) -> Any:
        self.passes.append([len(feed.tokens) for feed in feeds])
        return super().score(feeds)


def test_prompts_are_read_in_one_pass() -> None:
    target = Watched()
    engine = Engine(target, limits=Limits(chunk=16))
    for length in (4, 9, 12):
        engine.add(long(length, max_tokens=1))
    assert [event.finished for event in engine.step()] == [FinishReason.LENGTH] * 3
    assert target.passes == [[4, 9, 3], [9]], "the longest is read in two parts, for a pass takes 16 tokens"
    assert not engine.unfinished and not target._rows


@given(counts=st.lists(st.integers(0, 40), max_size=6), most=st.integers(1, 30))
def test_every_token_is_in_one_round(counts: list[int], most: int) -> None:
    taken = list(rounds(counts, most))
    assert [sum(each) for each in zip(*taken, strict=True)] == (counts if taken else [])
    assert all(sum(one) == most for one in taken[:-1]) and all(0 < sum(one) <= most for one in taken[-1:])
    assert any(counts) == bool(taken)


class Full(ToyTarget):
    """No memory for some rows: where a prompt begins with this token."""

    def score(self, feeds: Any) -> Any:
        if any(feed.tokens[:2] == (4, 4) and self.length(feed.row) == 0 for feed in feeds):
            raise NoRoomError("no memory")
        return super().score(feeds)


def test_a_row_without_memory_fails_and_the_others_finish() -> None:
    target = Full(markov(VOCAB), VOCAB, eos_ids=(5,))
    engine = Engine(target, patient("oracle tree", 0), isolate=True)
    good, bad = request(max_tokens=9, seed=1), request((4, 4, 1), max_tokens=9)
    ids = [engine.add(one) for one in (bad, good)]
    ended = {}
    while engine.unfinished:
        ended |= {event.seq_id: event for event in engine.step() if event.finished}
    assert isinstance(ended[ids[0]].failure, NoRoomError) and ended[ids[0]].finished is FinishReason.ABORT
    assert ended[ids[1]].failure is None
    assert not target._rows
    engine = Engine(Full(markov(VOCAB), VOCAB))
    engine.add(fresh(bad))
    with pytest.raises(NoRoomError):
        engine.run(lambda event: None)


@pytest.mark.parametrize("limits", [Limits(kv_bytes=60), Limits(kv_bytes=36, rows=1)])
def test_who_drafts_needs_no_more_memory(limits: Limits) -> None:
    """Drafts for which there was no room made a row give way, which came again with the same drafts; alone it failed."""
    chain = Draft((0,) * 40, tuple(range(-1, 39)))
    engine = Engine(toy(), Patient(lambda seq: chain), limits=limits)
    asked = [request((at, 1, 2, 3, 4, 0, 1, 2, 3, 1), max_tokens=15, ignore_eos=True) for at in (0, 1)]
    answers = {engine.add(one): Result(engine._waiting[-1]) for one in asked}
    for _ in range(200):
        for event in engine.step():
            answers[event.seq_id].take(event)
    assert not engine.unfinished
    assert [answer.said for answer in answers.values()] == [by_hand(fresh(one), toy()) for one in asked]


def test_a_pass_that_fails_leaves_nothing_behind() -> None:
    target = toy()
    target.score([Feed(0, (1, 2, 3))])
    target.commit(0, ())
    target.score([Feed(0, (4,))])
    target.limit = 12
    for feeds in (
        [Feed(0, (), Draft((1, 2), (-1, -1))), Feed(7, (1,) * 9)],
        [Feed(0, (), Draft(tuple(range(9)), (-1,) * 9))],
    ):
        with pytest.raises(NoRoomError):
            target.score(feeds)
        assert (target.length(0), target.length(7), target.kv_bytes, [*target._rows]) == (3, 0, 4, [0])


class Broken(ToyTarget):
    """Logits of one row cannot be read."""

    def score(self, feeds: Any) -> Any:
        scores, rows_ = super().score(feeds), [feed.row for feed in feeds]
        emit = scores.emit

        def broken(index: int, node: int, sampler: Any) -> Any:
            if rows_[index] == 1 and sampler.position == 3:
                raise RuntimeError("broken")
            return emit(index, node, sampler)

        found = mock.Mock(wraps=scores)
        found.emit = broken
        return found


def test_an_error_in_one_row_ends_that_row_alone() -> None:
    target, proposer = Broken(markov(VOCAB), VOCAB), patient("oracle tree", 0)
    engine = Engine(target, proposer, isolate=True)
    batch = [request((0, place), max_tokens=12, ignore_eos=True, seed=place) for place in range(3)]
    ids, results, failures = [engine.add(one) for one in batch], {}, {}
    while engine.unfinished:
        for event in engine.step():
            results.setdefault(event.seq_id, Result()).take(event)
            failures |= {event.seq_id: event.failure} if event.failure else {}
    assert list(failures) == [ids[1]]
    for place in (0, 2):
        assert results[ids[place]].tokens == by_hand(fresh(batch[place]), ToyTarget(markov(VOCAB), VOCAB))[0]
    assert (target._rows, proposer.known) == ({}, set())


def test_a_prompt_that_can_never_fit_is_refused() -> None:
    engine = Engine(toy(), limits=Limits(kv_bytes=10))
    with pytest.raises(PromptError, match="has room for 10"):
        engine.add(request(tuple([0] * 10)))
    engine.add(request(tuple([0] * 9)))


def test_the_rows_that_gave_way_come_back() -> None:
    """Both want 30 tokens, and there is room for 40: the younger one has to wait, and is read again with all it had said."""
    target = toy()
    engine = Engine(target, limits=Limits(kv_bytes=41))
    batch = [request((place,), max_tokens=30, ignore_eos=True, seed=place) for place in range(2)]
    with mock.patch.object(rows, "HEADROOM", 1):
        results = run(engine, [(0, one) for one in batch])
    assert [result.said for result in results] == [by_hand(fresh(one), toy()) for one in batch]


class Blob:
    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


def kept(store: Prefixes, *tokens: int, space: str = "") -> Blob:
    blob = Blob(100)
    store.keep(tokens, space, blob)
    return blob


@worthwhile(2)
def test_what_is_kept_of_rows() -> None:
    store = Prefixes(100_000)
    first, other = kept(store, 1, 2, 3, 4), kept(store, 9, 9, 9, space="b")
    assert store.find((1, 2, 3, 7), "") == (3, first)
    assert store.find((9, 9, 9), "") == (0, None) and store.find((9, 9, 9), "b") == (3, other), (
        "never across namespaces"
    )
    assert store.find((1, 7), "") == (0, None), "too little to be worth it"
    longer = kept(store, 1, 2, 3, 4, 5)
    assert len(store) == 2 and store.find((1, 2, 3, 4), "") == (4, longer), "what goes beyond another has all of it"
    assert not store.worth((1, 2, 3), "") and store.worth((1, 2, 3), "b")


@worthwhile(2)
def test_the_least_recently_used_goes_first() -> None:
    each = 100 + 4 * 8
    store = Prefixes(3 * each)
    for name in (1, 2, 3):
        kept(store, name, 0, 0, 0)
    store.find((1, 0, 0, 0), "")
    kept(store, 4, 0, 0, 0)
    assert [store.find((name, 0, 0, 0), "")[0] for name in (1, 2, 3, 4)] == [4, 0, 4, 4]
    assert store.nbytes == 3 * each
    store.keep((7,) * 5000, "", Blob(10**9))
    assert len(store) == 3, "what is larger than everything drives nobody out"
    store.clear()
    assert (len(store), store.nbytes) == (0, 0) and not store._alike


class Seen(Result):
    """And what was not read again."""

    cached = 0

    def take(self, event: Any) -> None:
        super().take(event)
        self.cached = event.stats.cached_tokens


@worthwhile(4)
def test_a_second_turn_is_read_from_where_it_is_new() -> None:
    engine = Engine(toy(), limits=Limits(kept_bytes=10_000))
    first = request((0, 1, 2, 3, 0, 1), max_tokens=5, ignore_eos=True)
    (said,) = run(engine, [(0, first)])
    second = request((*first.prompt, *said.tokens, 2, 2), max_tokens=5, ignore_eos=True)
    engine.add(second)
    again = Seen(engine._waiting[-1])
    engine.run(again.take)
    assert again.said == by_hand(fresh(second), toy())
    assert again.cached == len(first.prompt) + 4, "all but the last token, which no pass had read"
