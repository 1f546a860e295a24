"""What became of a step: whose the nodes were that were fed and accepted, what each answer brought, what scores have meant. Compiled."""

import numpy as np

from betoken.compiled import compiled
from betoken.policy import pays
from betoken.policy.mixing import CLAIMED, MOST, NONE, OWN_SUM_FADE, PARENT, REACH, SUM_FADE, TOKEN, learn


@compiled
def credit(known, mine, fed, emitted, count, came):
    """Whose the nodes that were fed are, the member's that was asked first of those who claim them: how many of each member's were
    expected on the accepted path, and how many were, which is added to `came`."""
    hoped, hits = np.zeros(MOST), np.zeros(MOST)
    depth, above = 0, NONE
    for i in range(fed):
        node, place = mine.order[i], 0
        claimed = mine.ints[node, CLAIMED]
        while not claimed >> mine.turns[place, 0] & 1:
            place += 1
        hoped[place] += mine.floats[node, REACH]
        # Parents come before their children, so the path is met on the way.
        if depth < len(emitted) and mine.ints[node, PARENT] == above and mine.ints[node, TOKEN] == emitted[depth]:
            hits[place] += 1
            depth, above = depth + 1, node
    for place in range(count):
        member, where = mine.turns[place]
        pays.delivered(known.answers[member, where], hoped[place], hits[place], pays.TRUST_FADE)
        pays.delivered(mine.answers[member, where], hoped[place], hits[place], pays.OWN_TRUST_FADE)
        came[member] += hits[place]
    for sums, fade in ((known.sums, SUM_FADE), (mine.sums, OWN_SUM_FADE)):
        sums[0], sums[1] = sums[0] * fade + hoped.sum(), sums[1] * fade + hits.sum()


@compiled
def settle(known, mine, size, asked, before, fed, emitted, came, seems):
    """The step is over: `credit` for what was fed, what each of the asked members brought, and `learn`. Returns how deep the tree was
    right. seems: the share that what an answer seemed to be worth has in what it brought"""
    hits, count = np.zeros(MOST), 0
    for member in range(MOST):
        count += asked >> member & 1
    if fed > 0:
        credit(known, mine, fed, emitted, count, hits)
    for member in range(MOST):
        if asked >> member & 1:
            came[member] += hits[member]
            pays.bring(known.brought, mine.brought, member, hits[member], mine.gains[member], seems)
    if size == 0:
        return 0
    return learn(mine.ints, mine.floats, size, asked, known.meant, known.mixer, known.after, before, mine.own, emitted)
