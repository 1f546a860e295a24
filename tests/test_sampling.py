"""Every sampling parameter against a slow reference written from its definition."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import EOS, VOCAB, laws_of_sampling

from betoken.params import SamplingParams
from betoken.sampling import Sampler, logprobs_of, probabilities

LOGITS = st.lists(st.sampled_from([-4.0, -1.0, -0.5, 0.0, 0.25, 0.5, 2.0, 3.0]), min_size=VOCAB, max_size=VOCAB)
TOKENS = st.lists(st.integers(0, VOCAB - 1), max_size=6)


def sampler_of(
    params: SamplingParams, *, output: Sequence[int] = (), prompt: Sequence[int] = (0, 3), size: int = VOCAB
) -> Sampler:
    sampler = Sampler(params, seed=params.seed or 0, vocab_size=size, prompt=prompt, eos_ids=(EOS,))
    for token in output:
        sampler.push(token)
    return sampler


def adjusted(
    logits: Sequence[float], params: SamplingParams, prompt: Sequence[int], output: Sequence[int]
) -> list[float]:
    """The definition of bias, penalties and masks, token by token."""
    law = []
    for token, logit in enumerate(logits):
        value = logit + params.logit_bias.get(token, 0)
        if token in prompt or token in output:
            value = value / params.repetition_penalty if value > 0 else value * params.repetition_penalty
        times = list(output).count(token)
        value -= params.presence_penalty * (times > 0) + params.frequency_penalty * times
        barred = params.allowed_token_ids is not None and token not in params.allowed_token_ids
        for word in params.bad_words:
            barred |= [*output, token][-len(word) :] == list(word)
        barred |= len(output) < params.min_tokens and token in (EOS, *params.stop_token_ids)
        law.append(-math.inf if barred else value)
    return law


def distribution(law: Sequence[float], params: SamplingParams) -> list[float]:
    """The definition of temperature, top-k, top-p, min-p: probabilities, renormalised after each cut."""
    if params.temperature == 0:
        return [float(token == law.index(max(law))) for token in range(len(law))]
    weights = normal([math.exp((value - max(law)) / params.temperature) for value in law])
    if params.top_k:
        weights = normal([w if sum(v > w for v in weights) < params.top_k else 0.0 for w in weights])
    if params.top_p < 1:
        kept, reached = set(), 0.0
        for token in sorted(range(len(weights)), key=lambda t: (-weights[t], t)):
            kept.add(token)
            reached += weights[token]
            if reached >= params.top_p * (1 - 1e-12):
                break
        weights = normal([w if token in kept else 0.0 for token, w in enumerate(weights)])
    return normal([w if w >= params.min_p * max(weights) * (1 - 1e-12) else 0.0 for w in weights])


def normal(weights: Sequence[float]) -> list[float]:
    return [weight / sum(weights) for weight in weights]


@given(LOGITS, laws_of_sampling(), st.sampled_from((0, 4)), TOKENS, TOKENS)
def test_the_law_is_what_the_parameters_say(
    logits: list[float], fields: dict[str, Any], least: int, output: list[int], ahead: list[int]
) -> None:
    """Any parameter applied in the wrong order or to the wrong history: a penalty that saw only committed tokens gives a
    tree's deeper nodes the law of another path."""
    params = SamplingParams(**fields, min_tokens=least)
    sampler = sampler_of(params, output=output)
    expected = distribution(adjusted(logits, params, (0, 3), [*output, *ahead]), params)
    np.testing.assert_allclose(sampler.probabilities(np.array(logits), ahead), expected, atol=1e-12)


@given(LOGITS, laws_of_sampling(), TOKENS, TOKENS)
def test_ahead_is_the_same_as_pushed(
    logits: list[float], fields: dict[str, Any], output: list[int], ahead: list[int]
) -> None:
    """A drafter that looks ahead with the target's sampler saw other noise or other penalties than the target later does."""
    params = SamplingParams(**fields)
    looking = sampler_of(params, output=output).perturbed(np.array(logits), ahead)
    assert np.array_equal(looking, sampler_of(params, output=[*output, *ahead]).perturbed(np.array(logits)))


