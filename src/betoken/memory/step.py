"""The calls of a step: what came is read, what may come is drafted. Compiled; with few arguments (see `views`)."""

import numpy as np
from numba import carray

from betoken.addresses import pointer
from betoken.compiled import compiled
from betoken.memory.beliefs import KINDS
from betoken.memory.growth import LIKELIEST, SLOTS, WAITING, Tree, absorb, grow, locate
from betoken.memory.trie import STATE
from betoken.memory.views import index_at


@compiled
def tree_at(places):
    """The `Tree` whose arrays lie there."""
    nodes = places[0, 1]
    return Tree(
        carray(pointer(places[0, 0]), (nodes,), np.int64),
        carray(pointer(places[1, 0]), (nodes,), np.int64),
        carray(pointer(places[2, 0]), (nodes,), np.int64),
        carray(pointer(places[3, 0]), (nodes,), np.float64),
        carray(pointer(places[4, 0]), (nodes,), np.float64),
        carray(pointer(places[5, 0]), (nodes + 1, 2, STATE), np.int64),
        carray(pointer(places[6, 0]), (nodes,), WAITING),
        carray(pointer(places[7, 0]), (LIKELIEST,), np.int64),
        carray(pointer(places[8, 0]), (LIKELIEST,), np.float64),
        carray(pointer(places[9, 0]), (SLOTS,), np.uint8),
    )


@compiled
def find(there, here, end, state):
    """The state in the index at `there` after the first `end` tokens of the text at `here`; see `locate`."""
    locate(index_at(there), index_at(here).text, end, state)


@compiled
def take_in(here, there, tree, own, begin, end, teach):
    """Read text[begin:end] of the index at `here`; see `absorb`. own: where the states, the weights and the ends of a reading lie."""
    states = carray(pointer(own[0, 0]), (2, STATE), np.int64)
    weights = carray(pointer(own[1, 0]), (2, KINDS + 2), np.float64)
    absorb(index_at(here), index_at(there), states, tree_at(tree), begin, end, weights, teach)


@compiled
def put_out(rule, here, there, tree, own, begin, end, most, deepest, floor):
    """Read text[begin:end], an output's; then fill the tree with a draft for what has been read; see `grow`."""
    states = carray(pointer(own[0, 0]), (2, STATE), np.int64)
    weights = carray(pointer(own[1, 0]), (2, KINDS + 2), np.float64)
    ends = carray(pointer(own[2, 0]), (own[2, 1],), np.int64)
    ours, theirs, room, limits = index_at(here), index_at(there), tree_at(tree), (most, deepest)
    absorb(ours, theirs, states, room, begin, end, weights, True)
    return grow(rule, ours, theirs, states, room, ours.text, end, weights, limits, floor, ends)
