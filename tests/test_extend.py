"""More context for a live sequence: what follows is what a new request with all its tokens would get, at the price of the
new ones."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import EOS, VOCAB, WAYS, Letters, laws_of_sampling, misbehaving, toy
from tiny_models import near_copy, tiny_llama

from betoken.engine import Engine, Event, Request
from betoken.errors import BetokenError, ParameterError, PromptError
from betoken.params import SamplingParams
from betoken.proposers.base import Workshop, build, methods
from betoken.stops import FinishReason
from betoken.targets.base import Feed, Target
from betoken.targets.hf import HFTarget
from betoken.targets.toy import ToyTarget, markov

SAMPLED = SamplingParams(max_tokens=9, temperature=1.0, seed=3, ignore_eos=True)
GREEDY = SamplingParams(max_tokens=9, ignore_eos=True)
Said = tuple[list[int], Any, list[Any]]


def finish(engine: Engine) -> dict[int, tuple[list[int], Event]]:
    """Decode all; each sequence's tokens and last event."""
    done: dict[int, tuple[list[int], Event]] = {}
    while engine.unfinished:
        for event in engine.step():
            done[event.seq_id] = ([*done.get(event.seq_id, ([],))[0], *event.tokens], event)
    return done


def afresh(target: Target, prompt: Sequence[int], params: SamplingParams, sample: int = 0) -> Said:
    """Plain decoding of a new request."""
    engine = Engine(target)
    running = engine.running(engine.add(Request(tuple(prompt), params, sample)))
    engine.run(lambda event: None)
    return running.tokens[len(prompt) :], running.stops.reason, running.sampler.logprobs


def buildable(target: Target, draft: Target) -> list[str]:
    """The methods that need nothing but a target and a draft model."""
    names = []
    for name in methods():
        try:
            build(name, Workshop(target.info, draft))
        except BetokenError:
            continue
        names.append(name)
    return names


TOY_METHODS = buildable(toy(), toy())


@pytest.mark.parametrize("way", [*TOY_METHODS, *WAYS])
@settings(max_examples=15)
@given(
    turns=st.lists(st.lists(st.integers(0, VOCAB - 1), max_size=6), min_size=1, max_size=4),
    law=laws_of_sampling(), most=st.integers(1, 12), chunk=st.sampled_from((1, 3, 512)), table=st.integers(0, 9),
    sample=st.integers(0, 2),
)  # fmt: skip
def test_extended_equals_afresh(
    way: str, turns: list[list[int]], law: Any, most: int, chunk: int, table: int, sample: int
) -> None:
    """The old sampler's penalties, position or logprobs went on; the proposer's text missed the new context; an output of
    one token, or no new context at all, left the cache a token behind."""
    params = SamplingParams(**law, max_tokens=most)
    target, draft = toy(table), toy(table, sharpness=2.0)
    known = way in TOY_METHODS
    proposer = build(way, Workshop(target.info, draft)) if known else misbehaving(way, table, markov(VOCAB, seed=table))
    engine = Engine(target, proposer, chunk=chunk)
    said = [0, 1]
    seq_id = engine.add(Request((0, 1), params, sample, keep=True))
    for context in [None, *turns]:
        if context is not None:
            engine.extend(seq_id, context)
            said += context
        running = engine.running(seq_id)
        expected = afresh(toy(table), said, params, sample)
        tokens, last = finish(engine)[seq_id]
        assert (tokens, last.finished, running.sampler.logprobs) == expected
        assert last.stats.emitted_tokens == len(tokens) - 1
        said += tokens
        assert target._rows[seq_id].tokens == said[:-1]
    engine.abort(seq_id)
    assert (target._rows, draft._rows, getattr(proposer, "known", set())) == ({}, {}, set())


class Counting(ToyTarget):
    """Counts the tokens it is fed outside drafts."""

    fed = 0

    def score(self, feeds: Sequence[Feed]) -> Any:
        self.fed += sum(len(feed.tokens) for feed in feeds)
        return super().score(feeds)


def test_only_what_is_new_is_fed() -> None:
    """The whole conversation was read again at every turn."""
    target = Counting(markov(VOCAB), VOCAB)
    engine = Engine(target)
    seq_id = engine.add(Request((0,) * 50, SamplingParams(max_tokens=5), keep=True))
    finish(engine)
    assert target.fed == 50 + 4
    engine.extend(seq_id, [1, 2, 3])
    finish(engine)
    assert target.fed == 54 + (1 + 3) + 4  # the last output's last token has not been fed before


def test_another_turn_may_ask_for_something_else() -> None:
    """Params, text and length of a recording are the next output's own."""
    engine = Engine(toy())
    seq_id = engine.add(Request((0, 1), SAMPLED, text=Letters(), keep=True))
    (first, _) = finish(engine)[seq_id]
    engine.extend(seq_id, [2], GREEDY.replaced(max_tokens=50, logprobs=1), Letters(), ends=4)
    running = engine.running(seq_id)
    second, last = finish(engine)[seq_id]
    assert (len(second), last.finished, len(running.sampler.logprobs)) == (4, FinishReason.END, 4)
    assert second == afresh(toy(), [0, 1, *first, 2], GREEDY)[0][:4]
    assert last.text.endswith("$")