@given(LOGITS, laws_of_sampling(), TOKENS)
def test_choosing_leaves_the_logits_and_the_history_alone(
    logits: list[float], fields: dict[str, Any], output: list[int]
) -> None:
    """A penalty was applied in place, so a second look at a node (by a proposer) saw it twice."""
    sampler, given_logits = sampler_of(SamplingParams(**fields), output=output), np.array(logits)
    assert sampler.choose(given_logits) == sampler.choose(given_logits)
    assert given_logits.tolist() == logits
    assert sampler.output == output


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_half_precision_logits_are_widened_first(temperature: float) -> None:
    """Penalties computed in float16 rounded two tokens into a tie."""
    params = SamplingParams(temperature=temperature, frequency_penalty=1e-4)
    law = sampler_of(params, output=[1, 1]).law(np.array([8, 8, 8, 8, 8, 8], dtype=np.float16))
    assert law.dtype == np.float64
    assert law[1] == pytest.approx(law[0] - 2e-4, abs=1e-12)


def test_greedy_takes_the_lowest_of_equals() -> None:
    """Ties broken by whatever an argmax kernel finds first made two machines disagree."""
    assert sampler_of(SamplingParams()).choose(np.array([0.0, 2.0, 1.0, 2.0, 2.0, 0.0])) == 1


def test_top_k_keeps_ties() -> None:
    """Which of two equal tokens was cut depended on the sort."""
    law = sampler_of(SamplingParams(temperature=1, top_k=2)).law(np.array([0.0, 3.0, 1.0, 1.0, 1.0, 0.0]))
    assert np.flatnonzero(np.isfinite(law)).tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("size", [5, 256, 257, 3000])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.999])
@pytest.mark.parametrize("spread", [0.0, 0.01, 3.0])
def test_top_p_in_large_vocabularies(size: int, top_p: float, spread: float) -> None:
    """The shortcut that sorts only the best few cut too early in a flat distribution, or kept any of the equals but not the
    lowest ids."""
    logits = np.round(np.random.default_rng(size).normal(size=size) * spread, 2)
    params = SamplingParams(temperature=1.0, top_p=top_p)
    kept = np.flatnonzero(np.isfinite(sampler_of(params, prompt=(), size=size).law(logits)))
    order = np.argsort(-logits, kind="stable")
    reached = np.cumsum(np.exp(logits[order])) / np.exp(logits).sum()
    count = int((reached < top_p - 1e-9).sum()) + 1
    assert kept.tolist() == sorted(order[:count])


def test_min_p_keeps_the_bound_itself() -> None:
    """`>` for `>=` left no token at min_p = 1."""
    law = sampler_of(SamplingParams(temperature=1, min_p=1)).law(np.array([1.0, 1.0, 0.0, 0.0, 0.0, 0.0]))
    assert np.flatnonzero(np.isfinite(law)).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("output", "ahead", "banned"),
    [
        ((), (), {2}),
        ((0,), (), {2, 1}),
        ((), (0,), {2, 1}),
        ((4, 4), (), {2, 4}),
        ((4,), (4,), {2, 4}),
        ((4, 4, 0), (), {2, 1}),
    ],
)
def test_bad_words_are_banned_at_their_last_token(output: tuple, ahead: tuple, banned: set) -> None:
    """A bad word that began in committed tokens and ended in the draft slipped through."""
    sampler = sampler_of(SamplingParams(bad_words=((2,), (0, 1), (4, 4, 4))), output=output)
    law = sampler.law(np.zeros(VOCAB), ahead)
    assert set(np.flatnonzero(law == -np.inf)) == banned


def test_min_tokens_bans_every_end_until_then() -> None:
    """A draft that reached over min_tokens was judged by the rule of its first token."""
    sampler = sampler_of(SamplingParams(min_tokens=2, stop_token_ids=(1,)), output=(0,))
    assert set(np.flatnonzero(sampler.law(np.zeros(VOCAB)) == -np.inf)) == {1, EOS}
    assert np.isfinite(sampler.law(np.zeros(VOCAB), (3,))).all()


