"""The calls of a step: an answer is laid over the tree, the tree is looked at, what became of it is learnt. Compiled; with few arguments
(see `addresses`). `at` says where a `views.Known`, a `views.Mine`, a `views.Priced` and what more nodes take lie, of one sequence;
`wide` where a `views.Wide` lies, of one policy."""

import numpy as np
from numba import carray

from betoken.addresses import pointer
from betoken.compiled import compiled
from betoken.policy import mixing, pays, settling
from betoken.policy.mixing import CHILD, CLAIMED, CONSTELLATIONS, NONE, OWN_DEPTHS, PARENT, TOKEN, VALUE
from betoken.policy.views import (
    ADDED,
    BASE,
    CHOSEN,
    DEAF,
    MINE,
    MORE,
    POSITION,
    PRICED,
    STOOD,
    WHERE,
    WORTH,
    known_at,
    mine_at,
    priced_at,
    wide_at,
)


@compiled
def take(at, drafted, count, member, rate, size, asked, step):
    """A member's answer, `count` nodes: lay it over the tree, and learn what it was worth. drafted: where its tokens, parents, scores
    and lessons lie. Returns the tree's new size, NONE where the answer is no tree; what else is known now stands in `mine.state`."""
    for kind in range(3):
        if drafted[kind, 1] < count:
            return NONE
    taught = drafted[3, 1]
    if 0 < taught < count:
        return NONE
    lessons = carray(pointer(drafted[3, 0]), (min(taught, count),), np.float64)
    tokens = carray(pointer(drafted[0, 0]), (count,), np.int64)
    parents = carray(pointer(drafted[1, 0]), (count,), np.int64)
    scores = carray(pointer(drafted[2, 0]), (count,), np.float64)
    known, mine, priced = known_at(at), mine_at(at[MINE:]), priced_at(at[PRICED:])
    ints, floats, state, turn = mine.ints, mine.floats, mine.state, 0
    if size == 0:
        ints[-1, CHILD] = NONE
    draw = (state[DEAF] >> member & 1, np.uint64(state[BASE]), state[POSITION])
    size = mixing.lay(ints, floats, size, member, tokens, parents, scores, lessons, known.meant, draw)
    if size == NONE:
        return NONE
    for other in range(mixing.MOST):
        turn += asked >> other & 1
    where, before = state[WHERE], state[STOOD]
    mine.turns[turn, 0], mine.turns[turn, 1] = member, where
    asked, adds, gained, best = asked | 1 << member, 0.0, 0.0, 0
    shared, own = known.answers[member, where], mine.answers[member, where]
    if size > 0:
        more = carray(pointer(at[MORE, 0]), (at[MORE, 1],), np.float64)
        mixing.weigh(ints, floats, size, asked, known.mixer, known.after[before], mine.own)
        adds, best, gained = mixing.worth(floats, size, mine.order, state[CHOSEN], more, rate)
        gained *= pays.trust(shared, own)
    pays.answered(shared, own, gained, step, pays.weight(known.answers[member]))
    mine.gains[member] = gained
    pays.note(priced.values[pays.USUAL, member], gained)
    state[WHERE], state[CHOSEN] = pays.situation(adds), best
    mine.numbers[ADDED], mine.numbers[WORTH] = adds, gained
    return size


@compiled
def whom(at, extra, able, begun, near, readers, step, rate):
    """Whom a row should ask now; see `pays.whom`."""
    known, mine, priced = known_at(at), mine_at(at[MINE:]), priced_at(at[PRICED:])
    where = mine.state[WHERE]
    return pays.whom(priced.values, extra, known.answers, mine.answers, able, begun, near, readers, where, step, rate)


@compiled
def note_all(priced, count):
    """So many of the numbers that came; see `pays.note_all`."""
    priced = priced_at(priced)
    pays.note_all(priced.values, priced.middles, priced.came[:count])


@compiled
def gain(at, wide, size, most, value, fresh):
    """Add what the likeliest nodes bring; see `mixing.gain`. fresh: to nothing, whatever stands there."""
    known, mine, wide = known_at(at), mine_at(at[MINE:]), wide_at(wide)
    if fresh:
        wide.gained[:] = 0.0
        wide.brings[:] = 0.0
    mixing.gain(mine.floats, size, mine.order, known.sums, mine.sums, wide.gained, wide.brings, most, value)


@compiled
def widest(wide, rows, asking, usual, prospect, most):
    """How many nodes to feed, at most `most`, by what they bring (`mixing.widest`); the tokens these gain, and seconds of the pass."""
    wide = wide_at(wide)
    nodes = min(mixing.widest(wide.brings, wide.seconds, rows, asking, usual, prospect), most)
    return nodes, wide.gained[nodes], wide.seconds[nodes]


@compiled
def pick(at, nodes):
    """Write out the first nodes of the order, as a draft: tokens, parents, values, and whose each is: the member's that was asked first
    of those who claim it."""
    mine = mine_at(at[MINE:])
    ints, place = mine.ints, mine.places
    for i in range(nodes):
        node, turn = mine.order[i], 0
        place[node] = i
        parent = ints[node, PARENT]
        mine.tokens[i], mine.values[i] = ints[node, TOKEN], mine.floats[node, VALUE]
        mine.parents[i] = NONE if parent == NONE else place[parent]
        while not ints[node, CLAIMED] >> mine.turns[turn, 0] & 1:
            turn += 1
        mine.members[i] = mine.turns[turn, 0]


@compiled
def choose(at, wide, size, own, rows, asking, usual, prospect, most):
    """`gain`, `widest` and `pick` for a sequence that is alone, of whose nodes at most `own` are fed."""
    gain(at, wide, size, own, 1.0, True)
    nodes, gained, seconds = widest(wide, rows, asking, usual, prospect, most)
    pick(at, min(nodes, own))
    return nodes, gained, seconds


@compiled
def settle(at, wide, size, asked, fed, emitted, seems, fresh):
    """The step is over; see `settling.settle`. emitted: how many tokens stand in `mine`. What came is added to `wide`; fresh: to nothing."""
    known, mine, wide = known_at(at), mine_at(at[MINE:]), wide_at(wide)
    if fresh:
        wide.came[:] = 0.0
    said, before = mine.emitted[:emitted], mine.state[STOOD]
    return settling.settle(known, mine, size, asked, before, fed, said, wide.came, seems)


@compiled
def chance(at, member, score, depth):
    """What a member's score has meant where nobody else claimed the same; and how often a node of the member was right where its parent
    was."""
    known, mine = known_at(at), mine_at(at[MINE:])
    mixer, after = known.mixer[2 * 3**member], known.after[mine.state[STOOD]]
    rate = mixing.rate(known.mixer[CONSTELLATIONS + member, 0], mine.own[member, OWN_DEPTHS])
    return mixing.chance(known.meant, mixer, after, mine.own, member, score, depth), rate
