"""A target small enough to think about: a table over a handful of tokens. A real target, with every verb; tests and tutorials."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from betoken.draft import EMPTY, ROOT, Draft
from betoken.errors import NoRoomError
from betoken.noise import key, uniforms
from betoken.sampling import Sampler
from betoken.targets.base import Feed, TargetInfo

LogitsOf = Callable[[Sequence[int]], npt.NDArray[Any]]


def markov(vocab_size: int, *, order: int = 2, seed: int = 0, sharpness: float = 3.0) -> LogitsOf:
    """A random table: `[V]` logits that depend on the last `order` tokens."""

    def logits_of(context: Sequence[int]) -> npt.NDArray[Any]:
        draw = seed
        for place, token in enumerate(context[-order:]):
            draw = key(draw, token, place)
        return (uniforms(draw, vocab_size) - 0.5) * 2 * sharpness

    return logits_of


@dataclass(slots=True)
class _Row:
    tokens: list[int] = field(default_factory=list)
    catch_up: tuple[int, ...] = ()
    draft: Draft = EMPTY


class ToyTarget:
    """A table language model: `logits_of(context)` gives `[V]` logits for any context."""

    def __init__(
        self, logits_of: LogitsOf, vocab_size: int, *, eos_ids: Sequence[int] = (), context: int | None = None
    ) -> None:
        self._logits_of = logits_of
        self._rows: dict[int, _Row] = {}
        self.info = TargetInfo("toy", vocab_size, frozenset(eos_ids), context)
        self.forwards = 0
        self.limit: int | None = None

    def length(self, row: int) -> int:
        return len(self._rows[row].tokens) if row in self._rows else 0

    def score(self, feeds: Sequence[Feed]) -> "ToyScores":
        self.forwards += 1
        before = {row: (state.catch_up, state.draft) for row, state in self._rows.items()}
        fed = [self._context(feed) for feed in feeds]
        wanted = self.kv_bytes
        if self.limit is not None and wanted > self.limit:
            self._take_back(before)
            raise NoRoomError(f"{wanted} tokens; there is room for {self.limit}")
        return ToyScores(self._logits_of, fed)

    def _take_back(self, before: Mapping[int, tuple[tuple[int, ...], Draft]]) -> None:
        for row in [row for row in self._rows if row not in before]:
            del self._rows[row]
        for row, (catch_up, draft) in before.items():
            self._rows[row].catch_up, self._rows[row].draft = catch_up, draft

    def _context(self, feed: Feed) -> "_Fed":
        row = self._rows.setdefault(feed.row, _Row())
        if feed.tokens:
            row.catch_up = feed.tokens
        elif feed.start != len(row.draft):
            raise ValueError(f"the draft extends {feed.start} pending nodes, the row has {len(row.draft)}")
        row.draft = feed.draft
        return _Fed((*row.tokens, *row.catch_up), feed)

    def commit(self, row: int, path: Sequence[int]) -> None:
        state = self._rows[row]
        if not state.draft.is_path(path):
            raise ValueError(f"{list(path)} is no path of the pending tree")
        state.tokens += [*state.catch_up, *(state.draft.tokens[node] for node in path)]
        state.catch_up, state.draft = (), EMPTY

    def truncate(self, row: int, length: int) -> None:
        state = self._rows[row]
        del state.tokens[length:]
        state.catch_up, state.draft = (), EMPTY

    def release(self, row: int) -> None:
        self._rows.pop(row, None)

    @property
    def kv_bytes(self) -> int:
        return sum(len(row.tokens) + len(row.catch_up) + len(row.draft) for row in self._rows.values())

    @property
    def kv_used(self) -> int:
        return self.kv_bytes

    def reserve_kv(self, rows: int, tokens: int) -> None:
        """There is nothing to hold."""

    def kv_needed(self, rows: int, tokens: int) -> int:
        """A token is a byte."""
        return rows * tokens

    def limit_kv(self, limit: int | None) -> None:
        self.limit = limit

    def save(self, row: int) -> "_Saved":
        return _Saved(tuple(self._rows[row].tokens))

    def load(self, row: int, saved: "_Saved", length: int) -> None:
        self._rows[row] = _Row(list(saved.tokens[:length]))

    def fork(self, source: int, row: int, length: int) -> None:
        self._rows[row] = _Row(self._rows[source].tokens[:length])

    def trim(self) -> None:
        """A table holds no memory of its own."""


@dataclass(frozen=True, slots=True)
class _Saved:
    tokens: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, slots=True)
class _Fed:
    context: tuple[int, ...]
    feed: Feed


@dataclass(frozen=True, slots=True)
class ToyScores:
    """Scores of a `ToyTarget`: the table, looked up when asked."""

    _logits_of: LogitsOf
    _fed: Sequence[_Fed]

    def emit(self, index: int, node: int, sampler: Sampler) -> int | None:
        return sampler.choose(self.logits(index, node))

    def logits(self, index: int, node: int) -> npt.NDArray[Any]:
        fed = self._fed[index]
        if node == ROOT and not fed.feed.tokens:
            raise ValueError("the root was not fed by this call")
        draft = fed.feed.draft
        return self._logits_of((*fed.context, *(draft.tokens[step] for step in draft.path_to(node))))

    def top_ids(self, index: int, k: int) -> npt.NDArray[Any]:
        nodes = range(ROOT, len(self._fed[index].feed.draft))
        return np.stack([np.argsort(-self.logits(index, node), kind="stable")[:k] for node in nodes])

    def top_logits(self, index: int, k: int) -> npt.NDArray[Any]:
        nodes = range(ROOT, len(self._fed[index].feed.draft))
        return np.stack([np.sort(self.logits(index, node))[::-1][:k] for node in nodes])
