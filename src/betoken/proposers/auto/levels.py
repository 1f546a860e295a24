"""Whether a draft model should read on, level by level."""

from collections.abc import Callable, Sequence

from betoken.policy.cost import Costs, Window
from betoken.proposers.auto.members import Member, Pair

# Values of later levels before what they take is believed, and that count.
FEWEST, LATELY = 3, 15


class Known:
    """Seconds of a level for one row, lately, at the machine's usual pace: of first ones, which read what came since the last draft, too,
    and of later ones."""

    def __init__(self) -> None:
        self._first, self._later = Window(LATELY), Window(LATELY)

    def note(self, level: int, seconds: float) -> None:
        """That level, from 1, took so long."""
        (self._first if level == 1 else self._later).median(seconds)

    @property
    def price(self) -> float:
        """Of one more. What later ones take shows only where they are read, so a few times they are."""
        return min(self._first.middle, self._later.middle) if len(self._later) >= FEWEST else 0.0


class Levels:
    """Asked by a member before each level of its draft.

    known: what levels take; pace: how slow the machine is just now
    rate, costs: what a second is worth, and each node more; in tokens
    """

    def __init__(
        self,
        member: Member,
        pairs: Sequence[Pair],
        known: Known,
        clock: Callable[[], float],
        pace: float,
        rate: float,
        costs: Costs,
    ) -> None:
        self._index, self._known, self._clock, self._pace = member.index, known, clock, pace
        self._rate, self._costs = rate, costs
        self._claims = {seq.seq_id: row.claims for seq, row in pairs}
        self._last, self._count, self._level = 0.0, 0, 0
        self._reached: dict[int, tuple[int, float, float]] = {}

    def __call__(self, frontier: Sequence[tuple[int, Sequence[float]]]) -> list[bool]:
        """frontier: for each sequence that may go on its id and the scores down to its likeliest last node."""
        now = self._clock()
        if self._count:  # who asks again though nobody was to go on took no time for it
            self._known.note(self._level, (now - self._last) / self._pace / self._count)
        cost = self._rate * self._known.price
        # Whoever was asked is asked for one level at least: that this pays was decided before.
        going = [not scores or self._gain(seq_id, scores) > cost for seq_id, scores in frontier]
        self._count, self._last = sum(going), now
        self._level += 1
        return going

    def _gain(self, seq_id: int, scores: Sequence[float]) -> float:
        """What one more level is expected to add to what is fed, in tokens."""
        claims, deep = self._claims[seq_id], len(scores)
        known, reach, rate = self._reached.get(seq_id, (0, 1.0, 0.0))
        for depth in range(known, deep):  # the chain goes on where it was
            chance, rate = claims.chances(self._index, scores[depth], depth + 1)
            reach *= chance
        self._reached[seq_id] = deep, reach, rate
        return reach * rate - self._costs.each(min(deep, len(self._costs) - 2))
