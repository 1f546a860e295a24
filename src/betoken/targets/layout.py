"""Where the tokens of a forward pass go: slots, positions and masks of a batch of feeds. numpy only; the one place that knows.

A row's slots: `[0, length)` committed, then the pending catch-up tokens (the root last), then the pending nodes in draft order. A
slot is not a position: siblings share a position.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from betoken.draft import EMPTY, BoolArray, Draft, IntArray
from betoken.targets.base import Feed


@dataclass(slots=True)
class RowState:
    """One row's cache: committed tokens, and what the forward passes since the last commit added."""

    length: int = 0
    catch_up: int = 0
    draft: Draft = EMPTY

    @property
    def base(self) -> int:
        """The slot of the draft's first node."""
        return self.length + self.catch_up

    @property
    def used(self) -> int:
        return self.base + len(self.draft)

    def take(self, feed: Feed) -> int:
        """Note what a feed adds; returns the slot it is written from. Raises ValueError for a feed that does not fit the row."""
        if feed.tokens:
            if feed.start:
                raise ValueError("a feed with catch-up tokens starts a new tree; start must be 0")
            start, self.catch_up = self.length, len(feed.tokens)
        elif feed.start != len(self.draft) or not self.catch_up:
            raise ValueError(f"the draft extends {feed.start} pending nodes, the row has {len(self.draft)}")
        else:
            start = self.used
        self.draft = feed.draft
        return start

    def settle(self, path: Sequence[int]) -> list[int]:
        """Commit the catch-up tokens and a path; returns the slots whose contents move up to `base`, none for a chain."""
        if not self.draft.is_path(path):
            raise ValueError(f"{list(path)} is no path of the pending tree")
        base = self.base
        self.length, self.catch_up, self.draft = base + len(path), 0, EMPTY
        return [] if list(path) == list(range(len(path))) else [base + node for node in path]


@dataclass(frozen=True, slots=True)
class Layout:
    """A batch ready to be fed. B rows, Q fed tokens (padded on the right), S slots.

    offset_B: where row b's first node is among its queries; the root, where it was fed, is the query before
    trees:    the slot of each row's first node, and its tree; nothing where no row branches, for then slots are positions
    """

    tokens_BQ: IntArray
    positions_BQ: IntArray
    starts: list[int]
    offset_B: list[int]
    allowed_BQS: BoolArray
    trees: Sequence[tuple[int, Draft]] = ()

    def windowed(self, window: int) -> BoolArray:
        """allowed_BQS, and no key further back than a sliding window of this many tokens (the query's own counted)."""
        slots_BS = _slot_positions(self.trees, self.allowed_BQS.shape[2])
        near = slots_BS[:, None, :] > self.positions_BQ[:, :, None] - window
        return self.allowed_BQS & near | _own_slot(self.starts, self.allowed_BQS.shape)


def lay_out(
    rows: Sequence[RowState], feeds: Sequence[Feed | None], *, width: int = 1, queries: int = 0, align: int = 1
) -> Layout:
    """Lay out one forward pass. `rows` are neighbouring rows of the cache, in order; a row without a feed idles.

    width:   the number of queries is padded to a multiple of it, and that of slots to a multiple of its square
    queries: there are no fewer
    align:   the number of slots is padded to a multiple of it
    """
    starts = [row.used if feed is None else row.take(feed) for row, feed in zip(rows, feeds, strict=True)]
    fed = [_queries(row, feed) for row, feed in zip(rows, feeds, strict=True)]
    longest = -(-max(queries, *(len(tokens) for tokens, _ in fed)) // width) * width
    align = max(align, width**2)
    slots = -(-(max(starts) + longest) // align) * align
    tokens_BQ = np.zeros((len(rows), longest), dtype=np.int64)
    positions_BQ = np.zeros((len(rows), longest), dtype=np.int64)
    for b, (tokens, positions) in enumerate(fed):
        tokens_BQ[b, : len(tokens)] = tokens
        positions_BQ[b, : len(tokens)] = positions
        if len(tokens) < longest:
            positions_BQ[b, len(tokens) :] = positions[0] if positions else 0
    offsets = [0 if feed is None else len(feed.tokens) - feed.start for feed in feeds]
    allowed = _causal(starts, longest, slots)
    branching = [not row.draft.is_chain for row in rows]
    for allowed_QS, row, feed, branches in zip(allowed, rows, feeds, branching, strict=True):
        if branches and feed is not None:
            _branch(allowed_QS, row, feed)
    trees = [(row.base, row.draft) for row in rows] if any(branching) else ()
    return Layout(tokens_BQ, positions_BQ, starts, offsets, allowed, trees)


def _queries(row: RowState, feed: Feed | None) -> tuple[Sequence[int], Sequence[int]]:
    """Tokens and positions of what one row is fed."""
    if feed is None:
        return (), ()
    root = row.base - 1
    catch_up = range(row.length, row.length + len(feed.tokens))
    nodes = feed.draft.tokens[feed.start :], [root + depth for depth in feed.draft.depths[feed.start :]]
    return (*feed.tokens, *nodes[0]), (*catch_up, *nodes[1])


def _causal(starts: Sequence[int], width: int, slots: int) -> BoolArray:
    """`[B, Q, S]`: a query sees every slot up to its own."""
    own_BQ = np.array(starts, np.int32)[:, None] + np.arange(width, dtype=np.int32)  # narrow numbers compare faster
    return np.asarray(np.arange(slots, dtype=np.int32) <= own_BQ[:, :, None])


def _own_slot(starts: Sequence[int], shape: tuple[int, ...]) -> BoolArray:
    own_BQ = np.array(starts)[:, None] + np.arange(shape[1])
    return np.asarray(np.arange(shape[2]) == own_BQ[:, :, None])


def _branch(allowed_QS: BoolArray, row: RowState, feed: Feed) -> None:
    """Let the nodes of a branching tree see their ancestors only."""
    first = len(feed.tokens)
    last = first + len(feed.draft) - feed.start
    allowed_QS[first:last, row.base :] = False
    allowed_QS[first:last, row.base : row.used] = feed.draft.ancestors()[feed.start :]


def _slot_positions(trees: Sequence[tuple[int, Draft]], slots: int) -> IntArray:
    """`[B, S]`, or `[1, S]` where nothing branches."""
    positions_BS: npt.NDArray[np.int64] = np.tile(np.arange(slots), (max(len(trees), 1), 1))
    for positions_S, (base, draft) in zip(positions_BS, trees, strict=False):
        positions_S[base : base + len(draft)] = base - 1 + np.array(draft.depths, dtype=np.int64)
    return positions_BS
