"""Several drafters' trees laid over each other: what each node is worth by everything that is claimed about it, and which nodes to
keep. Compiled: it runs at every step for every sequence.

A claim is one member's score for a node. What the claims on a node make together is learnt online, as compressors mix their models
(Mahoney 2005, section 3.2; Mattern 2013): a weighted sum of log-odds. The weights belong to the constellation, who was asked and who
of them claims the node, and a constant to the constellation and the node's depth. They start where scores are believed, and take a
gradient step on the log-likelihood for every node whose parent the target emitted. All requests of one heat share them; on top, each
request has a few constants of its own, which learn quickly.
"""

import math
from collections.abc import Sequence
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
# Columns of `floats`: what each member's score has meant, in log-odds; the scores themselves, likewise; then the probability given the
# parent by what all requests have shown, the same with what this one has shown, and that of the whole path.
SCORE, SHARED, VALUE, REACH = MOST, 2 * MOST, 2 * MOST + 1, 2 * MOST + 2
COLUMNS = REACH + 1
# What scores have meant: `[member, whole log-odds, (trials, hits, sum of scores, shift)]`. A score is believed as if it had been seen
# right so often; trials fade.
BINS, BELIEF, FADE = 15, 12.0, 0.998
TRIALS, HITS, CLAIM, SHIFT = range(4)
# A mixer: `[constellation, (weights, constants), (value, how often taught)]`; behind the constellations how often each member's nodes
# were right: `[member, 0, (hits, trials)]`.
DEPTHS = 8
# Constants for what came of the step before: `[who claims first, that, depth, (value, how often taught)]`. A draft starts where the
# last one failed, and it matters how far that had come.
BEFORE = 4
CONSTELLATIONS = 3**MOST
# A request's own constants: `[who claims first, depth, (value, how often taught)]`.
OWN_DEPTHS = 4
# Steps shrink like an average's until they are this small; a Newton step of a constant would be some four times the gradient.
SMALLEST, FIRST = 0.004, 12.0
WEIGHT_SMALLEST, WEIGHT_FIRST = 0.005, 40.0
OWN_SMALLEST, OWN_FIRST, OWN_FADE = (0.03, 0.05, 0.15, 0.3), 8.0, 0.985
NEWTON = 4.0
# Several claims agree: their log-odds are averaged, and somewhat more is believed than that.
AGREED = 0.5
# How often members are right fades; so many trials of its own outweigh, in a request, those of all.
RATE_FADE, OTHERS = 0.98, 6.0
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
def _bin(log_odds):
    return int(round(log_odds)) + BINS // 2  # noqa: RUF046 - compiled, round gives a float


@compiled
def _count_score(record, score, hit):
    record[TRIALS] = record[TRIALS] * FADE + 1
    record[HITS] = record[HITS] * FADE + hit
    record[CLAIM] = record[CLAIM] * FADE + _chance(score)
    claim = record[CLAIM] / record[TRIALS]
    record[SHIFT] = _log_odds((record[HITS] + BELIEF * claim) / (record[TRIALS] + BELIEF)) - _log_odds(claim)


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
def _mixed(row, claimed, depth, mixer, after):
    """The log-odds that the claims make together."""
    found = mixer[MOST + depth, 0] + after[_first(claimed), depth, 0]
    for member in range(MOST):
        if claimed >> member & 1:
            found += mixer[member, 0] * row[member]
    return found


@compiled
def lay(ints, floats, size, member, draft, scores, meant):
    """Lay one more draft over the tree; returns its new size, NONE where it is no tree. Nodes past the room there is are left out.

    draft: `[2, N]` tokens and parents; scores: `[N]`, not finite where the member has none
    """
    if draft.shape[1] != len(scores):
        return NONE
    for i in range(len(scores)):
        if draft[1, i] >= i:
            return NONE
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
        score = _log_odds(scores[i])
        floats[node, SCORE + member], floats[node, member] = score, score + meant[member, _bin(score), SHIFT]
    return size


@compiled
def weigh(ints, floats, size, asked, mixer, after, own):
    """What every node is worth."""
    for node in range(size):
        claimed, depth = ints[node, CLAIMED], _depth(ints[node, DEPTH])
        shared = _mixed(floats[node], claimed, depth, mixer[_constellation(claimed, asked)], after)
        value = _chance(shared + own[_first(claimed), min(depth, OWN_DEPTHS - 1), 0])
        parent = ints[node, PARENT]
        floats[node, SHARED], floats[node, VALUE] = _chance(shared), value
        floats[node, REACH] = value if parent == NONE else value * floats[parent, REACH]


