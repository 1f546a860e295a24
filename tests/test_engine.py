"""The step loop over a table model: the same output whatever is drafted, in whatever company."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import (
    EOS,
    VOCAB,
    WAYS,
    Letters,
    Result,
    Scripted,
    by_hand,
    check_roots,
    decode,
    endings,
    foretold,
    laws_of_sampling,
    misbehaving,
    request,
    toy,
)

from betoken import judging
from betoken.draft import Draft, chain
from betoken.engine import Engine, Request
from betoken.errors import ParameterError, PromptError
from betoken.noise import ACCEPT, DRAFT, uniforms
from betoken.noise import key as noise_key
from betoken.params import SamplingParams
from betoken.proposers.base import Needs, ObserveContext, SeqView, TopIds
from betoken.sampling import probabilities
from betoken.stats import total
from betoken.stops import FinishReason
from betoken.targets.toy import ToyScores, ToyTarget, markov

PROMPTS = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9).map(tuple)
OPTIONS = st.fixed_dictionaries({
    "max_rows": st.sampled_from((1, 2, 3, 32)),
    "chunk": st.sampled_from((1, 3, 512)),
    "max_nodes": st.sampled_from((0, 1, 5, 128)),
})  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> Request:
    params = SamplingParams(**draw(laws_of_sampling()), **draw(endings()))
    return Request(draw(PROMPTS), params, sample=draw(st.integers(0, 3)), text=Letters())


def again(given_requests: list[Request]) -> list[Request]:
    """The same requests with unused text streams."""
    return [Request(one.prompt, one.params, one.sample, Letters()) for one in given_requests]


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=25)
@given(batch=st.lists(requests(), min_size=1, max_size=4), options=OPTIONS, table=st.integers(0, 99), data=st.data())
def test_the_output_is_what_plain_decoding_gives(
    way: str, batch: list[Request], options: Any, table: int, data: Any
) -> None:
    """Anything: a draft, a neighbour, a row's place, a prefill chunk or a stop inside an accepted run changed tokens, text,
    reason or logprobs; the first token's history was lost after the prefill."""
    context = data.draw(st.sampled_from((None, None, 12)))
    target = toy(table, context=context)
    alone = [by_hand(one, target) for one in again(batch)]
    proposer = misbehaving(way, table, markov(VOCAB, seed=table))
    together = decode(again(batch), proposer, target=target, **options)
    assert [result.said for result in together] == alone


@settings(max_examples=25)
@given(batch=st.lists(requests(), min_size=2, max_size=4), seed=st.integers(0, 99))
def test_the_order_of_rows_does_not_matter(batch: list[Request], seed: int) -> None:
    """A row's noise, cache or draft was found by its place in the batch."""
    here = decode(again(batch), misbehaving("oracle tree", seed, markov(VOCAB)))
    there = decode(again(batch[::-1]), misbehaving("oracle tree", seed, markov(VOCAB)))
    assert [result.said for result in here] == [result.said for result in there[::-1]]


def test_a_drafted_token_is_really_kept() -> None:
    """All of the above holds for an engine that accepts nothing: a perfect draft must save forwards, 20 tokens in 1 + 4."""
    target = toy()
    perfect = Scripted(lambda seq: chain(foretold(seq, markov(VOCAB), 4)))
    (result,) = decode([request(max_tokens=21, ignore_eos=True, temperature=1.0)], perfect, target=target)
    stats = result.running.stats
    assert target.forwards == 1 + 4
    assert (stats.steps, stats.emitted_tokens, stats.accepted_tokens, stats.drafts) == (4, 20, 16, 4)
    assert result.sources == ["target"] + (["scripted"] * 4 + ["target"]) * 4


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=25)
@given(batch=st.lists(requests(), min_size=1, max_size=3), table=st.integers(0, 99))
def test_the_counters_add_up(way: str, batch: list[Request], table: int) -> None:
    """A step, a token or a draft counted twice, or not, at an end inside a run."""
    results = decode(again(batch), misbehaving(way, table, markov(VOCAB, seed=table)), target=toy(table))
    for result in results:
        stats = result.running.stats
        assert stats.emitted_tokens == len(result.tokens) - 1  # the first one is the prefill's
        assert stats.accepted_tokens == sum(source == "scripted" for source in result.sources)
        assert stats.accepted_tokens == sum(stats.accepted_per_position) <= stats.draft_tokens
        # An output that ends in an accepted token lacks the last step's correction or bonus.
        assert stats.emitted_tokens == stats.accepted_tokens + stats.steps - (result.sources[-1] == "scripted")
        assert stats.drafts <= stats.steps
    merged = total([result.running.stats for result in results])
    assert merged.emitted_tokens == sum(len(result.tokens) - 1 for result in results)


