"""Which neighbouring rows share a forward pass: all rows of a pass are as long as its longest, and are fed as many tokens. No torch.

What a pass costs, in slots of one row: the reading of all weights (`overhead`), and for each row, one that idles in between as well,
every slot up to the longest one's last and, `query` slots each, every token it is fed.
"""

from collections.abc import Sequence


def runs(
    places: Sequence[int], windows: Sequence[int], queries: Sequence[int], *, overhead: int, query: float
) -> list[int]:
    """Where passes end: the partition of the rows at these places, in order, that costs least.

    windows: how many slots each row has in use; queries: how many tokens each is fed
    """
    count = len(places)
    spare = sum(windows) + query * sum(queries)
    if (places[-1] - places[0] + 1) * (max(windows) + query * max(queries)) - spare <= overhead:
        return [count]  # not even perfect passes would pay
    best, begin = [0.0] + [float("inf")] * count, [0] * (count + 1)
    for last in range(1, count + 1):
        longest, most = 0, 0
        for first in range(last - 1, -1, -1):
            longest, most = max(longest, windows[first]), max(most, queries[first])
            cost = overhead + (places[last - 1] - places[first] + 1) * (longest + query * most)
            if cost >= best[last]:
                break  # with more rows it costs more still
            if best[first] + cost < best[last]:
                best[last], begin[last] = best[first] + cost, first
    return _ends(begin)


def _ends(begin: Sequence[int]) -> list[int]:
    """Ends in order, from where the pass that ends at each place begins."""
    ends, last = [], len(begin) - 1
    while last:
        ends.append(last)
        last = begin[last]
    return ends[::-1]
