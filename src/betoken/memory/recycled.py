"""What a target held likely, namespace by namespace: the rows that `successors` reads and writes, handed over by their addresses."""

from array import array
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from betoken.addresses import Places, items, places
from betoken.draft import Draft
from betoken.memory.successors import (
    FIRST,
    LINE,
    NOBODY,
    NODE,
    NUMBERS,
    PAIRS,
    ROOT,
    UNSEEN,
    grow_at,
    learn_at,
    read,
    take_in_at,
    untaught,
    width,
)
from betoken.noise import LIKELIEST, Draw


class Room(NamedTuple):
    """For one draft: what comes of it; its nodes while they grow, the root's place the last one, where ROOT finds it; and where all of
    these lie, in this order."""

    tokens: npt.NDArray[np.int64]
    parents: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    lessons: npt.NDArray[np.float64]
    tree: npt.NDArray[Any]
    places: Places


def room_for(nodes: int) -> Room:
    """An empty tree for drafts of so many nodes."""
    numbers = np.zeros(nodes, np.int64), np.zeros(nodes, np.int64), np.zeros(nodes), np.zeros(nodes)
    tree = np.zeros(nodes + 1, NODE)
    return Room(*numbers, tree, places((*numbers, tree)))


def _lines(rows: int, width: int) -> npt.NDArray[np.int32]:
    """An array of zeros that begins with a line. Of memory nobody writes to the system hands out no pages."""
    whole = np.zeros(rows * width + NUMBERS, np.int32)
    first = -whole.ctypes.data % LINE // whole.itemsize
    return whole[first : first + rows * width].reshape(rows, width)


class Rows:
    """The rows of one namespace: V of tokens, P of pairs (hashed; a newer pair takes an older one's row)."""

    def __init__(self, vocab_size: int, pairs: int, k: int) -> None:
        self._vocab_size, self._k = vocab_size, k
        places, wide = vocab_size + pairs, width(k)
        self._rows = _lines(1 + places + -(-places // wide), wide)
        self._rows[NOBODY, PAIRS], self._rows[NOBODY, FIRST : FIRST + k] = pairs, UNSEEN
        self._said, self._unknown = np.empty(0, np.int32), np.empty((0, k), np.float32)
        self._rates: npt.NDArray[Any] | None = None

    def _at(self, rates: npt.NDArray[Any], said: Sequence[int] = ()) -> Places:
        """Where rows, rates and what is said lie."""
        if rates is not self._rates or len(said) > len(self._said):
            self._said = np.empty(max(2 * len(said), 512), np.int32)
            self._rates, self._room = rates, items(self._said)
            self._places = places((self._rows, rates, self._said))
        if said:
            self._room[: len(said)] = array("i", said)
        return self._places

    def read(self, text: Sequence[int], new: int) -> None:
        """Each of the last `new` tokens of a text becomes the first successor of the token, and of the pair, before it."""
        read(self._rows, self._vocab_size, self._k, np.array(text, np.int32), new)

    def learn(self, rates: npt.NDArray[Any], text: Sequence[int], draw: Draw = LIKELIEST) -> None:
        """Count which mark each token of a text had in the row of the two before it. draw: of the third."""
        learn_at(self._at(rates, text), self._vocab_size, self._k, len(text), *draw)

    def write(
        self,
        rates: npt.NDArray[Any],
        before: int,
        root: int,
        draft: Draft,
        path: Sequence[int],
        top_ids: npt.NDArray[Any],
        top_logits: npt.NDArray[Any] | None = None,
    ) -> None:
        """`[1 + N, k]`: what the target holds likeliest after the root, which stands after `before`, and after each node, and how likely.
        path: those that were accepted."""
        self.take_in(rates, (before, root), draft, path, top_ids, top_logits)

    def take_in(
        self,
        rates: npt.NDArray[Any],
        text: Sequence[int],
        draft: Draft,
        path: Sequence[int],
        top_ids: npt.NDArray[Any],
        top_logits: npt.NDArray[Any] | None = None,
        draw: Draw = LIKELIEST,
    ) -> None:
        """`learn`, then `write`, for a step in which the first two tokens of a text were `before` and `root`."""
        count, emitted, accepted = len(draft.tokens), len(text), len(path)
        likeliest = np.ascontiguousarray(top_ids, np.int64)
        logits = self._unknown if top_logits is None else np.ascontiguousarray(top_logits, np.float32)
        if likeliest.shape != (1 + count, self._k) or (len(logits) and logits.shape != likeliest.shape):
            found = likeliest.shape if likeliest.shape != (1 + count, self._k) else logits.shape
            raise ValueError(f"likeliest tokens are {found}, and should be {(1 + count, self._k)}")
        at = self._at(rates, (*text, text[0], text[1], *draft.tokens, *draft.parents, *path))
        take_in_at(at, self._vocab_size, self._k, emitted, count, accepted, likeliest, logits, *draw)

    def grow(
        self,
        rates: npt.NDArray[Any],
        into: Room,
        before: int,
        root: int,
        depth: int,
        least: float = 0.0,
        draw: Draw = LIKELIEST,
    ) -> int:
        """The likeliest nodes after a root that stands after another token, none deeper than `depth` and none whose path is less
        probable than `least`; and how many tokens, later, feeding each is expected to bring. They stand in `into`, which is
        overwritten; returns how many there are."""
        at, vocab_size, k = self._at(rates), self._vocab_size, self._k
        size: int = grow_at(at, into.places, vocab_size, k, before, root, depth, least, *draw)
        return size


@cache
def warm_up() -> None:
    """Load the compiled code, or compile it (once after installation): here, and not inside a timed step."""
    rows, rates = Rows(2, 1, 1), untaught(1)
    rows.read([0, 1], 1)
    rows.learn(rates, [0, 1, 0])
    rows.write(rates, 0, 1, Draft((0,), (ROOT,)), (), np.zeros((2, 1), np.int64))
    rows.grow(rates, room_for(1), 0, 1, 1, 0.0)
