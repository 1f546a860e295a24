"""What a forward pass takes: T(rows, width, context), measured before (`measuring`) and corrected by every pass of a run. No torch.

Width is the root and the nodes of the widest draft, since a batch is padded to it. Two corrections are kept apart: how fast the machine
is just now, which hits every width alike and so changes no decision; and how far one width is off compared with the others. Both are
medians: a neighbour who takes the processor for a second moves the first and leaves the second. One from the other can be told only
where passes of several widths are seen, so a plain one has to be made now and then (`Curve.forgotten`).
"""

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Point = tuple[int, int, int]  # rows, width, context

# Widths in one class are corrected alike: up to here each.
CLASSES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024, 4096)
# Passes that have a say in what the machine does now, and in what a class is off; the latter's doubt, in passes, where there were few.
NOW, LATELY, DOUBT = 9, 25, 3
# Plain passes are rare where drafts pay, and what they take against wide ones changes with what else the machine does: fewer have a say.
# One is due after so many steps without; twice as many, up to a limit, each time it took about as long as predicted.
PLAIN, DUE, LATEST, ABOUT = 15, 48, 384, 0.1
# What a step takes around its pass is taken up where it has changed by this share of a plain one.
NEARLY = 0.02
# The factors are worked out anew after so many passes.
STALE = 16
# What is assumed of a target nobody has measured: a pass of a millisecond, a row more in it a fiftieth.
UNKNOWN: Mapping[Point, float] = {(1, 1, 1): 1e-3, (1, 64, 1): 1e-3 * (1 + 63 / 50)}


class Curve(Protocol):
    """What forward passes take."""

    def seconds(self, rows: int, context: int, nodes: int) -> Floats:
        """`[1 + nodes]`: a pass of so many rows whose widest draft has 0, 1, ... nodes. Read only."""

    def learn(self, rows: int, width: int, context: int, seconds: float) -> None:
        """A pass took so long."""

    def forgotten(self, rows: int) -> bool:
        """Whether it is so long ago that a plain pass was seen that one should be made."""

    @property
    def pace(self) -> float:
        """How slow the machine is just now: what passes take over what `seconds` says."""


@dataclass(frozen=True)
class Table:
    """A curve that is given, for replays: seconds (or any unit) for each width; between them, and after, straight lines."""

    points: Mapping[int, float]
    pace: float = 1.0
    _known: dict[tuple[int, int], Floats] = field(default_factory=dict)

    def seconds(self, rows: int, context: int, nodes: int) -> Floats:
        if (rows, nodes) not in self._known:
            self._known[rows, nodes] = _along(self.points, rows * np.arange(1, nodes + 2, dtype=np.float64))
        return self._known[rows, nodes]

    def learn(self, rows: int, width: int, context: int, seconds: float) -> None:
        """Nothing to learn."""

    def forgotten(self, rows: int) -> bool:
        return False


class Costs:
    """What steps and more nodes cost. The seconds are the same array for many steps.

    seconds, whole: `[1 + N]`, of a pass with 0, 1, ... nodes, and of a step, drafting left out, which takes `around` more; plain: of a step
           without any
    more:  `[1 + N]`, by how many seconds a pass with so many is longer; rate: what a second is worth, in tokens
    most:  how many times as fast as plain decoding a row would be if every node of a chain came true, at the best length
    """

    def __init__(self) -> None:
        self.seconds = self.whole = self.more = np.zeros(1)
        self.around = 0.0
        self.plain, self.rate, self.most, self._known = 0.0, 0.0, 1.0, [0.0]
        self._each: dict[int, float] = {}

    def of(self, seconds: Floats, around: float) -> "Costs":
        """Of passes with so many nodes, and what a step takes around its pass; itself."""
        if seconds is not self.seconds or abs(around - self.around) > NEARLY * self.plain:
            self.seconds, self.around = seconds, around
            self.more, self.whole = seconds - seconds[0], seconds + around
            self._known, self.plain = self.more.tolist(), float(self.whole[0])
            self._each.clear()
            self.most = float((np.arange(1, 1 + len(seconds)) * (self.plain / self.whole)).max())
        return self

    def __len__(self) -> int:
        return len(self._known)

    def each(self, nodes: int) -> float:
        """Tokens that a node costs where there are so many already: as many more come with it as make it cheapest. Passes take the same
        time for several widths and then a good deal more, and what is measured of one width is not exact."""
        if nodes not in self._each:
            more = self.more[nodes + 1 :] - self.more[nodes]
            self._each[nodes] = float((more / np.arange(1, 1 + len(more))).min()) if len(more) else 0.0
        return self.rate * self._each[nodes]

    def between(self, few: int, many: int) -> float:
        """Tokens that the nodes from `few` to `many` cost."""
        return self.rate * (self._known[many] - self._known[few])


