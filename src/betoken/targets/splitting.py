"""Which neighbouring rows share a forward pass: rows of a pass are as wide as its widest, so one long row makes all others long. No torch.

A pass costs the reading of all weights, and for each row of every slot up to the widest one's last. In slots of one row: `overhead`, and
rows times window.
"""

from collections.abc import Sequence


def runs(windows: Sequence[int], overhead: int) -> list[int]:
    """Where passes end: the partition of rows with these windows, in order, that costs least."""
    count = len(windows)
    if count * max(windows) - sum(windows) <= overhead:
        return [count]  # not even perfect passes would pay
    best, end = [0] + [0] * count, [0] * (count + 1)
    for last in range(1, count + 1):
        widest, found = 0, -1
        for first in range(last - 1, -1, -1):
            widest = max(widest, windows[first])
            cost = best[first] + overhead + (last - first) * widest
            if found < 0 or cost < best[last]:
                found = best[last] = cost
                end[last] = first
    return _ends(end)


def _ends(begin: Sequence[int]) -> list[int]:
    """Ends in order, from where the pass that ends at each place begins."""
    ends, last = [], len(begin) - 1
    while last:
        ends.append(last)
        last = begin[last]
    return ends[::-1]