def test_what_is_not_kept_cannot_be_extended() -> None:
    engine = Engine(toy(context=30), max_rows=1)
    unkept, kept = engine.add(Request((0,), GREEDY)), engine.add(Request((0,), GREEDY, keep=True))
    for seq_id in (unkept, kept, 99):
        with pytest.raises(KeyError):
            engine.extend(seq_id, [1])
    finish(engine)
    for seq_id in (unkept, 99):
        with pytest.raises(KeyError):
            engine.extend(seq_id, [1])
    for tokens, params, error in (([VOCAB], None, PromptError), ([0] * 30, None, PromptError),
                                  ([0], GREEDY.replaced(stop=("a",)), ParameterError)):  # fmt: skip
        with pytest.raises(error):
            engine.extend(kept, tokens, params)
    # A refusal changes nothing.
    engine.extend(kept, [1])
    with pytest.raises(KeyError):
        engine.extend(kept, [1])
    first = afresh(toy(context=30), [0], GREEDY)[0]
    assert finish(engine)[kept][0] == afresh(toy(context=30), [0, *first, 1], GREEDY)[0]


@pytest.mark.parametrize("when", ["kept", "waiting", "decoding", "ended in its first token"])
def test_aborting_frees_a_kept_row(when: str) -> None:
    """A row that was kept, or extended and not yet decoded, stayed in the cache for ever."""
    target, proposer = toy(), misbehaving("tree", 1, markov(VOCAB))
    engine = Engine(target, proposer)
    most = 1 if when.startswith("ended") else 9
    seq_id = engine.add(Request((0, 1), GREEDY.replaced(max_tokens=most), keep=True))
    finish(engine)
    assert engine.unfinished == 0 and target.length(seq_id) > 0
    if when != "kept":
        engine.extend(seq_id, [2], GREEDY)
    if when == "decoding":
        engine.step()
    engine.abort(seq_id)
    assert (engine.unfinished, engine.step(), target._rows, proposer.known) == (0, [], {}, set())
    with pytest.raises(KeyError):
        engine.extend(seq_id, [1])


# A real model: a kept row lies idle between rows that decode.

TARGET, DRAFT = HFTarget(tiny_llama()), HFTarget(near_copy(tiny_llama()))
OTHER = HFTarget(tiny_llama())  # engines number their rows alike: two at once need a target each


@pytest.mark.parametrize("params", [GREEDY, SAMPLED.replaced(logprobs=2)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("method", buildable(TARGET, DRAFT))
def test_a_model_reads_on(method: str, params: SamplingParams) -> None:
    engine = Engine(TARGET, build(method, Workshop(TARGET.info, DRAFT)))
    prompts = [(5, 6, 7), (8, 9, 8, 9, 8), (20, 21)]
    a, b, c = (engine.add(Request(prompt, params, keep=index < 2)) for index, prompt in enumerate(prompts))
    first = finish(engine)
    texts = {seq_id: [*prompt, *first[seq_id][0]] for seq_id, prompt in zip((a, b, c), prompts, strict=True)}
    d = engine.add(Request((30, 31), params.replaced(max_tokens=20)))
    engine.step()
    for seq_id, context in ((b, [40, 41, 42]), (a, [50]), (b, [])):
        engine.extend(seq_id, context)
        running = engine.running(seq_id)
        tokens = finish(engine)[seq_id][0]
        texts[seq_id] += context
        expected = afresh(OTHER, texts[seq_id], params)
        assert (tokens, running.stops.reason) == expected[:2]
        assert [entry.token_id for entry in running.sampler.logprobs] == [entry.token_id for entry in expected[2]]
        assert [entry.logprob for entry in running.sampler.logprobs] == pytest.approx(
            [entry.logprob for entry in expected[2]], abs=1e-3
        )
        texts[seq_id] += tokens
    assert {TARGET.length(row) > 0 for row in (a, b)} == {True}
    assert (TARGET.length(c), TARGET.length(d)) == (0, 0)
    for seq_id in (a, b):
        engine.abort(seq_id)
    assert (TARGET._rows, TARGET._order, DRAFT._rows, DRAFT._order) == ({}, [], {}, [])


def test_an_end_of_sequence_may_be_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An output that ended in EOS goes on after it."""
    target = ToyTarget(markov(VOCAB, seed=1), VOCAB, eos_ids=(EOS,))
    engine = Engine(target, misbehaving("oracle", 1, markov(VOCAB, seed=1)))
    params = SamplingParams(max_tokens=40, logit_bias={EOS: 2.0}, temperature=1.0, seed=1)
    seq_id = engine.add(Request((0,), params, keep=True))
    first, last = finish(engine)[seq_id]
    assert last.finished is FinishReason.EOS
    engine.extend(seq_id, [0, 1])
    assert finish(engine)[seq_id][0] == afresh(toy(1), [0, *first, 0, 1], params)[0]
