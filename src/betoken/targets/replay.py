"""Targets that say what a recording says: alone (`ReplayTarget`), or over a real forward pass (`ForcedTarget`). No torch.

Engine, walk and proposers are the ones of a live run; only `emit` answers from the recording, and None past its end.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy.typing as npt

from betoken.draft import EMPTY, ROOT, Draft
from betoken.errors import UnsupportedModelError
from betoken.sampling import Sampler
from betoken.targets.base import Feed, Scores, Target, TargetInfo


@dataclass(slots=True)
class _Row:
    length: int = 0
    catch_up: int = 0
    draft: Draft = EMPTY


class ReplayTarget:
    """A recording as a target. `record(row, tokens)` says what a row is to say: the whole conversation, contexts too."""

    def __init__(self, vocab_size: int, eos_ids: Iterable[int] = (), name: str = "a recording") -> None:
        self.info = TargetInfo(name, vocab_size, frozenset(eos_ids), has_logits=False)
        self._rows: dict[int, _Row] = {}
        self._recorded: dict[int, Sequence[int]] = {}

    def record(self, row: int, tokens: Sequence[int]) -> None:
        """What the row says, from its first token on. Before the row's first `score`."""
        self._recorded[row] = tokens

    def length(self, row: int) -> int:
        return self._rows[row].length if row in self._rows else 0

    def score(self, feeds: Sequence[Feed]) -> "Replayed":
        said = []
        for feed in feeds:
            row = self._rows.setdefault(feed.row, _Row())
            row.catch_up, row.draft = len(feed.tokens) or row.catch_up, feed.draft
            said.append(_Said(self._recorded.get(feed.row, ()), row.length + row.catch_up, feed.draft))
        return Replayed(said)

    def commit(self, row: int, path: Sequence[int]) -> None:
        state = self._rows[row]
        if not state.draft.is_path(path):
            raise ValueError(f"{list(path)} is no path of the pending tree")
        state.length += state.catch_up + len(path)
        state.catch_up, state.draft = 0, EMPTY

    def truncate(self, row: int, length: int) -> None:
        state = self._rows[row]
        state.length, state.catch_up, state.draft = min(state.length, length), 0, EMPTY

    def release(self, row: int) -> None:
        self._rows.pop(row, None)
        self._recorded.pop(row, None)


@dataclass(frozen=True, slots=True)
class _Said:
    """One row of a pass: what it says, how many tokens come before the root's successor, the tree."""

    tokens: Sequence[int]
    place: int
    draft: Draft

    def after(self, node: int) -> int | None:
        at = self.place + (0 if node == ROOT else self.draft.depths[node])
        return self.tokens[at] if at < len(self.tokens) else None


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a recording says at each node."""

    said: Sequence[_Said] = field(default_factory=list)

    def emit(self, index: int, node: int, sampler: Sampler) -> int | None:
        return self.said[index].after(node)

    def logits(self, index: int, node: int) -> NoReturn:
        raise UnsupportedModelError("a recording has tokens and no logits; this needs a live model")

    def top_ids(self, index: int, k: int) -> NoReturn:
        raise UnsupportedModelError(
            "this method reads the target's logits, and a recording has none; give a model to run (--model), "
            "or take a method that needs none"
        )

    top_logits = top_ids


class ForcedTarget:
    """Teacher forcing: the real forward pass of another target at its real size, while the tokens come from a recording.

    What it costs is real; what it says is not the model's. So random weights of any shape will do.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self.info = replace(target.info, name=f"{target.info.name}, made to say a recording")
        self._recorded: dict[int, Sequence[int]] = {}
        self._catch_up: dict[int, int] = {}

    def record(self, row: int, tokens: Sequence[int]) -> None:
        """See `ReplayTarget.record`."""
        self._recorded[row] = tokens

    def length(self, row: int) -> int:
        return self._target.length(row)

    def score(self, feeds: Sequence[Feed]) -> "Forced":
        said = []
        for feed in feeds:
            if feed.tokens:
                self._catch_up[feed.row] = len(feed.tokens)
            place = self._target.length(feed.row) + self._catch_up[feed.row]
            said.append(_Said(self._recorded.get(feed.row, ()), place, feed.draft))
        return Forced(said, self._target.score(feeds))

    def commit(self, row: int, path: Sequence[int]) -> None:
        self._target.commit(row, path)

    def truncate(self, row: int, length: int) -> None:
        self._target.truncate(row, length)

    def release(self, row: int) -> None:
        self._recorded.pop(row, None)
        self._catch_up.pop(row, None)
        self._target.release(row)


@dataclass(frozen=True, slots=True)
class Forced:
    """A recording's tokens, a real pass's logits."""

    said: Sequence[_Said]
    scores: Scores

    def emit(self, index: int, node: int, sampler: Sampler) -> int | None:
        self.scores.emit(index, node, sampler)  # what a live step would do, so that it takes as long
        return self.said[index].after(node)

    def logits(self, index: int, node: int) -> npt.NDArray[Any]:
        return self.scores.logits(index, node)

    def top_ids(self, index: int, k: int) -> npt.NDArray[Any]:
        return self.scores.top_ids(index, k)

    def top_logits(self, index: int, k: int) -> npt.NDArray[Any]:
        return self.scores.top_logits(index, k)
