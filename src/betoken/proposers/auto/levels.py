"""Whether a draft model should read on, level by level."""

from collections.abc import Callable, Sequence
from typing import Any

from betoken.policy import pays
from betoken.policy.claims import Claims
from betoken.policy.cost import Costs
from betoken.proposers.auto.members import Member, Pair


class Levels:
    """Asked by a member before each level of its draft.

    prices: seconds of a level for one row, lately, at the machine's usual pace, which is `pace` times as fast as now
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
        self._last, self._count = 0.0, 0
        self._reached: dict[int, tuple[int, float]] = {}

    def __call__(self, frontier: Sequence[tuple[int, Sequence[float]]]) -> list[bool]:
        """frontier: for each sequence that may go on its id and the scores down to its likeliest last node."""
        now = self._clock()
        if self._count:
            pays.note(self._prices, (now - self._last) / self._pace / self._count)
        elif not self._claims:
            self._claims = {seq.seq_id: row.claims for seq, row in self._pairs}
        cost = self._rate * float(self._prices[pays.MIDDLE])
        # Whoever was asked is asked for one level at least: that this pays was decided before.
        going = [not scores or self._gain(seq_id, scores) > cost for seq_id, scores in frontier]
        self._count, self._last = sum(going), now
        return going

    def _gain(self, seq_id: int, scores: Sequence[float]) -> float:
        """What one more level is expected to add to what is fed, in tokens."""
        deep = min(len(scores), len(self._costs) - 2)
        claims = self._claims[seq_id]
        known, reach = self._reached.get(seq_id, (0, 1.0))
        for depth in range(known, len(scores)):  # the chain goes on where it was
            reach *= claims.chance(self._index, scores[depth], depth + 1)
        self._reached[seq_id] = len(scores), reach
        return reach * claims.rate(self._index) - self._costs.between(deep, deep + 1)
