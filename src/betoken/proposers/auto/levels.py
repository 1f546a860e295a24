"""Whether a draft model should read on, level by level."""

from collections.abc import Callable, Sequence
from typing import Any

from betoken.policy import pays
from betoken.policy.claims import Claims
from betoken.policy.cost import Costs
from betoken.proposers.auto.members import Member, Pair


class Levels:
    """Asked by a member before each level of its draft. What later levels take shows only where they are read: they are, a few times.

    prices: seconds of a level for one row, lately, of first ones and of later ones, for the first one reads what came since the last
            draft, too; at the machine's usual pace, which is `pace` times as fast as now
    rate, costs: what a second is worth, and each node more; in tokens
    """

    def __init__(
        self,
        member: Member,
        pairs: Sequence[Pair],
        prices: Any,
        clock: Callable[[], float],
        pace: float,
        rate: float,
        costs: Costs,
    ) -> None:
        self._index, self._prices, self._clock, self._pace = member.index, prices, clock, pace
        self._rate, self._costs = rate, costs
        self._pairs, self._claims = pairs, dict[int, Claims]()
        self._last, self._count, self._level = 0.0, 0, 0
        self._reached: dict[int, tuple[int, float]] = {}

    def __call__(self, frontier: Sequence[tuple[int, Sequence[float]]]) -> list[bool]:
        """frontier: for each sequence that may go on its id and the scores down to its likeliest last node."""
        now = self._clock()
        if self._level:
            pays.note(self._prices[min(self._level - 1, 1)], (now - self._last) / self._pace / self._count)
        else:
            self._claims = {seq.seq_id: row.claims for seq, row in self._pairs}
        cost = self._rate * self._price()
        # Whoever was asked is asked for one level at least: that this pays was decided before.
        going = [not scores or self._gain(seq_id, scores) > cost for seq_id, scores in frontier]
        self._count, self._last = sum(going), now
        self._level += 1
        return going

    def _price(self) -> float:
        """Seconds of one more level."""
        first, later = self._prices
        return min(first[pays.MIDDLE], later[pays.MIDDLE]) if later[pays.NUMBER] >= pays.FEWEST else 0.0

    def _gain(self, seq_id: int, scores: Sequence[float]) -> float:
        """What one more level is expected to add to what is fed, in tokens."""
        deep = min(len(scores), len(self._costs) - 2)
        claims = self._claims[seq_id]
        known, reach = self._reached.get(seq_id, (0, 1.0))
        for depth in range(known, len(scores)):  # the chain goes on where it was
            reach *= claims.chance(self._index, scores[depth], depth + 1)
        self._reached[seq_id] = len(scores), reach
        return reach * claims.rate(self._index) - self._costs.each(deep)