def test_a_row_may_leave_while_others_go_on() -> None:
    """A finished or aborted row left a hole: its neighbour's draft met another row's scores."""
    batch = [request((0, 1), max_tokens=n, seed=n, ignore_eos=True, temperature=1.0) for n in (3, 20, 7)]
    target, proposer = toy(), misbehaving("oracle tree", 1, markov(VOCAB))
    engine = Engine(target, proposer)
    ids = [engine.add(one) for one in again(batch)]
    results = {seq_id: Result() for seq_id in ids}
    for step in range(30):
        for event in engine.step():
            results[event.seq_id].take(event)
        check_roots(engine, target)
        if step == 1:
            engine.abort(ids[2])
            ids.append(engine.add(again(batch)[2]))
            results[ids[3]] = Result()
    for seq_id, one in ((ids[0], batch[0]), (ids[1], batch[1]), (ids[3], batch[2])):
        assert results[seq_id].tokens == by_hand(again([one])[0], target)[0]
    assert (engine.unfinished, target._rows, proposer.known) == (0, {}, set())


def test_aborting_forgets_a_request_wherever_it_is() -> None:
    """An aborted request that still waited was decoded later; its cache row stayed."""
    target, proposer = toy(), misbehaving("tree", 1, markov(VOCAB))
    engine = Engine(target, proposer, max_rows=1)
    first, second = engine.add(request(max_tokens=50, ignore_eos=True)), engine.add(request())
    engine.step()
    engine.abort(second)
    engine.abort(first)
    engine.abort(12345)
    assert (engine.unfinished, engine.step(), target._rows, proposer.known) == (0, [], {}, set())


def sure(*tokens: int, eos: tuple[int, ...] = (EOS,)) -> ToyTarget:
    """A target that says these tokens after the prompt (0,), then the last one for ever."""

    def logits_of(context: Any) -> np.ndarray:
        return np.eye(VOCAB)[tokens[min(len(context) - 1, len(tokens) - 1)]] * 9

    return ToyTarget(logits_of, VOCAB, eos_ids=eos)


AHEAD = Scripted(lambda seq: chain(foretold(seq, sure(*SPOKEN)._logits_of, 6)))
SPOKEN = (1, 2, 3, EOS, 3, 0, 1, 1)


@pytest.mark.parametrize(
    ("fields", "tokens", "text", "reason"),
    [
        ({}, SPOKEN[:4], "bcd", FinishReason.EOS),
        ({"ignore_eos": True, "max_tokens": 7}, SPOKEN[:7], "bcd dab", FinishReason.LENGTH),
        ({"stop_token_ids": [2]}, SPOKEN[:2], "b", FinishReason.STOP),
        ({"stop": "cd"}, SPOKEN[:3], "b", FinishReason.STOP),
        ({"stop": "cd", "include_stop_str": True}, SPOKEN[:3], "bcd", FinishReason.STOP),
        ({"stop": ["d", "bcd"]}, SPOKEN[:3], "", FinishReason.STOP),
        ({"max_tokens": 2}, SPOKEN[:2], "bc", FinishReason.LENGTH),
        ({"max_tokens": 1}, SPOKEN[:1], "b", FinishReason.LENGTH),
        ({"stop": "bc", "min_tokens": 3, "max_tokens": 3}, SPOKEN[:3], "bcd", FinishReason.LENGTH),
    ],
)
@pytest.mark.parametrize("proposer", [None, AHEAD])
def test_an_end_inside_a_draft(proposer: Any, fields: dict, tokens: Any, text: str, reason: Any) -> None:
    """The tokens drafted after an end were kept, or their text shown."""
    (result,) = decode([request((0,), **fields)], proposer, target=sure(*SPOKEN))
    assert (tuple(result.tokens), result.text.rstrip("$"), result.finished) == (tokens, text, reason)


