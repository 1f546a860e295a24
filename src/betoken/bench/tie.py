"""Is it the same text? Where it is not: the first difference, and how near the two tokens were to each other there."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import count

import numpy as np
import torch

from betoken.params import SamplingParams
from betoken.sampling import Sampler
from betoken.targets.base import Feed, TargetInfo
from betoken.targets.hf import HFTarget

# Two forwards of one text differ by a few roundings; in float32 by more of them, since sums are rounded there, too.
NEAR_TIE_ROUNDINGS = {torch.float32: 16}
NEAR_TIE_ROUNDINGS_OTHERWISE = 4
TAIL, SHORTEST, LONGEST_PERIOD, REPEATS = 60, 30, 20, 3
_rows = count(-1_000, -1)


class Sameness(StrEnum):
    """What a comparison of two outputs may find. `DIFFERENT` is a defect."""

    IDENTICAL = "identical"
    NEAR_TIE = "near tie"
    DIFFERENT = "DIFFERENT"


@dataclass(frozen=True, slots=True)
class Comparison:
    """position: of the first differing output token; margin: how far the less likely of the two tokens lies below the
    best one there, in units of the (perturbed) logits; bound: the margin up to which it is called a near tie;
    roundings: the margin again, in roundings of the dtype at the size of the logits; tokens: the two, expected first,
    None for an output that has ended."""

    sameness: Sameness
    position: int | None = None
    margin: float | None = None
    bound: float | None = None
    roundings: float | None = None
    tokens: tuple[int | None, int | None] | None = None


def first_difference(one: Sequence[object], other: Sequence[object]) -> int | None:
    """The first place where two outputs differ, the end of the shorter one included; None where they are equal."""
    if tuple(one) == tuple(other):
        return None
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def compare(
    target: HFTarget, prompt: Sequence[int], params: SamplingParams, plain: Sequence[int], other: Sequence[int]
) -> Comparison:
    """Judge an output against plain decoding's, by a fresh forward of the target over what they have in common.

    A near tie: both tokens within a few roundings (of the dtype, at the size of the logits) of the best one.
    """
    place = first_difference(plain, other)
    if place is None:
        return Comparison(Sameness.IDENTICAL)
    if place >= min(len(plain), len(other)):
        return cut_short(place, plain, other)
    logits_V = _logits(target, (*prompt, *plain[:place]))
    return judge(
        logits_V, chooser(target.info, prompt, params, plain[:place]), (plain[place], other[place]), target.model.dtype
    )


def cut_short(place: int, plain: Sequence[int], other: Sequence[int]) -> Comparison:
    """One output ends at `place` though the other, equal up to there, goes on."""
    tokens = [said[place] if place < len(said) else None for said in (plain, other)]
    return Comparison(Sameness.DIFFERENT, place, tokens=(tokens[0], tokens[1]))


def judge(logits_V: np.ndarray, sampler: Sampler, tokens: tuple[int, int], dtype: torch.dtype) -> Comparison:
    """A near tie or not: how far the less likely of two tokens lies below the best one, given what was said so far.

    logits_V: `[V]` raw logits at the place where the outputs part
    sampler:  with everything said before that place pushed
    """
    unit = one_rounding(logits_V, sampler.params, dtype)
    bound = unit * NEAR_TIE_ROUNDINGS.get(dtype, NEAR_TIE_ROUNDINGS_OTHERWISE)
    values_V, sure_V = _values(logits_V, sampler, bound)
    margin = max(float(values_V[sure_V].max() - min(values_V[token] for token in tokens)), 0.0)
    sameness = Sameness.NEAR_TIE if margin <= bound else Sameness.DIFFERENT
    return Comparison(sameness, sampler.position, margin, bound, margin / unit, tokens)


def _values(logits_V: np.ndarray, sampler: Sampler, bound: float) -> tuple[np.ndarray, np.ndarray]:
    """What the argmax is taken of, and which tokens are surely in the running.

    Rounding decides whether a token at the edge of top-k, top-p or min-p is kept, and another forward may decide otherwise.
    So tokens that it may keep have a value here, and those that it may drop are not sure.
    """
    params = sampler.params
    if params.greedy or (params.top_k, params.top_p, params.min_p) == (0, 1, 0):
        values_V = sampler.perturbed(logits_V)
        return values_V, np.isfinite(values_V)
    law_V = _filtered_as(sampler, logits_V, top_k=0, top_p=1.0, min_p=0.0)
    # A share of the mass moves by at most so much where every weight in it is off by a factor of e^bound.
    slack = 2 * bound * params.top_p * (1 - params.top_p)
    wide, narrow = min(params.top_p + slack, 1.0), max(params.top_p - slack, 1e-9)
    kept_V = np.isfinite(_filtered_as(sampler, logits_V, top_p=wide))
    sure_V = np.isfinite(_filtered_as(sampler, logits_V, top_p=narrow))
    may_V = law_V >= law_V[kept_V].min() - 2 * bound
    sure_V = law_V >= min(law_V[sure_V].min() + 2 * bound, law_V.max())
    noise_V = sampler.noise.at(sampler.position)
    return np.where(may_V, law_V, -np.inf) + noise_V, sure_V


def _filtered_as(sampler: Sampler, logits_V: np.ndarray, **changes: float) -> np.ndarray:
    """`[V]` the law of the same history under other filters, without noise."""
    own = sampler.params
    try:
        sampler.params = own.replaced(**changes)
        return sampler.law(logits_V)
    finally:
        sampler.params = own


def one_rounding(logits_V: np.ndarray, params: SamplingParams, dtype: torch.dtype) -> float:
    """One rounding of a dtype, at the size of the largest logit, as the parameters pass it on."""
    penalty = params.repetition_penalty
    size = float(np.abs(logits_V).max()) * max(penalty, 1 / penalty)
    return float(torch.finfo(dtype).eps) * size / (params.temperature or 1)


def chooser(info: TargetInfo, prompt: Sequence[int], params: SamplingParams, output: Sequence[int]) -> Sampler:
    """A sampler that has said `output`, made afresh."""
    seed = params.seed or 0
    sampler = Sampler(params, seed=seed, vocab_size=info.vocab_size, prompt=prompt, eos_ids=info.eos_ids)
    for token in output:
        sampler.push(token)
    return sampler


def _logits(target: HFTarget, text: tuple[int, ...]) -> np.ndarray:
    """`[V]` logits after a text, by a forward of its own."""
    row = next(_rows)
    try:
        return target.score([Feed(row, text)]).logits(0, -1)
    finally:
        target.release(row)


def loops(tokens: Sequence[int]) -> bool:
    """Whether an output ends in a circle: its last 60 tokens (30 at least) repeat with a period up to 20, 3 times."""
    tail = tuple(tokens[-TAIL:])
    periods = range(1, min(LONGEST_PERIOD, len(tail) // REPEATS) + 1)
    return len(tail) >= SHORTEST and any(tail[period:] == tail[:-period] for period in periods)
