"""How much of a step goes to prompts beside rows that decode, and who gets it. Numbers only: nothing here knows models or texts."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from betoken.errors import ParameterError

LEAST = 16  # prompt tokens that are read in a step, however slow that seems
STEPS, PASSES = 15, 5  # so many of each are remembered
CROWD = 3.0  # where more prompts are read than rows decode, those may wait so many times as long, at most


@dataclass(frozen=True, slots=True)
class Limits:
    """What an engine may do at once.

    rows:        how many requests are read or decoded at once; the others wait
    chunk:       how many prompt tokens one forward pass takes
    stall:       beside rows that decode, prompts are read for at most so many times as long as a decoding step takes, or up to
                 three times that where more are read than decode; None: each prompt is read whole, at once
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
    """How many prompt tokens may be read in a step: as many as took no longer than so many decoding steps lately."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._steps: deque[float] = deque(maxlen=STEPS)
        self._passes: dict[int, deque[float]] = {}
        self._sizes = [min(LEAST, limits.chunk)]
        while self._sizes[-1] < limits.chunk:
            self._sizes.append(min(2 * self._sizes[-1], limits.chunk))

    def stepped(self, seconds: float) -> None:
        """A decoding step took so long."""
        self._steps.append(seconds)

    def read(self, tokens: int, seconds: float) -> None:
        """So many prompt tokens took so long."""
        size = next((size for size in self._sizes if size >= tokens), self._sizes[-1])
        self._passes.setdefault(size, deque(maxlen=PASSES)).append(seconds)

    def room(self, decoding: int, nodes: int, reading: int = 1) -> int:
        """Prompt tokens for a step in which so many rows decode, with so many nodes in all, and so many prompts are read."""
        stall, most = self._limits.stall, self._limits.step_tokens
        left = max(LEAST, most - decoding - nodes) if most is not None else 1 << 62
        if stall is None:
            return left
        if not decoding:
            return min(left, self._limits.chunk)
        if not self._steps:
            return min(left, self._sizes[0])
        allowed = stall * median(self._steps) * min(max(1.0, reading / decoding), CROWD)
        fitting = [size for size in self._sizes if self._expected(size) <= allowed]
        return min(left, fitting[-1] if fitting else self._sizes[0])

    def _expected(self, size: int) -> float:
        """Seconds for so many tokens: as measured, else in proportion to the next smaller size that was."""
        for known in reversed(self._sizes[: self._sizes.index(size) + 1]):
            if known in self._passes:
                return median(self._passes[known]) * size / known
        return 0.0 if size == self._sizes[0] else float("inf")


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
