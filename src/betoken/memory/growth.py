"""From evidence to a draft: a tree grown best-first on the probability of each path (as EAGLE-2's, Li et al. 2024,
section 4.1, with counts for a draft model). Compiled.

`here` is the index of the sequence itself, `there` that of what is remembered of others.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from betoken.compiled import compiled
from betoken.memory import BLEND
from betoken.memory.beliefs import EVIDENCE, HERE, MOST, THERE, collect, doubt, learn
from betoken.memory.trie import LENGTH, LONGEST, NONE, ORDER, PLACE, STATE, TOP, child, extend, top_row

WIDTH = 12  # children a node may have
LIKELIEST = 96  # tokens looked at for one node
SLOTS = 256  # of the hash table that finds them
ENOUGH = 1e-4  # evidence below this share is not looked at
RESERVE = 2  # how sceptical LONGEST_MATCH is, in tokens


class Tree(NamedTuple):
    """Room for a draft of N nodes.

    token, parent, depth: `[N]`; score, value: `[N]` probability given the parent, and of the whole path
    states: `[N + 1, 2, STATE]`, the root's last; waiting: what could still be added, the likeliest last
    next_token, next_prob: `[LIKELIEST]` what may follow the node at hand; slots: a hash table that finds the tokens there
    """

    token: npt.NDArray[Any]
    parent: npt.NDArray[Any]
    depth: npt.NDArray[Any]
    score: npt.NDArray[Any]
    value: npt.NDArray[Any]
    states: npt.NDArray[Any]
    waiting: npt.NDArray[Any]
    next_token: npt.NDArray[Any]
    next_prob: npt.NDArray[Any]
    slots: npt.NDArray[Any]


WAITING = np.dtype([("value", np.float64), ("score", np.float64), ("token", np.int32), ("parent", np.int32)])


def room_for(nodes: int) -> Tree:
    """An empty tree for drafts of so many nodes."""
    return Tree(
        token=np.empty(nodes, np.int64),
        parent=np.empty(nodes, np.int64),
        depth=np.empty(nodes, np.int64),
        score=np.empty(nodes),
        value=np.empty(nodes),
        states=np.empty((nodes + 1, 2, STATE), np.int64),
        waiting=np.empty(nodes, WAITING),
        next_token=np.empty(LIKELIEST, np.int64),
        next_prob=np.empty(LIKELIEST),
        slots=np.empty(SLOTS, np.uint8),
    )


@compiled
def locate(ix, tail, end, state):
    """The state of an index after tail[:end], looked up from nothing; the longest match is the latest occurrence."""
    state[:] = NONE
    state[0], state[LENGTH] = 0, 0
    for k in range(1, min(ORDER, end) + 1):
        node = 0
        for place in range(end - k, end):
            node = NONE if ix.nodes[node].kids <= 0 else child(ix, node, tail[place])
            if node == NONE:
                break
        if node == NONE:
            break
        state[k] = node
        state[PLACE] = ix.nodes[node].last
    if state[PLACE] != NONE:
        at = state[PLACE]
        long = 0
        while long < min(LONGEST, end) and at - long >= 0 and ix.text[at - long] == tail[end - 1 - long]:
            long += 1
        state[LENGTH] = long


@compiled
def _advance(ix, source, old, new, token, tree, node, tail, end):
    """The state after one more token: `node` of the tree, or the last of tail[:end] where `node` is NONE."""
    deepest, found = 0, 0
    new[0] = 0
    for k in range(ORDER):
        if found != NONE:  # what does not follow a context follows no longer one
            context = old[k]
            found = NONE if context == NONE or ix.nodes[context].kids <= 0 else child(ix, context, token)
            if found != NONE:
                deepest = k + 1
        new[k + 1] = found
    at, long = old[PLACE], old[LENGTH]
    if at != NONE and _after(ix, source, at, tree, NONE if node == NONE else tree.parent[node], end) == token:
        at, long = at + 1, min(long + 1, LONGEST)
    else:
        at, long = NONE, 0
    if deepest > long:
        at = ix.nodes[new[deepest]].last
        long = _agreement(ix.text, at, tree, node, tail, end)
    new[PLACE], new[LENGTH] = at, long


@compiled
def _after(ix, source, at, tree, node, end):
    """What follows a text place; where that is the end of the sequence itself, its continuation is the path to `node`."""
    if source == THERE or at + 1 < end:
        return ix.text[at + 1]
    depth = at + 2 - end
    if node == NONE or depth > tree.depth[node]:
        return NONE
    while tree.depth[node] > depth:
        node = tree.parent[node]
    return tree.token[node]


@compiled
def _agreement(text, at, tree, node, tail, end):
    """How many tokens up to text[at] are those up to `node`, and on from there back through tail[:end]."""
    long = 0
    while long < LONGEST and at - long >= 0:
        if node != NONE:
            token = tree.token[node]
            node = tree.parent[node]
        elif end > 0:
            end -= 1
            token = tail[end]
        else:
            break
        if text[at - long] != token or token == NONE:
            break
        long += 1
    return long


@compiled
def _weigh(found, n, here, there, weights, tree):
    """The likeliest next tokens and their probabilities, unordered; returns how many."""
    tree.slots[:] = 0
    share, m = 1.0, 0
    for i in range(n - 1, -1, -1):
        one = found[i]
        below = doubt(weights, one.kind)
        mine = share * (1 - below)
        share *= below
        if one.context == NONE:
            m = _put(tree, m, one.token, mine)
        elif one.source == HERE:
            m = _put_children(here, one.context, mine, tree, m)
        else:
            m = _put_children(there, one.context, mine, tree, m)
        if share < ENOUGH:
            break
    return m


@compiled
def _put_children(ix, context, share, tree, m):
    share /= ix.nodes[context].total
    if ix.nodes[context].top != NONE:
        row = top_row(ix, context)
        for i in range(TOP):
            node = ix.tops[row, i]
            if node != NONE:
                m = _put(tree, m, ix.nodes[node].token, share * ix.nodes[node].count)
        return m
    node = ix.nodes[context].first
    while node != NONE:
        m = _put(tree, m, ix.nodes[node].token, share * ix.nodes[node].count)
        node = ix.nodes[node].next
    return m


@compiled
def _put(tree, m, token, prob):
    """Add to the probability of a next token, of which there are m so far; returns how many there are then."""
    at = token & (SLOTS - 1)
    while tree.slots[at] != 0:
        i = tree.slots[at] - 1
        if tree.next_token[i] == token:
            tree.next_prob[i] += prob
            return m
        at = (at + 1) & (SLOTS - 1)
    if m == LIKELIEST:
        return m
    tree.next_token[m], tree.next_prob[m] = token, prob
    tree.slots[at] = m + 1
    return m + 1


@compiled
def _weigh_longest(states, here, there, tails, tree):
    """Only the longest context that was seen before, of the index where it is longer; a match of L tokens is trusted to
    go on L times in L + RESERVE, the rest goes by how often what followed."""
    source = HERE if states[HERE, LENGTH] >= states[THERE, LENGTH] else THERE
    ix = here if source == HERE else there
    length, m, share = states[source, LENGTH], 0, 1.0
    if length < 1:
        return 0
    tree.slots[:] = 0
    if tails[source] != NONE:
        m = _put(tree, m, tails[source], length / (length + RESERVE))
        share = RESERVE / (length + RESERVE)
    for k in range(min(length, ORDER), 0, -1):
        context = states[source, k]
        if context != NONE and ix.nodes[context].kids > 0 and ix.nodes[context].total > 0:
            return _put_children(ix, context, share * k / (k + 1), tree, m)
    return m


@compiled
def grow(rule, here, there, states, tree, tail, end, weights, limits, floor, ends):
    """Fill the tree; returns how many nodes.

    states: `[2, STATE]` the root's; tail[:end]: the sequence; limits: most nodes, most depth
    floor:  no node whose path is less probable; ends: tokens that nothing follows
    """
    root = len(tree.states) - 1
    tree.states[root] = states
    found, tails = np.empty(MOST, EVIDENCE), np.empty(2, np.int64)
    most, deepest = limits
    size, waiting, node = 0, 0, NONE
    while size < most:
        depth = 0
        if node != NONE:
            _step_down(tree, node, here, there, tail, end)
            depth = tree.depth[node]
        if depth < deepest and (node == NONE or not _is_in(tree.token[node], ends)):
            now = tree.states[root if node == NONE else node]
            for source in range(2):
                at = now[source, PLACE]
                ix = here if source == HERE else there
                tails[source] = NONE if at == NONE else _after(ix, source, at, tree, node, end)
            if rule == BLEND:
                n = collect(now, here, there, tails, found, depth == 0)
                m = _weigh(found, n, here, there, weights, tree)
            else:
                m = _weigh_longest(now, here, there, tails, tree)
            waiting = _wait(tree, node, m, waiting, most - size, floor)
        if waiting == 0:
            break
        waiting -= 1
        node = size
        _take(tree, waiting, node)
        size += 1
    return size


@compiled
def _step_down(tree, node, here, there, tail, end):
    """Both states after a node's token."""
    above = tree.states[len(tree.states) - 1 if tree.parent[node] == NONE else tree.parent[node]]
    for source in range(2):
        ix = here if source == HERE else there
        _advance(ix, source, above[source], tree.states[node, source], tree.token[node], tree, node, tail, end)


