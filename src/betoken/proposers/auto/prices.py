"""What members take, lately, and what their answers were worth: kept for compiled code, and where Python looks it up at every step."""

from betoken.policy import pays


class Prices:
    """values: `pays.no_prices`; seconds are those of one row, at the machine's usual pace."""

    def __init__(self, members: int) -> None:
        self.values = pays.no_prices(members)
        # Each number, and its median: to look them up in the array takes longer than what is done with them.
        self._numbers = [list(kind) for kind in self.values]
        self._middles = [[0.0] * members for _ in self.values]

    def note(self, kind: int, index: int, value: float) -> None:
        """One more number of a member."""
        self._middles[kind][index] = pays.note(self._numbers[kind][index], value)

    def asking(self, index: int) -> float:
        """Seconds of asking and observing; 0 where nobody knows. A median: the first answer of a request, before which its prompt is
        read, says nothing about the next one."""
        return self._middles[pays.ASKING][index] + self._middles[pays.FOLLOWING][index]
