"""`draft`: a small model drafts for a large one (Leviathan, Kalman, Matias 2023; trees as in EAGLE-2, Li et al. 2024, section 4).

The draft model is another target: its cache is fed whatever it has not seen, then the tree level by level. It shares the target's
noise: at each position it takes the argmax of its own law plus the same Gumbel numbers, so that the two agree wherever their laws
do (Daliri, Musco, Suresh 2024, section 3). In residual mode it draws with noise of its own and says the law it drew from.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from betoken.draft import ROOT, Draft, select
from betoken.errors import ParameterError, UnsupportedModelError
from betoken.proposers.base import BaseProposer, Needs, ObserveContext, ProposeContext, SeqView, Workshop, register
from betoken.targets.base import Feed, Scores, Target

CHUNK = 512
# How much one drafted token moves the estimate of acceptance, where the estimate starts, and how often a sequence that
# seems not worth drafting for is tried again.
LEARNING_RATE = 0.08
FIRST_ESTIMATE = 0.7
RETRY = 12
MOST = {"k": 128, "width": 64, "nodes": 4096}
# A token's score is its share among so many: the rest shares too little to matter.
RIVALS = 8


@dataclass(slots=True)
class _Pace:
    """How deep to draft for one sequence: as long as a token is accepted with a probability of at least `worth`.

    The estimate follows what became of the tokens drafted on the accepted path and of the first one off it.
    """

    worth: float
    estimate: float = FIRST_ESTIMATE
    rested: int = 0

    def depth(self, most: int) -> int:
        """How many levels to draft now, at most `most`."""
        if self.worth == 0 or self.estimate >= 1:
            return most
        depth = min(most, int(math.log(self.worth) / math.log(self.estimate)))
        self.rested = 0 if depth else self.rested + 1
        return 1 if self.rested == RETRY else depth

    def learn(self, drafted: int, accepted: int) -> None:
        """`drafted` levels were drafted, the first `accepted` of them accepted."""
        if self.rested == RETRY:
            self.rested = 0
        for level in range(min(accepted + 1, drafted)):
            self.estimate += LEARNING_RATE * ((level < accepted) - self.estimate)


@dataclass(slots=True)
class _Tree:
    """A tree while it grows. `fed` nodes are in the draft model's cache; `value[i]` is the product of scores down to node i."""

    seq: SeqView
    depth: int = 0
    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    probs: list[npt.NDArray[Any]] = field(default_factory=list)
    frontier: list[int] = field(default_factory=lambda: [ROOT])
    fed: int = 0
    levels: int = 0

    def path(self, node: int) -> list[int]:
        """Tokens from the root's child down to a node."""
        tokens: list[int] = []
        while node != ROOT:
            tokens.append(self.tokens[node])
            node = self.parents[node]
        return tokens[::-1]

    def scores_down(self) -> list[float]:
        """The scores down to the likeliest node of the frontier."""
        node = max(self.frontier, key=lambda node: self.values[node] if node != ROOT else 1.0)
        scores: list[float] = []
        while node != ROOT:
            scores.append(self.scores[node])
            node = self.parents[node]
        return scores[::-1]

    def add(self, parent: int, token: int, score: float) -> int:
        self.tokens.append(token)
        self.parents.append(parent)
        self.scores.append(score)
        self.values.append(score * (self.values[parent] if parent != ROOT else 1.0))
        return len(self.tokens) - 1

    def draft(self) -> Draft:
        probs = np.stack(self.probs) if self.probs else None
        return Draft(tuple(self.tokens), tuple(self.parents), tuple(self.scores), probs)


