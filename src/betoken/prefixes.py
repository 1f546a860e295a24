"""Keys and values of rows that have ended, for prompts that begin alike: a conversation's next turn, a system prompt. No torch.

What is kept is an opaque copy of the target's; the least recently used goes first.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

# Fewer tokens are read again as fast as they are found and copied.
WORTHWHILE = 32


class Saved(Protocol):
    """A target's keys and values of one row."""

    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class _Kept:
    tokens: npt.NDArray[np.int64]
    namespace: str
    saved: Saved

    @property
    def nbytes(self) -> int:
        return self.tokens.nbytes + self.saved.nbytes


class Prefixes:
    """capacity: bytes in all. `find` and `keep` never look across namespaces."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._numbers = 0
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, tokens: Sequence[int], namespace: str) -> tuple[int, Saved | None]:
        """The longest beginning of these tokens that is kept: its length, and where it is; 0, None where none is worth it."""
        wanted = np.asarray(tokens, dtype=np.int64)
        lengths = {
            number: common(kept.tokens, wanted) for number, kept in self._kept.items() if kept.namespace == namespace
        }
        number = max(lengths, key=lengths.__getitem__, default=None)
        if number is None or lengths[number] < WORTHWHILE:
            return 0, None
        self._kept.move_to_end(number)
        return lengths[number], self._kept[number].saved

    def worth(self, tokens: Sequence[int], namespace: str) -> bool:
        """Whether `keep` would add anything."""
        if self._capacity <= 0 or len(tokens) < WORTHWHILE:
            return False
        return self.find(tokens, namespace)[0] < len(tokens)

    def keep(self, tokens: Sequence[int], namespace: str, saved: Saved) -> None:
        """Remember a row; what it goes beyond is dropped, for it has all of it."""
        mine = _Kept(np.array(tokens, dtype=np.int64), namespace, saved)
        if mine.nbytes > self._capacity:
            return
        for number in [number for number, kept in self._kept.items() if _within(kept, mine)]:
            self._drop(number)
        self._numbers += 1
        self._kept[self._numbers] = mine
        self.nbytes += mine.nbytes
        while self.nbytes > self._capacity:
            self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        self._kept.clear()
        self.nbytes = 0

    def _drop(self, number: int) -> None:
        self.nbytes -= self._kept.pop(number).nbytes


def common(first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> int:
    """How many tokens two sequences begin with alike."""
    length = min(len(first), len(second))
    differs = np.flatnonzero(first[:length] != second[:length])
    return int(differs[0]) if len(differs) else length


def _within(kept: _Kept, whole: _Kept) -> bool:
    return kept.namespace == whole.namespace and common(kept.tokens, whole.tokens) == len(kept.tokens)
