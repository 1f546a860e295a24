"""Is it the same text? Where it is not: the first difference, and how near the two tokens were to each other there."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import count

import numpy as np
import torch

from betoken.params import SamplingParams
from betoken.sampling import Sampler
from betoken.targets.base import Feed
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
    best one there, in units of the (perturbed) logits; bound: the margin up to which it is called a near tie."""

    sameness: Sameness
    position: int | None = None
    margin: float | None = None
    bound: float | None = None


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
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
        return Comparison(Sameness.DIFFERENT, place)
    values_V, size = _values(target, prompt, params, plain[:place])
    margin = float(values_V.max() - min(values_V[plain[place]], values_V[other[place]]))
    dtype = target.model.dtype
    roundings = NEAR_TIE_ROUNDINGS.get(dtype, NEAR_TIE_ROUNDINGS_OTHERWISE)
    bound = roundings * torch.finfo(dtype).eps * size / (params.temperature or 1)
    return Comparison(Sameness.NEAR_TIE if margin <= bound else Sameness.DIFFERENT, place, margin, bound)


def _values(
    target: HFTarget, prompt: Sequence[int], params: SamplingParams, output: Sequence[int]
) -> tuple[np.ndarray, float]:
    """`[V]` what the argmax is taken of after `output`, and the largest absolute logit."""
    info, row = target.info, next(_rows)
    seed = params.seed or 0
    sampler = Sampler(params, seed=seed, vocab_size=info.vocab_size, prompt=prompt, eos_ids=info.eos_ids)
    for token in output:
        sampler.push(token)
    try:
        logits_V = target.score([Feed(row, (*prompt, *output))]).logits(0, -1)
        return sampler.perturbed(logits_V), float(np.abs(logits_V).max())
    finally:
        target.release(row)


def loops(tokens: Sequence[int]) -> bool:
    """Whether an output ends in a circle: its last 60 tokens (30 at least) repeat with a period up to 20, 3 times."""
    tail = tuple(tokens[-TAIL:])
    periods = range(1, min(LONGEST_PERIOD, len(tail) // REPEATS) + 1)
    return len(tail) >= SHORTEST and any(tail[period:] == tail[:-period] for period in periods)
