"""A trie of the n-grams of some texts, that forgets exactly. Compiled; every function here changes or reads `Arrays`.

A node is an n-gram; its children are the tokens that followed it. The root is node 0. To keep it small a node seen once has
no children ("a leaf"): what followed stands in the text. The second occurrence gives it the child of its first.

A node carries two numbers. `seen`: how often the n-gram occurs. `count`: how often it was news, that is, how often its
last token was not already known to follow a longer context (PPM's update exclusion, Moffat 1990; Kneser and Ney's
reason: what only ever follows one long context says little about other contexts). `level[i]`, the length of the shortest
context that counted text place i, makes that reversible.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from betoken.compiled import compiled

ORDER = 8  # longest context
LEAF, NONE = -1, -1
TOP = 16  # nodes with more children keep their TOP most counted ones at hand
LONGEST = 32  # matches are followed back so far
# Where a place in `state` holds the longest match: the text place of its last token, and its length.
PLACE, LENGTH = ORDER + 1, ORDER + 2
STATE = ORDER + 3

NODE = np.dtype(
    [
        (name, np.int32)
        for name in (
            "token",
            "parent",
            "seen",
            "count",
            "total",  # the children's counts
            "kids",  # how many children; LEAF: not looked at yet
            "first",  # child
            "next",  # sibling; also the next free node
            "prev",  # sibling
            "last",  # text place of the latest occurrence's last token
            "top",  # row of `tops`, or NONE
        )
    ]
)
# Places in `meta`
NODES, ROWS, FREE_NODE, FREE_ROW = range(4)

Ints = npt.NDArray[Any]


class Arrays(NamedTuple):
    """The memory of one index.

    nodes: `[capacity]` of NODE; table: `[2^b]` open-addressed hash of (parent, token) to node
    tops:  `[rows, TOP + 1]` most counted children, unordered, NONE where fewer; the last column says "look again"
    text:  all texts, each followed by NONE; level: see above; meta: how much of this is used
    """

    nodes: Ints
    table: Ints
    tops: Ints
    text: Ints
    level: Ints
    meta: Ints


@compiled
def _slot(parent, token, mask):
    x = (np.uint64(parent) * np.uint64(0x9E3779B97F4A7C15)) ^ (np.uint64(token) * np.uint64(0xC2B2AE3D27D4EB4F))
    x ^= x >> np.uint64(29)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(32)
    return np.int64(x & np.uint64(mask))


@compiled
def child(ix, parent, token):
    """The node of `token` after `parent`, or NONE."""
    mask = len(ix.table) - 1
    at = _slot(parent, token, mask)
    while True:
        node = ix.table[at]
        if node == NONE:
            return NONE
        if ix.nodes[node].parent == parent and ix.nodes[node].token == token:
            return node
        at = (at + 1) & mask


@compiled
def rehash(ix):
    """Fill an empty table."""
    mask = len(ix.table) - 1
    for node in range(1, ix.meta[NODES]):
        if ix.nodes[node].seen > 0:
            at = _slot(ix.nodes[node].parent, ix.nodes[node].token, mask)
            while ix.table[at] != NONE:
                at = (at + 1) & mask
            ix.table[at] = node


@compiled
def _new_child(ix, parent, token, place):
    node = ix.meta[FREE_NODE]
    if node == NONE:
        node = ix.meta[NODES]
        ix.meta[NODES] += 1
    else:
        ix.meta[FREE_NODE] = ix.nodes[node].next
    mask = len(ix.table) - 1
    at = _slot(parent, token, mask)
    while ix.table[at] != NONE:
        at = (at + 1) & mask
    ix.table[at] = node
    new, above = ix.nodes[node], ix.nodes[parent]
    new.token, new.parent, new.last = token, parent, place
    new.seen, new.count, new.total, new.kids, new.first, new.top = 0, 0, 0, LEAF, NONE, NONE
    new.prev, new.next = NONE, above.first
    if above.first != NONE:
        ix.nodes[above.first].prev = node
    above.first = node
    above.kids += 1
    if above.kids == TOP + 1 and above.top == NONE:
        _new_row(ix, parent)
    return node


@compiled
def _new_row(ix, parent):
    row = ix.meta[FREE_ROW]
    if row == NONE:
        row = ix.meta[ROWS]
        ix.meta[ROWS] += 1
    else:
        ix.meta[FREE_ROW] = ix.tops[row, 0]
    ix.nodes[parent].top = row
    ix.tops[row, TOP] = 1


@compiled
def _bump(ix, parent, node):
    """Count a child, and keep its parent's row of most counted children right."""
    ix.nodes[node].count += 1
    ix.nodes[parent].total += 1
    row = ix.nodes[parent].top
    if row == NONE or ix.tops[row, TOP] == 1:
        return
    least, at = ix.nodes[node].count + 1, -1
    for i in range(TOP):
        other = ix.tops[row, i]
        if other == node:
            return
        count = 0 if other == NONE else ix.nodes[other].count
        if count < least:
            least, at = count, i
    if ix.nodes[node].count >= least:
        ix.tops[row, at] = node


