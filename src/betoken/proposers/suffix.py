"""`suffix`: what followed the longest match, here or in earlier sequences, drafted as far as the match is worth
(SuffixDecoding: Oliaro et al. 2024, arXiv 2411.04975; SAM decoding: Hu et al. 2024, arXiv 2411.10666).

Frugal: a node is drafted only where its path seems likelier than `floor`. A match of L tokens is trusted to go on L times
in L + 2, so a long one is followed far and a short one hardly; the rest goes by how often what followed the context.
"""

from collections.abc import Iterable

from betoken.memory import LONGEST_MATCH
from betoken.proposers.base import Workshop, register
from betoken.proposers.reading import ReadingProposer


class Suffix(ReadingProposer):
    """The continuations of the longest match. Options: see `ReadingProposer`."""

    name = "suffix"

    def __init__(
        self,
        ends: Iterable[int] = (),
        *,
        nodes: int = 40,
        floor: float = 0.05,
        memory: bool | str = True,
        capacity: int = 1_000_000,
        load: str | None = None,
    ) -> None:
        super().__init__(LONGEST_MATCH, ends, nodes=nodes, floor=floor, memory=memory, capacity=capacity, load=load)


@register("suffix", budget="nodes", knobs=("nodes", "floor", "memory", "capacity", "load"))
def _build(workshop: Workshop) -> Suffix:
    return Suffix(workshop.target.eos_ids, **workshop.options)
