"""A draft is a token tree: `Draft(tokens, parents)`. Its depths and ancestor mask are derived here and nowhere else.

This module knows neither models nor methods; it needs only numpy.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from operator import eq
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = -1

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Draft:
    """Draft tokens as a tree below the last committed token (the root, written -1). A chain is a tree; so is nothing.

    tokens:  the token of each node
    parents: `parents[i] < i`, -1 for a child of the root; siblings carry distinct tokens
    scores:  the drafter's estimate of P(target emits this node's token | it emitted the parent's), if it has one
    probs:   `[N, V]` normalised laws, only of stochastic drafts, for residual mode: node i was drawn from `probs[i]`,
             given the nodes before it. So of siblings, which stand in draw order, each row has its elders' tokens at 0
             and is normalised anew; a token put there, not drawn, has a one-hot row. Whether a node is drawn may depend
             on the nodes before it, never on its own token. Every step draws afresh: noise keyed by output position
             alone would be used twice, as a position is drafted again after a rejection, which block verification does
             not survive. None: point masses
    pinned:  nodes that are there to be read by the proposer (lookahead's window); they are no draft tokens and are
             never pruned
    sources: who drafted each node, of a method that asks several; None: the method itself
    held_back: what kept further nodes out that might have been right: "experts", or nothing

    Raises ValueError where the tree is malformed.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    scores: tuple[float, ...] | None = None
    probs: Any = None
    pinned: frozenset[int] = frozenset()
    sources: tuple[str, ...] | None = None
    held_back: str = ""

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.parents):
            raise ValueError(
                f"a draft needs one parent per token, got {len(self.tokens)} tokens, {len(self.parents)} parents"
            )
        if self.scores is not None and len(self.scores) != len(self.tokens):
            raise ValueError(
                f"a draft needs one score per token, got {len(self.tokens)} tokens, {len(self.scores)} scores"
            )
        if self.probs is not None and len(self.probs) != len(self.tokens):
            raise ValueError(
                f"a drawn draft needs one law per token, got {len(self.tokens)} tokens, {len(self.probs)} laws"
            )
        for node, parent in enumerate(self.parents):
            if not ROOT <= parent < node:
                raise ValueError(f"node {node}'s parent must be -1 or an earlier node, got {parent}")
        if len(self.children) != len(self.tokens):
            raise ValueError("siblings must carry distinct tokens")

    @classmethod
    def trusted(
        cls,
        tokens: tuple[int, ...],
        parents: tuple[int, ...],
        scores: tuple[float, ...] | None = None,
        probs: Any = None,
        pinned: frozenset[int] = frozenset(),
        sources: tuple[str, ...] | None = None,
        held_back: str = "",
    ) -> "Draft":
        """The same without the checks, in a tenth of the time: for code that cannot make a malformed tree."""
        draft = cls.__new__(cls)
        draft.__dict__.update(
            tokens=tokens,
            parents=parents,
            scores=scores,
            probs=probs,
            pinned=pinned,
            sources=sources,
            held_back=held_back,
        )
        return draft

    def __len__(self) -> int:
        return len(self.tokens)

    def __bool__(self) -> bool:
        return bool(self.tokens)

    @cached_property
    def children(self) -> dict[tuple[int, int], int]:
        """(parent node, token) -> node."""
        return {key: node for node, key in enumerate(zip(self.parents, self.tokens, strict=True))}

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """Depth of each node; a child of the root has depth 1."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(1 if parent == ROOT else depths[parent] + 1)
        return tuple(depths)

    @cached_property
    def is_chain(self) -> bool:
        return all(map(eq, self.parents, count(ROOT)))

    @property
    def num_draft_tokens(self) -> int:
        return len(self.tokens) - len(self.pinned)

    @property
    def depth(self) -> int:
        return max(self.depths, default=0)

    def path_to(self, node: int) -> tuple[int, ...]:
        """The nodes from the root's child down to `node`, `node` included; empty for the root."""
        path: list[int] = []
        while node != ROOT:
            path.append(node)
            node = self.parents[node]
        return tuple(reversed(path))

    def is_path(self, path: Sequence[int]) -> bool:
        """Whether the nodes lie one below the other, starting at a child of the root."""
        return all(self.parents[node] == above for above, node in zip((ROOT, *path), path, strict=False))

    def ancestors(self) -> BoolArray:
        """`[N, N]`: entry (i, j) says that node j is node i or above it."""
        size = len(self.tokens)
        mask = bytearray(size * size)  # to copy a piece of it is cheaper than to call numpy for a row
        for node, parent in enumerate(self.parents):
            row, above = node * size, parent * size
            if parent != ROOT:
                mask[row : row + node] = mask[above : above + node]
            mask[row + node] = 1
        return np.frombuffer(mask, np.bool_).reshape(size, size)


