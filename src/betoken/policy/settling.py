"""What became of a step: whose the nodes were that were fed and accepted, what each answer brought, what scores have meant. Compiled."""

import numpy as np

from betoken.compiled import compiled
from betoken.policy import pays
from betoken.policy.mixing import CLAIMED, MOST, NONE, OWN_SUM_FADE, PARENT, REACH, SUM_FADE, TOKEN, learn


@compiled
def credit(ints, floats, order, fed, emitted, turns, count, shared, own, shared_sums, own_sums, came):
    """Whose the nodes that were fed are, the member's that was asked first of those who claim them: how many of each member's were
    expected on the accepted path, and how many were, which is added to `came`.

    turns: `[MOST, 2]` who was asked, in that order, and in which situation; shared, own: what is known of answers (`pays`); their
    sums: `[2]` of all that was expected and all that came
    """
    hoped, hits = np.zeros(MOST), np.zeros(MOST)
    depth, above = 0, NONE
    for i in range(fed):
        node, place = order[i], 0
        claimed = ints[node, CLAIMED]
        while not claimed >> turns[place, 0] & 1:
            place += 1
        hoped[place] += floats[node, REACH]
        # Parents come before their children, so the path is met on the way.
        if depth < len(emitted) and ints[node, PARENT] == above and ints[node, TOKEN] == emitted[depth]:
            hits[place] += 1
            depth, above = depth + 1, node
    for place in range(count):
        member, where = turns[place]
        pays.delivered(shared[member, where], hoped[place], hits[place], pays.TRUST_FADE)
        pays.delivered(own[member, where], hoped[place], hits[place], pays.OWN_TRUST_FADE)
        came[member] += hits[place]
    for sums, fade in ((shared_sums, SUM_FADE), (own_sums, OWN_SUM_FADE)):
        sums[0], sums[1] = sums[0] * fade + hoped.sum(), sums[1] * fade + hits.sum()


@compiled
def settle(
    ints,
    floats,
    size,
    order,
    fed,
    emitted,
    turns,
    asked,
    gains,
    answers,
    mine,
    sums,
    own_sums,
    brought,
    own_brought,
    came,
    meant,
    mixer,
    after,
    before,
    own,
    seems,
):
    """The step is over: `credit` for what was fed, what each of the asked members brought, and `learn`. Returns how deep the tree was
    right. gains: `[MOST]` what each one's answer seemed to be worth, which counts for the share `seems` of what it brought"""
    hits, count = np.zeros(MOST), 0
    for member in range(MOST):
        count += asked >> member & 1
    if fed > 0:
        credit(ints, floats, order, fed, emitted, turns, count, answers, mine, sums, own_sums, hits)
    for member in range(MOST):
        if asked >> member & 1:
            came[member] += hits[member]
            pays.bring(brought, own_brought, member, hits[member], gains[member], seems)
    return learn(ints, floats, size, asked, meant, mixer, after, before, own, emitted) if size > 0 else 0
