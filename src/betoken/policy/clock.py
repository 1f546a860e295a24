"""Time as a policy counts it, and what is made of it. No torch."""

import math
from collections.abc import Callable

# How quickly the rate of tokens follows, a step.
RATE_FADE = 0.95


class Steady:
    """A clock made of another's steps: those that are negative, endless or no number are left out."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._last, self._now = clock, 0.0, 0.0

    def __call__(self) -> float:
        shown = self._clock()
        if 0 < (step := shown - self._last) < 1e6:  # so it is a number
            self._last, self._now = shown, self._now + step
        elif -math.inf < shown < math.inf:
            self._last = shown
        return self._now


class Pace:
    """Tokens of a row, and how many plain passes they took, both fading; and what that makes."""

    def __init__(self) -> None:
        self._tokens, self._passes, self.speedup = 1.0, 1.0, 1.0

    def learn(self, tokens: float, passes: float) -> None:
        self._tokens = RATE_FADE * self._tokens + tokens
        self._passes = RATE_FADE * self._passes + passes
        self.speedup = self._tokens / self._passes
