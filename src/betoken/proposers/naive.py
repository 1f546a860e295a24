"""`naive`: the first idea of every talk: guess statically. Each token is followed by what followed it most often so far."""

from collections import Counter, defaultdict

from betoken.draft import Draft, chain
from betoken.errors import ParameterError
from betoken.proposers.base import BaseProposer, ObserveContext, ProposeContext, SeqView, Workshop, register

Successors = defaultdict[int, Counter[int]]

MOST = 4096


class Naive(BaseProposer):
    """A chain of `k` most frequent successors; among equals the most recently seen one. Nothing seen after a token: the chain ends."""

    name = "naive"

    def __init__(self, k: int = 2) -> None:
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MOST:
            raise ParameterError("k", k, f"a whole number from 1 to {MOST}")
        self._k = k
        self._seen: dict[int, Successors] = {}
        self._best: dict[int, dict[int, int]] = {}
        self._read: dict[int, int] = {}

    def begin(self, seq: SeqView) -> None:
        self._seen[seq.seq_id] = defaultdict(Counter)
        self._best[seq.seq_id] = {}
        self._read[seq.seq_id] = 1

    def propose(self, ctx: ProposeContext) -> list[Draft]:
        return [self._guess(seq) for seq in ctx.seqs]

    def _guess(self, seq: SeqView) -> Draft:
        self._read_on(seq)
        best = self._best[seq.seq_id]
        token = seq.tokens[-1]
        tokens: list[int] = []
        while len(tokens) < min(self._k, seq.room) and (token := best.get(token, -1)) >= 0:
            tokens.append(token)
        return chain(tokens)

    def _read_on(self, seq: SeqView) -> None:
        seen, best = self._seen[seq.seq_id], self._best[seq.seq_id]
        for place in range(self._read[seq.seq_id], len(seq.tokens)):
            before, token = seq.tokens[place - 1], seq.tokens[place]
            seen[before][token] += 1
            if seen[before][token] >= seen[before][best.get(before, token)]:
                best[before] = token
        self._read[seq.seq_id] = len(seq.tokens)

    def observe(self, ctx: ObserveContext) -> None:
        """Nothing to do: the text itself is read at the next proposal."""

    def end(self, seq_id: int) -> None:
        for state in (self._seen, self._best, self._read):
            state.pop(seq_id, None)


@register("naive", knobs=("k",))
def _build(workshop: Workshop) -> Naive:
    return Naive(**workshop.options)
