"""Python's heap in a process that stays: what was loaded is left out of collections, what was used is given back when nobody asks."""

import ctypes
import gc


def settle() -> None:
    """Everything there is by now stays: collections need not look at it again, and are over sooner."""
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Hand memory that is free back to the system, where its allocator can."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):  # not glibc
        return
