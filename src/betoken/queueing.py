"""Who waits, whose prompt is read, who decodes; who gives way where memory is short. No torch."""

from betoken.rows import Rows
from betoken.scheduler import Limits, Pace, shares
from betoken.sequences import Running
from betoken.targets.base import Target

# How often a prompt that found no memory is tried again.
PATIENCE = 3


class Queue:
    """The requests of one engine, in order of arrival: each waits, then is read, then decodes. `rows`: theirs, in the target."""

    def __init__(self, target: Target, limits: Limits) -> None:
        self.target, self.limits = target, limits
        self._waiting: list[Running] = []
        self._reading: list[Running] = []
        self._live: list[Running] = []
        self._kept: dict[int, Running] = {}
        self.rows, self._pace = Rows(target, limits), Pace(limits)
        self._nodes = 0  # fed in the last step

    @property
    def unfinished(self) -> int:
        """How many requests are waiting, or read, or decoding."""
        return len(self._waiting) + self.running_rows

    @property
    def running_rows(self) -> int:
        """How many have a row."""
        return len(self._reading) + len(self._live)

    @property
    def fed_nodes(self) -> int:
        """How many nodes the last step fed, of all rows."""
        return self._nodes

    def running(self, seq_id: int) -> Running:
        """The state of an unfinished request. Raises KeyError for any other id."""
        for seq in (*self._live, *self._reading, *self._waiting):
            if seq.seq_id == seq_id:
                return seq
        raise KeyError(seq_id)

    def trim(self) -> None:
        """Give memory back, while nothing is to be done."""
        if not self.unfinished and not self._kept:
            self.rows.trim()

    def _admit(self) -> None:
        while self._waiting and self.running_rows < self.limits.rows:
            if not self.rows.fits(self._waiting[0], [*self._reading, *self._live]):
                return
            self._reading.append(self._waiting.pop(0))

    def _planned(self) -> list[tuple[Running, int]]:
        """Whose prompt is read in this step, and how many tokens of it."""
        if not self._reading:
            return []
        left = [seq.to_read - self.target.length(seq.seq_id) for seq in self._reading]
        begun = self.target.length(self._reading[0].seq_id)
        room = self._pace.room(len(self._live), self._nodes, len(self._reading), begun)
        given = zip(self._reading, shares(left, room), strict=True)
        return [(seq, count) for seq, count in given if count or seq.resumes]

    def _may_wait(self, seq: Running) -> bool:
        """No memory to read it: whether it may wait until others have ended; alone, or in vain, it may not."""
        seq.turned_away += 1
        if self.running_rows < 2 or seq.turned_away >= PATIENCE or seq not in self._reading:
            return False
        self._give_up(self._reading, seq)
        return True

    def _made_room(self) -> bool:
        """No memory for this step: what is kept of ended rows goes first, then the youngest row has to wait. False: nobody can."""
        if len(self.rows.prefixes):
            self.rows.prefixes.clear()
        elif self._reading:
            self._give_up(self._reading, self._reading[-1])
        elif len(self._live) > 1:
            self._give_up(self._live, self._live[-1])
        else:
            return False
        return True

    def _give_up(self, group: list[Running], seq: Running) -> None:
        """Its row is released; it is the next to be read again."""
        group.remove(seq)
        self.target.release(seq.seq_id)
        seq.resumes = seq.output_length > 0
        self._waiting.insert(0, seq)
