"""`mix`: an adaptive n-gram model of the sequence and of earlier ones drafts a tree. No training, no draft model.

Contexts of 0 to 8 tokens and the longest match, here and in memory, are blended by weights that learn online which of
them to believe, from every token that comes (`memory.beliefs`). The tree grows best-first on the blended probabilities.
"""

from collections.abc import Iterable

from betoken.memory import BLEND
from betoken.proposers.base import Workshop, register
from betoken.proposers.reading import ReadingProposer


class Mix(ReadingProposer):
    """The likeliest continuations, all `nodes` of them where anything is known. Options: see `ReadingProposer`."""

    name = "mix"

    def __init__(
        self,
        ends: Iterable[int] = (),
        *,
        nodes: int = 40,
        floor: float = 0.0,
        memory: bool | str = True,
        capacity: int = 1_000_000,
        load: str | None = None,
    ) -> None:
        super().__init__(BLEND, ends, nodes=nodes, floor=floor, memory=memory, capacity=capacity, load=load)


@register("mix", budget="nodes", knobs=("nodes", "floor", "memory", "capacity", "load"))
def _build(workshop: Workshop) -> Mix:
    return Mix(workshop.target.eos_ids, **workshop.options)