@compiled
def worth(ints, floats, size, asked, mixer, after, own, order, costs):
    """Weigh and rank the nodes; returns what the tree adds: the tokens that its best prefix is expected to bring, beyond what a pass
    that much wider costs, `costs[k]` for k nodes, in tokens."""
    weigh(ints, floats, size, asked, mixer, after, own)
    # No node beats its parent, which stands before it.
    order[:size] = np.argsort(-floats[:size, REACH], kind="mergesort")
    total, most = 0.0, 0.0
    for k in range(1, min(size + 1, len(costs))):
        total += floats[order[k - 1], REACH]
        most = max(most, total - costs[k])
    return most


@compiled
def learn(ints, floats, size, asked, meant, mixer, after, own, emitted):
    """The target has said which nodes were right: those whose parent it emitted, fed or not. Returns how deep the tree was right."""
    parent, right = len(ints) - 1, 0
    for token in emitted:
        node, following = ints[parent, CHILD], NONE
        while node != NONE:
            hit = ints[node, TOKEN] == token
            if hit:
                following = node
            claimed, depth = ints[node, CLAIMED], _depth(ints[node, DEPTH])
            _teach(
                floats[node], claimed, depth, hit, mixer[_constellation(claimed, asked)], after[_first(claimed), depth]
            )
            near = min(depth, OWN_DEPTHS - 1)
            _teach_own(floats[node, VALUE], own[_first(claimed), near], hit, OWN_SMALLEST[near])
            for member in range(MOST):
                if claimed >> member & 1:
                    score = floats[node, SCORE + member]
                    _count_score(meant[member, _bin(score)], score, hit)
                    _count(mixer[CONSTELLATIONS + member, 0], hit)
                    _count(own[member, OWN_DEPTHS], hit)
            node = ints[node, SIBLING]
        if following == NONE:
            break
        parent, right = following, right + 1
    return right


@compiled
def _teach(row, claimed, depth, hit, mixer, after):
    off = hit - row[SHARED]
    for constant in (mixer[MOST + depth], after):
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
def chance(meant, mixer, after, own, member, score, depth):
    """What a member's score has meant where nobody else claimed the same."""
    depth, score = _depth(depth), _log_odds(score)
    shared = (
        mixer[MOST + depth, 0]
        + after[member, depth, 0]
        + mixer[member, 0] * (score + meant[member, _bin(score), SHIFT])
    )
    return _chance(shared + own[member, min(depth, OWN_DEPTHS - 1), 0])


@compiled
def gain(floats, size, order, gained, most):
    """Add to `gained`, `[1 + N]`, how many tokens the likeliest k nodes are expected to bring; more than `most`, or than there are,
    bring no more."""
    total = 0.0
    for k in range(1, len(gained)):
        if k <= min(size, most):
            total += floats[order[k - 1], REACH]
        gained[k] += total


@compiled
def widest(gained, seconds, rows, asking, usual, prospect, lesson):
    """How many nodes the widest draft should have, so that what the last of them bring is worth the time they take.

    `gained` comes on top of a token a row, in `seconds` of the pass and what has been spent on `asking` already. Time is worth what it
    usually brings, `usual` tokens a second, and what this step could bring at best; `prospect` is the latter's share.
    lesson: what is learnt from a node that is fed, in tokens
    """
    most = 0.0
    for nodes in range(len(gained)):
        most = max(most, (rows + gained[nodes]) / (seconds[nodes] + asking))
    rate = (1 - prospect) * usual + prospect * most
    best, value = 0, -rate * seconds[0]
    for nodes in range(1, len(gained)):
        left = gained[nodes] + lesson * nodes - rate * seconds[nodes]
        if left > value:
            best, value = nodes, left
    return best


