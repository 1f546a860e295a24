"""What `mix` and `suffix` share: sequences are indexed as they grow, and remembered for later ones when they end."""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from betoken.draft import EMPTY, Draft
from betoken.errors import ParameterError
from betoken.proposers.base import NO_LESSONS, BaseProposer, Grown, ProposeContext, SeqView, as_draft

MOST_NODES, MOST_TOKENS = 4096, 2**30
# Of what came since it last drafted for a sequence, so many tokens are read when that ends, to be remembered. Who drafted so long ago
# is not trusted with it, and whoever waits for the next answer need not wait for the reading.
TAIL = 64


class ReadingProposer(BaseProposer):
    """Drafts from an index of the sequence and of ended ones (those without their first prompt, which often is long,
    and not what a model says).

    nodes:    of a draft, at most
    floor:    no node whose path is less probable than this
    memory:   whether ended sequences are remembered, each for its own namespace
    capacity: how many tokens of them
    load:     a file written by `library.save`, to begin with
    Raises ParameterError; BetokenError where the file cannot be loaded.
    """

    def __init__(
        self,
        rule: int,
        ends: Iterable[int],
        *,
        nodes: int,
        floor: float,
        memory: bool | str,
        capacity: int,
        load: str | None,
    ) -> None:
        for name, value, most in (("nodes", nodes, MOST_NODES), ("capacity", capacity, MOST_TOKENS)):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise ParameterError(name, value, f"a whole number from 1 to {most}")
        if isinstance(floor, bool) or not isinstance(floor, int | float) or not 0 <= floor < 1:
            raise ParameterError("floor", floor, "a number from 0 to below 1")
        if not isinstance(memory, bool | str) or memory not in SWITCH:
            raise ParameterError("memory", memory, "on or off")
        if load is not None and not isinstance(load, str | PathLike):
            raise ParameterError("load", load, "the name of a file that was saved")
        # Here and not above: the compiler behind them takes half a second to import.
        from betoken.addresses import places
        from betoken.memory.library import Library
        from betoken.memory.reader import Reader

        self.library: Library = Library(capacity)
        if load is not None:
            self.library.load(Path(load))
        self._seqs: dict[int, SeqView] = {}
        self._reader = Reader(rule, nodes=nodes, floor=floor, ends=ends, library=self.library, remember=SWITCH[memory])
        tree = self._reader.tree
        self._drafted = places((tree.token, tree.parent, tree.score, NO_LESSONS))

    def begin(self, seq: SeqView) -> None:
        self._reader.begin(seq.seq_id, seq.prompt_length, seq.namespace)
        self._seqs[seq.seq_id] = seq

    def propose(self, ctx: ProposeContext) -> list[Draft]:
        return [EMPTY if seq.room < 1 else as_draft(self.grow(seq, ctx.least)) for seq in ctx.seqs]

    def grow(self, seq: SeqView, least: float) -> Grown:
        """What `propose` drafts where there is room, as arrays; see `base.Grows`."""
        tree = self._reader.tree
        size = self._reader.grow(seq.seq_id, seq.tokens, seq.prompt_length, seq.room, least)
        return Grown(size, tree.token, tree.parent, tree.score, self._drafted)

    def end(self, seq_id: int) -> None:
        seq = self._seqs.pop(seq_id)
        if self._reader.unread(seq_id, seq.tokens) <= TAIL:
            self._reader.read(seq_id, seq.tokens, seq.prompt_length)
        self._reader.end(seq_id)

    def remove(self, seq_id: int) -> bool:
        """Forget what one ended sequence said; whether it was remembered."""
        return self._reader.remove(seq_id)

    def forget(self) -> None:
        self.library.clear()


SWITCH = {True: True, False: False, "on": True, "off": False}