def test_no_draft_is_deeper_than_what_is_left() -> None:
    """The last drafts held tokens that max_tokens cuts off at once: 3 tokens, 1 from the prefill, 1 the bonus, 1 drafted."""
    (result,) = decode([request((0,), max_tokens=3)], AHEAD, target=sure(*SPOKEN))
    assert result.running.stats.draft_tokens == 1


def test_min_tokens_keeps_the_end_away() -> None:
    """min_tokens checked once a step let an end through in the middle of a draft."""
    (result,) = decode([request((0,), min_tokens=6, max_tokens=9)], AHEAD, target=sure(*SPOKEN))
    assert EOS not in result.tokens[:6]


@pytest.mark.parametrize("context", [3, 4, 9])
@pytest.mark.parametrize("proposer", [None, misbehaving("repeat", 0, markov(VOCAB))])
def test_the_context_is_filled_and_not_overrun(context: int, proposer: Any) -> None:
    """A draft at the end of the context wrote past the cache (GPT-2 crashes), or the output ended a token early."""
    target = ToyTarget(lambda c: np.eye(VOCAB)[1], VOCAB, context=context)
    longest = 0
    score = target.score

    def measured(feeds: Any) -> Any:
        nonlocal longest
        longest = max(longest, *(target.length(f.row) + len(f.tokens) + f.draft.depth for f in feeds))
        return score(feeds)

    target.score = measured  # type: ignore[method-assign]
    (result,) = decode([request((0, 1), max_tokens=None)], proposer, target=target)
    assert (len(result.tokens), result.finished) == (context - 2, FinishReason.CONTEXT)
    assert longest <= context


@pytest.mark.parametrize(
    ("prompt", "says"), [((), "empty"), ((0, VOCAB), "token id 6"), ((-1,), "token id -1"), ((0,) * 8, "8 tokens")]
)
def test_impossible_prompts_are_refused(prompt: tuple, says: str) -> None:
    """A negative id indexed the embedding from its end; a full context gave an empty output."""
    engine = Engine(toy(context=8))
    with pytest.raises(PromptError, match=says):
        engine.add(request(prompt))
    assert engine.unfinished == 0


@pytest.mark.parametrize(
    ("options", "name"),
    [({"acceptance": "typical"}, "acceptance"), ({"max_rows": 0}, "max_rows"), ({"chunk": 0}, "chunk"),
     ({"max_nodes": -1}, "max_nodes")],
)  # fmt: skip
def test_impossible_options_are_refused(options: dict, name: str) -> None:
    """chunk=0 prefilled nothing and failed on an unbound name."""
    with pytest.raises(ParameterError) as caught:
        Engine(toy(), **options)
    assert caught.value.name == name


def test_stop_strings_need_text() -> None:
    """Stop strings without a detokenizer were silently ignored."""
    with pytest.raises(ParameterError, match="stop"):
        Engine(toy()).add(Request((0,), SamplingParams(stop="a")))


def test_without_a_seed_no_two_requests_are_alike() -> None:
    """seed=None meant seed 0."""
    results = decode([request(seed=None, temperature=5.0, ignore_eos=True, max_tokens=40) for _ in range(2)])
    assert results[0].tokens != results[1].tokens
    samples = decode([Request((0,), SamplingParams(seed=1, temperature=5.0, ignore_eos=True), n) for n in range(2)])
    assert samples[0].tokens != samples[1].tokens


