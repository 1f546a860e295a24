"""Several drafters' trees laid over each other: what each node is worth by everything that is claimed about it, and which nodes to
keep. Compiled: it runs at every step for every sequence.

A claim is one member's score for a node. What the claims on a node make together is learnt online, as compressors mix their models
(Mahoney 2005, section 3.2; Mattern 2013): a weighted sum of log-odds. The weights belong to the constellation, who was asked and who
of them claims the node, and a constant to the constellation and the node's depth. They start where scores are believed, and take a
gradient step on the log-likelihood for every node whose parent the target emitted. All requests of one heat share them; on top, each
request has a few constants of its own, which learn quickly.
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
# Columns of `ints`, one row a node: the last one holds who claimed it, as bits.
TOKEN, PARENT, DEPTH, CHILD, SIBLING, CLAIMED = range(6)
# Columns of `floats`: the log-odds of each member's score, then the probability given the parent by what all requests have shown, the
# same with what this one has shown, and that of the whole path.
SHARED, VALUE, REACH = MOST, MOST + 1, MOST + 2
# A mixer: `[constellation, (weights, constants), (value, how often taught)]`; behind the constellations how often each member's nodes
# were right: `[member, 0, (hits, trials)]`.
DEPTHS = 8
CONSTELLATIONS = 3**MOST
# A request's own constants: `[who claims first, depth, (value, how often taught)]`.
OWN_DEPTHS = 4
# Steps shrink like an average's until they are this small; a Newton step of a constant would be some four times the gradient.
SMALLEST, FIRST = 0.004, 12.0
WEIGHT_SMALLEST, WEIGHT_FIRST = 0.002, 60.0
OWN_SMALLEST, OWN_FIRST, OWN_FADE = (0.02, 0.04, 0.08, 0.25), 20.0, 0.98
NEWTON = 4.0
# Several claims agree: their log-odds are averaged, and somewhat more is believed than that.
AGREED = 0.5
# How often members are right fades; so many trials of its own outweigh, in a request, those of all.
RATE_FADE, OTHERS = 0.95, 3.0
LARGEST = 7.0  # log-odds

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@compiled
def _log_odds(p):
    """Of a score; of one that is none, of an even chance."""
    if not p > 0.0:
        return -LARGEST if p <= 0.0 else 0.0
    if not p < 1.0:
        return LARGEST
    return min(max(math.log(p / (1 - p)), -LARGEST), LARGEST)


@compiled
def _chance(log_odds):
    return 1 / (1 + math.exp(-min(max(log_odds, -LARGEST), LARGEST)))


@compiled
def _depth(depth):
    """1, 2, 3 to 4, 5 to 8, ..., more than 64."""
    kind, most = 0, 1
    while depth > most and kind < DEPTHS - 1:
        kind, most = kind + 1, 2 * most
    return kind


@compiled
def _constellation(claimed, asked):
    """A digit a member: not asked, asked in vain, claims."""
    place, weight = 0, 1
    for member in range(MOST):
        if asked >> member & 1:
            place += weight * (2 if claimed >> member & 1 else 1)
        weight *= 3
    return place


@compiled
def _first(claimed):
    first = 0
    while not claimed >> first & 1:
        first += 1
    return first


@compiled
def _mixed(row, claimed, depth, mixer):
    """The log-odds that the claims make together."""
    found = mixer[MOST + depth, 0]
    for member in range(MOST):
        if claimed >> member & 1:
            found += mixer[member, 0] * row[member]
    return found


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
        floats[node, member] = _log_odds(scores[i])
    return size


@compiled
def weigh(ints, floats, size, asked, mixer, own, least):
    """What every node is worth; returns how much the tree adds: the sum over nodes of how far the probability of being on the
    accepted path is above `least`, what a node costs in tokens."""
    added = 0.0
    for node in range(size):
        claimed, depth = ints[node, CLAIMED], _depth(ints[node, DEPTH])
        shared = _mixed(floats[node], claimed, depth, mixer[_constellation(claimed, asked)])
        value = _chance(shared + own[_first(claimed), min(depth, OWN_DEPTHS - 1), 0])
        parent = ints[node, PARENT]
        floats[node, SHARED], floats[node, VALUE] = _chance(shared), value
        floats[node, REACH] = value if parent == NONE else value * floats[parent, REACH]
        added += max(floats[node, REACH] - least, 0.0)
    return added


@compiled
def learn(ints, floats, size, asked, mixer, own, emitted):
    """The target has said which nodes were right: those whose parent it emitted, fed or not. Returns how deep the tree was right."""
    parent, right = len(ints) - 1, 0
    for token in emitted:
        node, following = ints[parent, CHILD], NONE
        while node != NONE:
            hit = ints[node, TOKEN] == token
            if hit:
                following = node
            claimed, depth = ints[node, CLAIMED], _depth(ints[node, DEPTH])
            _teach(floats[node], claimed, depth, hit, mixer[_constellation(claimed, asked)])
            near = min(depth, OWN_DEPTHS - 1)
            _teach_own(floats[node, VALUE], own[_first(claimed), near], hit, OWN_SMALLEST[near])
            for member in range(MOST):
                if claimed >> member & 1:
                    _count(mixer[CONSTELLATIONS + member, 0], hit)
                    _count(own[member, OWN_DEPTHS], hit)
            node = ints[node, SIBLING]
        if following == NONE:
            break
        parent, right = following, right + 1
    return right


@compiled
def _teach(row, claimed, depth, hit, mixer):
    off = hit - row[SHARED]
    constant = mixer[MOST + depth]
    constant[1] += 1
    constant[0] += NEWTON * max(SMALLEST, 1 / (constant[1] + FIRST)) * off
    for member in range(MOST):
        if claimed >> member & 1:
            weight = mixer[member]
            weight[1] += 1
            weight[0] += max(WEIGHT_SMALLEST, 1 / (weight[1] + WEIGHT_FIRST)) * off * row[member]


@compiled
def _teach_own(value, constant, hit, smallest):
    constant[1] += 1
    constant[0] = OWN_FADE * constant[0] + NEWTON * max(smallest, 1 / (constant[1] + OWN_FIRST)) * (hit - value)


@compiled
def _count(rate, hit):
    rate[0], rate[1] = rate[0] * RATE_FADE + hit, rate[1] * RATE_FADE + 1


@compiled
def chance(mixer, own, member, score, depth):
    """What a member's score has meant where nobody else claimed the same."""
    depth = _depth(depth)
    shared = mixer[MOST + depth, 0] + mixer[member, 0] * _log_odds(score)
    return _chance(shared + own[member, min(depth, OWN_DEPTHS - 1), 0])


