"""What the engine needs of a model: two verbs, `score` and `commit`. KV, logits and devices stay behind them. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt

from betoken.draft import EMPTY, Draft
from betoken.sampling import Sampler


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """What a target is and can do. `context` is the most tokens a row can hold, None where there is no limit."""

    name: str
    vocab_size: int
    eos_ids: frozenset[int] = frozenset()
    context: int | None = None
    can_branch: bool = True
    can_rollback: bool = True
    has_logits: bool = True  # False for a recording
    experts: int = 0  # how many a mixture of experts has, 0 for a dense model; and how many of them see a token
    active_experts: int = 0


@dataclass(frozen=True, slots=True)
class Feed:
    """What one row is given in one forward pass.

    row:    the row's id; an id never seen before opens an empty row
    tokens: committed tokens the row's cache has not seen, the root last; empty when `draft` extends a pending tree
    draft:  the tree below the root; nodes before `start` were fed by an earlier call since the last commit
    start:  how many of the draft's first nodes are already pending
    """

    row: int
    tokens: tuple[int, ...] = ()
    draft: Draft = EMPTY
    start: int = 0


class Scores(Protocol):
    """What a forward pass says, asked for lazily. `index` is the feed's place in the batch, `node` -1 for the root."""

    def emit(self, index: int, node: int, sampler: Sampler) -> int | None:
        """The target's own token after this node; None past the end of a recording."""

    def logits(self, index: int, node: int) -> npt.NDArray[Any]:
        """`[V]` raw logits after this node, float32 or float64, on the host. Only nodes fed by this call (and the root, where tokens were)."""

    def top_ids(self, index: int, k: int) -> npt.NDArray[Any]:
        """`[1 + N, k]` the most likely tokens after the root (row 0) and after each node, best first."""

    def top_logits(self, index: int, k: int) -> npt.NDArray[Any]:
        """`[1 + N, k]` the logits of these."""


class Target(Protocol):
    """A model whose output is preserved, or a draft model, a recording, a table."""

    @property
    def info(self) -> TargetInfo: ...

    def length(self, row: int) -> int:
        """How many committed tokens the row's cache holds (0 for a row never seen)."""

    def score(self, feeds: Sequence[Feed]) -> Scores:
        """One forward pass over all feeds. What they fed is pending until `commit`. Where it raises, all rows are as they were."""

    def commit(self, row: int, path: Sequence[int]) -> None:
        """Keep the pending catch-up tokens and the pending nodes on `path` (root to leaf); forget the other nodes."""

    def truncate(self, row: int, length: int) -> None:
        """Forget pending nodes and every committed token from `length` on."""

    def release(self, row: int) -> None:
        """Forget the row."""


@runtime_checkable
class Keeper(Protocol):
    """A target whose rows can be copied, and that knows what they take."""

    @property
    def kv_bytes(self) -> int:
        """Bytes held for keys and values."""

    @property
    def kv_used(self) -> int:
        """Bytes of them that hold something."""

    def reserve_kv(self, rows: int, tokens: int) -> None:
        """Hold room for so much from now on, so that nothing has to be moved for it later. Raises NoRoomError."""

    def kv_needed(self, rows: int, tokens: int) -> int:
        """Bytes of so many rows of so many tokens; 0 where that is not known yet."""

    def limit_kv(self, limit: int | None) -> None:
        """From now on `score` and `load` raise NoRoomError rather than hold more bytes."""

    def save(self, row: int) -> Any:
        """An opaque copy (with `nbytes`) of the committed tokens' keys and values."""

    def load(self, row: int, saved: Any, length: int) -> None:
        """Open a new row with the first `length` tokens of a copy."""

    def fork(self, source: int, row: int, length: int) -> None:
        """Open a new row with the first `length` committed tokens of another."""

    def trim(self) -> None:
        """Give memory back where no row is open."""
