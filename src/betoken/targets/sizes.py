"""How far a pass is padded, so that few sizes occur. No torch.

oneDNN compiles its kernels for every number of tokens that a layer is given: the first pass of a size takes longer (4 ms with the
embedded model, as long as a whole step), and some MB stay. So passes are padded to one of eight sizes between 16 and 32 tokens, eight
between 32 and 64, and so on, by more tokens in each row or by idle rows, as far as an eighth more of each will do.
"""

from collections.abc import Iterator
from functools import lru_cache

EXACT = 16


def sizes(most: int) -> Iterator[int]:
    """All of them, in order."""
    size = 1
    while size <= most:
        yield size
        size = ceiled(size + 1)


def ceiled(tokens: int) -> int:
    """The next size."""
    step = 1 if tokens <= EXACT else 1 << ((tokens - 1).bit_length() - 4)
    return -(-tokens // step) * step


@lru_cache(maxsize=4096)
def padded(rows: int, queries: int, most_rows: int) -> tuple[int, int]:
    """As many rows, and tokens in each, as make a size; as they are where none is near. most_rows: there are no more."""
    near = [
        (more, longer)
        for more in range(rows, min(most_rows, rows + -(-rows // 8)) + 1)
        for longer in range(queries, queries + queries // 8 + 1)
        if ceiled(more * longer) == more * longer
    ]
    return min(near, key=lambda each: each[0] * each[1], default=(rows, queries))