@compiled
def _is_in(token, ends):
    for i in range(len(ends)):  # noqa: SIM110 - compiled
        if ends[i] == token:
            return True
    return False


@compiled
def _wait(tree, node, m, waiting, room, floor):
    """Queue the likeliest children of a node, of which only those among the `room` likeliest of all can become nodes."""
    value = 1.0 if node == NONE else tree.value[node]
    for _ in range(WIDTH):
        best, most = -1, 0.0
        for i in range(m):
            if tree.next_prob[i] > most:
                best, most = i, tree.next_prob[i]
        if best < 0 or value * most < floor or (waiting == room and value * most <= tree.waiting[0].value):
            break
        at = _make_way(tree.waiting, waiting, room, value * most)
        one = tree.waiting[at]
        one.value, one.score, one.token, one.parent = value * most, most, tree.next_token[best], node
        waiting = min(waiting + 1, room)
        tree.next_prob[best] = 0.0
    return waiting


@compiled
def _make_way(queue, waiting, room, value):
    """The place for one more: of equals the earlier ones stand further on. Where the queue is full its least falls out."""
    if waiting < room:
        at = waiting
        while at > 0 and queue[at - 1].value >= value:
            queue[at] = queue[at - 1]
            at -= 1
        return at
    at = 0
    while at + 1 < waiting and queue[at + 1].value < value:
        queue[at] = queue[at + 1]
        at += 1
    return at