@compiled
def credit(ints, floats, order, fed, path, asked, credits):
    """Whose the nodes that were fed are, the member's that was asked first of those who claim them: `credits[i]` becomes how many of
    the i-th asked were expected on the accepted path, and how many were."""
    credits[:] = 0.0
    for i in range(fed):
        claimed, place = ints[order[i], CLAIMED], 0
        while not claimed >> asked[place] & 1:
            place += 1
        credits[place, 0] += floats[order[i], REACH]
        for node in path:
            if node == i:
                credits[place, 1] += 1


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
    meant: Floats = field(default_factory=lambda: np.zeros((MOST, BINS, 4)))
    after: Floats = field(default_factory=lambda: np.zeros((BEFORE, MOST, DEPTHS, 2)))

    def forget(self) -> None:
        self.mixer[:] = untaught()
        self.meant[:] = 0.0
        self.after[:] = 0.0


class Claims:
    """One sequence's tree of claims, filled anew at every step."""

    __slots__ = ("_after", "_floats", "_ints", "_order", "_records", "asked", "own", "size")

    def __init__(self, records: Records, room: int) -> None:
        self._records = records
        self.own = np.zeros((MOST, OWN_DEPTHS + 1, 2))
        self._ints: Ints = np.empty((room + 1, 6), np.int64)
        self._floats: Floats = np.empty((room + 1, COLUMNS))
        self._order = np.empty(room, np.int64)
        self.clear()

    def clear(self, before: int = 0) -> None:
        """A new step: nothing is claimed. before: what came of the last one, below `BEFORE`."""
        self._after = self._records.after[before]
        self.size, self.asked = 0, 0
        self._ints[-1, CHILD] = NONE

    def add(self, member: int, draft: Draft, costs: Floats) -> float:
        """Lay a member's draft over the tree; returns what the tree adds now, in tokens (see `worth`). Raises ValueError for a draft
        that is no tree, before anything is laid."""
        if draft:
            nodes = np.array((draft.tokens, draft.parents), np.int64)
            scores = np.array(draft.scores or (math.nan,) * len(draft), np.float64)
            size = lay(self._ints, self._floats, self.size, member, nodes, scores, self._records.meant)
            if size == NONE:
                raise ValueError("a draft that is no tree")
            self.size = size
        self.asked |= 1 << member
        if not self.size:
            return 0.0
        args = self._ints, self._floats, self.size, self.asked, self._records.mixer, self._after, self.own
        return float(worth(*args, self._order, costs))

    def gain(self, gained: Floats, most: int) -> None:
        """Add to `gained`, `[1 + N]`, how many tokens the likeliest 0, 1, ... nodes, at most `most`, are expected to bring."""
        if self.size:
            gain(self._floats, self.size, self._order, gained, most)

    def best(self, nodes: int) -> Draft:
        """The likeliest nodes, likeliest first. After `add`."""
        nodes = min(nodes, self.size)
        if not nodes:
            return EMPTY
        tokens, parents, values = np.empty(nodes, np.int64), np.empty(nodes, np.int64), np.empty(nodes)
        pick(self._ints, self._floats, self._order, nodes, tokens, parents, values)
        return Draft.trusted(tuple(tokens.tolist()), tuple(parents.tolist()), tuple(values.tolist()))

    def credits(self, fed: int, path: Sequence[int], asked: Sequence[int]) -> list[list[float]]:
        """For each member that was asked, in that order, how many of its nodes among the first `fed` were expected on the accepted
        path, and how many were, `path` (in the order of `best`)."""
        found = np.zeros((len(asked), 2))
        if fed:
            ids = np.array(path, np.int64), np.array(asked, np.int64)
            credit(self._ints, self._floats, self._order, min(fed, self.size), *ids, found)
        return found.tolist()

    def learn(self, emitted: Any) -> int:
        """What the target said; returns how deep the tree was right."""
        if not self.size:
            return 0
        tokens = np.array(emitted, np.int64)
        records = self._records
        args = self._ints, self._floats, self.size, self.asked, records.meant, records.mixer, self._after, self.own
        return int(learn(*args, tokens))

    def chance(self, member: int, score: float, depth: int) -> float:
        """What a member's score has meant where nobody else claimed the same."""
        constellation = self._records.mixer[2 * 3**member]
        return float(chance(self._records.meant, constellation, self._after, self.own, member, score, depth))

    def rate(self, member: int) -> float:
        """How often a node of a member was right where its parent was."""
        (hits, trials), (own_hits, own_trials) = (
            self._records.mixer[CONSTELLATIONS + member, 0],
            self.own[member, OWN_DEPTHS],
        )
        others = (hits + 3) / (trials + 5)
        return float((own_hits + OTHERS * others) / (own_trials + OTHERS))
