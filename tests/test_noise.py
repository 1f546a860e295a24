"""The noise is part of the format: the same seed must give the same text in every version, so its values are pinned."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from betoken.noise import ACCEPT, DRAFT, EMIT, GOLDEN, MASK, REPLACE, NoiseSource, gumbel, key, mix, uniform, uniforms

STREAMS = (EMIT, DRAFT, ACCEPT, REPLACE)
SEEDS = st.integers(0, 2**63 - 1)

PUBLISHED = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
PINNED_KEYS = [
    2391539541053276776,
    16321491304643971414,
    7542512935913773580,
    10910317525803880485,
    12365375887819322540,
]
PINNED_LAST_KEY = 12207493145157686092
PINNED_UNIFORMS = [8066629864040997, 1620115423247359, 1880432543100301, 3539466887868811]
PINNED_GUMBEL = [2.204656593153644, -0.5397201933035861, -0.44885809767976453, 0.06822739067561409]
TOP_DRAW = 3558559446808474027  # the key whose first word is 2**64 - 1


def test_the_hash_is_splitmix64() -> None:
    """A slip in a constant leaves noise that looks random: the first outputs of SplitMix64 with state 0 are public."""
    assert [mix(GOLDEN * n & MASK) for n in (1, 2, 3)] == PUBLISHED
    bits = [int(number * 2**53) >> 1 for number in uniforms(0, 3)]
    assert bits == [word >> 12 for word in PUBLISHED]


def test_keys_are_pinned() -> None:
    """A reordered word or a new stream number changed every text that a seed had given before."""
    assert [key(0, 0, 0), key(1, 0, 0), key(0, 1, 0), key(0, 0, 1), key(0, 0, 0, ACCEPT)] == PINNED_KEYS
    assert key(2**63 - 1, 1023, 10**6, REPLACE) == PINNED_LAST_KEY
    assert STREAMS == (0, 1, 2, 3)


def test_noise_is_pinned() -> None:
    """numpy's log, or a dtype, changed: the integers must match exactly, the logarithms to the last bits."""
    assert [int(number * 2**53) for number in uniforms(key(42, 0, 7), 4)] == PINNED_UNIFORMS
    np.testing.assert_allclose(gumbel(42, 0, 7, 4), PINNED_GUMBEL, rtol=1e-14)


def test_a_longer_vocabulary_has_the_same_beginning() -> None:
    """A padded vocabulary (target 32064 logits, drafter 32000) drew other noise for the same token."""
    assert np.array_equal(gumbel(3, 1, 2, 100)[:10], gumbel(3, 1, 2, 10))


@given(SEEDS, st.integers(0, 1023), st.integers(0, 10**6), st.sampled_from(STREAMS))
def test_noise_is_finite_and_open(seed: int, sample: int, position: int, stream: int) -> None:
    """A uniform number of exactly 0 or 1 made infinite noise, which emits a token of probability 0 or makes a NaN."""
    numbers = uniforms(key(seed, sample, position, stream), 50)
    assert ((numbers > 0) & (numbers < 1)).all()
    assert np.isfinite(gumbel(seed, sample, position, 50, stream)).all()
    assert uniform(seed, sample, position, stream) == numbers[0]


def test_the_largest_word_stays_below_one() -> None:
    """53 bits and a half round up to 1.0 at the very top, and its Gumbel number is infinite."""
    assert mix((TOP_DRAW + GOLDEN) & MASK) == MASK
    assert uniforms(TOP_DRAW, 1)[0] == 1 - 2.0**-53


def test_uniforms_are_uniform() -> None:
    """Bits lost in the shift left gaps. Chi-square over 64 cells: false alarm below 1e-6 (63 degrees of freedom, 141.6),
    and the same numbers every time."""
    counts = np.histogram(uniforms(key(1, 2, 3), 64_000), bins=64, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 141.6


def test_gumbel_has_its_mean_and_variance() -> None:
    """A sign lost in the two logarithms: mean 0.5772 and variance pi^2/6, each within five standard errors."""
    noise = gumbel(5, 0, 0, 100_000)
    assert abs(noise.mean() - np.euler_gamma) < 5 * math.sqrt(math.pi**2 / 6 / 100_000)
    assert abs(noise.var() - math.pi**2 / 6) < 5 * math.sqrt(4.4 * (math.pi**2 / 6) ** 2 / 100_000)


NEIGHBOURS = [
    ((9, 0, 0, EMIT), other)
    for other in [(9, 0, 0, s) for s in STREAMS[1:]] + [(10, 0, 0, EMIT), (9, 1, 0, EMIT), (9, 0, 1, EMIT)]
]


@pytest.mark.parametrize(
    ("one", "other"), [*NEIGHBOURS, ((9, 1, 0, EMIT), (9, 0, 1, EMIT)), ((9, 0, 1, EMIT), (9, 0, 0, DRAFT))]
)
def test_streams_and_neighbours_are_independent(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    """Acceptance drew the draft's own numbers, or position 1 was position 0 moved by one token: then a lag finds it.
    Correlation of 20,000 pairs within 6 standard errors at every lag from -3 to 3 (false alarm below 1e-7)."""
    a, b = uniforms(key(*one), 20_000), uniforms(key(*other), 20_000)
    for lag in range(-3, 4):
        assert abs(np.corrcoef(a[3:-3], np.roll(b, lag)[3:-3])[0, 1]) < 6 / math.sqrt(20_000)


@given(SEEDS, st.lists(st.integers(0, 40), max_size=60))
def test_the_cache_returns_what_it_forgot(seed: int, positions: list[int]) -> None:
    """A row that was written to, or evicted and made anew, differed from the first."""
    source = NoiseSource(seed, 3, 7, keep=4)
    for position in positions:
        row = source.at(position)
        assert np.array_equal(row, gumbel(seed, 3, position, 7))
        assert not row.flags.writeable
