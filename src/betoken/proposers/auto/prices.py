"""What members take, lately, and what their answers were worth: kept for compiled code, and where Python looks it up at every step."""

from array import array

from betoken.addresses import items, places
from betoken.policy import calls, pays
from betoken.policy.views import SOME, unpriced

# The first values of each member count at once; later ones may wait until so many numbers have come, three a value.
FIRST, WAIT = 12, 3 * 12


class Prices:
    """Seconds are those of one row, at the machine's usual pace. The place behind the last member is that of steps themselves.

    values: `pays.no_prices`; places: where compiled code finds what is known (`policy.views.Priced`)
    """

    def __init__(self, members: int) -> None:
        self._members = members + 1
        kept = self._kept = unpriced(members + 1)
        self.values, self.places = kept.values, places(kept)
        self._middles, self._room = items(kept.middles), items(kept.came)
        self.forget()

    def forget(self) -> None:
        for numbers in self._kept:
            numbers[:] = 0.0
        self._came: list[float] = []
        self._seen = [0] * self._members
        self._soon = False

    def note(self, kind: int, index: int, value: float) -> None:
        """One more number of a member; it counts from one of the next `settle` on."""
        if len(self._came) == SOME:
            self._take_up()
        self._came += (kind, index, value)
        self._seen[index] += 1
        if self._seen[index] < FIRST:
            self._soon = True

    def asked(self, index: int, seconds: float, *, near: bool) -> None:
        """Asking one took so long. near: it had been asked a moment before. Whoever was not has to read on first, and whoever would be
        judged by such answers alone would not be asked again."""
        if near or self._seen[index] < FIRST:
            self.note(pays.ASKING, index, seconds)
        else:
            self.note(pays.RETURNING, index, max(seconds - self.middle(pays.ASKING, index), 0.0))

    def settle(self) -> None:
        """The step is over."""
        if self._soon or len(self._came) >= WAIT:
            self._take_up()

    def _take_up(self) -> None:
        """One call for all numbers: each call of compiled code takes longer than what it does here."""
        count = len(self._came)
        self._room[:count] = array("d", self._came)
        self._came.clear()
        self._soon = False
        calls.note_all(self.places, count)

    def middle(self, kind: int, index: int) -> float:
        """The median of what came lately; 0 where nothing did."""
        middle: float = self._middles[kind * self._members + index]
        return middle

    def asking(self, index: int) -> float:
        """Seconds of asking and observing; 0 where nobody knows. A median: the first answer of a request, before which its prompt is
        read, says nothing about the next one."""
        seconds: float = self._middles[index] + self._middles[self._members + index]  # ASKING, FOLLOWING
        return seconds

    def worth(self, index: int) -> float:
        """What answers of a member were worth lately, in tokens, in the mean; of a few answers nothing."""
        usual = self.values[pays.USUAL, index]
        return float(usual[pays.MEAN]) if usual[pays.NUMBER] >= pays.LATELY else 0.0

    @property
    def dearest(self) -> float:
        """Seconds of whoever takes most, the reading of a sequence included."""
        members = range(self._members - 1)
        return max([self.asking(index) + self.middle(pays.BEGINNING, index) for index in members], default=0.0)

    @property
    def deciding(self) -> float:
        """Seconds of deciding and observing, a step, without asking the members."""
        return self.middle(pays.ASKING, self._members - 1)

    @property
    def around(self) -> float:
        """Seconds that a step takes besides the pass, drafting and deciding, of each row: to walk, to tell, to take the next."""
        return self.middle(pays.FOLLOWING, self._members - 1)

    def went_around(self, seconds: float) -> None:
        """That took so long, in this step."""
        self.note(pays.FOLLOWING, self._members - 1, seconds)

    def decided(self, seconds: float) -> None:
        """That took so long, in this step."""
        self.note(pays.ASKING, self._members - 1, seconds)