class Watching(Scripted):
    """Notes what it is shown."""

    needs = Needs(top_ids=2)

    def observe(self, ctx: ObserveContext) -> None:
        top = zip(ctx.top_ids, ctx.top_logits, strict=True)
        for seq, draft, verdict, (top_ids, top_logits) in zip(ctx.seqs, ctx.drafts, ctx.verdicts, top, strict=True):
            assert tuple(seq.tokens[-len(verdict.tokens) :]) == verdict.tokens
            assert draft.is_path(verdict.path)
            assert len(draft) <= 3
            before = seq.tokens[: len(seq.tokens) - len(verdict.tokens)]
            for node in range(-1, len(draft)):
                path = [draft.tokens[step] for step in draft.path_to(node)]
                logits = markov(VOCAB)([*before, *path])
                assert top_ids[node + 1].tolist() == np.argsort(-logits, kind="stable")[:2].tolist()
                assert top_logits[node + 1].tolist() == logits[top_ids[node + 1]].tolist()


def test_a_proposer_sees_what_was_fed() -> None:
    """Token recycling learnt the successors of nodes that were clipped, or of the row next to it."""
    proposer = Watching(misbehaving("foreign", 3, markov(VOCAB)).script)
    decode(
        [request((0, n), max_tokens=15, ignore_eos=True, seed=n, temperature=1.0) for n in range(3)],
        proposer,
        max_nodes=3,
    )


def test_what_is_not_read_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The likeliest tokens were found for every row in every step, also where nobody read them."""
    looked_up = list[int]()
    find = ToyScores.top_ids
    monkeypatch.setattr(ToyScores, "top_ids", lambda *args: (looked_up.append(args[1]), find(*args))[1])
    proposer = Scripted(lambda seq: Draft())
    proposer.needs = Needs(top_ids=2)
    batch = [request((0, n), max_tokens=5, ignore_eos=True) for n in range(3)]
    decode(batch, proposer)
    assert not looked_up

    def read_twice(ctx: ObserveContext) -> None:
        assert len(ctx.top_ids) == len(ctx.seqs)
        assert ctx.top_ids[-1] is ctx.top_ids[len(ctx.seqs) - 1] and ctx.top_ids[-1].shape == (1, 2)

    monkeypatch.setattr(proposer, "observe", read_twice)
    decode(batch, proposer)
    assert looked_up == [2] * 4  # once in each step after the prefill


def test_a_look_up_that_fails_is_heard() -> None:
    """An IndexError inside of it passed for the end of the sequence."""

    def fail(index: int) -> Any:
        raise IndexError(index)

    with pytest.raises(IndexError):
        list(TopIds(fail, 2))


# Residual acceptance.


def drawing(seq: SeqView, q: Any, levels: int, width: int) -> Draft:
    """Draw from a table with the keyed DRAFT stream, siblings without replacement; the first of a family has children."""
    tokens, parents, rows, node, path = list[int](), list[int](), list[np.ndarray](), -1, list[int]()
    for _ in range(levels):
        law, first = probabilities(q([*seq.tokens, *path])), len(tokens)
        for _ in range(width):
            noise = seq.sampler.noise
            draw = noise_key(noise_key(noise.seed, noise.sample, seq.sampler.position, DRAFT), len(tokens), 0)
            with np.errstate(divide="ignore"):
                token = int(np.argmax(np.log(law) - np.log(-np.log(uniforms(draw, VOCAB)))))
            tokens, parents, rows = [*tokens, token], [*parents, node], [*rows, law]
            law = law.copy()
            law[token] = 0
            law /= law.sum()
        node, path = first, [*path, tokens[first]]
    return Draft(tuple(tokens), tuple(parents), probs=np.stack(rows))


def drawer(levels: int, width: int = 1, *, seed: int = 5) -> Scripted:
    return Scripted(lambda seq: drawing(seq, markov(VOCAB, seed=seed, sharpness=1.0), levels, width))


AT_0 = {
    "chain": lambda: drawer(4),
    "tree": lambda: drawer(2, 3),
    "foreign": lambda: misbehaving("foreign", 1, markov(VOCAB)),
    "oracle": lambda: misbehaving("oracle", 1, markov(VOCAB)),
}


@pytest.mark.parametrize("way", AT_0)
@settings(max_examples=40)
@given(one=requests())
def test_residual_at_temperature_0_is_greedy(way: str, one: Request) -> None:
    """The one-hot law is the special case where both rules must give the same text: penalties, bans and min_tokens of the
    node's own path, and logprobs, included."""
    params = one.params.replaced(temperature=0.0)
    one = Request(one.prompt, params, one.sample, Letters())
    (result,) = decode(again([one]), AT_0[way](), acceptance="residual")
    assert result.said == by_hand(one, toy())


