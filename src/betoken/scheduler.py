"""How much of a step goes to prompts beside rows that decode, and who gets it. Numbers only: nothing here knows models or texts."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from betoken.errors import ParameterError

LEAST = 16  # prompt tokens that are read in a step, however slow that seems
UNSEEN = 0.03  # seconds: who reads a stream does not see so short a stop
STEPS, PASSES = 15, 24  # so many of each are remembered
FADING, PRIOR = 0.9, 0.05  # how much less a pass says than the one after it; how much a guess does in advance
CROWD = 3.0  # where more prompts are read than rows decode, those may wait so many times as long, at most


@dataclass(frozen=True, slots=True)
class Limits:
    """What an engine may do at once.

    rows:        how many requests are read or decoded at once; the others wait
    chunk:       how many prompt tokens one forward pass takes
    stall:       beside rows that decode, prompts are read for at most so many times as long as a decoding step takes, up to three
                 times that where more are read than decode, and 30 ms in any case; None: each prompt is read whole, at once
    step_tokens: tokens of one step, prompts and draft nodes together; None: no limit
    kv_bytes:    what keys and values of running rows may take; who does not fit waits; None: no limit
    kept_bytes:  what those of ended rows may take, to be used again by prompts that begin alike; 0: none are kept

    Raises ParameterError.
    """

    rows: int = 32
    chunk: int = 512
    stall: float | None = None
    step_tokens: int | None = None
    kv_bytes: int | None = None
    kept_bytes: int = 0

    def __post_init__(self) -> None:
        for name, value, low in (
            ("max_rows", self.rows, 1),
            ("chunk", self.chunk, 1),
            ("kept_bytes", self.kept_bytes, 0),
        ):
            if value < low:
                raise ParameterError(name, value, f"a whole number of at least {low}")
        if self.stall is not None and not self.stall > 0:
            raise ParameterError("stall", self.stall, "a number above 0, or None")
        for name, most in (("step_tokens", self.step_tokens), ("kv_bytes", self.kv_bytes)):
            if most is not None and most < 1:
                raise ParameterError(name, most, "a whole number of at least 1, or None")

    def nodes(self, rows: int, most: int) -> int:
        """How many nodes a draft may have where so many rows decode."""
        return most if self.step_tokens is None else max(0, min(most, (self.step_tokens - rows) // max(rows, 1)))


class Pace:
    """How many prompt tokens may be read in a step: as many as are expected to take no longer than so many decoding steps lately."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._steps: deque[float] = deque(maxlen=STEPS)
        self._passes: deque[tuple[int, float, float]] = deque(maxlen=PASSES)

    def stepped(self, seconds: float) -> None:
        """A decoding step took so long."""
        self._steps.append(seconds)

    def read(self, tokens: int, context: float, seconds: float) -> None:
        """So many prompt tokens, which saw so many others on average, took so long."""
        self._passes.append((tokens, context, max(seconds, 1e-9)))

    def room(self, decoding: int, nodes: int, reading: int = 1, context: int = 0) -> int:
        """Prompt tokens for a step in which so many rows decode, with so many nodes in all, and so many prompts are read, the oldest
        from this length on."""
        stall, most = self._limits.stall, self._limits.step_tokens
        left = max(LEAST, most - decoding - nodes) if most is not None else 1 << 62
        if stall is None:
            return left
        if not decoding:
            return min(left, self._limits.chunk)
        if not self._steps or not self._passes:
            return min(left, LEAST, self._limits.chunk)
        allowed = max(UNSEEN, stall * median(self._steps) * min(max(1.0, reading / decoding), CROWD))
        fixed, each, each_seen = costs(self._passes)
        tokens = int((allowed - fixed) / max(each + each_seen * context, 1e-9))
        return min(left, max(tokens, LEAST), self._limits.chunk)


def costs(passes: Iterable[tuple[int, float, float]]) -> tuple[float, float, float]:
    """Seconds of a pass, of each of its tokens, and of each token that one of them sees, from passes (tokens, how many others each saw on
    average, seconds), the latest last.

    Least squares of relative errors, later ones for more; where all passes were alike, what they took is put down to their tokens.
    """
    tokens, seen, seconds = np.array([*passes], dtype=np.float64).T
    parts = np.stack([np.ones_like(tokens), tokens, tokens * seen], 1) / seconds[:, None]
    scale = parts.mean(0)
    parts, wanted = parts / np.where(scale > 0, scale, 1.0), np.ones_like(tokens)
    weights = FADING ** np.arange(len(tokens) - 1, -1, -1)
    left = (weights[:, None] * parts).T @ parts + PRIOR * np.eye(3)
    right = parts.T @ (weights * wanted) + PRIOR * np.array([0.0, 1.0, 0.0])
    shares = np.zeros(3)
    active = np.flatnonzero(scale > 0)
    while len(active):
        shares[:] = 0.0
        shares[active] = np.linalg.solve(left[np.ix_(active, active)], right[active])
        if shares.min() >= 0:
            break
        active = active[active != shares.argmin()]
    fixed, each, each_seen = shares / np.where(scale > 0, scale, 1.0)
    return float(fixed), float(each), float(each_seen)


def shares(left: Sequence[int], room: int) -> list[int]:
    """How many tokens each of several prompts may read, the oldest first in `left` (what each has to read still).

    The oldest gets half at least, so that it comes to its end whoever joins; then whoever has least to read, so that a short
    prompt need not wait for a long one.
    """
    if not left:
        return []
    given = [0] * len(left)
    given[0] = min(left[0], -(-room // 2))
    room -= given[0]
    for place in sorted(range(len(left)), key=lambda place: left[place]):
        more = min(left[place] - given[place], room)
        given[place] += more
        room -= more
    return given


def rounds(counts: Sequence[int], most: int) -> Iterator[list[int]]:
    """How many tokens of each prompt go into each forward pass, so many in all at most; the first prompts come first."""
    left = list(counts)
    while any(left):
        room, taken = most, []
        for count in left:
            taken.append(min(count, room))
            room -= taken[-1]
        left = [count - one for count, one in zip(left, taken, strict=True)]
        yield taken
