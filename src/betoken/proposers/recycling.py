"""`recycling`: Token Recycling (Luo et al. 2024, arXiv 2408.08696): what the target last held likely after a token, drafted again.

A forward pass says the likeliest successors of every node it was fed, accepted or not. They are kept, a row a token (the paper's
adjacency matrix, section 3.1), and the last write wins. Five things differ from the paper, each measured in docs/methods.md. The
tree is grown best first instead of having one fixed shape (section 3.2): a successor's score is how often one like it, in a row
like this one, was right so far. What is like it is told by how likely the target held it then, compared with the other successors. Where
tokens are drawn, the noise of the draw to come, which is known, is added to that. Beside a row for each token there is one for each pair of
tokens. And the context is read too.
"""

from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING

from betoken.draft import Draft
from betoken.errors import ParameterError
from betoken.noise import Draw
from betoken.proposers.base import (
    BaseProposer,
    Grown,
    Needs,
    ObserveContext,
    ProposeContext,
    SeqView,
    Workshop,
    as_draft,
    draw_of,
    register,
)

if TYPE_CHECKING:
    from betoken.memory.recycled import Rows

NAMESPACES = 8
LIMITS = {"nodes": (1, 4096), "k": (1, 64), "pairs": (0, 2**24)}


class Recycling(BaseProposer):
    """Token Recycling at any temperature: rows hold the target's likeliest tokens, hit rates count the tokens it chose.

    nodes: how many nodes a tree has at most
    k:     how many successors a row keeps
    pairs: how many rows of pairs there are; 0: none, as in the paper

    Rows are kept across requests, `5 * k + 20` bytes each, rounded up to a multiple of 64, as many as were needed, at most `V + pairs` of
    them a namespace, of the `NAMESPACES` that were used last.
    Raises ParameterError.
    """

    name = "recycling"

    def __init__(self, vocab_size: int, *, nodes: int = 40, k: int = 8, pairs: int = 65536) -> None:
        for name, value in (("nodes", nodes), ("k", k), ("pairs", pairs)):
            low, high = LIMITS[name]
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ParameterError(name, value, f"a whole number from {low} to {high}")
        # Here and not above: the compiler behind it takes half a second to import.
        from betoken.memory import recycled, successors

        recycled.warm_up()
        self._k = min(k, vocab_size)
        self.needs = Needs(top_ids=self._k, noise=True)
        self._new_rows = partial(recycled.Rows, vocab_size, pairs, self._k)
        self._new_rates = partial(successors.untaught, self._k)
        self._tree, self._rates = recycled.room_for(nodes), self._new_rates()
        self._drafted = self._tree.places[:4]
        self._memories: OrderedDict[str, Rows] = OrderedDict()
        self._used: dict[int, Rows] = {}
        self._namespaces: dict[int, str] = {}
        self._read: dict[int, int] = {}
        self._drawn_apart = False

    def begin(self, seq: SeqView) -> None:
        self._namespaces[seq.seq_id] = seq.namespace
        self._used[seq.seq_id], self._read[seq.seq_id] = self._memory_of(seq.namespace), 0

    def _memory_of(self, namespace: str) -> "Rows":
        memory = self._memories.pop(namespace, None) or self._new_rows()
        self._memories[namespace] = memory
        if len(self._memories) > NAMESPACES:
            self._memories.popitem(last=False)
        return memory

    def propose(self, ctx: ProposeContext) -> list[Draft]:
        self._drawn_apart = ctx.stochastic
        return [as_draft(self.grow(seq, ctx.least)) for seq in ctx.seqs]

    def _read_on(self, seq: SeqView) -> None:
        """Take up the context that has come since the last step; output is learnt from the target's own words."""
        read = self._read[seq.seq_id]
        if read < len(seq.tokens):
            self._used[seq.seq_id].read(seq.tokens[max(read - 2, 0) :], len(seq.tokens) - read)
            self._read[seq.seq_id] = len(seq.tokens)

    def grow(self, seq: SeqView, least: float) -> Grown:
        """What `propose` drafts, as arrays; see `base.Grows`."""
        self._read_on(seq)
        before, root = seq.tokens[-2:][0], seq.tokens[-1]
        tree = self._tree
        size = self._used[seq.seq_id].grow(self._rates, tree, before, root, seq.room, least, self._draw(seq, 0))
        return Grown(size, tree.tokens, tree.parents, tree.scores, self._drafted)

    def _draw(self, seq: SeqView, ago: int) -> Draw:
        return draw_of(seq, ago, apart=self._drawn_apart)

    def observe(self, ctx: ObserveContext) -> None:
        """Rates first: they are about the rows that were drafted from. Of one sequence both at once."""
        alone = len(ctx.seqs) == 1
        if not alone:
            for seq, verdict in zip(ctx.seqs, ctx.verdicts, strict=True):
                emitted = len(verdict.tokens)
                self._used[seq.seq_id].learn(self._rates, seq.tokens[-2 - emitted :], self._draw(seq, emitted))
        logits = ctx.top_logits or (None,) * len(ctx.seqs)
        said = zip(ctx.seqs, ctx.drafts, ctx.verdicts, ctx.top_ids, logits, strict=True)
        for seq, draft, verdict, top_ids, top_logits in said:
            first = len(seq.tokens) - len(verdict.tokens)
            rows = self._used[seq.seq_id]
            if alone:
                draw = self._draw(seq, len(verdict.tokens))
                rows.take_in(self._rates, seq.tokens[first - 2 :], draft, verdict.path, top_ids, top_logits, draw)
            else:
                before, root = seq.tokens[first - 2], seq.tokens[first - 1]
                rows.write(self._rates, before, root, draft, verdict.path, top_ids, top_logits)
            self._read[seq.seq_id] += len(verdict.tokens)

    def forget(self) -> None:
        """Live sequences, too, start from nothing."""
        self._memories.clear()
        self._rates = self._new_rates()
        self._used = {seq_id: self._memory_of(self._namespaces[seq_id]) for seq_id in self._used}

    def end(self, seq_id: int) -> None:
        for state in (self._used, self._read, self._namespaces):
            state.pop(seq_id, None)


@register("recycling", budget="nodes", knobs=("nodes", "k", "pairs"))
def _build(workshop: Workshop) -> Recycling:
    return Recycling(workshop.target.vocab_size, **workshop.options)
