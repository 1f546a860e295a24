"""Arrays by their addresses, for compiled code. The one place that trusts an address.

A call of compiled code pays up to a microsecond for every array it is given, and more for a tuple of them, which is more than many of
the calls of a step take. So a step is called with one array of numbers for each tuple of arrays, and makes the tuple anew from it, at no
cost. Whoever made the numbers must hold the arrays until the call is over, and make new numbers where an array is replaced.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

Places = npt.NDArray[np.int64]


def places(arrays: Iterable[npt.NDArray[Any]]) -> Places:
    """`[arrays, 2]`: where each array lies, and its length."""
    arrays = [*arrays]
    for array in arrays:
        assert array.flags.c_contiguous
    return np.array([(array.ctypes.data, len(array)) for array in arrays], np.int64)


def items(array: npt.NDArray[Any]) -> Any:
    """The same array for whoever reads and writes a few of its numbers: through numpy itself that takes far longer."""
    return memoryview(array)  # type: ignore[arg-type]


@intrinsic
def pointer(context: Any, address: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], cgutils.voidptr_t)

    return types.voidptr(address), code
