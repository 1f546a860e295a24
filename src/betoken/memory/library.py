"""What is remembered of other sequences: texts by namespace, bounded, saved and loaded. Safe to use from several threads."""

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from betoken.errors import BetokenError
from betoken.files import replacing
from betoken.memory.beliefs import KINDS, Weights, untaught
from betoken.memory.index import Index
from betoken.memory.trie import Ints

FORMAT = 1


@dataclass(slots=True)
class Shelf:
    """One namespace: its texts, and what was learnt about trusting them, `[KINDS]` to be added to the first weights.

    readers: how many live sequences look at it
    """

    index: Index = field(default_factory=Index)
    learnt: Weights | None = None
    readers: int = 0

    def weights(self) -> Weights:
        """See `beliefs.untaught`; a copy."""
        weights = untaught()
        if self.learnt is not None:
            weights[0, :KINDS] += self.learnt
        return weights

    def learn(self, moved: Weights) -> None:
        """`[KINDS]`: what one sequence taught."""
        self.learnt = moved.astype(np.float32) if self.learnt is None else self.learnt + moved.astype(np.float32)

    def clear(self) -> None:
        """Forget all; sequences that look at it see that."""
        self.index.clear()
        self.learnt = None


class Library:
    """Texts by namespace; none ever has a say in another.

    capacity: tokens in all; the texts longest here go first, and a namespace without texts is forgotten altogether
    namespaces: how many there are at most, but for those that somebody looks at
    texts:    those remembered, the longest here first: number -> (namespace, id in the index of its shelf)
    epoch:    changes where numbers begin to mean other texts

    `lock` guards everything; whoever reads a shelf's arrays holds it.
    """

    def __init__(self, capacity: int = 1_000_000, namespaces: int = 256) -> None:
        self._most = namespaces
        self.lock = threading.RLock()
        self.texts: dict[int, tuple[str, int]] = {}
        self.epoch = 0
        self._capacity, self._size, self._numbers = capacity, 0, 0
        self._shelves: dict[str, Shelf] = {}

    def shelf(self, namespace: str) -> Shelf:
        """A namespace's shelf, made at its first use. Of too many, the one used longest ago goes."""
        shelf = self._shelves.pop(namespace, None) or Shelf()
        self._shelves[namespace] = shelf  # the last one used is the last
        if len(self._shelves) > self._most:
            self._drop_oldest()
        return shelf

    def _drop_oldest(self) -> None:
        """Whoever may name namespaces could name one a request, and each takes memory of its own, however little it holds."""
        last = next(reversed(self._shelves))
        idle = (name for name, shelf in self._shelves.items() if not shelf.readers and name != last)
        name = next(idle, None)
        if name is None:
            return
        for number in [number for number, (owner, _) in self.texts.items() if owner == name]:
            self.remove(number)
        self._drop_empty(name)

    def leave(self, namespace: str, shelf: Shelf) -> None:
        """A sequence looks at a shelf no more."""
        shelf.readers -= 1
        self._drop_empty(namespace)

    def _drop_empty(self, namespace: str) -> None:
        shelf = self._shelves.get(namespace)
        if shelf is not None and not len(shelf.index) and not shelf.readers:
            del self._shelves[namespace]

    @property
    def namespaces(self) -> list[str]:
        """Those that hold texts."""
        with self.lock:
            return [name for name, shelf in self._shelves.items() if len(shelf.index)]

    def __len__(self) -> int:
        """How many tokens are remembered."""
        return self._size

    @property
    def nbytes(self) -> int:
        with self.lock:
            return sum(shelf.index.nbytes for shelf in self._shelves.values())

    def add(self, tokens: Sequence[int] | Ints, namespace: str = "") -> int:
        """Remember a text (its last tokens, where it exceeds the capacity); its number, for `remove`."""
        with self.lock:
            number, self._numbers = self._numbers, self._numbers + 1
            kept = tokens[-self._capacity :]
            if len(kept):
                while self.texts and self._size + len(kept) > self._capacity:
                    self.remove(next(iter(self.texts)))
                self.texts[number] = (namespace, self.shelf(namespace).index.new(kept))
                self._size += len(kept)
            return number

    def remove(self, number: int) -> bool:
        """Forget a text; whether it was there."""
        with self.lock:
            namespace, text_id = self.texts.pop(number, ("", -1))
            if text_id < 0:
                return False
            index = self._shelves[namespace].index
            self._size -= index.size(text_id)
            index.remove(text_id)
            self._drop_empty(namespace)
            return True

    def clear(self, namespace: str | None = None) -> None:
        """Forget everything, or one namespace; what was learnt about trusting it as well."""
        with self.lock:
            gone = [*self._shelves] if namespace is None else [namespace] * (namespace in self._shelves)
            self.epoch += 1
            self.texts = {number: where for number, where in self.texts.items() if where[0] not in gone}
            for name in gone:
                self._size -= len(self._shelves[name].index)
                self._shelves[name].clear()
                self._drop_empty(name)

    def save(self, path: Path | str) -> None:
        """Write everything to a file, all at once. Raises BetokenError."""
        with self.lock, replacing(Path(path)) as rough, rough.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **self._packed())

    def _packed(self) -> dict[str, Ints]:
        names = [*self._shelves]
        places = {name: place for place, name in enumerate(names)}
        texts = [self._shelves[name].index.tokens(text_id) for name, text_id in self.texts.values()]
        learnt = [shelf.learnt for shelf in self._shelves.values()]
        nothing = np.zeros(KINDS, np.float32)
        return {
            "format": np.array(FORMAT),
            "names": np.frombuffer(json.dumps(names).encode(), np.uint8),
            "learnt": np.stack([nothing, *(nothing if one is None else one for one in learnt)]),
            "numbers": np.array([*self.texts], np.int64),
            "owners": np.array([places[name] for name, _ in self.texts.values()], np.int64),
            "lengths": np.array([len(text) for text in texts], np.int64),
            "tokens": np.concatenate([*texts, np.empty(0, np.int32)]),
        }

    def load(self, path: Path | str) -> None:
        """Replace everything by what a file holds; the texts keep their numbers. Raises BetokenError, nothing changed."""
        try:
            with Path(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
            found = _checked(found)
        except OSError as failure:
            raise BetokenError(f"{path} cannot be read: {failure.strerror or failure}") from failure
        except _MisfitError as failure:
            raise BetokenError(f"{path} is no saved memory this program can use: {failure}") from failure
        except (Exception, MemoryError) as failure:  # a damaged archive fails in many ways
            raise BetokenError(f"{path} is no saved memory, or damaged; save it again") from failure
        with self.lock:
            self._take(found)

    def _take(self, found: dict[str, Any]) -> None:
        self.clear()
        for name, learnt in zip(found["names"], found["learnt"][1:], strict=True):
            if learnt.any():
                self.shelf(name).learnt = learnt.copy()
        begin = 0
        for number, owner, length in zip(found["numbers"], found["owners"], found["lengths"], strict=True):
            self._numbers = int(number)
            self.add(found["tokens"][begin : begin + length], found["names"][owner])
            begin += length
        for name in found["names"]:
            self._drop_empty(name)


class _MisfitError(ValueError):
    """A saved library that cannot be one."""


def _checked(found: dict[str, Any]) -> dict[str, Any]:
    """The parts of a saved library. Raises _MisfitError, or whatever damaged parts raise."""
    if found["format"].shape != () or found["format"] != FORMAT:
        raise _MisfitError(f"format {found['format']}, this program reads {FORMAT}")
    names = found["names"] = json.loads(found["names"].astype(np.uint8).tobytes())
    good = isinstance(names, list) and all(isinstance(name, str) for name in names) and len({*names}) == len(names)
    learnt, tokens = found["learnt"], found["tokens"]
    good = good and learnt.dtype == np.float32 and learnt.shape == (len(names) + 1, KINDS) and np.isfinite(learnt).all()
    good = good and tokens.dtype == np.int32 and tokens.ndim == 1 and (tokens >= 0).all()
    counts = [found[name] for name in ("numbers", "owners", "lengths")]
    good = good and all(part.dtype == np.int64 and part.shape == counts[0].shape and part.ndim == 1 for part in counts)
    if not good:
        raise _MisfitError("its parts do not fit together")
    numbers, owners, lengths = counts
    good = (
        (lengths > 0).all() and lengths.sum() == len(tokens) and (np.diff(numbers) > 0).all() and (numbers >= 0).all()
    )
    if not (good and (owners >= 0).all() and (owners < len(names)).all()):
        raise _MisfitError("its texts do not fit together")
    return found
