"""The compiled twin of `noise`, and draws with it: which tokens are highest once the noise is added. Compiled.

Of all noise most need not be known: a token far below the others would need a rare number to be drawn. A bound that costs a hash and no
logarithm says of nearly every token that it has none: a few dozen are looked at.
"""

import math
from functools import cache

import numpy as np

from betoken.compiled import compiled
from betoken.noise import EMIT, GOLDEN

# A seed's hash goes on by a position, then by the stream of what the target says; see `noise.key`.
STEP, STREAM = np.uint64(GOLDEN), np.uint64((EMIT + 1) * GOLDEN)
ONE = np.uint64(1)
# So many tokens at once are bounded, for which the processor takes several at a time; a bound is higher by this, for rounding.
CHUNK, SLACK = 512, 1e-6
LOG_2, EXPONENT_BIAS = math.log(2.0), 1023


@compiled
def _mix(x):
    """`noise.mix`."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@compiled
def key_at(base, position):
    """The key of the draw at a position, of a request with this `noise.base`."""
    return _mix(_mix(base + (np.uint64(position) + ONE) * STEP) + STREAM)


@compiled
def uniform_of(key, token):
    """`noise.uniforms`, of one token."""
    bits = _mix(key + (np.uint64(token) + ONE) * STEP) >> np.uint64(12)
    return (float(bits) + 0.5) * 2.0**-52


@compiled
def gumbel_of(key, token):
    """`noise.gumbel`, of one token."""
    return -math.log(-math.log(uniform_of(key, token)))


@compiled
def highest(law, noisy, base, position, ids, values):
    """The tokens where a law is highest together with the noise of the draw at this position, or alone: best first, of equals the lowest
    first, as many as there is room for and a law has tokens."""
    count, most = 0, min(len(ids), len(law))
    key = key_at(base, position) if noisy else base
    bounds = np.empty(CHUNK)
    for begin in range(0, len(law), CHUNK):
        size = min(CHUNK, len(law) - begin)
        if noisy:
            _bound(law[begin : begin + size], key, begin, bounds)
        for i in range(size):
            token = begin + i
            if count == most and (bounds[i] if noisy else law[token]) < values[most - 1]:
                continue
            value = law[token] + gumbel_of(key, token) if noisy else law[token]
            if count < most or value > values[most - 1]:
                count = insert(values, ids, count, most, value, token)


@compiled
def _bound(law, key, first, bounds):
    """No less than each token's law and noise: of a number u the noise is -log(-log u), no more than -log(1 - u), and that no more than what
    its exponent says."""
    rest = np.empty(CHUNK)
    for i in range(len(law)):
        rest[i] = 1.0 - uniform_of(key, first + i)
    exponents = rest.view(np.int64)
    for i in range(len(law)):
        bounds[i] = law[i] - LOG_2 * ((exponents[i] >> 52) - EXPONENT_BIAS) + SLACK


@compiled
def insert(values, ids, count, most, value, token):
    """Into the highest so far, in order, in the place of the last where there are `most`. Returns how many there are."""
    at = count = min(count, most - 1)
    while at > 0 and values[at - 1] < value:
        values[at], ids[at] = values[at - 1], ids[at - 1]
        at -= 1
    values[at], ids[at] = value, token
    return count + 1


@compiled
def drawn(law, base, position):
    """The token that is drawn."""
    ids, values = np.zeros(1, np.int64), np.empty(1)
    highest(law, True, base, position, ids, values)
    return ids[0]


@cache
def warm_up() -> None:
    """Load the compiled code (a quarter of a second), or compile it (once after installation): here, and not inside a timed step."""
    drawn(np.zeros(1), np.uint64(0), 0)
    highest(np.zeros(1), True, np.uint64(0), 0, np.zeros(1, np.int64), np.empty(1))
