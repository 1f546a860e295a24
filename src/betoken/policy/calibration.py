"""What drafts are worth: scores corrected by what happened, and which nodes to keep. Knows trees and names, no methods; no torch.

The seam for a policy that also knows costs: `Calibration.value` gives each node the probability that the target emits it after its
parent, `kept` lays the nodes out with the likeliest on the accepted path first, so a prefix of that order is the best tree of its
size, and its expected tokens are one more than the sum of `values` over it. What is missing here is the time a forward of that many
rows takes.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from betoken.draft import ROOT, Draft

# A score is believed as if it had been seen right in so many trials; trials fade, so that about 1 / (1 - FADE) of them count.
BELIEF, FADE = 0.7, 0.998
# Scores are kept this far from 0 and 1, where the log-odds end; they are binned by whole log-odds, depths by powers of two.
MARGIN, DEEPEST = 1e-3, 5


@dataclass(slots=True)
class _Cell:
    """What became of nodes of one kind: how many there were, how many the target emitted, what their scores add up to."""

    trials: float = 0.0
    hits: float = 0.0
    claimed: float = 0.0
    shift: float = 0.0  # what to add to the log-odds of a score

    def learn(self, score: float, hit: bool, share: float) -> None:
        left = 1 - (1 - FADE) * share
        self.trials = self.trials * left + share
        self.hits = self.hits * left + share * hit
        self.claimed = self.claimed * left + share * score
        claim = self.claimed / self.trials
        self.shift = _log_odds((self.hits + BELIEF * claim) / (self.trials + BELIEF)) - _log_odds(claim)


@dataclass(slots=True)
class Calibration:
    """From a drafter's own scores to hit rates, learnt online for each source, range of scores and range of depths.

    The correction is one of log-odds, along straight lines between whole ones, so scores keep their order. Before anything is learnt a score
    stands as it is. Numbers only, so all requests may share it.
    """

    _cells: dict[tuple[str, int, int], _Cell] = field(default_factory=dict)

    def value(self, source: str, score: float, depth: int) -> float:
        """The probability, above 0 and below 1, that a node which `source` gave this score is emitted after its parent."""
        score, shift = _bounded(score), 0.0
        for place, share in _near(source, score, depth):
            if (cell := self._cells.get(place)) is not None:
                shift += share * cell.shift
        return 1 / (1 + math.exp(-_log_odds(score) - shift)) if shift else score

    def learn(self, source: str, score: float, depth: int, hit: bool) -> None:
        """A node's parent was emitted, or is the root: was the node emitted?"""
        score = _bounded(score)
        for place, share in _near(source, score, depth):
            if share > 0:
                self._cells.setdefault(place, _Cell()).learn(score, hit, share)


def _bounded(score: float) -> float:
    return min(max(score, MARGIN), 1 - MARGIN)


def _log_odds(share: float) -> float:
    share = _bounded(share)
    return math.log(share / (1 - share))


def _near(source: str, score: float, depth: int) -> list[tuple[tuple[str, int, int], float]]:
    """The cells of the whole log-odds on both sides of a score, and how near each is."""
    odds, deep = _log_odds(score), min(depth.bit_length(), DEEPEST)
    low = math.floor(odds)
    return [((source, low, deep), 1 - (odds - low)), ((source, low + 1, deep), odds - low)]


def judged(draft: Draft, emitted: Sequence[int]) -> list[tuple[int, bool]]:
    """The nodes of a draft of which these tokens of the target say whether they were right, and whether they were: those whose
    parent the target emitted, fed or not."""
    way = [ROOT]
    for token in emitted:
        node = draft.children.get((way[-1], token))
        if node is None:
            break
        way.append(node)
    parents, right = set(way[: len(emitted)]), set(way)  # of the last token's children nothing is known yet
    return [(node, node in right) for node, parent in enumerate(draft.parents) if parent in parents]


def values(parents: Sequence[int], scores: Iterable[float]) -> list[float]:
    """Each node's probability of lying on the accepted path: the product of scores from the root down to it."""
    reached: list[float] = []
    for parent, score in zip(parents, scores, strict=True):
        reached.append(score * (reached[parent] if parent != ROOT else 1.0))
    return reached


def kept(draft: Draft, scores: Sequence[float], nodes: int, least: float = 0.0) -> Draft:
    """The `nodes` nodes likeliest on the accepted path, likeliest first, with these scores (each at most 1, one a node); none
    whose probability of that is below `least`.

    A node stands behind its parent. Pinned nodes, which are there to be read, and what they hang on come on top; those of them that
    are not among the likeliest are pinned.
    """
    reached = values(draft.parents, scores)
    order = sorted(range(len(draft)), key=lambda node: -reached[node])  # stable, and no node beats its parent
    free = [node for node in order if node not in draft.pinned and reached[node] >= least]
    pinned = {step for node in draft.pinned for step in draft.path_to(node)}.difference(free[:nodes])
    chosen = pinned.union(free[:nodes])
    order = [node for node in order if node in chosen]
    place = {ROOT: ROOT, **{node: i for i, node in enumerate(order)}}
    return Draft(
        tuple(draft.tokens[node] for node in order),
        tuple(place[draft.parents[node]] for node in order),
        tuple(scores[node] for node in order),
        pinned=frozenset(place[node] for node in pinned),
    )
