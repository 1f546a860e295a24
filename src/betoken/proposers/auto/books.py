"""What was decided and what came of it, written down for whoever asks why."""

from collections.abc import Sequence
from typing import Any

from betoken.policy.ledger import Ledger, Note
from betoken.proposers.auto.members import Member
from betoken.proposers.auto.step import Step


class Books:
    """The ledger, and who writes it."""

    def __init__(self, names: Sequence[str]) -> None:
        self.ledger = Ledger(names)
        self._nobody = (0,) * len(names)

    def rested(self, step: Step, rows: int, plain: float, measured: float) -> None:
        """A step of so many rows went by, `plain` seconds by the curve."""
        self.ledger.note(Note(rows, step.context, 0, 0, self._nobody, rows, rows, plain, measured, plain))

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
        predicted = pace * (step.seconds + deciding)
        self.ledger.note(
            Note(
                step.rows, step.context, step.nodes, step.most, tuple(step.asked), step.expected, emitted,
                predicted, measured + step.spent, step.plain * pace,
            )
        )  # fmt: skip
