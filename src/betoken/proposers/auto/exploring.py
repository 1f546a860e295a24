"""Asking for the sake of it: who does not seem to pay is asked now and then, so that a text that changes is noticed."""

import math
from collections.abc import Sequence

from betoken.policy import pays
from betoken.proposers.auto.members import Member, Pair, Row
from betoken.proposers.auto.prices import Prices

# Every so many steps it is asked whether somebody should be asked.
RESTING = 4
# Who is tried is asked in so many steps in a row: one answer says little about the next, and the first one after a while takes longest.
TRIAL = 4
# What the dearest members take is looked up after so many.
LOOKING = 16
# Whatever an answer is usually worth, this share of its price counts as lost.
SURELY = 0.4


class Exploring:
    """share: of the time that passes, so much is put by for it; steps are counted by `turn`."""

    def __init__(self, members: int, share: float) -> None:
        self._share, self.turn = share, 0
        self.allowance, self._most, self._looked = 0.0, 0.0, -LOOKING
        self._wanted = 0.0  # what whoever is next takes
        self._asked_at = [0] * members
        self._trial = 0, 0, 0  # a sequence, a member, steps left

    def due(self) -> bool:
        """A step begins; whether it is time to ask."""
        self.turn += 1
        return self._trial[2] > 0 or self.turn % RESTING == 0

    def rest(self, pairs: Sequence[Pair], seconds: float) -> int:
        """How many steps, of so many seconds each, none of these need be thought of, nor will be tried."""
        if self._trial[2]:
            return 0
        rest, first = min([row.rest for _, row in pairs]), RESTING - 1 - self.turn % RESTING
        short, each = self._wanted - self.allowance, self._share * seconds
        if rest <= first or short <= 0:
            return max(min(rest, first), 0)
        if short >= rest * each:
            return rest
        return min(rest, first + RESTING * max(math.ceil((short / each - first) / RESTING), 0))

    def went_by(self, seconds: float) -> None:
        """A step in which nobody was thought of took so long."""
        self.turn += 1
        self.earn(seconds)

    def asked(self, index: int) -> None:
        self._asked_at[index] = self.turn

    def earn(self, seconds: float) -> None:
        """No more is put by than what the dearest members take."""
        self.allowance = min(self.allowance + self._share * seconds, self._most)

    def whom(self, pairs: Sequence[Pair], members: Sequence[Member], prices: Prices, rate: float) -> dict[int, int]:
        """Who is asked first by whom, to see what comes of it: the one asked least recently, where enough has been put by. A second is
        worth `rate` tokens."""
        if self._trial[2]:
            return self._tried_on(pairs, prices, rate)
        seq, row = pairs[self.turn // RESTING % len(pairs)]
        able = [member.index for member in members if row.able & member.bit and seq.room >= 1]
        able.sort(key=self._asked_at.__getitem__)
        if not able or self.turn - self._asked_at[able[0]] < RESTING:
            return {}
        if self.turn >= self._looked + LOOKING or not self._most:
            self._looked, self._most = self.turn, 2 * prices.dearest
        self._wanted = _cost(able[0], row, prices, rate)
        if self.allowance < self._wanted:
            return {}
        self.allowance -= self._wanted
        self._wanted = _cost(able[1 % len(able)], row, prices, rate)
        self._trial = seq.seq_id, able[0], TRIAL - 1
        return {seq.seq_id: able[0]}

    def _tried_on(self, pairs: Sequence[Pair], prices: Prices, rate: float) -> dict[int, int]:
        """A trial goes on, be it on credit, unless its sequence has ended."""
        seq_id, index, left = self._trial
        self._trial = seq_id, index, left - 1
        for seq, row in pairs:
            if seq.seq_id == seq_id and row.able >> index & 1 and seq.room >= 1:
                self.allowance -= _cost(index, row, prices, rate)
                return {seq_id: index}
        self._trial = 0, 0, 0
        return {}


def _cost(index: int, row: Row, prices: Prices, rate: float) -> float:
    """Seconds that asking is expected to lose: of who nearly pays it is soon known whether it does."""
    asking = prices.asking(index)
    lost = max(asking - prices.worth(index) / rate, SURELY * asking) if rate > 0 else asking
    return lost + prices.middle(pays.RETURNING if row.begun >> index & 1 else pays.BEGINNING, index)
