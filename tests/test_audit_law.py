"""The chi-square test of a joint law: its numbers, what it sees, and what it does not call wrong."""

import itertools
import math

import numpy as np
import pytest

from betoken.bench.audit_law import (
    cells_of,
    check_law,
    chi_square_tail,
    joint_law,
    noncentral_tail,
    outcome_of,
    smallest_shift,
)

ALPHA = 0.001
LAW_V = np.array([0.5, 0.3, 0.15, 0.05])


def laws_after(starts: list[tuple[int, ...]]) -> list[np.ndarray]:
    """A token is less likely to follow itself."""
    laws = []
    for start in starts:
        law_V = LAW_V.copy()
        if start:
            law_V[start[-1]] /= 2
        laws.append(law_V / law_V.sum())
    return laws


def draw(count: int, *, wrong: bool = False) -> list[tuple[int, ...]]:
    """Outputs of three tokens; the wrong ones forget what came before the last token."""
    rng = np.random.default_rng(3)
    outputs = []
    for _ in range(count):
        said: tuple[int, ...] = ()
        for place in range(3):
            (law_V,) = laws_after([() if wrong and place == 2 else said])
            said = (*said, int(rng.choice(4, p=law_V)))
        outputs.append(said)
    return outputs


# Tables of the chi-square distribution: upper 5 %, 1 % and 0.1 % points.
@pytest.mark.parametrize(
    ("freedom", "value", "tail"),
    [(1, 3.841459, 0.05), (2, 9.210340, 0.01), (5, 20.515006, 0.001), (10, 18.307038, 0.05), (101, 149.4493, 0.00124)],
)
def test_chi_square_tail(freedom: int, value: float, tail: float) -> None:
    if freedom <= 10:
        assert chi_square_tail(value, freedom) == pytest.approx(tail, rel=1e-5)
    samples = np.random.default_rng(0).chisquare(freedom, 200_000)
    assert chi_square_tail(value, freedom) == pytest.approx((samples > value).mean(), abs=0.002)
    assert chi_square_tail(0, freedom) == 1
    assert chi_square_tail(1e6, freedom) == 0


@pytest.mark.parametrize(("freedom", "shift"), [(3, 4.0), (40, 30.0), (7, 0.0)])
def test_noncentral_tail_is_what_numpy_draws(freedom: int, shift: float) -> None:
    samples = np.random.default_rng(1).noncentral_chisquare(freedom, shift, 200_000)
    value = freedom + shift
    assert noncentral_tail(value, freedom, shift) == pytest.approx((samples > value).mean(), abs=0.004)


def test_every_outcome_has_a_cell_and_the_cells_sum_to_one() -> None:
    law = joint_law(laws_after, 3, 0.01)
    cells = cells_of(law)
    assert sum(cells.values()) == pytest.approx(1)
    assert all(outcome_of(tokens, law) in cells for tokens in itertools.product(range(4), repeat=3))
    assert law[0, 1] == pytest.approx(0.5 * 0.3 / 0.75)
    assert min(law.values()) >= 0.01
    assert (3, 3) not in law and outcome_of((3, 3, 0), law) == (3,)


def test_a_right_law_passes_and_one_that_forgets_does_not() -> None:
    law = joint_law(laws_after, 3, 5 / 2000)
    right = check_law(draw(2000), law, ALPHA)
    assert not right.wrong and right.p_value > 0.01 and right.cells > 30
    wrong = check_law(draw(2000, wrong=True), law, ALPHA)
    assert wrong.wrong and wrong.p_value < 1e-9


def test_outcomes_of_no_probability_are_seen() -> None:
    law = joint_law(lambda starts: [np.array([0.5, 0.5, 0.0, 0.0]) for _ in starts], 2, 0.01)
    outputs = [*itertools.product((0, 1), repeat=2)] * 100
    assert not check_law(outputs, law, ALPHA).wrong
    assert check_law([*outputs, *[(2, 2)] * 60], law, ALPHA).wrong


def test_one_cell_tests_nothing() -> None:
    law = joint_law(lambda starts: [np.array([1.0, 0.0]) for _ in starts], 3, 0.01)
    found = check_law([(0, 0, 0)] * 50, law, ALPHA)
    assert (found.cells, found.detectable, found.wrong) == (1, None, False)


def test_the_stated_power_is_kept() -> None:
    """A law shifted by the stated distance, in the way that is hardest to see, is found 9 times in 10 or more."""
    samples, cells = 1000, 10
    shift = smallest_shift(samples, cells - 1, ALPHA)
    even = np.full(cells, 1 / cells)
    skewed = even + shift * 2 / cells * np.array([1, -1] * (cells // 2))
    assert np.abs(skewed - even).sum() / 2 == pytest.approx(shift)
    rng = np.random.default_rng(5)
    counts = rng.multinomial(samples, skewed, size=2000)
    statistics = ((counts - samples * even) ** 2 / (samples * even)).sum(axis=1)
    found = np.mean([chi_square_tail(value, cells - 1) < ALPHA for value in statistics])
    assert found == pytest.approx(0.9, abs=0.03)
    counts = rng.multinomial(samples, even, size=2000)
    statistics = ((counts - samples * even) ** 2 / (samples * even)).sum(axis=1)
    assert np.mean([chi_square_tail(value, cells - 1) < 0.05 for value in statistics]) == pytest.approx(0.05, abs=0.02)
    assert smallest_shift(4 * samples, cells - 1, ALPHA) == pytest.approx(shift / 2) and math.isfinite(shift)
