"""What is remembered of other sequences: texts by namespace, bounded, saved and loaded. Safe to use from several threads."""

import threading
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from betoken.errors import BetokenError
from betoken.memory.beliefs import Weights, untaught
from betoken.memory.index import Index
from betoken.memory.trie import Ints

FORMAT = 1


@dataclass(slots=True)
class Shelf:
    """One namespace: its texts, and what was learnt about trusting them."""

    index: Index = field(default_factory=Index)
    weights: Weights = field(default_factory=untaught)


class Library:
    """Texts by namespace; none ever has a say in another.

    capacity: tokens in all; the texts longest here go first
    texts:    those remembered, the longest here first: number -> (namespace, id in the index of its shelf)

    `lock` guards everything; whoever reads a shelf's arrays holds it.
    """

    def __init__(self, capacity: int = 1_000_000) -> None:
        self.lock = threading.RLock()
        self._capacity = capacity
        self._shelves: dict[str, Shelf] = {}
        self.texts: dict[int, tuple[str, int]] = {}
        self._numbers = 0

    def shelf(self, namespace: str) -> Shelf:
        """A namespace's shelf, made at its first use."""
        return self._shelves.setdefault(namespace, Shelf())

    @property
    def namespaces(self) -> list[str]:
        """Those that hold texts."""
        with self.lock:
            return [name for name, shelf in self._shelves.items() if len(shelf.index)]

    def __len__(self) -> int:
        """How many tokens are remembered."""
        with self.lock:
            return sum(len(shelf.index) for shelf in self._shelves.values())

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
                self._make_room(len(kept))
                self.texts[number] = (namespace, self.shelf(namespace).index.new(kept))
            return number

    def _make_room(self, tokens: int) -> None:
        excess = len(self) + tokens - self._capacity
        while excess > 0 and self.texts:
            oldest = next(iter(self.texts))
            excess -= self._size(oldest)
            self.remove(oldest)

    def _size(self, number: int) -> int:
        namespace, text_id = self.texts[number]
        return self._shelves[namespace].index.size(text_id)

    def remove(self, number: int) -> bool:
        """Forget a text; whether it was there."""
        with self.lock:
            namespace, text_id = self.texts.pop(number, ("", -1))
            if text_id < 0:
                return False
            self._shelves[namespace].index.remove(text_id)
            return True

    def clear(self, namespace: str | None = None) -> None:
        """Forget everything, or one namespace; what was learnt about trusting it as well."""
        with self.lock:
            gone = [*self._shelves] if namespace is None else [namespace]
            self.texts = {number: where for number, where in self.texts.items() if where[0] not in gone}
            for name in gone:
                self._shelves.pop(name, None)

    def save(self, path: Path | str) -> None:
        """Write everything to a file: under another name first, then renamed. Raises BetokenError."""
        path = Path(path)
        rough = path.with_name(path.name + ".tmp")
        try:
            with self.lock, rough.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **self._packed())
            rough.replace(path)
        except OSError as failure:
            raise BetokenError(f"{path} cannot be written: {failure.strerror}") from failure
        finally:
            rough.unlink(missing_ok=True)

    def _packed(self) -> dict[str, Ints]:
        names = [*self._shelves]
        texts = [self._shelves[name].index.tokens(text_id) for name, text_id in self.texts.values()]
        return {
            "format": np.array(FORMAT),
            "names": np.array(names, dtype=np.str_),
            "weights": np.stack([self._shelves[name].weights for name in names] or [untaught()]),
            "numbers": np.array([*self.texts], np.int64),
            "owners": np.array([names.index(name) for name, _ in self.texts.values()], np.int64),
            "lengths": np.array([len(text) for text in texts], np.int64),
            "tokens": np.concatenate([*texts, np.empty(0, np.int32)]),
        }

    def load(self, path: Path | str) -> None:
        """Replace everything by what a file holds; the texts keep their numbers. Raises BetokenError, nothing changed."""
        try:
            with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:  # noqa: PTH123 - a str may come
                found = {name: file[name] for name in file.files}
            loaded = self._unpacked(found)
        except OSError as failure:
            raise BetokenError(f"{path} cannot be read: {failure.strerror or failure}") from failure
        except (ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as failure:
            raise BetokenError(f"{path} is no saved memory, or damaged ({failure}); save it again") from failure
        with self.lock:
            self._shelves, self.texts, self._numbers = loaded._shelves, loaded.texts, loaded._numbers

    def _unpacked(self, found: dict[str, Ints]) -> "Library":
        if int(found["format"]) != FORMAT:
            raise ValueError(f"format {found['format']}, this program reads {FORMAT}")
        loaded = Library(self._capacity)
        names = [str(name) for name in found["names"]]
        for name, weights in zip(names, found["weights"], strict=False):
            if weights.shape != untaught().shape:
                raise ValueError("weights of another shape")
            loaded.shelf(name).weights = weights.copy()
        texts = np.split(found["tokens"], np.cumsum(found["lengths"])[:-1]) if len(found["lengths"]) else []
        for number, owner, text in zip(found["numbers"], found["owners"], texts, strict=True):
            loaded._numbers = int(number)
            loaded.add(text, names[owner])
        return loaded