@compiled
def top_row(ix, parent):
    """The row of a node's most counted children, looked up again where something was forgotten."""
    row = ix.nodes[parent].top
    if ix.tops[row, TOP] == 1:
        ix.tops[row, :] = NONE
        node = ix.nodes[parent].first
        filled = 0
        while node != NONE:
            filled = _keep_if_large(ix, row, node, filled)
            node = ix.nodes[node].next
        ix.tops[row, TOP] = 0
    return row


@compiled
def _keep_if_large(ix, row, node, filled):
    if filled < TOP:
        ix.tops[row, filled] = node
        return filled + 1
    least = 0
    for i in range(1, TOP):
        if ix.nodes[ix.tops[row, i]].count < ix.nodes[ix.tops[row, least]].count:
            least = i
    if ix.nodes[node].count > ix.nodes[ix.tops[row, least]].count:
        ix.tops[row, least] = node
    return filled


@compiled
def extend(ix, state, begin, end):
    """Index text[begin:end], which follows what `state` stands after; text[end] must be NONE. There must be room.

    state: `[STATE]` the node of each context by length (NONE where there is none), then the longest match so far
    """
    for place in range(begin, end):
        token = ix.text[place]
        match, length = NONE, 0  # of the longest context that was followed by this token before
        for k in range(ORDER, -1, -1):
            context = state[k]
            if context == NONE or ix.nodes[context].kids == LEAF:
                if k < ORDER:
                    state[k + 1] = NONE
                continue
            node = child(ix, context, token)
            if node == NONE:
                node = _new_child(ix, context, token, place)
            else:
                if length == 0:
                    match, length = ix.nodes[node].last, k + 1
                if k < ORDER and ix.nodes[node].kids == LEAF:
                    _open(ix, node)
            ix.nodes[node].seen += 1
            if length == 0 or k == length - 1:
                _bump(ix, context, node)
            ix.nodes[node].last = place
            if k < ORDER:
                state[k + 1] = node
        ix.level[place] = max(length - 1, 0)
        _follow(ix, state, token, place, match, length)


@compiled
def _open(ix, node):
    """A leaf is seen again: give it the child of its first occurrence."""
    ix.nodes[node].kids = 0
    place = ix.nodes[node].last + 1
    if ix.text[place] != NONE:
        born = _new_child(ix, node, ix.text[place], place)
        ix.nodes[born].seen = 1
        _bump(ix, node, born)


@compiled
def _follow(ix, state, token, place, match, length):
    """Move the longest match on: along the text it is in, or to a longer one."""
    at, long = state[PLACE], state[LENGTH]
    if at != NONE and ix.text[at + 1] == token:
        at, long = at + 1, min(long + 1, LONGEST)
    else:
        at, long = NONE, 0
    if length > long:
        at, long = match, 0
        while long < LONGEST and at - long >= 0 and ix.text[at - long] == ix.text[place - long] != NONE:
            long += 1
    state[PLACE], state[LENGTH] = at, long


@compiled
def erase(ix, begin, end):
    """Forget the text at [begin, end), as if it had never been indexed; its place stays empty."""
    path = np.empty(ORDER + 1, np.int64)
    for start in range(begin, end):
        depth, node = 0, 0
        while depth <= ORDER and start + depth < end and ix.nodes[node].kids != LEAF:
            node = child(ix, node, ix.text[start + depth])
            if node == NONE:
                break
            path[depth] = node
            depth += 1
        for k in range(depth - 1, -1, -1):
            _unsee(ix, path[k], ix.level[start + k] <= k)
    ix.text[begin:end] = NONE


@compiled
def _unsee(ix, node, counted):
    parent = ix.nodes[node].parent
    ix.nodes[node].seen -= 1
    if counted:
        ix.nodes[node].count -= 1
        ix.nodes[parent].total -= 1
    if ix.nodes[parent].top != NONE:
        ix.tops[ix.nodes[parent].top, TOP] = 1
    if ix.nodes[node].seen == 0:
        _drop(ix, node)


@compiled
def _drop(ix, node):
    """Take a childless node out of its siblings and of the table."""
    gone = ix.nodes[node]
    if gone.prev != NONE:
        ix.nodes[gone.prev].next = gone.next
    else:
        ix.nodes[gone.parent].first = gone.next
    if gone.next != NONE:
        ix.nodes[gone.next].prev = gone.prev
    ix.nodes[gone.parent].kids -= 1
    if gone.top != NONE:
        ix.tops[gone.top, 0] = ix.meta[FREE_ROW]
        ix.meta[FREE_ROW] = gone.top
    _unhash(ix, node)
    gone.next = ix.meta[FREE_NODE]
    ix.meta[FREE_NODE] = node


@compiled
def _unhash(ix, node):
    """Linear probing's deletion: later entries move back over the hole (Knuth, volume 3, 6.4, algorithm R)."""
    mask = len(ix.table) - 1
    hole = _slot(ix.nodes[node].parent, ix.nodes[node].token, mask)
    while ix.table[hole] != node:
        hole = (hole + 1) & mask
    at = hole
    while True:
        at = (at + 1) & mask
        other = ix.table[at]
        if other == NONE:
            break
        home = _slot(ix.nodes[other].parent, ix.nodes[other].token, mask)
        if ((at - home) & mask) >= ((at - hole) & mask):
            ix.table[hole] = other
            hole = at
    ix.table[hole] = NONE
