"""Rows that are decoded together: what their tokens are worth beside each other's."""

from collections.abc import Sequence

from betoken.policy import finish
from betoken.policy.cost import Curve
from betoken.proposers.auto.members import Pair
from betoken.proposers.auto.step import Step

# How quickly a row's pace follows, a step, and that of all, which new rows start with.
PACE, USUAL = 0.1, 0.05
# No token is worth less than this: others' paces are guesses.
LEAST = 0.02


class Together:
    """`pace`: tokens a row, a step, lately."""

    def __init__(self) -> None:
        self.pace = 1.0

    def value(self, pairs: Sequence[Pair], step: Step, curve: Curve, *, last: bool) -> None:
        """Say what a token of each row is worth in this step. last: whether it counts when the last row ends."""
        if not last or len(pairs) < 2:
            for _, row in pairs:
                row.value = 1.0
            return
        alone = float(curve.seconds(1, step.context, 0)[0])
        rooms, paces = [seq.room + 1 for seq, _ in pairs], [row.pace for _, row in pairs]
        values = finish.worth(rooms, paces, step.rows, alone, step.plain).tolist()
        for (_, row), value in zip(pairs, values, strict=True):
            row.value = max(value, LEAST)

    def rested(self, pairs: Sequence[Pair], steps: int) -> None:
        """So many went by: a token each."""
        left = (1 - PACE) ** steps
        for _, row in pairs:
            row.went_by(steps)
            row.pace = 1 + left * (row.pace - 1)

    def learn(self, pairs: Sequence[Pair], emitted: Sequence[int]) -> None:
        """What came of the step."""
        for (_, row), tokens in zip(pairs, emitted, strict=True):
            row.pace += PACE * (tokens - row.pace)
        if emitted:
            self.pace += USUAL * (sum(emitted) / len(emitted) - self.pace)
