"""Several drafters' trees laid over each other: what each node is worth by everything that is claimed about it, and which nodes to
keep. Compiled: it runs at every step for every sequence.

A claim is one member's score for a node. It is corrected by that member's record (by its score and the node's depth); claims on one
node are then taken together as if they erred independently, and corrected once more by the record of exactly this constellation: who
was asked, and who of them claimed it. All requests share these records, one set for each heat; on top of them each request has a
small, quick record of its own. Corrections are shifts of log-odds, so scores keep their order.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from betoken.draft import EMPTY, Draft
from betoken.memory.compiled import compiled

NONE = -1
MOST = 5  # members of one tree
# Columns of `ints`, one row a node: the last ones hold who claimed it, as bits.
TOKEN, PARENT, DEPTH, CHILD, SIBLING, CLAIMED = range(6)
# Columns of `floats`: each member's score, then the joint claim, the probability given the parent, that of the whole path.
JOINT, VALUE, REACH = MOST, MOST + 1, MOST + 2
# A record: `[source, bin of log-odds, depth, (trials, hits, sum of scores, shift)]`.
BINS, DEPTHS = 15, 8
TRIALS, HITS, CLAIM, SHIFT = range(4)
# The last ones count how often a member's node was right where its parent was.
RATES = MOST + 3**MOST
SOURCES = RATES + MOST
# A score is believed as if seen right so often; trials fade, so that 1 / (1 - FADE) of them count at most. A request's own record
# (one bin for each member that claims first) fades sooner.
BELIEF, FADE = 60.0, 0.998
OWN_BELIEF, OWN_FADE, OWN_BINS = 20.0, 0.95, 5
OTHERS = 3.0  # trials of its own that outweigh those of all requests, where a request asks how often a member is right
MARGIN = 1e-4

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@compiled
def _bounded(p):
    return min(max(p, MARGIN), 1 - MARGIN)


@compiled
def _log_odds(p):
    return math.log(p / (1 - p))


@compiled
def _shifted(p, shift):
    return p if shift == 0.0 else 1 / (1 + (1 - p) / p * math.exp(-shift))


@compiled
def _bin(p):
    return min(max(int(round(_log_odds(p))) + BINS // 2, 0), BINS - 1)


@compiled
def _depth(depth):
    """1, 2, 3 to 4, 5 to 8, ..., more than 64."""
    kind, most = 0, 1
    while depth > most and kind < DEPTHS - 1:
        kind, most = kind + 1, 2 * most
    return kind


@compiled
def _learn(cell, score, hit, fade, belief):
    cell[TRIALS] = cell[TRIALS] * fade + 1
    cell[HITS] = cell[HITS] * fade + hit
    cell[CLAIM] = cell[CLAIM] * fade + score
    claim = _bounded(cell[CLAIM] / cell[TRIALS])
    cell[SHIFT] = _log_odds(_bounded((cell[HITS] + belief * claim) / (cell[TRIALS] + belief))) - _log_odds(claim)


@compiled
def _source(claimed, asked):
    """The constellation's place among the records: a digit a member: not asked, asked in vain, claims."""
    place, weight = MOST, 1
    for member in range(MOST):
        if asked >> member & 1:
            place += weight * (2 if claimed >> member & 1 else 1)
        weight *= 3
    return place


@compiled
def _own(claimed, joint):
    """A request's own record: by who claims first, and in five steps of the joint claim."""
    first = 0
    while not claimed >> first & 1:
        first += 1
    return first, min(int(joint * OWN_BINS), OWN_BINS - 1)