class DraftModel(BaseProposer):
    """A draft model behind the target protocol.

    k:         how many levels at most
    worth:     draft a level only while its token is accepted with at least this probability, by what happened to this
               sequence's drafts so far; 0: always k levels. The default suits a level that costs a quarter of a step
    width:     children of each expanded node, and how many nodes a level expands; 1 is a chain
    nodes:     how many nodes are proposed at most, the likeliest kept; None: all
    min_value: a level is not grown below nodes less likely than this to be on the accepted path
    """

    name = "draft"
    needs = Needs(levels=True, noise=True)

    def __init__(
        self,
        model: Target,
        *,
        k: int = 6,
        width: int = 1,
        nodes: int | None = None,
        min_value: float = 0.0,
        worth: float = 0.25,
    ) -> None:
        for name, value in (("k", k), ("width", width), ("nodes", 1 if nodes is None else nodes)):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST[name]:
                raise ParameterError(name, value, f"a whole number from 1 to {MOST[name]}")
        for name, share in (("min_value", min_value), ("worth", worth)):
            if not 0 <= share < 1:
                raise ParameterError(name, share, "a number from 0 to below 1")
        self._worth = worth
        self._paces: dict[int, _Pace] = {}
        self._model, self._k, self._width, self._nodes, self._min_value = model, k, width, nodes, min_value
        self._pending: dict[int, _Tree] = {}

    def begin(self, seq: SeqView) -> None:
        """Read the prompt, in chunks; the root stays unread."""
        self._paces[seq.seq_id] = _Pace(self._worth)
        tokens = seq.tokens[:-1] if self._fits(seq) else ()
        for start in range(0, len(tokens), CHUNK):
            self._model.score([Feed(seq.seq_id, tuple(tokens[start : start + CHUNK]))])
            self._model.commit(seq.seq_id, ())

    def _fits(self, seq: SeqView) -> bool:
        context = self._model.info.context
        return context is None or len(seq.tokens) + self._k <= context

    def propose(self, ctx: ProposeContext) -> list[Draft]:
        self._pending = {seq.seq_id: _Tree(seq, self._depth(seq)) for seq in ctx.seqs if self._fits(seq)}
        for level in range(self._k):
            growing = [tree for tree in self._pending.values() if tree.frontier and level < tree.depth]
            growing = self._paying(growing, ctx)
            if not growing:
                break
            scores = self._model.score([self._feed(tree) for tree in growing])
            for index, tree in enumerate(growing):
                tree.fed, tree.levels = len(tree.tokens), level + 1
                tree.frontier = self._grow(tree, scores, index, ctx)
        return [self._finish(seq, ctx.stochastic) for seq in ctx.seqs]

    def _paying(self, growing: list[_Tree], ctx: ProposeContext) -> list[_Tree]:
        """Those for which the caller thinks that one more level pays. A tree that is stopped stays so."""
        if ctx.pays is None or not growing:
            return growing
        going = ctx.pays([(tree.seq.seq_id, tree.scores_down()) for tree in growing])
        for tree, goes in zip(growing, going, strict=True):
            tree.frontier = tree.frontier if goes else []
        return [tree for tree, goes in zip(growing, going, strict=True) if goes]

    def _depth(self, seq: SeqView) -> int:
        return self._paces[seq.seq_id].depth(min(self._k, seq.room)) if seq.room > 0 else 0

    def _feed(self, tree: _Tree) -> Feed:
        if tree.frontier == [ROOT]:
            unseen = tree.seq.tokens[self._model.length(tree.seq.seq_id) :]
            return Feed(tree.seq.seq_id, tuple(unseen))
        return Feed(tree.seq.seq_id, (), Draft(tuple(tree.tokens), tuple(tree.parents)), tree.fed)

    def _grow(self, tree: _Tree, scores: Scores, index: int, ctx: ProposeContext) -> list[int]:
        """Give every frontier node its children; returns the next frontier. Scores cost time: none where nobody asks for them."""
        if ctx.stochastic:
            return self._draw(tree, scores, index)
        if self._width == 1 and tree.seq.sampler.takes_argmax and self._min_value == 0 and ctx.pays is None:
            token = scores.emit(index, tree.frontier[0], tree.seq.sampler)
            return [tree.add(tree.frontier[0], -1 if token is None else token, 1.0)]
        grown: list[int] = []
        for node in tree.frontier:
            leaders = tree.seq.sampler.leaders(scores.logits(index, node), tree.path(node), max(self._width, RIVALS))
            grown += [tree.add(node, token, score) for token, score in _ranked(*leaders, self._width)]
        grown.sort(key=lambda node: -tree.values[node])
        return sorted(node for node in grown[: self._width] if tree.values[node] > self._min_value)

    def _draw(self, tree: _Tree, scores: Scores, index: int) -> list[int]:
        """Draw siblings without replacement below the first node of the level: a shape no drawn token has a say in."""
        node = tree.frontier[0]
        law_V = tree.seq.sampler.probabilities(scores.logits(index, node), tree.path(node))
        first = len(tree.tokens)
        for _ in range(self._width):
            token = tree.seq.sampler.draw(law_V, len(tree.tokens))
            tree.add(node, token, float(law_V[token]))
            tree.probs.append(law_V)
            law_V = law_V.copy()
            law_V[token] = 0
            if not (mass := law_V.sum()) > 0:
                break
            law_V /= mass
        return [first]

    def _finish(self, seq: SeqView, stochastic: bool) -> Draft:
        tree = self._pending.get(seq.seq_id)
        if tree is None:
            return Draft()
        draft = tree.draft()
        if self._nodes is None or len(draft) <= self._nodes or stochastic:
            return draft
        best = sorted(range(len(draft)), key=lambda node: (-tree.values[node], node))[: self._nodes]
        return select(draft, best)

    def observe(self, ctx: ObserveContext) -> None:
        """Keep what the draft model has read of the accepted path: the accepted tokens lead down its own tree."""
        for seq, verdict in zip(ctx.seqs, ctx.verdicts, strict=True):
            tree = self._pending.pop(seq.seq_id, None)
            if tree is not None and tree.levels:
                own = _path(tree, verdict.tokens, len(tree.tokens))  # the tree that was fed may hold others' nodes
                self._paces[seq.seq_id].learn(tree.levels, len(own))
                self._model.commit(seq.seq_id, _path(tree, verdict.tokens[:-1], tree.fed))

    def end(self, seq_id: int) -> None:
        self._pending.pop(seq_id, None)
        self._paces.pop(seq_id, None)
        self._model.release(seq_id)


