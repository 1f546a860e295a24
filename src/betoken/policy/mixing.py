"""Several drafters' trees laid over each other: what each node is worth by everything that is claimed about it, and which nodes to
keep. Compiled: it runs at every step for every sequence.

A claim is one member's score for a node. What the claims on a node make together is learnt online, as compressors mix their models
(Mahoney 2005, section 3.2; Mattern 2013): a weighted sum of log-odds. The weights belong to the constellation, who was asked and who
of them claims the node, and a constant to the constellation and the node's depth. They start where scores are believed, and take a
gradient step on the log-likelihood for every node whose parent the target emitted. All requests of one heat share them; on top, each
request has a few constants of its own, which learn quickly.
"""

import math

import numpy as np
import numpy.typing as npt

from betoken.compiled import compiled
from betoken.draws import key_at, uniform_of

NONE = -1
MOST = 5  # members of one tree
# Columns of `ints`, one row a node: the last one holds who claimed it, as bits.
TOKEN, PARENT, DEPTH, CHILD, SIBLING, CLAIMED = range(6)
# Columns of `floats`: what each member's score has meant, in log-odds; the scores themselves, likewise; then the probability given the
# parent by what all requests have shown, the same with what this one has shown, that of the whole path, and what feeding it teaches.
SCORE, SHARED, VALUE, REACH, LESSON, NOISE = MOST, 2 * MOST, 2 * MOST + 1, 2 * MOST + 2, 2 * MOST + 3, 2 * MOST + 4
COLUMNS = NOISE + 1
# What scores have meant: `[member, whole log-odds, (trials, hits, sum of scores, shift)]`; between them, along straight lines. A score is
# believed as if it had been seen right so often; trials fade.
BINS, BELIEF, FADE = 15, 12.0, 0.998
TRIALS, HITS, CLAIM, SHIFT = range(4)
# A mixer: `[constellation, (weights, constants, weight of noise), (value, how often taught)]`; behind the constellations how often each member's nodes
# were right: `[member, 0, (hits, trials)]`.
DEPTHS = 8
HEARD, WEIGHED = MOST + DEPTHS, MOST + DEPTHS + 1
# Constants for what came of the step before: `[who claims first, that, depth, (value, how often taught)]`. A draft starts where the
# last one failed, and it matters how far that had come.
BEFORE = 4
CONSTELLATIONS = 3**MOST
# A request's own constants: `[who claims first, depth, (value, how often taught)]`.
OWN_DEPTHS = 4
# Steps shrink like an average's until they are this small; a Newton step of a constant would be some four times the gradient.
SMALLEST, FIRST = 0.004, 12.0
WEIGHT_SMALLEST, WEIGHT_FIRST = 0.005, 40.0
OWN_SMALLEST, OWN_FIRST, OWN_FADE = (0.01, 0.01, 0.04, 0.08), 8.0, 0.985
NEWTON = 4.0
# Several claims agree: their log-odds are averaged, and somewhat more is believed than that.
AGREED = 0.5
# How often members are right fades; so many trials of its own outweigh, in a request, those of all.
RATE_FADE, OTHERS = 0.98, 6.0
LARGEST = 7.0  # log-odds
# Nodes are fed because they seem likely, and so those are that seem likelier than they are: of all tokens that were expected of nodes
# that were fed, and of those that came, sums are kept, of all requests and of each; they fade, and so many tokens are assumed.
SUM_FADE, OWN_SUM_FADE, SUMMED, OWN_SUMMED = 0.98, 0.9, 10.0, 10.0

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
def _between(log_odds):
    """The whole log-odds below, as a place in `meant`, and how far from there to the next."""
    low = min(int(log_odds + BINS // 2), BINS - 2)
    return low, log_odds + BINS // 2 - low


@compiled
def _meant(meant, log_odds):
    """What a score has meant: between whole log-odds along a straight line. Steps would change the order of nodes whose scores hardly differ."""
    low, part = _between(log_odds)
    return log_odds + (1 - part) * meant[low, SHIFT] + part * meant[low + 1, SHIFT]


@compiled
def _count_score(meant, score, hit):
    low, part = _between(score)
    _count_at(meant[low], score, hit, 1 - part)
    _count_at(meant[low + 1], score, hit, part)


@compiled
def _count_at(record, score, hit, share):
    if share <= 0.0:
        return
    left = 1 - (1 - FADE) * share
    record[TRIALS] = record[TRIALS] * left + share
    record[HITS] = record[HITS] * left + share * hit
    record[CLAIM] = record[CLAIM] * left + share * _chance(score)
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
    return found + mixer[HEARD, 0] * row[NOISE]


@compiled
def lay(ints, floats, size, member, tokens, parents, scores, lessons, meant, draw):
    """Lay one more draft over the tree; returns its new size, NONE where it is no tree. Nodes past the room there is are left out.

    tokens, parents: `[N]`; scores: `[N]`, not finite where the member has none; lessons: `[N]`, or none; draw: whether the noise that the
    next token is drawn with says something more, and what its keys begin with (`noise.Draw`)
    """
    if len(tokens) != len(scores) or len(parents) != len(scores) or len(lessons) not in (0, len(scores)):
        return NONE
    for i in range(len(scores)):
        if parents[i] >= i:
            return NONE
    places = np.empty(len(scores), np.int64)
    room = len(ints) - 1  # the last row is the root
    heard, base, position = draw
    for i in range(len(scores)):
        token, above = tokens[i], parents[i]
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
            floats[node, LESSON], floats[node, NOISE] = 0.0, 0.0
            if heard:
                floats[node, NOISE] = _log_odds(uniform_of(key_at(base, position + ints[node, DEPTH] - 1), token))
            ints[node, SIBLING] = ints[parent, CHILD]
            ints[parent, CHILD] = node
        places[i] = node
        ints[node, CLAIMED] |= 1 << member
        if len(lessons) > 0:
            floats[node, LESSON] += lessons[i]
        score = _log_odds(scores[i])
        floats[node, SCORE + member], floats[node, member] = score, _meant(meant[member], score)
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
def worth(floats, size, order, chosen, more, rate):
    """Rank the nodes, which have been weighed anew; returns what the tree adds: the tokens that its best prefix is expected to bring,
    beyond what a pass that much wider costs, `rate` tokens for each of the `more[k]` seconds that k nodes take; how long that prefix is;
    and how much more it adds than the first `chosen` nodes of the order there was, the best prefix before, by what is known now."""
    others = -rate * more[chosen]
    for i in range(chosen):
        others += floats[order[i], REACH]
    # No node beats its parent, which stands before it.
    order[:size] = np.argsort(-floats[:size, REACH], kind="mergesort")
    total, most, best = 0.0, 0.0, 0
    for k in range(1, min(size + 1, len(more))):
        total += floats[order[k - 1], REACH]
        if total - rate * more[k] > most:
            most, best = total - rate * more[k], k
    return most, best, most - others


@compiled
def learn(ints, floats, size, asked, meant, mixer, after, before, own, emitted):
    """The target has said which nodes were right: those whose parent it emitted, fed or not. Returns how deep the tree was right."""
    parent, right, after = len(ints) - 1, 0, after[before]
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
                    _count_score(meant[member], score, hit)
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
    if row[NOISE] != 0.0:
        weight = mixer[HEARD]
        weight[1] += 1
        weight[0] += max(WEIGHT_SMALLEST, 1 / (weight[1] + WEIGHT_FIRST)) * off * row[NOISE]


@compiled
def _teach_own(value, constant, hit, smallest):
    constant[1] += 1
    constant[0] = OWN_FADE * constant[0] + NEWTON * max(smallest, 1 / (constant[1] + OWN_FIRST)) * (hit - value)


@compiled
def _count(rate, hit):
    rate[0], rate[1] = rate[0] * RATE_FADE + hit, rate[1] * RATE_FADE + 1


@compiled
def rate(shared, own):
    """How often a node is right, by what all requests have shown and this one: hits and trials, fading."""
    others = (shared[0] + 3) / (shared[1] + 5)
    return (own[0] + OTHERS * others) / (own[1] + OTHERS)


@compiled
def chance(meant, mixer, after, own, member, score, depth):
    """What a member's score has meant where nobody else claimed the same."""
    depth, score = _depth(depth), _log_odds(score)
    shared = mixer[MOST + depth, 0] + after[member, depth, 0] + mixer[member, 0] * _meant(meant[member], score)
    return _chance(shared + own[member, min(depth, OWN_DEPTHS - 1), 0])


@compiled
def gain(floats, size, order, shared_sums, own_sums, gained, brings, most, value):
    """Add to `gained`, `[1 + N]`, how many tokens the likeliest k nodes are expected to bring; more than `most`, or than there are,
    bring no more. To `brings` these, and those of later steps, each worth `value`."""
    total, taught = 0.0, 0.0
    kept = (shared_sums[1] + SUMMED) / (shared_sums[0] + SUMMED)
    kept = (own_sums[1] + OWN_SUMMED * kept) / (own_sums[0] + OWN_SUMMED)
    for k in range(1, len(gained)):
        if k <= min(size, most):
            node = order[k - 1]
            total += floats[node, REACH] * kept
            taught += floats[node, LESSON] * (1 - floats[node, REACH])
        gained[k] += total
        brings[k] += value * (total + taught)


@compiled
def widest(gained, seconds, rows, asking, usual, prospect):
    """How many nodes the widest draft should have, so that what the last of them bring is worth the time they take.

    `gained` comes on top of a token a row, in `seconds` of the pass and what has been spent on `asking` already. Time is worth what it
    usually brings, `usual` tokens a second, and what this step could bring at best; `prospect` is the latter's share. Never less than what
    plain passes bring: that somebody took long to ask makes no pass cheaper.
    """
    most = 0.0
    for nodes in range(len(gained)):
        most = max(most, (rows + gained[nodes]) / (seconds[nodes] + asking))
    rate = max((1 - prospect) * usual + prospect * most, rows / seconds[0])
    best, value = 0, -rate * seconds[0]
    for nodes in range(1, len(gained)):
        left = gained[nodes] - rate * seconds[nodes]
        if left >= value:  # what takes no time may be worth less than a number can show
            best, value = nodes, left
    return best


def untaught() -> Floats:
    """A mixer that believes what it is told."""
    mixer = np.zeros((CONSTELLATIONS + MOST, WEIGHED, 2))
    for place in range(CONSTELLATIONS):
        digits = [place // 3**member % 3 for member in range(MOST)]
        claims = digits.count(2)
        for member, digit in enumerate(digits):
            mixer[place, member, 0] = 1 / claims if digit == 2 else 0.0
        mixer[place, MOST:HEARD, 0] = AGREED * max(claims - 1, 0)
    return mixer
