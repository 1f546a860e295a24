"""Steps that go by without `auto`: written down when it is thought of again."""

from collections.abc import Sequence

from betoken.policy.clock import Pace
from betoken.policy.cost import Curve
from betoken.proposers.auto.books import Books
from betoken.proposers.auto.exploring import Exploring
from betoken.proposers.auto.members import Pair
from betoken.proposers.auto.step import Step
from betoken.proposers.auto.together import Together

# Of the passes that went by the curve is corrected by every third: that takes time, too.
SELDOM = 3
# Where less than this share of steps fed anything, lately, of all rows, a new one starts as tired as after so many steps.
FED_FADE, SELDOM_FED, TIRED = 0.98, 0.05, 5


class Resting:
    """Who decodes, how many steps may go by, and what passes took in those that did."""

    def __init__(self) -> None:
        self._pairs: Sequence[Pair] = ()
        self._left = 0
        self._went: list[tuple[int, float]] = []
        self._fed = 1.0

    @property
    def tired(self) -> int:
        """How tired who is new is."""
        return 0 if self._fed > SELDOM_FED else TIRED

    def tire(self, pairs: Sequence[Pair], *, costly: bool) -> None:
        """Something was fed to these in this step, or nothing."""
        for _, row in pairs:
            self._fed += (1 - FED_FADE) * (row.tire(costly) - self._fed)

    def lie_down(self, pairs: Sequence[Pair], steps: int) -> None:
        """A step was decided, in which these decode, whoever is kept for later not among them; so many may go by now."""
        self._pairs, self._left = pairs, steps

    def wake(self) -> None:
        """Somebody came, or went, or a step is decided."""
        self._pairs, self._left = (), 0

    def rests(self) -> bool:
        return self._left > 0

    def went_by(self, rows: int, seconds: float) -> None:
        self._left -= 1
        self._went.append((rows, seconds))

    def __len__(self) -> int:
        """How many went by and are not written down yet."""
        return len(self._went)

    def write_down(
        self, step: Step, curve: Curve, nodes: int, together: Together, pace: Pace, exploring: Exploring, books: Books
    ) -> None:
        """All of them, for everybody who counts steps. `step` was the last one that was decided, and drafts have at most so many nodes."""
        went, self._went = self._went, []
        together.rested(self._pairs, len(went))
        for count, (rows, seconds) in enumerate(went):
            plain = float(curve.seconds(rows, step.context, nodes)[0])
            books.rested(step, rows, plain * curve.pace, seconds)
            pace.learn(1.0, 1.0)
            exploring.went_by(plain)
            if count % SELDOM == 0:
                curve.learn(rows, 1, step.context, seconds)
