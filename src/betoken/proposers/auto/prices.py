"""What members take, lately, and what their answers were worth: kept for compiled code, and where Python looks it up at every step."""

from array import array

import numpy as np

from betoken.addresses import items, places
from betoken.policy import calls, pays
from betoken.policy.views import Priced

SOME = 3 * 64


class Prices:
    """Seconds are those of one row, at the machine's usual pace. The place behind the last member is that of deciding itself.

    values: `pays.no_prices`; places: where compiled code finds what is known (`policy.views.Priced`)
    """

    def __init__(self, members: int) -> None:
        self._members = members + 1
        values = self.values = pays.no_prices(members + 1)
        self._kept = Priced(values, np.zeros(4 * (members + 1)), np.zeros((2, members + 1)), np.empty(SOME))
        self._came: list[float] = []
        self._hold()

    def _hold(self) -> None:
        self.places = places(self._kept)
        self._middles, self._rated, self._room = (
            items(self._kept.middles),
            items(self._kept.rated),
            items(self._kept.came),
        )

    def note(self, kind: int, index: int, value: float) -> None:
        """One more number of a member; it counts from the next `settle` on."""
        self._came += (kind, index, value)

    def settle(self) -> None:
        """The step is over. One call for all of its numbers: each call of compiled code takes longer than what it does here."""
        if (count := len(self._came)) > len(self._room):
            self._kept = self._kept._replace(came=np.empty(2 * count))
            self._hold()
        self._room[:count] = array("d", self._came)
        self._came.clear()
        calls.note_all(self.places, count)

    def rate(self, index: int, hoped: float, worth: float) -> None:
        """A member was chosen because so much was expected, and was worth so much."""
        self._rated[0, index] += hoped
        self._rated[1, index] += worth

    def fade(self, steps: int) -> None:
        """What ratings are left after so many steps."""
        left = pays.DOUBT_FADE**steps
        for index in range(self._members):
            self._rated[0, index] *= left
            self._rated[1, index] *= left

    def middle(self, kind: int, index: int) -> float:
        """The median of what came lately; 0 where nothing did."""
        middle: float = self._middles[kind * self._members + index]
        return middle

    def asking(self, index: int) -> float:
        """Seconds of asking and observing; 0 where nobody knows. A median: the first answer of a request, before which its prompt is
        read, says nothing about the next one."""
        seconds: float = self._middles[index] + self._middles[self._members + index]  # ASKING, FOLLOWING
        return seconds

    @property
    def dearest(self) -> float:
        """Seconds of whoever takes most, the reading of a sequence included."""
        members = range(self._members - 1)
        return max([self.asking(index) + self.middle(pays.BEGINNING, index) for index in members], default=0.0)

    @property
    def deciding(self) -> float:
        """Seconds of deciding and observing, a step, without the members."""
        return self.middle(pays.ASKING, self._members - 1)

    def decided(self, seconds: float) -> None:
        """That took so long, in this step."""
        self.note(pays.ASKING, self._members - 1, seconds)
