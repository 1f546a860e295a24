"""`recycling`: Token Recycling (Luo et al. 2024, arXiv 2408.08696): what the target last held likely after a token, drafted again.

A forward pass says the likeliest successors of every node it was fed, accepted or not. They are kept, a row a token (the paper's
adjacency matrix, section 3.1), and the last write wins. Three things differ from the paper, each measured in docs/methods.md. The
tree is grown best first instead of having one fixed shape (section 3.2): a successor's score is how often one of its rank, in a row
like this one, was right so far. Beside a row for each token there is one for each pair of tokens. And the context is read too.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from betoken.draft import ROOT, Draft
from betoken.errors import ParameterError
from betoken.proposers.base import (
    BaseProposer,
    Needs,
    ObserveContext,
    ProposeContext,
    SeqView,
    Workshop,
    register,
)

UNSEEN = -1
# What kind of row it is tells how far to trust it. READ: known from text alone. From 1: seen in a forward pass; to STABLE: one more
# for each time its likeliest successor was the same again. Rows of pairs are counted apart from rows of tokens.
READ, STABLE = 0, 4
KINDS = 2 * (STABLE + 1)
# The hit rate of the first rank before anything happened, how many trials that is worth, how slowly trials fade, the least score.
BELIEF, WEIGHT, FADE, FLOOR = 0.5, 8.0, 0.998, 1e-4
SPREAD = 40503  # odd, so that pairs fall on different rows
NAMESPACES = 8
LIMITS = {"nodes": (1, 4096), "k": (1, 64), "pairs": (0, 2**24)}

Ranking = list[tuple[float, int]]  # (hit rate, rank), best first


class _Memory:
    """The rows of one namespace: `[V + P, k]` int32 successors, best first, V of tokens and P of pairs (hashed; a newer pair takes
    an older one's row)."""

    def __init__(self, vocab_size: int, pairs: int, k: int) -> None:
        self._vocab_size, self._pairs, self._k = vocab_size, pairs, k
        self._successors = np.full((vocab_size + pairs, k), UNSEEN, np.int32)
        self._kind = np.zeros(vocab_size + pairs, np.int8)
        self._owner = np.full(pairs, UNSEEN, np.int64)

    def row(self, before: int, token: int) -> tuple[list[int], int]:
        """The successors of a token that stands after another, and the kind of row they are from."""
        if self._pairs:
            pair, place = self._pair(before, token)
            if self._owner[place] == pair:
                place += self._vocab_size
                return self._successors[place].tolist(), int(self._kind[place]) + STABLE + 1
        return self._successors[token].tolist(), int(self._kind[token])

    def _pair(self, before: Any, token: Any) -> tuple[Any, Any]:
        """A pair's own number, and its place among the rows of pairs; of numbers or of arrays of them."""
        return before * self._vocab_size + token, (before * SPREAD + token) % self._pairs

    def write(self, befores: Sequence[int], tokens: Sequence[int], top_ids: npt.NDArray[Any]) -> None:
        """`[N, k]`: what the target holds likeliest after each token, which stands after another."""
        tokens_N = np.asarray(tokens)
        self._put(tokens_N, top_ids, np.bool_(True))
        if self._pairs:
            pairs_N, places_N = self._pair(np.asarray(befores), tokens_N)
            known_N = self._owner[places_N] == pairs_N
            self._owner[places_N] = pairs_N
            self._put(places_N + self._vocab_size, top_ids, known_N)

    def _put(self, places_N: npt.NDArray[Any], top_ids: npt.NDArray[Any], known_N: Any) -> None:
        same_N = known_N & (self._successors[places_N, 0] == top_ids[:, 0])
        self._kind[places_N] = np.where(same_N, np.minimum(self._kind[places_N] + 1, STABLE), 1)
        self._successors[places_N] = top_ids

    def read(self, text: Sequence[int], new: int) -> None:
        """Each of the last `new` tokens of a text becomes the first successor of the token, and of the pair, before it."""
        for place in range(max(len(text) - new, 1), len(text)):
            self._lead(text[place - 1], text[place])
            if place > 1 and self._pairs:
                self._lead(self._claim(text[place - 2], text[place - 1]), text[place])

    def _claim(self, before: int, token: int) -> int:
        """The row of a pair, emptied where it was another's."""
        pair, place = self._pair(before, token)
        if self._owner[place] != pair:
            self._owner[place] = pair
            self._successors[place + self._vocab_size] = UNSEEN
        return int(place) + self._vocab_size

    def _lead(self, place: int, token: int) -> None:
        row = self._successors[place].tolist()
        if row[0] != token:
            self._successors[place] = [token, *(other for other in row if other != token)][: self._k]
            self._kind[place] = READ


class _Rates:
    """How often the target's token was of each rank, in each kind of row. Numbers only, shared by all namespaces."""

    def __init__(self, k: int) -> None:
        self._hits = [[WEIGHT * BELIEF / (rank + 1) ** 2 for rank in range(k)] for _ in range(KINDS)]
        self._trials = [WEIGHT] * KINDS

    def learn(self, kind: int, row: list[int], token: int) -> None:
        self._hits[kind] = [hits * FADE + (other == token) for hits, other in zip(self._hits[kind], row, strict=True)]
        self._trials[kind] = self._trials[kind] * FADE + 1

    def ranking(self, kind: int) -> Ranking:
        trials = self._trials[kind]
        rates = [(max(hits / trials, FLOOR), rank) for rank, hits in enumerate(self._hits[kind])]
        return sorted(rates, key=lambda rated: -rated[0])


class _Family(NamedTuple):
    """Siblings that are yet to join the tree, best first."""

    parent: int
    depth: int
    value: float  # the parent's: the product of scores down to it
    row: list[int]
    ranking: Ranking


@dataclass(slots=True)
class _Growth:
    """A tree while it grows: the next node is always the one likeliest to be on the accepted path."""

    memory: _Memory
    rates: _Rates
    room: int
    rankings: dict[int, Ranking] = field(default_factory=dict)
    heap: list[tuple[float, int, int, _Family]] = field(default_factory=list)
    pushed: int = 0
    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def grow(self, before: int, root: int, nodes: int) -> Draft:
        self._open(ROOT, 1, 1.0, before, root)
        while self.heap and len(self.tokens) < nodes:
            value, _, place, family = heappop(self.heap)
            score, rank = family.ranking[place]
            token, above = family.row[rank], root if family.parent == ROOT else self.tokens[family.parent]
            self._offer(family, place + 1)
            self._open(len(self.tokens), family.depth + 1, -value, above, token)
            self.tokens.append(token)
            self.parents.append(family.parent)
            self.scores.append(score)
        return Draft(tuple(self.tokens), tuple(self.parents), tuple(self.scores))

    def _open(self, node: int, depth: int, value: float, before: int, token: int) -> None:
        """Let a node have children."""
        if depth <= self.room:
            row, kind = self.memory.row(before, token)
            if kind not in self.rankings:
                self.rankings[kind] = self.rates.ranking(kind)
            self._offer(_Family(node, depth, value, row, self.rankings[kind]), 0)

    def _offer(self, family: _Family, first: int) -> None:
        """Let the next sibling compete. A row may end early: what was read has as many successors as the text showed."""
        for place in range(first, len(family.ranking)):
            score, rank = family.ranking[place]
            if family.row[rank] != UNSEEN:
                self.pushed += 1
                heappush(self.heap, (-family.value * score, self.pushed, place, family))
                return


class Recycling(BaseProposer):
    """Token Recycling at any temperature: rows hold the target's likeliest tokens, hit rates count the tokens it chose.

    nodes: how many nodes a tree has at most
    k:     how many successors a row keeps
    pairs: how many rows of pairs there are; 0: none, as in the paper

    Rows are kept across requests, `4 * k * (V + pairs)` bytes a namespace, of the `NAMESPACES` that were used last.
    Raises ParameterError.
    """

    name = "recycling"

    def __init__(self, vocab_size: int, *, nodes: int = 40, k: int = 8, pairs: int = 65536) -> None:
        for name, value in (("nodes", nodes), ("k", k), ("pairs", pairs)):
            low, high = LIMITS[name]
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ParameterError(name, value, f"a whole number from {low} to {high}")
        self._vocab_size, self._nodes, self._pairs = vocab_size, nodes, pairs
        self._k = min(k, vocab_size)
        self.needs = Needs(top_ids=self._k)
        self._rates = _Rates(self._k)
        self._memories: OrderedDict[str, _Memory] = OrderedDict()
        self._used: dict[int, _Memory] = {}
        self._namespaces: dict[int, str] = {}
        self._read: dict[int, int] = {}

    def begin(self, seq: SeqView) -> None:
        self._namespaces[seq.seq_id] = seq.namespace
        self._used[seq.seq_id], self._read[seq.seq_id] = self._memory_of(seq.namespace), 0

    def _memory_of(self, namespace: str) -> _Memory:
        memory = self._memories.pop(namespace, None) or _Memory(self._vocab_size, self._pairs, self._k)
        self._memories[namespace] = memory
        if len(self._memories) > NAMESPACES:
            self._memories.popitem(last=False)
        return memory

    def propose(self, ctx: ProposeContext) -> list[Draft]:
        for seq in ctx.seqs:
            self._read_on(seq)
        return [self._grow(seq) for seq in ctx.seqs]

    def _read_on(self, seq: SeqView) -> None:
        """Take up the context that has come since the last step; output is learnt from the target's own words."""
        read = self._read[seq.seq_id]
        if read < len(seq.tokens):
            self._used[seq.seq_id].read(seq.tokens[max(read - 2, 0) :], len(seq.tokens) - read)
            self._read[seq.seq_id] = len(seq.tokens)

    def _grow(self, seq: SeqView) -> Draft:
        growth = _Growth(self._used[seq.seq_id], self._rates, seq.room)
        return growth.grow(seq.tokens[-2:][0], seq.tokens[-1], self._nodes)

    def observe(self, ctx: ObserveContext) -> None:
        """Rates first: they are about the rows that were drafted from."""
        for seq, verdict in zip(ctx.seqs, ctx.verdicts, strict=True):
            self._learn(seq, len(verdict.tokens))
        for seq, draft, verdict, top_ids in zip(ctx.seqs, ctx.drafts, ctx.verdicts, ctx.top_ids, strict=True):
            first = len(seq.tokens) - len(verdict.tokens)
            before, root = seq.tokens[first - 2], seq.tokens[first - 1]
            above = (root if parent == ROOT else draft.tokens[parent] for parent in draft.parents)
            self._used[seq.seq_id].write((before, *above), (root, *draft.tokens), top_ids)
            self._read[seq.seq_id] += len(verdict.tokens)

    def _learn(self, seq: SeqView, emitted: int) -> None:
        memory = self._used[seq.seq_id]
        text = seq.tokens[-2 - emitted :]
        for before, token, after in zip(text, text[1:], text[2:], strict=False):
            row, kind = memory.row(before, token)
            if row[0] != UNSEEN:
                self._rates.learn(kind, row, after)

    def forget(self) -> None:
        """Live sequences, too, start from nothing."""
        self._memories.clear()
        self._rates = _Rates(self._k)
        self._used = {seq_id: self._memory_of(self._namespaces[seq_id]) for seq_id in self._used}

    def end(self, seq_id: int) -> None:
        for state in (self._used, self._read, self._namespaces):
            state.pop(seq_id, None)


@register("recycling", budget="nodes", knobs=("nodes", "k", "pairs"))
def _build(workshop: Workshop) -> Recycling:
    return Recycling(workshop.target.vocab_size, **workshop.options)