@compiled
def _take(tree, place, size):
    """Move one that waits into the tree."""
    one, parent = tree.waiting[place], tree.waiting[place].parent
    tree.token[size], tree.parent[size], tree.score[size], tree.value[size] = one.token, parent, one.score, one.value
    tree.depth[size] = 1 if parent == NONE else tree.depth[parent] + 1


@compiled
def absorb(here, there, states, tree, begin, end, weights, teach):
    """Take here.text[begin:end], not yet indexed, into the sequence's index and both states; `teach` learns from each,
    as what one step brought."""
    found, tails, new = np.empty(MOST, EVIDENCE), np.empty(2, np.int64), np.empty(STATE, np.int64)
    text = here.text
    for place in range(begin, end):
        token, after = text[place], text[place + 1]
        text[place] = NONE  # what is not indexed yet must not be found
        if teach:
            for source in range(2):
                at = states[source, PLACE]
                ix = here if source == HERE else there
                tails[source] = NONE if at == NONE else ix.text[at + 1]
            n = collect(states, here, there, tails, found, place == begin)
            learn(found, n, token, here, there, weights)
        text[place], text[place + 1] = token, NONE
        extend(here, states[HERE], place, place + 1)
        _advance(there, THERE, states[THERE], new, token, tree, NONE, text, place + 1)
        states[THERE] = new
        text[place + 1] = after
