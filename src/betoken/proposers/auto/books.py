"""What was decided and what came of it, written down for whoever asks why."""

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from betoken.policy.ledger import Ledger, Note
from betoken.proposers.auto.step import Step

# A step as it is kept: `Note`, with what was predicted before lateness, and accepted nodes of each member.
Kept = tuple[int, int, int, int, list[int], float, int, float, float, float, list[float] | None]
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


# Steps are written down so many at once: one at a time takes far longer, for after a forward pass nothing of it is near.
OPEN = 16


class Books:
    """The ledger, and who writes it."""

    def __init__(self, names: Sequence[str]) -> None:
        self._open: deque[Kept] = deque()
        self._nobody, self._late = (0,) * len(names), Late()
        self.ledger = Ledger(names)

    @property
    def ledger(self) -> Ledger:
        """With all that has been kept."""
        self._write_up()
        return self._ledger

    @ledger.setter
    def ledger(self, ledger: Ledger) -> None:
        self._write_up()
        self._ledger, self.accounts = ledger, ledger.accounts

    def _write_up(self) -> None:
        with suppress(IndexError):  # whoever asks from another thread writes, too: each step is taken by one of them
            while True:
                self._write(*self._open.popleft())

    def rested(self, step: Step, rows: int, plain: float, measured: float) -> None:
        """A step of so many rows went by, `plain` seconds by the curve."""
        self._write_up()
        predicted = plain * self._late.factor
        self._late.learn(measured, plain)
        self._ledger.note(Note(rows, step.context, 0, 0, self._nobody, rows, rows, predicted, measured, plain))

    def keep(self, step: Step, emitted: int, came: Any, measured: float, pace: float, deciding: float) -> bool:
        """A step is over. Whether all was written down.

        emitted:  a token for each row that nothing is drafted for among them
        came:     how many accepted nodes were each member's, where any were fed
        measured: seconds of the pass
        deciding: seconds that this was expected to take, at the machine's usual pace
        """
        self._open.append(
            (
                step.rows, step.context, step.nodes, step.most, step.asked, step.expected, emitted,
                pace * (step.seconds + deciding), measured + step.spent, step.plain * pace, came.tolist() if step.nodes else None,
            )
        )  # fmt: skip
        if len(self._open) < OPEN:
            return False
        self._write_up()
        return True

    def _write(
        self, rows: int, context: int, nodes: int, most: int, asked: list[int], expected: float, emitted: int,
        raw: float, took: float, plain: float, came: list[float] | None,
    ) -> None:  # fmt: skip
        if came is not None:
            for account, times, accepted in zip(self.accounts.values(), asked, came, strict=False):
                if times:
                    account.accepted += int(accepted)
        predicted = raw * self._late.factor
        self._late.learn(took, raw)
        self._ledger.note(Note(rows, context, nodes, most, tuple(asked), expected, emitted, predicted, took, plain))