def test_no_chance_is_used_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keyed by the position of a node, a chance came back when the position was drafted again after a rejection."""
    asked: list[tuple[int, ...]] = []
    monkeypatch.setattr(judging, "key", lambda *words: asked.append(words) or noise_key(*words))
    decode([request(temperature=1.0, seed=n) for n in range(3)], drawer(3), acceptance="residual")
    assert len(asked) == len(set(asked)) > 3
    assert {stream for *_, stream in asked} == {ACCEPT}


@pytest.mark.parametrize("batch", [1, 3])
def test_residual_is_a_function_of_the_seed(batch: int) -> None:
    """Two runs of the same seed differed, or a neighbour changed the text."""
    many = [request((0, n), seed=n, temperature=1.0, max_tokens=15) for n in range(3)]
    texts = [result.said for result in decode(again(many), drawer(3), acceptance="residual", max_rows=batch)]
    assert texts == [decode(again([one]), drawer(3), acceptance="residual")[0].said for one in many]


SHAPES = {"none": None, "chain": drawer(3), "tree": drawer(2, 2), "point masses": misbehaving("tree", 2, markov(VOCAB))}


@pytest.mark.parametrize("shape", SHAPES)
def test_residual_outputs_follow_the_law(shape: str) -> None:
    """Acceptance shared the draft's noise, or noise came back at the next step: the enumeration with fractions cannot see
    that. Chi-square of the third and fourth token, 1500 seeds, against the table's law: 35 cells, 34 degrees of freedom,
    95.6 is exceeded with probability below 1e-7."""
    logits_of = markov(VOCAB, order=1, sharpness=0.8)
    target = ToyTarget(logits_of, VOCAB)
    batch = [Request((0,), SamplingParams(seed=seed, temperature=1.0, max_tokens=4)) for seed in range(1500)]
    results = decode(batch, SHAPES[shape], target=target, acceptance="residual", max_rows=50)
    step = np.stack([probabilities(logits_of([token])) for token in range(VOCAB)])
    law = (step[0] @ step @ step)[:, None] * step
    counts = Counter((result.tokens[2], result.tokens[3]) for result in results)
    observed = np.array([[counts[a, b] for b in range(VOCAB)] for a in range(VOCAB)])
    assert ((observed - 1500 * law) ** 2 / (1500 * law)).sum() < 95.6


def test_residual_accepts_drawn_tokens() -> None:
    """All of the above holds for a rule that accepts nothing: a draft drawn from the target itself is kept whole."""
    target = toy(sharpness=3.0)
    (result,) = decode(
        [request(temperature=1.0, max_tokens=21, ignore_eos=True)],
        Scripted(lambda seq: drawing(seq, markov(VOCAB), 4, 1)),
        target=target,
        acceptance="residual",
    )
    assert result.running.stats.accepted_tokens == 16


@pytest.mark.parametrize(
    ("draft", "name"),
    [
        (chain([VOCAB], probs=np.full((1, VOCAB), 1 / VOCAB)), "draft token"),
        (chain([-1], probs=np.full((1, VOCAB), 1 / VOCAB)), "draft token"),
        (chain([1], probs=np.full((1, VOCAB - 1), 0.2)), "probs"),
    ],
)
def test_residual_refuses_what_cannot_be_exact(draft: Draft, name: str) -> None:
    """A drawn token outside the target's vocabulary was dropped for its value, which biases the law."""
    with pytest.raises(ParameterError) as caught:
        decode([request(temperature=1.0)], Scripted(lambda _: draft), acceptance="residual")
    assert caught.value.name == name