@compiled
def rank(floats, size, order, gained):
    """Sort the nodes, likeliest on the accepted path first (no node beats its parent), and add to `gained`, `[1 + N]`, how many
    tokens the first k of them are expected to bring; more than there are bring no more."""
    reach = floats[:size, REACH]
    order[:size] = np.argsort(-reach, kind="mergesort")
    total = 0.0
    for k in range(1, len(gained)):
        if k <= size:
            total += reach[order[k - 1]]
        gained[k] += total


@compiled
def widest(gained, seconds, rows, asking):
    """How many nodes the widest draft should have for the most tokens per second: `gained` on top of a token a row, in `seconds` of
    the pass and what has been spent on `asking` already."""
    best, most = 0, rows / (seconds[0] + asking)
    for nodes in range(1, len(gained)):
        rate = (rows + gained[nodes]) / (seconds[nodes] + asking)
        if rate > most:
            best, most = nodes, rate
    return best


@compiled
def pick(ints, floats, order, nodes, tokens, parents, values):
    """Write out the first nodes of the order, as a draft."""
    place = np.empty(len(ints), np.int64)
    for i in range(nodes):
        node = order[i]
        place[node] = i
        parent = ints[node, PARENT]
        tokens[i], values[i] = ints[node, TOKEN], floats[node, VALUE]
        parents[i] = NONE if parent == NONE else place[parent]


def untaught() -> Floats:
    """A mixer that believes what it is told."""
    mixer = np.zeros((CONSTELLATIONS + MOST, MOST + DEPTHS, 2))
    for place in range(CONSTELLATIONS):
        digits = [place // 3**member % 3 for member in range(MOST)]
        claims = digits.count(2)
        for member, digit in enumerate(digits):
            mixer[place, member, 0] = 1 / claims if digit == 2 else 0.0
        mixer[place, MOST:, 0] = AGREED * max(claims - 1, 0)
    return mixer


@dataclass(slots=True)
class Records:
    """What became of claims, of all requests of one heat."""

    mixer: Floats = field(default_factory=untaught)


class Claims:
    """One sequence's tree of claims, filled anew at every step."""

    __slots__ = ("_floats", "_ints", "_order", "_records", "asked", "own", "size")

    def __init__(self, records: Records, room: int) -> None:
        self._records = records
        self.own = np.zeros((MOST, OWN_DEPTHS + 1, 2))
        self._ints: Ints = np.empty((room + 1, 6), np.int64)
        self._floats: Floats = np.empty((room + 1, MOST + 3))
        self._order = np.empty(room, np.int64)
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
        added: float = weigh(self._ints, self._floats, self.size, self.asked, self._records.mixer, self.own, least)
        return added

    def rank(self, gained: Floats) -> None:
        """Add to `gained`, `[1 + N]`, how many tokens the likeliest 0, 1, ... nodes are expected to bring."""
        if self.size:
            rank(self._floats, self.size, self._order, gained)

    def best(self, nodes: int) -> Draft:
        """The likeliest nodes, likeliest first. After `rank`."""
        nodes = min(nodes, self.size)
        if not nodes:
            return EMPTY
        tokens, parents, values = np.empty(nodes, np.int64), np.empty(nodes, np.int64), np.empty(nodes)
        pick(self._ints, self._floats, self._order, nodes, tokens, parents, values)
        return Draft.trusted(tuple(tokens.tolist()), tuple(parents.tolist()), tuple(values.tolist()))

    def learn(self, emitted: Any) -> int:
        """What the target said; returns how deep the tree was right."""
        if not self.size:
            return 0
        tokens = np.array(emitted, np.int64)
        return int(learn(self._ints, self._floats, self.size, self.asked, self._records.mixer, self.own, tokens))

    def chance(self, member: int, score: float, depth: int) -> float:
        """What a member's score has meant where nobody else claimed the same."""
        constellation = self._records.mixer[2 * 3**member]
        return float(chance(constellation, self.own, member, score, depth))

    def rate(self, member: int) -> float:
        """How often a node of a member was right where its parent was."""
        (hits, trials), (own_hits, own_trials) = (
            self._records.mixer[CONSTELLATIONS + member, 0],
            self.own[member, OWN_DEPTHS],
        )
        others = (hits + 1) / (trials + 1.5)
        return float((own_hits + OTHERS * others) / (own_trials + OTHERS))