@given(LOGITS, st.integers(0, VOCAB - 1), st.integers(0, VOCAB))
def test_logprobs_are_of_the_raw_logits(logits: list[float], token: int, top: int) -> None:
    """Logprobs after temperature or penalties, a rank that counted equals, or a top list that was not the top."""
    found = logprobs_of(np.array(logits, dtype=np.float32), token, top)
    expected = [math.log(weight) for weight in normal([math.exp(logit) for logit in logits])]
    assert found.logprob == pytest.approx(expected[token])
    assert found.rank == 1 + sum(logit > logits[token] for logit in logits)
    best = sorted(range(VOCAB), key=lambda t: (-logits[t], t))[:top]
    assert list(found.top) == best
    assert list(found.top.values()) == pytest.approx([expected[t] for t in best])


def test_logprobs_are_noted_only_where_asked() -> None:
    """Asking for zero alternatives (the token's own logprob) was taken for not asking."""
    silent, asked = sampler_of(SamplingParams()), sampler_of(SamplingParams(logprobs=0, logit_bias={2: 50}))
    for sampler in (silent, asked):
        sampler.choose(np.zeros(VOCAB))
    assert silent.logprobs == []
    assert [(noted.token_id, noted.rank, noted.top) for noted in asked.logprobs] == [(2, 1, {})]


def test_takes_argmax_only_where_nothing_is_asked() -> None:
    """A target's shortcut (argmax on the device) was taken past a penalty, a ban or a wish for logprobs."""
    for fields in ({"temperature": 1.0}, {"logit_bias": {1: 1.0}}, {"bad_words": ((1,),)}, {"logprobs": 0}, {"min_tokens": 1},
                   {"allowed_token_ids": (1, 2)}, {"presence_penalty": 1.0}, {"repetition_penalty": 1.1}):  # fmt: skip
        assert not sampler_of(SamplingParams(**fields)).takes_argmax, fields
    assert sampler_of(SamplingParams()).takes_argmax
    assert sampler_of(SamplingParams(min_tokens=1), output=(0,)).takes_argmax


CHI_2 = {
    2: 30.7,
    5: 36.7,
}  # degrees of freedom -> the value exceeded with probability 1e-6 or less (2: 2.2e-7, 5: 6.9e-7)


def chi_square(drawn: Sequence[int], law: np.ndarray) -> tuple[float, int]:
    counts = Counter(drawn)
    assert all(law[token] > 0 for token in counts), "a token of probability 0 was drawn"
    expected = law[law > 0] * len(drawn)
    observed = np.array([counts[int(token)] for token in np.flatnonzero(law > 0)])
    return float(((observed - expected) ** 2 / expected).sum()), len(expected) - 1


@pytest.mark.parametrize("fields", [{}, {"top_k": 3, "temperature": 0.8}])
@pytest.mark.parametrize("along", ["seed", "sample", "position"])
def test_choices_follow_the_law(fields: dict[str, Any], along: str) -> None:
    """Noise that is not Gumbel, or repeats along seeds, samples or positions, biases every sampled text. Chi-square over 6000
    draws; the false-alarm probability is below 1e-6 a case, and a pass is a pass for ever: the noise is fixed."""
    logits = np.array([0.5, -1.0, 1.0, 0.0, 0.3, -0.4])
    params = SamplingParams(**{"temperature": 1.0, **fields})
    law = probabilities(sampler_of(params).law(logits))
    one = Sampler(params, seed=5, vocab_size=VOCAB)
    drawn = []
    for place in range(6000):
        if along == "position":
            one.push(drawn[-1] if drawn else 0)
            drawn.append(one.choose(logits))
        else:
            drawn.append(Sampler(params, **{"seed": 5, along: place}, vocab_size=VOCAB).choose(logits))
    value, freedom = chi_square(drawn, law)
    assert value < CHI_2[freedom]


def test_replacements_follow_their_law() -> None:
    """The token after a rejection shared the target's or the draft's noise, or could have probability 0."""
    law = np.array([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    drawn = [
        Sampler(SamplingParams(temperature=1), seed=seed, vocab_size=VOCAB).replace(law, 1) for seed in range(6000)
    ]
    value, freedom = chi_square(drawn, law)
    assert value < CHI_2[freedom]
