"""Arrays by their addresses. Compiled; the one place that trusts an address.

A call of compiled code pays 1 us for every tuple of arrays it is given, which is more than looking one token up takes. So the
step is called with one array of numbers for each tuple, and makes the tuple anew from it, at no cost. Whoever made the
numbers must hold the arrays until the call is over, and make new numbers where an array is replaced.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from betoken.compiled import compiled
from betoken.memory.trie import NODE, TOP, Arrays

Places = npt.NDArray[np.int64]


def places(arrays: tuple[npt.NDArray[Any], ...]) -> Places:
    """`[arrays, 2]`: where each array lies, and its length."""
    for array in arrays:
        assert array.flags.c_contiguous
    return np.array([(array.ctypes.data, len(array)) for array in arrays], np.int64)


@intrinsic
def pointer(context: Any, address: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], cgutils.voidptr_t)

    return types.voidptr(address), code


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
