"""One index over texts that come and go: a growing one at its end, forgotten ones anywhere. Not for several threads."""

from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np

from betoken.addresses import items, places
from betoken.memory.trie import (
    NODE,
    NODES,
    NONE,
    ORDER,
    PLACE,
    ROWS,
    STATE,
    TOP,
    Arrays,
    Ints,
    erase,
    extend,
    rehash,
)

SMALL = 1 << 6
# Arrays grow by a quarter: doubling would hold twice the memory the texts need.
GROWTH = 1.25
# A token opens at most two nodes for each context length. Long texts come in chunks, since room is made for that.
CHUNK = 256
MOST_NODES, MOST_ROWS = 2 * (ORDER + 1), ORDER + 1


class Index:
    """A trie over texts (see `trie`). The last text may grow; any may be removed.

    `version` changes whenever node numbers or text places a caller holds may no longer hold. `arrays` are replaced as they
    grow, and `places`, where they lie, with them. `text` is the texts for whoever writes a few tokens.
    """

    def __init__(self) -> None:
        self._ids = count()
        self._texts: dict[int, tuple[int, int]] = {}
        self.version = 0
        self._last = NONE
        self._begin()

    def clear(self) -> None:
        """Forget every text."""
        self._texts.clear()
        self._last = NONE
        self._begin()
        self.version += 1

    def _begin(self) -> None:
        nodes = np.zeros(SMALL, NODE)
        nodes[0]["parent"] = nodes[0]["first"] = nodes[0]["top"] = NONE
        meta = np.array([1, 0, NONE, NONE], np.int64)
        table, tops = np.full(2 * SMALL, NONE, np.int32), np.empty((16, TOP + 1), np.int32)
        self._hold(Arrays(nodes, table, tops, np.full(SMALL, NONE, np.int32), np.zeros(SMALL, np.int8), meta))
        self._size = self._spare = 0  # tokens that are indexed, and that may come before arrays are looked at again
        self.length = 0  # how much of the text array is used, the ends of texts included
        self.state = start()

    def _hold(self, arrays: Arrays) -> None:
        self.arrays, self.places, self.text = arrays, places(arrays), items(arrays.text)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("places", "text")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._hold(self.arrays)  # a copy's lie elsewhere

    def __len__(self) -> int:
        """How many tokens are indexed."""
        return self._size

    def __contains__(self, text_id: int) -> bool:
        return text_id in self._texts

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)

    def tokens(self, text_id: int) -> Ints:
        """The tokens of a text."""
        begin, end = self._texts[text_id]
        return self.arrays.text[begin:end].copy()

    def size(self, text_id: int) -> int:
        """How many tokens a text has."""
        begin, end = self._texts[text_id]
        return end - begin

    def new(self, tokens: Sequence[int] | Ints = ()) -> int:
        """Begin another text, which is the one that grows from now on; its id."""
        text_id = next(self._ids)
        self._open(text_id)
        self.grow(tokens)
        return text_id

    def _open(self, text_id: int) -> None:
        self._spare = 0
        self.length += 1 if self.length else 0  # the end of the text before
        self._texts[text_id] = (self.length, self.length)
        self._last = text_id
        self.state = start()

    def grow(self, tokens: Sequence[int] | Ints) -> None:
        """Add tokens to the end of the last text. Raises KeyError where that was removed."""
        for first in range(0, len(tokens), CHUNK):
            part = tokens[first : first + CHUNK]
            end = self._texts[self._last][1]
            self.reserve(len(part))
            self.arrays.text[end : end + len(part)] = part
            self.arrays.text[end + len(part)] = NONE
            extend(self.arrays, self.state, end, end + len(part))
            self.grown(len(part))

    def grown(self, tokens: int) -> None:
        """The last text has so many more tokens, indexed by somebody who had reserved the room for them."""
        begin, end = self._texts[self._last]
        self._texts[self._last] = (begin, end + tokens)
        self._size += tokens
        self.length = end + tokens
        self.version += 1

    def remove(self, text_id: int) -> None:
        """Forget a text. Raises KeyError where it is not known."""
        begin, end = self._texts.pop(text_id)
        erase(self.arrays, begin, end)
        self._size -= end - begin
        self.version += 1
        if text_id == self._last:
            self._last = NONE  # nothing can grow here
        if self.length > SMALL and 2 * len(self) < self.length - len(self._texts):
            self._rebuild()

    def _rebuild(self) -> None:
        """Give the room of forgotten texts back: index what is left anew."""
        texts = [(text_id, self.tokens(text_id)) for text_id in self._texts]
        growing = self._last
        self.clear()
        for text_id, tokens in texts:
            self._open(text_id)
            self.grow(tokens)
        self._last = growing if growing == self._last else NONE

    def reserve(self, tokens: int) -> None:
        """Make room for so many more tokens, which come before more is reserved."""
        if tokens > self._spare:
            self._make_room(tokens)
            self._spare = self._room()
        self._spare -= tokens

    def _make_room(self, tokens: int) -> None:
        self._reserve_text(self.length + tokens + 2)
        self._reserve_nodes(int(self.arrays.meta[NODES]) + MOST_NODES * tokens + 2)
        rows = int(self.arrays.meta[ROWS]) + MOST_ROWS * tokens + 2
        if rows > len(self.arrays.tops):
            self._hold(self.arrays._replace(tops=_longer(self.arrays.tops, rows, NONE)))

    def _room(self) -> int:
        """How many more tokens fit for certain."""
        nodes = min(len(self.arrays.nodes), len(self.arrays.table) * 3 // 4) - int(self.arrays.meta[NODES]) - 2
        rows = len(self.arrays.tops) - int(self.arrays.meta[ROWS]) - 2
        return min(len(self.arrays.text) - self.length - 2, nodes // MOST_NODES, rows // MOST_ROWS)

    def _reserve_text(self, size: int) -> None:
        if size > len(self.arrays.text):
            text, level = _longer(self.arrays.text, size, NONE), _longer(self.arrays.level, size, 0)
            self._hold(self.arrays._replace(text=text, level=level))

    def _reserve_nodes(self, size: int) -> None:
        if size > len(self.arrays.nodes):
            self._hold(self.arrays._replace(nodes=_longer(self.arrays.nodes, size, 0)))
        if size * 4 > len(self.arrays.table) * 3:
            table = np.full(1 << (size * 4 // 3).bit_length(), NONE, np.int32)
            self._hold(self.arrays._replace(table=table))
            rehash(self.arrays)


def start() -> Ints:
    """The state before the first token of a text."""
    state = np.full(STATE, NONE, np.int64)
    state[0], state[PLACE], state[PLACE + 1] = 0, NONE, 0
    return state


def _longer(array: Ints, size: int, filling: int) -> Ints:
    longer = np.empty((max(size, int(len(array) * GROWTH)), *array.shape[1:]), array.dtype)
    longer[: len(array)] = array
    if array.dtype != NODE:  # nodes are written before they are read
        longer[len(array) :] = filling
    return longer
