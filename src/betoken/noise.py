"""Keyed noise: the Gumbel noise at (seed, sample, position, token) is a pure function of those four numbers.

A 64-bit integer hash (the finaliser of SplitMix64: Steele, Lea, Flood, OOPSLA 2014) makes uniform numbers, a float64
logarithm turns them into Gumbel noise. Counter-based, so any token's noise can be had without any other's, in any
order.
"""

from collections import OrderedDict
from functools import cached_property, lru_cache
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

MASK: Final = (1 << 64) - 1
GOLDEN: Final = 0x9E3779B97F4A7C15

# Independent streams of the same key: what the target says, what a residual-mode draft draws, whether it is accepted,
# what replaces it.
EMIT: Final = 0
DRAFT: Final = 1
ACCEPT: Final = 2
REPLACE: Final = 3
STREAMS: Final = 4  # a stream of many draws counts them in multiples of this

Noise = npt.NDArray[np.float64]


def mix(x: int) -> int:
    """SplitMix64's finaliser on one 64-bit integer."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


class Draw(NamedTuple):
    """Which draw a token comes of, for who guesses what it will be: `NoiseSource.base` and the position. temperature: 0 where the
    likeliest is taken, without noise."""

    temperature: float
    base: np.uint64
    position: int


LIKELIEST: Final = Draw(0.0, np.uint64(0), 0)


def base(seed: int, sample: int) -> int:
    """What the keys of all draws of one request begin with."""
    return mix((mix((seed + GOLDEN) & MASK) + (sample + 1) * GOLDEN) & MASK)


def key(seed: int, sample: int, position: int, stream: int = EMIT) -> int:
    """The 64-bit key of one draw."""
    state = base(seed, sample)
    for word in (position, stream):
        state = mix((state + (word + 1) * GOLDEN) & MASK)
    return state


@lru_cache(maxsize=8)
def _counters(size: int) -> npt.NDArray[np.uint64]:
    counters = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(GOLDEN)
    counters.flags.writeable = False
    return counters


def uniforms(draw: int, size: int) -> Noise:
    """`[size]` numbers in (0, 1), neither end reached, of the draw with this key: 52 bits, odd multiples of 2**-53."""
    bits = _counters(size) + np.uint64(draw)
    bits ^= bits >> np.uint64(30)
    bits *= np.uint64(0xBF58476D1CE4E5B9)
    bits ^= bits >> np.uint64(27)
    bits *= np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    bits >>= np.uint64(12)
    floats = bits.astype(np.float64)
    floats += 0.5
    floats *= 2.0**-52
    return floats


def uniform(seed: int, sample: int, position: int, stream: int) -> float:
    """One number in (0, 1)."""
    return float(uniforms(key(seed, sample, position, stream), 1)[0])


def gumbel(seed: int, sample: int, position: int, size: int, stream: int = EMIT) -> Noise:
    """`[size]` standard Gumbel numbers: `argmax(log p + gumbel)` is a draw from p."""
    noise = uniforms(key(seed, sample, position, stream), size)
    np.log(noise, out=noise)
    np.negative(noise, out=noise)
    np.log(noise, out=noise)
    return np.negative(noise, out=noise)


class NoiseSource:
    """The noise of one request, the latest positions remembered: drafter and target ask for the same ones."""

    def __init__(self, seed: int, sample: int, vocab_size: int, keep: int = 32) -> None:
        self.seed, self.sample, self.vocab_size = seed, sample, vocab_size
        self._keep = keep
        self._rows: OrderedDict[int, Noise] = OrderedDict()

    @cached_property
    def base(self) -> np.uint64:
        return np.uint64(base(self.seed, self.sample))

    def at(self, position: int) -> Noise:
        """`[V]` Gumbel noise at an output position (0 is the first emitted token). Read only."""
        row = self._rows.get(position)
        if row is None:
            row = gumbel(self.seed, self.sample, position, self.vocab_size)
            row.flags.writeable = False
            self._rows[position] = row
            if len(self._rows) > self._keep:
                self._rows.popitem(last=False)
        return row