@compiled
def lay(ints, floats, size, member, draft, scores):
    """Lay one more draft over the tree; returns its new size. Nodes past the room there is are left out.

    draft: `[2, N]` tokens and parents; scores: `[N]`, not finite where the member has none
    """
    places = np.empty(len(scores), np.int64)
    room = len(ints) - 1  # the last row is the root
    for i in range(len(scores)):
        token, above = draft[0, i], draft[1, i]
        parent = room if above < 0 else places[above]
        places[i] = NONE
        if parent == NONE:
            continue
        node = ints[parent, CHILD]
        while node != NONE and ints[node, TOKEN] != token:
            node = ints[node, SIBLING]
        if node == NONE:
            if size == room:
                continue
            node, size = size, size + 1
            ints[node, TOKEN], ints[node, PARENT] = token, NONE if above < 0 else parent
            ints[node, DEPTH] = 1 if above < 0 else ints[parent, DEPTH] + 1
            ints[node, CHILD], ints[node, CLAIMED] = NONE, 0
            ints[node, SIBLING] = ints[parent, CHILD]
            ints[parent, CHILD] = node
        places[i] = node
        ints[node, CLAIMED] |= 1 << member
        floats[node, member] = _bounded(scores[i] if scores[i] == scores[i] else 0.5)
    return size


@compiled
def weigh(ints, floats, size, asked, records, own, least):
    """What every node is worth; returns how much the tree adds: the sum over nodes of how far the probability of being on the
    accepted path is above `least`, what a node costs in tokens."""
    added = 0.0
    for node in range(size):
        claimed, depth, wrong = ints[node, CLAIMED], _depth(ints[node, DEPTH]), 1.0
        for member in range(MOST):
            if claimed >> member & 1:
                score = floats[node, member]
                wrong *= 1 - _shifted(score, records[member, _bin(score), depth, SHIFT])
        joint = _bounded(1 - wrong)
        first, step = _own(claimed, joint)
        value = _shifted(joint, records[_source(claimed, asked), _bin(joint), depth, SHIFT])
        value = _shifted(value, own[first, step, SHIFT])
        parent = ints[node, PARENT]
        floats[node, JOINT], floats[node, VALUE] = joint, value
        floats[node, REACH] = value if parent == NONE else value * floats[parent, REACH]
        added += max(floats[node, REACH] - least, 0.0)
    return added


@compiled
def learn(ints, floats, size, asked, records, own, emitted):
    """The target has said which nodes were right: those whose parent it emitted, fed or not. Returns how deep the tree was right."""
    parent, right = len(ints) - 1, 0
    for token in emitted:
        node, following = ints[parent, CHILD], NONE
        while node != NONE:
            hit = ints[node, TOKEN] == token
            if hit:
                following = node
            _judge(ints[node, CLAIMED], _depth(ints[node, DEPTH]), floats[node], asked, hit, records, own)
            node = ints[node, SIBLING]
        if following == NONE:
            break
        parent, right = following, right + 1
    return right


@compiled
def _judge(claimed, depth, row, asked, hit, records, own):
    for member in range(MOST):
        if claimed >> member & 1:
            _learn(records[member, _bin(row[member]), depth], row[member], hit, FADE, BELIEF)
            for rate in (records[RATES + member, 0, 0], own[member, OWN_BINS]):
                rate[TRIALS] = rate[TRIALS] * OWN_FADE + 1
                rate[HITS] = rate[HITS] * OWN_FADE + hit
    joint = row[JOINT]
    source, (first, step) = _source(claimed, asked), _own(claimed, joint)
    shared = _shifted(joint, records[source, _bin(joint), depth, SHIFT])
    _learn(own[first, step], shared, hit, OWN_FADE, OWN_BELIEF)
    _learn(records[source, _bin(joint), depth], joint, hit, FADE, BELIEF)


@compiled
def calibrated(records, member, score, depth):
    score = _bounded(score)
    return _shifted(score, records[member, _bin(score), _depth(depth), SHIFT])


@compiled
def rank(floats, size, order, reached):
    """The nodes, likeliest on the accepted path first, and what the first k of them add; no node beats its parent."""
    order[:size] = np.argsort(-floats[:size, REACH], kind="mergesort")
    total = 0.0
    for i in range(size):
        total += floats[order[i], REACH]
        reached[i] = total


