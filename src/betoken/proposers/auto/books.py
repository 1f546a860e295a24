"""What was decided and what came of it, written down for whoever asks why."""

from collections.abc import Sequence
from typing import Any

from betoken.policy.ledger import Ledger, Note
from betoken.proposers.auto.members import Member
from betoken.proposers.auto.step import Step

# What steps take in the mean is more than what the curve says, which goes by medians: now and then somebody else has the machine, and of
# a mixture some passes wake more experts. How much more is seen from the last hundred steps or so; none counts for more than so many as
# predicted, and so many that came as predicted are assumed.
LATE_FADE, LATEST, ON_TIME = 0.99, 3.0, 5


class Late:
    """By how much steps take longer than predicted, lately. No decision depends on it."""

    def __init__(self) -> None:
        self._took = self._predicted = 0.0
        self.factor = 1.0

    def learn(self, took: float, predicted: float) -> None:
        if predicted > 0 and took > 0:  # a clock may stand still
            self._took = LATE_FADE * self._took + min(took, LATEST * predicted)
            self._predicted = LATE_FADE * self._predicted + predicted
            assumed = ON_TIME * predicted
            self.factor = (self._took + assumed) / (self._predicted + assumed)


class Books:
    """The ledger, and who writes it."""

    def __init__(self, names: Sequence[str]) -> None:
        self.ledger = Ledger(names)
        self._nobody, self._late = (0,) * len(names), Late()

    def rested(self, step: Step, rows: int, plain: float, measured: float) -> None:
        """A step of so many rows went by, `plain` seconds by the curve."""
        predicted = plain * self._late.factor
        self._late.learn(measured, plain)
        self.ledger.note(Note(rows, step.context, 0, 0, self._nobody, rows, rows, predicted, measured, plain))

    def keep(
        self,
        step: Step,
        members: Sequence[Member],
        emitted: int,
        came: Any,
        measured: float,
        pace: float,
        deciding: float,
    ) -> None:
        """A step is over.

        emitted:  a token for each row that nothing is drafted for among them
        came:     how many accepted nodes were each member's
        measured: seconds of the pass
        deciding: seconds that this was expected to take, at the machine's usual pace
        """
        if step.nodes:
            for member, asked in zip(members, step.asked, strict=True):
                if asked:
                    self.ledger.accounts[member.name].accepted += int(came[member.index])
        raw, took = pace * (step.seconds + deciding), measured + step.spent
        predicted = raw * self._late.factor
        self._late.learn(took, raw)
        self.ledger.note(
            Note(
                step.rows, step.context, step.nodes, step.most, tuple(step.asked), step.expected, emitted,
                predicted, took, step.plain * pace,
            )
        )  # fmt: skip
