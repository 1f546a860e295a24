"""The verify curve, measured: a few seconds of forward passes at load. No torch: the target's two verbs are enough.

The text that is fed is real: experts of a mixture are chosen by what the tokens say, and random tokens would touch more of them than
speech does. The passes are in turns, all widths again and again, so that a slow moment hits them alike, and medians count. A short pass
takes up to a fifth longer right after one of another width than after its like, and a run has more of its like; so each is made
twice, and the second one counts.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median

from betoken.draft import chain
from betoken.policy.cost import Point
from betoken.targets.base import Feed, Target

# The most important widths first: where time runs out, the rest is interpolated.
WIDTHS = (1, 8, 16, 32, 64, 4, 2, 9, 24, 48, 17, 3, 6, 12, 40, 33, 96, 128)
ROWS = (4, 16, 2, 8)
WIDTHS_OF_ROWS = (1, 8, 16, 4, 2, 32, 9, 64)
CONTEXT, SHORT, LONG = 192, 48, 768
FEWEST, MOST = 3, 9  # passes of each kind
SLOW = 0.03  # seconds a plain pass takes, from which on contexts are kept short
ROW = -1  # scratch rows have numbers that no request has


def measure(
    target: Target,
    text: Sequence[int],
    *,
    limit_s: float = 2.5,
    max_rows: int = 16,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Point, float]:
    """Seconds of forward passes by rows, width and context, within about `limit_s` (one pass at least; prompts come on top).

    text: tokens to feed, as the target would read and say them; repeated where there are too few
    """
    return _Bench(target, text, clock, clock() + limit_s).run(max_rows)


class _Bench:
    def __init__(self, target: Target, text: Sequence[int], clock: Callable[[], float], end: float) -> None:
        self._target, self._text, self._clock, self._end = target, text, clock, end
        self._taken: dict[Point, list[float]] = {}
        room = target.info.context
        self._room = 10**9 if room is None else room
        self._slow = False

    def run(self, max_rows: int) -> dict[Point, float]:
        try:
            self._measure(max_rows)
        finally:
            for row in range(max(ROWS)):
                self._target.release(ROW - row)
        return {point: seconds for point, taken in self._taken.items() if (seconds := median(taken)) > 0}

    def _measure(self, max_rows: int) -> None:
        self._fill(1, min(SHORT, self._room // 4))
        for _ in range(2):  # the first pass compiles, allocates, and reads weights from afar
            first = self._pass(1, 1, SHORT)
        self._slow = first > SLOW
        context = SHORT if self._slow else CONTEXT
        self._grid(1, WIDTHS[:5], context, FEWEST)
        self._grid(1, WIDTHS, context, MOST)
        for rows in ROWS:
            if rows <= max_rows:
                self._grid(rows, WIDTHS_OF_ROWS, context, FEWEST)
        self._grid(1, WIDTHS[:5], LONG, FEWEST)

    def _grid(self, rows: int, widths: Sequence[int], context: int, times: int) -> None:
        """Each width so many times, as far as time and the target's context go."""
        context = min(context, max(self._room // 2, 1))
        fitting = [width for width in widths if context + width <= self._room]
        if self._late(rows):
            return
        self._fill(rows, context)
        for _ in range(times):
            for width in fitting:
                if self._late(rows):
                    return
                if not self._slow:
                    self._pass(rows, width, context)
                self._taken.setdefault((rows, width, context), []).append(self._pass(rows, width, context))

    def _late(self, rows: int) -> bool:
        """Nothing but one pass of one row is owed to anybody."""
        return self._clock() >= self._end and (rows > 1 or bool(self._taken))

    def _fill(self, rows: int, context: int) -> None:
        for row in range(rows):
            have = self._target.length(ROW - row)
            if have < context:
                self._target.score([Feed(ROW - row, tuple(self._some(context - have, have)))])
                self._target.commit(ROW - row, ())

    def _pass(self, rows: int, width: int, context: int) -> float:
        feeds = []
        for row in range(rows):
            root, *nodes = self._some(width, 3 * context + 31 * row)
            feeds.append(Feed(ROW - row, (root,), chain(nodes)))
        start = self._clock()
        self._target.score(feeds)
        taken = self._clock() - start
        for row in range(rows):
            self._target.truncate(ROW - row, context)
        return taken

    def _some(self, count: int, start: int) -> Iterator[int]:
        return (self._text[(start + i) % len(self._text)] for i in range(count))
