"""The calls of a step: an answer is laid over the tree, the tree is looked at, what became of it is learnt. Compiled; with few arguments
(see `addresses`). `known`, `mine` and `priced` are the addresses of a `views.Known`, a `views.Mine` and a `views.Priced`."""

from betoken.compiled import compiled
from betoken.policy import mixing, pays, settling
from betoken.policy.mixing import CHILD, CLAIMED, NONE, PARENT, TOKEN, VALUE
from betoken.policy.views import known_at, mine_at, priced_at


@compiled
def take(
    known,
    mine,
    priced,
    size,
    asked,
    member,
    tokens,
    parents,
    scores,
    lessons,
    before,
    more,
    rate,
    chosen,
    where,
    step,
):
    """A member's answer: lay it over the tree, and learn what it was worth. Returns the tree's new size, NONE where it is no tree; what
    it adds now; what the answer was worth; the situation after it, `where` before; and how many nodes would be fed now, `chosen` before."""
    known, mine, priced = known_at(known), mine_at(mine), priced_at(priced)
    ints, floats, turn = mine.ints, mine.floats, 0
    if size == 0:
        ints[-1, CHILD] = NONE
    size = mixing.lay(ints, floats, size, member, tokens, parents, scores, lessons, known.meant)
    if size == NONE:
        return NONE, 0.0, 0.0, where, 0
    for other in range(mixing.MOST):
        turn += asked >> other & 1
    mine.turns[turn, 0], mine.turns[turn, 1] = member, where
    asked, adds, gained, best = asked | 1 << member, 0.0, 0.0, 0
    shared, own = known.answers[member, where], mine.answers[member, where]
    if size > 0:
        mixing.weigh(ints, floats, size, asked, known.mixer, known.after[before], mine.own)
        adds, best, gained = mixing.worth(floats, size, mine.order, chosen, more, rate)
        gained *= pays.trust(shared, own)
    pays.answered(shared, own, gained, step, pays.weight(known.answers[member]))
    mine.gains[member] = gained
    pays.note(priced.values[pays.USUAL, member], gained)
    return size, adds, gained, pays.situation(adds), best


@compiled
def whom(known, mine, priced, extra, able, begun, readers, where, step, rate):
    """Whom a row should ask now; see `pays.whom`."""
    known, mine, priced = known_at(known), mine_at(mine), priced_at(priced)
    return pays.whom(priced.values, extra, known.answers, mine.answers, able, begun, readers, where, step, rate)


@compiled
def note_all(priced, count):
    """So many of the numbers that came; see `pays.note_all`."""
    priced = priced_at(priced)
    pays.note_all(priced.values, priced.middles, priced.came[:count])


@compiled
def gain(known, mine, size, gained, brings, most, value, fresh):
    """Add what the likeliest nodes bring; see `mixing.gain`. fresh: to nothing, whatever stands there."""
    known, mine = known_at(known), mine_at(mine)
    if fresh:
        gained[:] = 0.0
        brings[:] = 0.0
    mixing.gain(mine.floats, size, mine.order, known.sums, mine.sums, gained, brings, most, value)


@compiled
def widest(brings, gained, seconds, rows, asking, usual, prospect, most):
    """How many nodes to feed, at most `most`, by what they bring (`mixing.widest`); the tokens these gain, and seconds of the pass."""
    nodes = min(mixing.widest(brings, seconds, rows, asking, usual, prospect), most)
    return nodes, gained[nodes], seconds[nodes]


@compiled
def pick(mine, nodes):
    """Write out the first nodes of the order, as a draft: tokens, parents, values, and whose each is: the member's that was asked first
    of those who claim it."""
    mine = mine_at(mine)
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
def settle(known, mine, size, asked, before, fed, emitted, came, seems):
    """The step is over; see `settling.settle`. emitted: how many tokens stand in `mine`."""
    mine = mine_at(mine)
    said = mine.emitted[:emitted]
    return settling.settle(known_at(known), mine, size, asked, before, fed, said, came, seems)


@compiled
def chance(known, mine, before, member, score, depth):
    """What a member's score has meant where nobody else claimed the same."""
    known, mine = known_at(known), mine_at(mine)
    mixer, after = known.mixer[2 * 3**member], known.after[before]
    return mixing.chance(known.meant, mixer, after, mine.own, member, score, depth)
