"""What members take, lately, and what their answers were worth: kept for compiled code, and where Python looks it up at every step."""

import numpy as np

from betoken.policy import pays


class Prices:
    """values: `pays.no_prices`; seconds are those of one row, at the machine's usual pace."""

    def __init__(self, members: int) -> None:
        self.values = pays.no_prices(members)
        self._came: list[tuple[int, int, float]] = []
        # Medians: to look them up in the array takes longer than what is done with them.
        self._middles = [[0.0] * members for _ in self.values]

    def note(self, kind: int, index: int, value: float) -> None:
        """One more number of a member; it counts from the next `settle` on."""
        self._came.append((kind, index, value))

    def settle(self) -> None:
        """The step is over. One call for all of its numbers: each call of compiled code takes longer than what it does here."""
        if self._came:
            pays.note_all(self.values, np.array(self._came))
            self._came.clear()
            self._middles = self.values[:, :, pays.MIDDLE].tolist()

    def asking(self, index: int) -> float:
        """Seconds of asking and observing; 0 where nobody knows. A median: the first answer of a request, before which its prompt is
        read, says nothing about the next one."""
        return self._middles[pays.ASKING][index] + self._middles[pays.FOLLOWING][index]
