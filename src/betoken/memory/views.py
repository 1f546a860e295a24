"""An index by the addresses of its arrays (see `addresses`)."""

import numpy as np
from numba import carray

from betoken.addresses import pointer
from betoken.compiled import compiled
from betoken.memory.trie import NODE, TOP, Arrays


@compiled
def index_at(places):
    """The `Arrays` of an index."""
    return Arrays(
        carray(pointer(places[0, 0]), (places[0, 1],), NODE),
        carray(pointer(places[1, 0]), (places[1, 1],), np.int32),
        carray(pointer(places[2, 0]), (places[2, 1], TOP + 1), np.int32),
        carray(pointer(places[3, 0]), (places[3, 1],), np.int32),
        carray(pointer(places[4, 0]), (places[4, 1],), np.int8),
        carray(pointer(places[5, 0]), (places[5, 1],), np.int64),
    )
