"""Drafters held at arm's length: what one raises, or returns amiss, costs it the request it was asked for, and nothing else."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from betoken.draft import EMPTY, Draft, trunk
from betoken.errors import BetokenError
from betoken.policy.claims import Claims
from betoken.policy.cost import Costs
from betoken.proposers.base import BaseProposer, Grows, ObserveContext, ProposeContext, Proposer, SeqView

REFERENCE = "reference"
LOG = logging.getLogger("betoken.auto")
# Where nothing that was drafted is fed, some times in a row, nobody is thought of for 1, 2, 4, ... steps.
PATIENCE, LONGEST_REST, MOST_TIRED = 2, 15, 7
# Who has to read more than so many tokens before it can draft was not asked for a while.
FAR = 6


@dataclass(slots=True)
class Row:
    """What is known of one sequence. able, begun: bits, who may be asked, and who has read it; draft: what was to be fed; right: how deep
    the last tree was right, None where there was none, or it rested since; pace: tokens a step, lately; value: of a token, beside others';
    read: how long it was when a member was last asked, by bit, of those that have to read it."""

    claims: Claims
    able: int
    begun: int = 0
    draft: Draft = EMPTY
    right: int | None = None
    tired: int = 0
    rest: int = 0
    pace: float = 1.0
    value: float = 1.0
    read: dict[int, int] = field(default_factory=dict)

    def near(self, length: int) -> int:
        """Bits: who was asked a moment ago, now that it is so long."""
        found = 0
        for bit, read in self.read.items():
            if length - read <= FAR:
                found |= bit
        return found

    def rests(self) -> bool:
        """Whether nobody need be thought of in this step: what was drafted lately was not worth feeding."""
        self.rest -= 1
        return self.rest >= 0

    def went_by(self, steps: int) -> None:
        """So many in which it rested, and nobody was told."""
        self.rest -= steps
        self.right, self.draft = None, EMPTY
        self.claims.step += steps

    def tire(self, costly: bool) -> bool:
        """Something was fed in this step, or nothing; which of these. A row rests where thinking costs something."""
        fed = bool(self.draft.tokens)
        self.tired = 0 if fed else min(self.tired + 1, MOST_TIRED)
        self.rest = min(1 << self.tired >> PATIENCE + 1, LONGEST_REST) if costly else 0
        return fed


Pair = tuple[SeqView, Row]


class Member:
    """One of them. Errors that are the user's to mend (BetokenError) go through."""

    def __init__(self, index: int, name: str, proposer: Proposer, *, branching: bool) -> None:
        self.index, self.bit, self.name, self.proposer = index, 1 << index, name, proposer
        self.remembers = getattr(proposer, "library", None) is not None
        self.top_ids = self.shown_top_ids = proposer.needs.top_ids
        self.always = self.top_ids > 0 or name == REFERENCE
        self._branching = branching
        self.grows = branching and isinstance(proposer, Grows)  # else its drafts have to be cut to chains
        self.levels = proposer.needs.levels
        self.observes = getattr(type(proposer), "observe", None) is not BaseProposer.observe

    def able(self, seq: SeqView) -> int:
        """Its bit where it can be of use to a sequence."""
        return self.bit if self.name != REFERENCE or seq.reference else 0

    def began(self, pairs: Sequence[Pair]) -> bool:
        """Whether it has read them all."""
        for _, row in pairs:  # noqa: SIM110 - at every step, and a generator takes ten times as long
            if not row.begun & self.bit:
                return False
        return True

    def near(self, pairs: Sequence[Pair]) -> bool:
        """Whether it was asked for all of these a moment ago; now it is, anyway. One that need not read them always is near."""
        near = True
        if self.levels:
            for seq, row in pairs:
                length = len(seq.tokens)
                near = near and bool(row.near(length) & self.bit)
                row.read[self.bit] = length
        return near

    def begin(self, seq: SeqView, row: Row) -> None:
        row.begun |= self.bit
        try:
            self.proposer.begin(seq)
        except BetokenError:
            raise
        except Exception as failure:
            self._drop([(seq, row)], failure)

    def drafts(self, pairs: Sequence[Pair], ctx: ProposeContext) -> Sequence[Draft]:
        """One draft a pair; none where it failed."""
        try:
            drafts: Any = self.proposer.propose(ctx)
        except BetokenError:
            raise
        except Exception as failure:
            self._drop(pairs, failure)
            return ()
        if _one_each(drafts, len(pairs)):
            return drafts if self._branching else [trunk(draft) for draft in drafts]
        self._drop(pairs, "it returned something else than one draft a sequence")
        return ()

    def grown(self, pair: Pair, least: float, costs: Costs) -> bool:
        """What it drafts, as arrays, over what is there; whether that worked."""
        seq, row = pair
        try:
            grown = self.proposer.grow(seq, least)  # type: ignore[attr-defined]
            row.claims.lay(self.index, grown.size, grown.places, costs.more, costs.rate)
        except BetokenError:
            raise
        except Exception as failure:
            self._drop([pair], failure)
            return False
        return True

    def lay(self, pair: Pair, draft: Draft, costs: Costs) -> bool:
        """Its draft over what is there; whether that worked."""
        try:
            pair[1].claims.add(self.index, draft, costs.more, costs.rate)
        except Exception as failure:
            self._drop([pair], failure)
            return False
        return True

    def observe(self, pairs: Sequence[Pair], places: Sequence[int], ctx: ObserveContext) -> None:
        """What came of the rows at these places."""
        try:
            self.proposer.observe(self._shown(places, ctx))
        except BetokenError:
            raise
        except Exception as failure:
            self._drop([pairs[place] for place in places], failure)

    def _shown(self, places: Sequence[int], ctx: ObserveContext) -> ObserveContext:
        k = self.top_ids
        if len(places) == len(ctx.seqs) and k in (0, self.shown_top_ids):
            return ctx
        return ctx.only(places, k)

    def end(self, seq_id: int) -> None:
        try:
            self.proposer.end(seq_id)
        except Exception as failure:
            LOG.warning("%s failed at the end of a request: %s", self.name, failure)

    def _drop(self, pairs: Sequence[Pair], why: Exception | str) -> None:
        why = why if isinstance(why, str) else f"{type(why).__name__}: {why}"
        LOG.warning("%s is not asked any more for this request: %s", self.name, why)
        for _, row in pairs:
            row.able &= ~self.bit


def _one_each(drafts: Any, count: int) -> bool:
    whole = isinstance(drafts, Sequence) and len(drafts) == count
    return whole and all(isinstance(draft, Draft) for draft in drafts)