EMPTY = Draft()


def chain(tokens: Iterable[int], scores: Iterable[float] | None = None, probs: Any = None) -> Draft:
    """The draft whose nodes follow one another."""
    tokens = tuple(tokens)
    return Draft(tokens, tuple(range(-1, len(tokens) - 1)), None if scores is None else tuple(scores), probs)


def select(draft: Draft, keep: Iterable[int]) -> Draft:
    """The draft of the nodes in `keep`, in their order, which must hold every kept node's parent."""
    kept = sorted({*keep})
    place = {ROOT: ROOT, **{node: i for i, node in enumerate(kept)}}
    return Draft.trusted(
        tuple([draft.tokens[node] for node in kept]),
        tuple([place[draft.parents[node]] for node in kept]),
        None if draft.scores is None else tuple([draft.scores[node] for node in kept]),
        None if draft.probs is None else draft.probs[kept],
        frozenset(place[node] for node in draft.pinned if node in place),
        None if draft.sources is None else tuple([draft.sources[node] for node in kept]),
        draft.held_back,
    )


def clip(draft: Draft, *, vocab_size: int, max_depth: int, max_nodes: int | None = None) -> Draft:
    """Drop every node that cannot be fed: a token outside `[0, vocab_size)`, deeper than `max_depth`, past `max_nodes`,
    or below such a node. Returns the draft itself where nothing has to go."""
    limit = len(draft) if max_nodes is None else max_nodes
    shallow = len(draft) <= max_depth or draft.depth <= max_depth
    if len(draft) <= limit and shallow and all(0 <= token < vocab_size for token in draft.tokens):
        return draft
    kept: set[int] = {ROOT}
    for node, (token, parent, depth) in enumerate(zip(draft.tokens, draft.parents, draft.depths, strict=True)):
        if parent in kept and depth <= max_depth and 0 <= token < vocab_size and len(kept) <= limit:
            kept.add(node)
    kept.remove(ROOT)
    return draft if len(kept) == len(draft) else select(draft, kept)


def trunk(draft: Draft) -> Draft:
    """The chain of first children, for targets that take no trees."""
    if draft.is_chain:
        return draft
    path: list[int] = []
    for node, parent in enumerate(draft.parents):
        if parent == (path[-1] if path else ROOT):
            path.append(node)
    return select(draft, path)


def merge(drafts: Sequence[Draft]) -> tuple[Draft, list[tuple[int, ...]]]:
    """Lay several trees over each other, equal paths sharing nodes.

    Returns the merged draft and, for each draft, where its nodes went. A node's score is the best any draft gave it. A
    node pinned by one draft and proposed by another is a draft token. Stochastic drafts cannot be merged by value:
    ValueError.
    """
    if any(draft.probs is not None for draft in drafts):
        raise ValueError("drafts with probabilities cannot be merged: the law they were drawn from would be lost")
    tokens: list[int] = []
    parents: list[int] = []
    scores: list[float | None] = []
    proposed: set[int] = set()
    children: dict[tuple[int, int], int] = {}
    places: list[tuple[int, ...]] = []
    for draft in drafts:
        place: list[int] = []
        for node, (token, parent) in enumerate(zip(draft.tokens, draft.parents, strict=True)):
            key = (ROOT if parent == ROOT else place[parent], token)
            merged = children.setdefault(key, len(tokens))
            if merged == len(tokens):
                tokens.append(token)
                parents.append(key[0])
                scores.append(None)
            score = None if draft.scores is None else draft.scores[node]
            if score is not None:
                scores[merged] = max(score, scores[merged] or 0.0)
            if node not in draft.pinned:
                proposed.add(merged)
            place.append(merged)
        places.append(tuple(place))
    known = None if any(score is None for score in scores) else tuple(score or 0.0 for score in scores)
    pinned = frozenset(range(len(tokens))) - proposed
    return Draft.trusted(tuple(tokens), tuple(parents), known, None, pinned), places
