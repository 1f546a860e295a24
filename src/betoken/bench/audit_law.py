"""Do samples follow a law? A chi-square test of the first tokens taken together, and what it is able to see. No torch."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

Ids = tuple[int, ...]
# Samples in a cell, on average. With 5, the textbooks' number, tails as small as alpha's are up to twice too heavy.
LEAST_EXPECTED = 10
POWER = 0.9


@dataclass(frozen=True, slots=True)
class LawTest:
    """samples:    how many outputs were drawn
    cells:      how many kinds of outcomes were told apart, the rare ones taken together
    statistic, p_value: of Pearson's chi-square test with `cells - 1` degrees of freedom
    detectable: the total-variation distance over these cells from which on any wrong law is found with probability
                0.9; None where all outcomes fall into one cell, so that nothing was tested
    wrong:      whether the p-value is below its share of alpha
    """

    samples: int
    cells: int
    statistic: float
    p_value: float
    detectable: float | None
    wrong: bool


def joint_law(
    laws_after: Callable[[Sequence[Ids]], Sequence[npt.NDArray[Any]]], length: int, least: float
) -> dict[Ids, float]:
    """The probability of every beginning of an output that is at least `least` likely, up to `length` tokens.

    laws_after: beginnings of one length -> the `[V]` law of the next token after each
    """
    kept: dict[Ids, float] = {(): 1.0}
    level = dict(kept)
    for _ in range(length):
        starts = [*level]
        level = {
            (*start, int(token)): level[start] * float(law_V[token])
            for start, law_V in zip(starts, laws_after(starts) if starts else [], strict=True)
            for token in (law_V >= least / level[start]).nonzero()[0]
        }
        kept |= level
    return kept


def outcome_of(tokens: Ids, law: Mapping[Ids, float]) -> Ids:
    """The longest beginning of an output that the law lists: its cell."""
    return next(tokens[:length] for length in range(len(tokens), -1, -1) if tokens[:length] in law)


def cells_of(law: Mapping[Ids, float]) -> dict[Ids, float]:
    """The probability that a listed beginning is the longest one listed: its own, less those of its continuations."""
    left = dict(law)
    for start, chance in law.items():
        if start:
            left[start[:-1]] -= chance
    return {start: max(chance, 0.0) for start, chance in left.items()}


def check_law(outputs: Sequence[Ids], law: Mapping[Ids, float], alpha: float) -> LawTest:
    """Pearson's test of outputs (each at least as long as the law's longest beginning) against `joint_law`'s result.

    alpha: the probability of calling a right law wrong, about: counts are whole, chi-square is not
    """
    counts = Counter(outcome_of(output, law) for output in outputs)
    pairs = _pooled([(chance * len(outputs), counts[cell]) for cell, chance in cells_of(law).items()])
    statistic = sum((count - expected) ** 2 / expected for expected, count in pairs)
    freedom = len(pairs) - 1
    if not freedom:
        return LawTest(len(outputs), 1, 0.0, 1.0, None, False)
    p_value = chi_square_tail(statistic, freedom)
    detectable = smallest_shift(len(outputs), freedom, alpha)
    return LawTest(len(outputs), len(pairs), statistic, p_value, detectable, p_value < alpha)


def _pooled(pairs: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """(expected, counted) per cell; those expected too rarely go together, into the next rarest cell if need be."""
    kept = sorted(pair for pair in pairs if pair[0] >= LEAST_EXPECTED)
    rare = [pair for pair in pairs if pair[0] < LEAST_EXPECTED]
    pool = (sum(expected for expected, _ in rare), sum(count for _, count in rare))
    if pool[0] >= LEAST_EXPECTED or not kept:
        return [pool, *kept]
    return [(pool[0] + kept[0][0], pool[1] + kept[0][1]), *kept[1:]]


def chi_square_tail(value: float, freedom: int) -> float:
    """P(chi-square > value), by the finite sum that whole degrees of freedom allow."""
    half = value / 2
    if half <= 0:
        return 1.0
    start = 0.5 * (freedom % 2)
    tail = math.erfc(math.sqrt(half)) if start else 0.0
    return min(1.0, tail + sum(_term(half, start + i) for i in range(freedom // 2)))


def _term(half: float, power: float) -> float:
    """e^-h h^s / Gamma(s + 1): a Poisson probability, where s is whole."""
    return math.exp(power * math.log(half) - half - math.lgamma(power + 1))


def noncentral_tail(value: float, freedom: int, shift: float) -> float:
    """P(noncentral chi-square > value): a Poisson(shift / 2) mixture of chi-squares with 2 more degrees each."""
    if shift == 0:
        return chi_square_tail(value, freedom)
    tail, total, left = chi_square_tail(value, freedom), 0.0, 1.0
    for extra in range(int(shift / 2 + 20 * math.sqrt(shift) + 50)):
        weight = _term(shift / 2, extra)
        total += weight * tail
        left -= weight
        tail += _term(value / 2, freedom / 2 + extra)
    return total + max(left, 0.0)


def smallest_shift(samples: int, freedom: int, alpha: float) -> float:
    """The total-variation distance t from which on the test has power 0.9, whatever way the law is off.

    A law at distance t has a noncentrality of n sum (q - p)^2 / p, at least n (2 t)^2 by Cauchy and Schwarz.
    """
    critical = _where(lambda value: chi_square_tail(value, freedom) < alpha)
    return math.sqrt(_where(lambda shift: noncentral_tail(critical, freedom, shift) > POWER) / (4 * samples))


def _where(holds: Callable[[float], bool]) -> float:
    """Where a condition that holds for all large numbers begins to hold."""
    low, high = 0.0, 1.0
    while not holds(high):
        low, high = high, 2 * high
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
