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
        # Rows of one namespace that begin with the same WORTHWHILE tokens: whatever is found has these.
        self._alike: dict[tuple[str, bytes], set[int]] = {}
        self._numbers = 0
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, tokens: Sequence[int], namespace: str) -> tuple[int, Saved | None]:
        """The longest beginning of these tokens that is kept: its length, and where it is; 0, None where none is worth it."""
        wanted = np.asarray(tokens, dtype=np.int64)
        alike = self._alike.get(_beginning(wanted, namespace), ())
        lengths = {number: common(self._kept[number].tokens, wanted) for number in alike}
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
        beginning = _beginning(mine.tokens, namespace)
        for number in [number for number in self._alike.get(beginning, ()) if _within(self._kept[number], mine)]:
            self._drop(number)
        self._numbers += 1
        self._kept[self._numbers] = mine
        self._alike.setdefault(beginning, set()).add(self._numbers)
        self.nbytes += mine.nbytes
        while self.nbytes > self._capacity:
            self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        self._kept.clear()
        self._alike.clear()
        self.nbytes = 0

    def _drop(self, number: int) -> None:
        kept = self._kept.pop(number)
        self.nbytes -= kept.nbytes
        key = _beginning(kept.tokens, kept.namespace)
        self._alike[key].discard(number)
        if not self._alike[key]:
            del self._alike[key]


def _beginning(tokens: npt.NDArray[np.int64], namespace: str) -> tuple[str, bytes]:
    return namespace, tokens[:WORTHWHILE].tobytes()


def common(first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> int:
    """How many tokens two sequences begin with alike."""
    length = min(len(first), len(second))
    differs = np.flatnonzero(first[:length] != second[:length])
    return int(differs[0]) if len(differs) else length


def _within(kept: _Kept, whole: _Kept) -> bool:
    return common(kept.tokens, whole.tokens) == len(kept.tokens)