@compiled
def depth_by(ints, emitted, members):
    """How deep these tokens are right in the part of the tree that these members claim."""
    parent, deep = len(ints) - 1, 0
    for token in emitted:
        node = ints[parent, CHILD]
        while node != NONE and (ints[node, TOKEN] != token or not ints[node, CLAIMED] & members):
            node = ints[node, SIBLING]
        if node == NONE:
            break
        parent, deep = node, deep + 1
    return deep


@dataclass(slots=True)
class Records:
    """What became of claims, of all requests of one heat."""

    shared: Floats = field(default_factory=lambda: np.zeros((SOURCES, BINS, DEPTHS, 4)))


class Claims:
    """One sequence's tree of claims, filled anew at every step."""

    __slots__ = ("_floats", "_ints", "_order", "_reached", "_records", "asked", "own", "size")

    def __init__(self, records: Records, room: int) -> None:
        self._records = records
        self.own = np.zeros((MOST, OWN_BINS + 1, 4))
        self._ints: Ints = np.empty((room + 1, 6), np.int64)
        self._floats: Floats = np.empty((room + 1, MOST + 3))
        self._order, self._reached = np.empty(room, np.int64), np.empty(room)
        self.clear()

    def clear(self) -> None:
        """A new step: nothing is claimed."""
        self.size, self.asked = 0, 0
        self._ints[-1, CHILD] = NONE

    def add(self, member: int, draft: Draft, least: float) -> float:
        """Lay a member's draft over the tree; returns what the tree adds now, in tokens (see `weigh`)."""
        self.asked |= 1 << member
        if draft:
            nodes = np.array((draft.tokens, draft.parents), np.int64)
            scores = np.array(draft.scores or (math.nan,) * len(draft), np.float64)
            self.size = lay(self._ints, self._floats, self.size, member, nodes, scores)
        if not self.size:
            return 0.0
        added: float = weigh(self._ints, self._floats, self.size, self.asked, self._records.shared, self.own, least)
        return added

    def reached(self) -> Floats:
        """`[N]`: how many tokens the likeliest k + 1 nodes are expected to add."""
        if self.size:
            rank(self._floats, self.size, self._order, self._reached)
        return self._reached[: self.size]

    def best(self, nodes: int) -> Draft:
        """The likeliest nodes, likeliest first. After `reached`."""
        nodes = min(nodes, self.size)
        if not nodes:
            return EMPTY
        order = self._order[:nodes]
        chosen = self._ints[order]
        place = np.empty(self.size + 1, np.int64)
        place[order], place[-1] = np.arange(nodes), NONE
        return Draft(
            tuple(chosen[:, TOKEN].tolist()),
            tuple(place[chosen[:, PARENT]].tolist()),
            tuple(self._floats[order, VALUE].tolist()),
        )

    def learn(self, emitted: Any) -> int:
        """What the target said; returns how deep the tree was right."""
        if not self.size:
            return 0
        tokens = np.array(emitted, np.int64)
        return int(learn(self._ints, self._floats, self.size, self.asked, self._records.shared, self.own, tokens))

    def calibrated(self, member: int, score: float, depth: int) -> float:
        """What a member's score has meant."""
        return float(calibrated(self._records.shared, member, score, depth))

    def rate(self, member: int) -> float:
        """How often a node of a member was right where its parent was."""
        shared, own = self._records.shared[RATES + member, 0, 0], self.own[member, OWN_BINS]
        others = (shared[HITS] + 1) / (shared[TRIALS] + 1.5)
        return float((own[HITS] + OTHERS * others) / (own[TRIALS] + OTHERS))

    def depth_by(self, members: int, emitted: Any) -> int:
        """How deep these tokens are right in what these members (bits) claim."""
        return int(depth_by(self._ints, np.array(emitted, np.int64), members)) if self.size else 0