class Window:
    """The last values of a number, as they came and ranked; `middle`: their median, 0 where nothing came."""

    __slots__ = ("_came", "_ranked", "middle", "room")

    def __init__(self, room: int) -> None:
        self.room, self._came, self._ranked, self.middle = room, deque[float](), list[float](), 0.0

    def __len__(self) -> int:
        return len(self._came)

    def median(self, value: float) -> float:
        """With one value more."""
        if len(self._came) == self.room:
            del self._ranked[bisect_left(self._ranked, self._came.popleft())]
        self._came.append(value)
        insort(self._ranked, value)
        self.middle = self._ranked[len(self._ranked) // 2]
        return self.middle


@dataclass(slots=True)
class _Off:
    """By how much passes of one class are off, in log-seconds; and how wide they are, in the mean."""

    width: float
    lately: Window
    shift: float = 0.0

    def learn(self, width: int, off: float) -> None:
        self.width += (width - self.width) / LATELY
        middle = self.lately.median(off)
        # Of plain passes there are never many.
        doubt = DOUBT if self.lately.room > PLAIN else DOUBT * (1 - len(self.lately) / PLAIN)
        self.shift = middle * len(self.lately) / (len(self.lately) + doubt)


class Measured:
    """A measured curve, corrected while it is used.

    points: seconds of passes, by rows, width and context; UNKNOWN where nobody has measured
    """

    def __init__(self, points: Mapping[Point, float] = UNKNOWN) -> None:
        self.points = dict(points or UNKNOWN)
        self.measured = bool(points) and points is not UNKNOWN
        self.passes = 0
        self._off: dict[tuple[int, int], _Off] = {}
        self._now = Window(NOW)
        self._slow, self._pace = 0.0, 1.0
        self._plain: dict[int, tuple[int, int]] = {}  # steps since a plain pass, and when one is due, by rows
        self._known: dict[tuple[int, int, int], tuple[int, Floats]] = {}
        self._base: dict[tuple[int, int, int], Floats] = {}

    @property
    def pace(self) -> float:
        return self._pace

    def seconds(self, rows: int, context: int, nodes: int) -> Floats:
        key = rows, context.bit_length(), nodes
        known = self._known.get(key)
        if known is None or self.passes - known[0] >= STALE:
            known = self._known[key] = self.passes, self._corrected(*key)
        return known[1]

    def learn(self, rows: int, width: int, context: int, seconds: float) -> None:
        if not 1e-9 < seconds < 1e6:  # a clock that stood still, ran backwards, or jumped
            return
        self.passes += 1
        # In steps of powers of two, so that few lines are worked out.
        base = float(self._uncorrected(rows, context.bit_length(), 1 << max(width, 32).bit_length())[width - 1])
        kind = rows, bisect_left(CLASSES, width)
        if (off := self._off.get(kind)) is None:
            off = self._off[kind] = _Off(width, Window(PLAIN if width == 1 else LATELY))
        residual = math.log(seconds / base)
        self._slow = self._now.median(residual - off.shift)
        self._pace = math.exp(self._slow)
        if width == 1:
            surprising = abs(residual - self._slow - off.shift) > ABOUT
            due = DUE if surprising else min(2 * self._plain.get(rows, (0, DUE))[1], LATEST)
            self._plain[rows] = 0, due
        off.learn(width, residual - self._slow)

    def forgotten(self, rows: int) -> bool:
        """Asked once a step."""
        since, due = self._plain.get(rows, (0, DUE))
        self._plain[rows] = since + 1, due
        return since >= due

    def _corrected(self, rows: int, bits: int, nodes: int) -> Floats:
        base = self._uncorrected(rows, bits, nodes)
        seen = sorted((off.width, off.shift) for (row, _), off in self._off.items() if row == rows)
        if not seen:
            return base
        widths, shifts = [width for width, _ in seen], [shift for _, shift in seen]
        return np.asarray(base * np.exp(np.interp(np.arange(1, nodes + 2), widths, shifts)))

    def _uncorrected(self, rows: int, bits: int, nodes: int) -> Floats:
        """Of a context in the middle between 2 ** (bits - 1) and 2 ** bits."""
        key = rows, bits, nodes
        if key not in self._base:
            if len(self._base) > 4096:
                self._base.clear()
            self._base[key] = self._interpolated(rows, 0.75 * 2**bits, np.arange(1, nodes + 2, dtype=np.float64))
        return self._base[key]

    def _interpolated(self, rows: int, context: float, widths: Floats) -> Floats:
        """Straight lines between what was measured: along rows, then along contexts."""
        many = sorted({row for row, _, _ in self.points})
        if rows > many[-1]:
            # More rows than ever measured: as if the most measured ones were wider.
            return self._interpolated(many[-1], context, widths * rows / many[-1])
        return _between(rows, many, lambda row: self._of_rows(row, context, widths))

    def _of_rows(self, rows: int, context: float, widths: Floats) -> Floats:
        contexts = sorted({long for row, _, long in self.points if row == rows})
        least = min(contexts, key=lambda long: -len(self._line(rows, long)))  # the one most is known of
        line = _along(self._line(rows, least), widths)
        other = [long for long in contexts if long != least]
        if not other:
            return line * self._context_factor(rows, least, context)
        far = _along(self._line(rows, other[-1]), widths)
        share = (context - least) / (other[-1] - least)
        return np.maximum(line + (far - line) * share, 0.5 * line)

    def _context_factor(self, rows: int, known: int, context: float) -> float:
        """For rows measured at one context only: as one row's passes grow with it."""
        if rows == 1 or not any(row == 1 for row, _, _ in self.points):
            return 1.0
        one = np.ones(1)
        return float(self._of_rows(1, context, one)[0] / self._of_rows(1, float(known), one)[0])

    def _line(self, rows: int, context: int) -> dict[int, float]:
        return {width: s for (row, width, long), s in self.points.items() if row == rows and long == context}


def _along(line: Mapping[int, float], widths: Floats) -> Floats:
    """Straight lines between the points, never downwards; past the last one on as the last half of the line goes."""
    known = np.array(sorted(line), dtype=np.float64)
    seconds = _rising([line[int(width)] for width in known])
    found = np.interp(widths, known, seconds)
    if len(known) > 1:
        half = len(known) // 2 - (len(known) == 2)
        slope = (seconds[-1] - seconds[half]) / (known[-1] - known[half])
        found = found + np.maximum(widths - known[-1], 0) * slope
    return np.asarray(found, dtype=np.float64)


def _rising(values: Sequence[float]) -> Floats:
    """The nearest values that never fall (isotonic regression; Barlow et al. 1972): of neighbours that fall their mean. The highest so
    far would make one odd pass the price of everything wider."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        mean, count = value, 1
        while blocks and blocks[-1][0] >= mean:
            before, many = blocks.pop()
            mean, count = (before * many + mean * count) / (many + count), many + count
        blocks.append((mean, count))
    return np.repeat([mean for mean, _ in blocks], [count for _, count in blocks])


def _between(value: int, known: list[int], of: Callable[[int], Floats]) -> Floats:
    place = bisect_left(known, value)
    if place == 0 or known[place] == value:
        return of(known[place])
    low, high = known[place - 1], known[place]
    share = (value - low) / (high - low)
    return of(low) * (1 - share) + of(high) * share
