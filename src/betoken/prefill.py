"""Reading prompts, several in a forward pass, and what happens where that fails. No torch."""

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Sequence

from betoken.errors import NoRoomError
from betoken.proposers.base import Proposer
from betoken.queueing import Queue
from betoken.scheduler import Limits, rounds
from betoken.sequences import Event, Running
from betoken.stops import FinishReason
from betoken.targets.base import Feed, Scores, Target


class Prefill(Queue):
    """A queue that reads what it has admitted.

    isolate: what goes wrong with one request ends that request, with an event that says why; else it is raised
    """

    def __init__(
        self, target: Target, limits: Limits, proposer: Proposer | None, *, clock: Callable[[], float], isolate: bool
    ) -> None:
        super().__init__(target, limits)
        self.proposer, self._clock, self._isolate = proposer, clock, isolate

    @abstractmethod
    def _goes_live(self, seq: Running, scores: Scores | None, index: int) -> list[Event]:
        """It is read; `index`: its place in the scores of the last pass, where there was one."""

    def _read(self) -> list[Event]:
        """Of the prompts as much as this step has room for; first tokens where they end."""
        events: list[Event] = []
        planned = self._planned()
        for seq, _ in planned:
            events += self._guarded(seq, lambda seq=seq: self._open(seq))  # type: ignore[misc]
        left = [min(count, seq.to_read - self.target.length(seq.seq_id)) for seq, count in planned]
        for counts in rounds(left, self.limits.chunk):
            parts = [(seq, count) for (seq, _), count in zip(planned, counts, strict=True) if count]
            events += self._read_together([part for part in parts if part[0] in self._reading])
        return events

    def _guarded(self, seq: Running, act: Callable[[], list[Event]]) -> list[Event]:
        """Do something for one request; where that fails, it ends or has to wait."""
        try:
            return act()
        except NoRoomError as failure:
            return [] if self._may_wait(seq) else [self._failed(seq, failure)]
        except Exception as failure:
            if not self._isolate:
                raise
            return [self._fail(seq, failure)]

    def _open(self, seq: Running) -> list[Event]:
        """Give it a row, with what is there of its tokens already."""
        if not self.target.length(seq.seq_id):
            self.rows.open(seq, [other for other in (*self._reading, *self._live) if other is not seq])
        return self._goes_live(seq, None, 0) if self.target.length(seq.seq_id) == seq.to_read else []

    def _read_together(self, parts: Sequence[tuple[Running, int]]) -> list[Event]:
        """One forward pass of several prompts. Where it fails, each is read alone: only those fail that fail alone."""
        if len(parts) < 2:
            return [event for part in parts for event in self._guarded(part[0], lambda: self._read_alone(part))]  # noqa: B023
        try:
            scores = self._read_parts(parts)
        except Exception as failure:
            if not self._isolate and not isinstance(failure, NoRoomError):
                raise
            return [event for part in parts for event in self._read_together([part])]
        return self._ended(parts, scores)

    def _read_alone(self, part: tuple[Running, int]) -> list[Event]:
        return self._ended([part], self._read_parts([part]))

    def _read_parts(self, parts: Sequence[tuple[Running, int]]) -> Scores:
        """So many tokens of each, no trees."""
        start = self._clock()
        seen = sum(count * (self.target.length(seq.seq_id) + count / 2) for seq, count in parts)
        scores = self.target.score([Feed(seq.seq_id, self._next(seq, count)) for seq, count in parts])
        for seq, _ in parts:
            self.target.commit(seq.seq_id, ())
        seconds, tokens = self._clock() - start, sum(count for _, count in parts)
        self._pace.read(tokens, seen / tokens, seconds)
        for seq, count in parts:
            seq.stats.prefill_s += seconds * count / tokens
        return scores

    def _ended(self, parts: Sequence[tuple[Running, int]], scores: Scores) -> list[Event]:
        """The last pass of a prompt gives its first token, which is no step."""
        events: list[Event] = []
        for index, (seq, _) in enumerate(parts):
            if self.target.length(seq.seq_id) == seq.to_read:
                events += self._guarded(seq, lambda: self._goes_live(seq, scores, index))  # noqa: B023
        return events

    def _next(self, seq: Running, count: int) -> tuple[int, ...]:
        have = self.target.length(seq.seq_id)
        return tuple(seq.tokens[have : have + count])

    def _failed(self, seq: Running, failure: Exception) -> Event:
        if not self._isolate:
            raise failure
        return self._fail(seq, failure)

    def _fail(self, seq: Running, failure: Exception) -> Event:
        """End one request because of an error; the others go on."""
        for group in (self._reading, self._live):
            if seq in group:
                group.remove(seq)
        seq.stops.reason = FinishReason.ABORT
        with contextlib.suppress(Exception):  # what is broken may not even be given back; nothing of it is kept
            self.target.release(seq.seq_id)
        with contextlib.suppress(Exception):
            if self.proposer is not None and seq.begun:
                self.proposer.end(seq.seq_id)
        return Event(seq.seq_id, (), (), "", FinishReason.ABORT, seq.stats, failure=failure)
