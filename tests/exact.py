"""Enumerate all that a randomised piece of code can do, with exact probabilities, by running it once per outcome.

The code under test is the real one: it is handed dice and uniform numbers that make up their mind when they are compared.
"""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any, TypeVar

Value = TypeVar("Value")


class Dice:
    """Follows a script of choices, then takes the first outcome; remembers how many there were and how probable its own."""

    def __init__(self, script: Sequence[int]) -> None:
        self._script = script
        self.taken: list[tuple[int, int]] = []
        self.weight = Fraction(1)

    def pick(self, weights: Sequence[Any]) -> int:
        """An outcome, drawn with these probabilities."""
        outcomes = [outcome for outcome, weight in enumerate(weights) if weight]
        turn = len(self.taken)
        choice = self._script[turn] if turn < len(self._script) else 0
        self.taken.append((choice, len(outcomes)))
        self.weight *= weights[outcomes[choice]]
        return outcomes[choice]


class Chance:
    """A uniform number between 0 and 1 that narrows down as it is compared; compared again it stays consistent."""

    def __init__(self, dice: Dice) -> None:
        self._dice = dice
        self._low, self._high = Fraction(0), Fraction(1)

    def __lt__(self, bound: Any) -> bool:
        if bound <= self._low or bound >= self._high:
            return bool(bound >= self._high)
        share = (Fraction(bound) - self._low) / (self._high - self._low)
        below = self._dice.pick([share, 1 - share]) == 0
        self._low, self._high = (self._low, bound) if below else (bound, self._high)
        return below

    def __mul__(self, scale: Any) -> "Scaled":
        return Scaled(self, scale)

    __rmul__ = __mul__


class Scaled:
    """A chance times a number."""

    def __init__(self, chance: Chance, scale: Any) -> None:
        self._chance, self._scale = chance, scale

    def __lt__(self, bound: Any) -> bool:
        return self._chance < Fraction(bound) / self._scale if self._scale else bound > 0


def outcomes(run: Callable[[Dice], Value]) -> Iterator[tuple[Value, Fraction]]:
    """Everything `run(dice)` can return, each way of getting there with its probability."""
    script: list[int] | None = []
    while script is not None:
        dice = Dice(script)
        value = run(dice)
        yield value, dice.weight
        script = _next(dice.taken)


def _next(taken: list[tuple[int, int]]) -> list[int] | None:
    while taken and taken[-1][0] + 1 == taken[-1][1]:
        taken.pop()
    return [*(choice for choice, _ in taken[:-1]), taken[-1][0] + 1] if taken else None


def law_of(run: Callable[[Dice], Value]) -> dict[Value, Fraction]:
    """The law of what `run(dice)` returns."""
    law: dict[Value, Fraction] = {}
    for value, weight in outcomes(run):
        law[value] = law.get(value, Fraction(0)) + weight
    assert sum(law.values()) == 1
    return law


def mean_of(run: Callable[[Dice], int]) -> Fraction:
    """The expectation of what `run(dice)` returns."""
    return sum((value * weight for value, weight in outcomes(run)), Fraction(0))