def _ranked(tokens: Sequence[int], values: Sequence[float], width: int) -> list[tuple[int, float]]:
    """The first `width` leaders and their scores: a softmax over all of these, which is no law but ranks like one."""
    weights = [math.exp(value - values[0]) for value in values]
    whole = math.fsum(weights)
    return [(token, weight / whole) for token, weight in zip(tokens[:width], weights, strict=False) if weight > 0]


def _path(tree: _Tree, tokens: Sequence[int], nodes: int) -> list[int]:
    """The path these tokens take through the first nodes of the tree."""
    children = {(tree.parents[node], tree.tokens[node]): node for node in range(nodes)}
    path: list[int] = []
    for token in tokens:
        node = children.get((path[-1] if path else ROOT, token))
        if node is None:
            break
        path.append(node)
    return path


@register("draft", budget="nodes", knobs=("k", "width", "nodes", "min_value", "worth"))
def _build(workshop: Workshop) -> DraftModel:
    if workshop.draft is None:
        raise ParameterError(
            "draft",
            None,
            'a draft model for method "draft": --draft, or LLM(model, draft), a folder, a hub name or a loaded model',
        )
    ours, theirs = workshop.draft.info, workshop.target
    if ours.vocab_size != theirs.vocab_size:
        raise UnsupportedModelError(
            f"the draft model {ours.name} has {ours.vocab_size} tokens in its vocabulary, the target {theirs.name} has "
            f"{theirs.vocab_size}; a draft model must share the target's tokenizer"
        )
    return DraftModel(workshop.draft, **workshop.options)
