"""How `auto` decides.

Members that take next to none of a pass are asked at every step, as long as what they bring a row pays for that, those first who read
what the target holds likely, and after them others only where these found something; a row that nothing could be fed for rests a while.
Of the rest the one whose answer is expected to be worth most beyond its price is asked, then the
next, each only where what it adds to the tree so far pays for its time (`policy.pays`); a draft model is stopped level by level by the
same rule. Their trees are laid over each other (`policy.claims`), and as many of the likeliest nodes are fed as bring in more than the
time they add (`policy.cost`) is worth at the tokens per second that are being made. A batch has one budget: it is as wide as its widest
row.

Decisions follow the clock; the text cannot, since the walk keeps only what the target says itself.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from betoken.draft import EMPTY, Draft
from betoken.errors import ParameterError
from betoken.policy import pays
from betoken.policy.claims import SEEMS, Claims, Records
from betoken.policy.clock import Pace, Steady
from betoken.policy.cost import Costs, Curve, Measured
from betoken.policy.ledger import Ledger
from betoken.policy.mixing import MOST
from betoken.proposers.auto import NAME, NODES, options
from betoken.proposers.auto.books import Books
from betoken.proposers.auto.choosing import Choosing
from betoken.proposers.auto.experts import OFTEN, Experts
from betoken.proposers.auto.exploring import Exploring
from betoken.proposers.auto.levels import Known, Levels
from betoken.proposers.auto.members import LONGEST_REST, Member, Pair, Row
from betoken.proposers.auto.prices import Prices
from betoken.proposers.auto.resting import SELDOM, Resting
from betoken.proposers.auto.step import Step, begins
from betoken.proposers.auto.together import Together
from betoken.proposers.base import BaseProposer, Needs, ObserveContext, ProposeContext, Proposer, SeqView, draw_of

# Of the time that passes, this share may be lost by asking drafters that do not seem to pay.
EXPLORE = 0.005
# Deciding and observing take longer the more members were asked: what each is charged of what they take a step, and of a plain pass at
# most, for clocks go wrong.
TAX, MOST_TAX = 0.4, 0.05
# Who takes, for a row, no more of a plain pass than this, and has brought a row as much as that takes, is asked by it at every step:
# what it would bring shows only by asking, and some learn only then. A new row has the benefit of the doubt.
CHEAP, BENEFIT = 0.1, 1.5
# Where those who are asked first, one of them who reads what the target holds likely, found so little, in tokens, others hardly find more:
# they are asked for their worth alone.
LITTLE = 0.05
# In a batch it has to have brought more, for rows have to be gathered and told, and facts alone count: what seems worth feeding to one row
# may not be worth it for all.
MORE, FACTS = 1.25, 0.0
# What a step takes around its pass counts for so many plain passes, at most: clocks go wrong, and callers wait.
MOST_AROUND = 1.0
# Where asking and deciding take less of a plain pass than this nobody need rest.
NOTHING = 0.02
# After so many steps the curve is known well enough to be corrected by every third pass.
NEW = 100
# Where drafts could not make a row so many times as fast if all that was drafted came true nobody is asked.
HOPELESS = 1.02
# What a node costs is taken from how much longer passes get up to so many nodes.
WIDE = 32
# Nodes less likely than this share of what a node must be worth need not be drafted: calibration may still raise them. And this much
# less where feeding them teaches.
SLACK, TEACHING = 0.3, 0.33
HEATS = (0.0, 0.6)


class Auto(BaseProposer):
    """Members by name.

    curve:   what forward passes take; unknown at first where none is given, and learnt
    nodes:   of a draft, at most
    explore: the share of time that asking drafters which do not seem to pay may be expected to lose
    branching: whether the target takes trees; if not, of each draft its first chain
    experts: how many the target's mixture has; then the log says, once, and every draft, when they are why it is short
    Raises ParameterError.
    """

    name = NAME

    def __init__(
        self,
        members: Mapping[str, Proposer],
        *,
        curve: Curve | None = None,
        nodes: int = NODES,
        explore: float = EXPLORE,
        branching: bool = True,
        experts: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        options.check(members, nodes, explore)
        self._members = [
            Member(index, name, member, branching=branching) for index, (name, member) in enumerate(members.items())
        ]
        self._in_turn = sorted(self._members, key=lambda member: not member.always)
        self._curve: Curve = Measured() if curve is None else curve
        self._names = [*members]
        self._nodes, self._explore, self._clock = nodes, float(explore), Steady(clock)
        self._wide = min(WIDE, nodes)
        self.needs = Needs(max((member.top_ids for member in self._members), default=0))
        for member in self._members:
            member.shown_top_ids = self.needs.top_ids
        self._readers = sum(member.bit for member in self._members if member.top_ids)
        self._deaf = sum(member.bit for member in self._members if not member.proposer.needs.noise)
        self._records = [Records() for _ in range(len(HEATS) + 1)]
        self._prices = Prices(len(self._members))
        self._rows: dict[int, Row] = {}
        self._experts = Experts(experts)
        self._choosing = Choosing(nodes, self._names, self._experts)
        self._learnt_nothing()

    def _learnt_nothing(self) -> None:
        count = len(self._members)
        self._prices.forget()
        self._levels, self._extra, self._costs = Known(), 0.0, Costs()
        self._paces, self._together = [Pace() for _ in self._records], Together()
        self._pace = self._paces[0]  # of whoever came last, all of one heat together
        self._settled = 0  # bits: who is asked, in this step, only where it brought enough
        self._due = [0.0] * MOST  # what an answer of each member has to bring, in tokens
        self._exploring = Exploring(count, self._explore)
        self._step, self._resting = Step(asked=[0] * count), Resting()
        self._books = Books(self._names)

    @property
    def ledger(self) -> Ledger:
        """What was decided, and what came of it."""
        return self._books.ledger

    @property
    def library(self) -> Any:
        """What a member remembers of earlier answers; None where none does."""
        return next((getattr(member.proposer, "library", None) for member in self._members if member.remembers), None)

    def begin(self, seq: SeqView) -> None:
        """Members are begun when they are first asked: a draft model that is never asked need not read the prompt. Those that
        remember what is said are begun at once."""
        heat = sum([seq.sampler.params.temperature > edge for edge in HEATS])
        records = self._records[heat]
        able = sum(member.able(seq) for member in self._members)
        claims = Claims(records, self._nodes * max(len(self._members), 1), self._nodes, self._prices.places)
        np.maximum(claims.brought, np.multiply(self._due, BENEFIT), out=claims.brought)
        row = Row(claims, able, tired=self._resting.tired, pace=self._together.pace)
        self._rows[seq.seq_id] = row
        self._write_down()  # nobody rests with who is new
        self._pace = self._paces[heat]
        self._step.left = None
        try:
            for member in self._members:
                if member.remembers:
                    self._begin(member, [(seq, row)])
        except BaseException:  # interrupted: nobody will end it
            self.end(seq.seq_id)
            raise

    def _begin(self, member: Member, pairs: Sequence[Pair]) -> None:
        for seq, row in pairs:
            if not row.begun & member.bit:
                start = self._clock()
                member.begin(seq, row)
                took = self._clock() - start
                self._prices.note(pays.BEGINNING, member.index, took / self._curve.pace)

    def propose(self, ctx: ProposeContext) -> list[Draft]:
        if ctx.stochastic:
            raise ParameterError(
                "method", NAME, 'a method by name where acceptance is "residual": auto keeps nodes by value'
            )
        start = self._clock()
        self._write_down()
        rows, context = max(ctx.rows, len(ctx.seqs)), max([len(seq.tokens) for seq in ctx.seqs])
        pairs = [(seq, self._rows[seq.seq_id]) for seq in ctx.seqs]
        seconds = self._curve.seconds(rows, context, self._nodes)
        step, plain, costs = self._step, float(seconds[0]), self._costs
        step.around = math.nan if step.left is None else start - step.left
        step.rows, step.context, step.plain, step.asked = rows, context, plain, [0] * len(self._members)
        costs.of(seconds, min(self._prices.around * rows, MOST_AROUND * plain))
        costs.rate = max(self._pace.speedup, 1.0) / costs.plain
        step.rate, step.pace = costs.rate * rows, self._curve.pace
        step.forgotten = self._curve.forgotten(rows)
        if step.forgotten:
            drafts = self._nobody(pairs)
        elif costs.most < HOPELESS:
            drafts = self._nobody(pairs)
            self._resting.lie_down(pairs, LONGEST_REST)
        else:
            drafts = self._thought_of(pairs, last=ctx.last)
            self._resting.lie_down(pairs, self._exploring.rest(pairs, plain))
        step.left = self._clock()
        step.spent = step.left - start
        return drafts

    def _thought_of(self, pairs: list[Pair], *, last: bool) -> list[Draft]:
        """Whoever need not rest asks, or is to try somebody; then it is decided what is fed."""
        step, costs = self._step, self._costs
        tried: dict[int, int] = {}
        if self._exploring.due():
            tried = self._exploring.whom(pairs, self._members, self._prices, costs.rate)
        awake = [pair for pair in pairs if not pair[1].rests() or pair[0].seq_id in tried]
        if not awake:
            return self._nobody(pairs)
        step.least = SLACK * costs.between(0, self._wide) / self._wide
        self._extra = min(TAX * self._prices.deciding, MOST_TAX * step.plain)
        for seq, row in pairs:
            row.claims.clear(pays.standing(row.right), draw_of(seq, apart=False), self._deaf)
        self._together.value(pairs, step, self._curve, last=last)
        began = step.now = self._clock()
        self._ask_all(awake, tried)
        step.asking = (step.now - began) / step.pace
        drafts = self._choosing.choose(step, pairs, costs, self._prices.deciding)
        self._resting.tire(awake, costly=(step.asking + self._prices.deciding) / step.plain > NOTHING)
        return drafts

    def rests(self) -> bool:
        return self._resting.rests()

    def rested(self, rows: int, seconds: float) -> None:
        self._resting.went_by(rows, seconds)

    def _write_down(self) -> None:
        """What went by."""
        if self._resting:
            self._step.left = None
            rest = self._step, self._curve, self._nodes, self._together, self._pace, self._exploring, self._books
            self._resting.write_down(*rest)
        self._resting.wake()

    def _nobody(self, pairs: Sequence[Pair]) -> list[Draft]:
        """A step in which nobody is thought of."""
        step = self._step
        step.nodes = step.most = 0
        step.expected, step.seconds, step.asking = float(step.rows), step.plain, 0.0
        for _, row in pairs:
            row.claims.clear()
            row.draft = EMPTY
        return [EMPTY] * len(pairs)

    def _ask_all(self, waiting: list[Pair], tried: dict[int, int]) -> None:
        """Each row asks who is cheap; then whom it thinks is worth most, and the next, until nobody seems to pay."""
        self._ask_cheap(waiting)
        while waiting:
            chosen: dict[int, list[Pair]] = {}
            for pair in waiting:
                seq, row = pair
                index = self._tried(tried, seq, row) if seq.seq_id in tried else self._next(seq, row)
                if index >= 0:
                    chosen.setdefault(index, []).append(pair)
            if not chosen:
                return
            waiting = []
            for index, asking in sorted(chosen.items()):
                self._ask(self._members[index], asking)
                waiting += asking

    def _ask_cheap(self, pairs: list[Pair]) -> None:
        """Of a batch the rows whom a cheap member brought too little do not ask it for its worth either: that takes it that all rows
        make use of a wide pass."""
        step = self._step
        most, together = CHEAP * step.plain, step.rows > 1
        self._settled = 0
        for member in self._in_turn:
            price = self._prices.asking(member.index)
            due = self._due[member.index] = step.rate * price * (MORE if together else 1.0)
            if member.levels or price > most:
                continue
            asking = [pair for pair in pairs if self._promises(member, pair, due)]
            if asking:
                self._ask(member, asking)
            if price > 0 and together:
                self._settled |= member.bit

    def _promises(self, member: Member, pair: Pair, due: float) -> bool:
        """Whether a row asks a member that is cheap, as it has brought as much as is due."""
        seq, row = pair
        claims = row.claims
        if not row.able & member.bit or seq.room < 1 or row.value * claims.brought[member.index] < due:
            return False
        return member.always or not claims.asked & self._readers or claims.added > LITTLE

    def _next(self, seq: SeqView, row: Row) -> int:
        """Whom a row should ask now; -1: nobody."""
        able = row.able & ~self._settled if seq.room >= 1 else 0
        near = row.near(len(seq.tokens))
        return row.claims.whom(self._extra, able, row.begun, near, self._readers, self._step.rate / row.value)

    def _tried(self, tried: dict[int, int], seq: SeqView, row: Row) -> int:
        index = tried.pop(seq.seq_id)
        return self._next(seq, row) if row.claims.asked >> index & 1 else index

    def _ask(self, member: Member, pairs: Sequence[Pair]) -> None:
        """Ask one member for some rows."""
        step, index, count = self._step, member.index, len(pairs)
        begun = start = step.now
        if not member.began(pairs):
            self._begin(member, pairs)
            pairs = [pair for pair in pairs if pair[1].able & member.bit]
            start = self._clock()
        account = self._books.accounts[member.name]
        self._exploring.asked(index)
        for _, row in self._laid(member, pairs):
            account.asked += 1
            account.worth += row.claims.worth
        step.now = self._clock()
        self._prices.asked(index, (step.now - start) / step.pace / count, near=member.near(pairs))
        step.asked[index] += count
        account.seconds += step.now - begun

    def _laid(self, member: Member, pairs: Sequence[Pair]) -> Sequence[Pair]:
        """Those rows over whose tree the member's draft was laid."""
        step, costs = self._step, self._costs
        if member.grows:
            least = step.least * TEACHING if member.top_ids else step.least
            return [pair for pair in pairs if member.grown(pair, least, costs)]
        if not pairs:
            return ()
        levels = None
        if member.levels:
            levels = Levels(member, pairs, self._levels, self._clock, step.pace, step.rate, costs)
        drafts = member.drafts(
            pairs, ProposeContext([seq for seq, _ in pairs], rows=len(pairs), least=step.least, pays=levels)
        )
        return [pair for pair, draft in zip(pairs, drafts, strict=False) if member.lay(pair, draft, costs)]

    def observe(self, ctx: ObserveContext) -> None:
        start = self._clock()
        step, pace = self._step, self._curve.pace
        if step.left is not None:
            step.around += start - step.left - ctx.seconds
        pairs = [(seq, self._rows[seq.seq_id]) for seq in ctx.seqs]
        following = 0.0
        for member in self._members:
            if member.observes and step.asked[member.index]:
                following += self._follow(member, pairs, ctx, pace, start + following)
        emitted, width = self._learn(pairs, ctx)
        turn = self._exploring.turn
        if turn < NEW or turn % SELDOM == 0 or step.forgotten:
            self._curve.learn(step.rows, width, step.context, ctx.seconds)
        # What deciding takes has what members take to observe in it.
        whole, plain = step.seconds + self._costs.around + self._prices.deciding, self._costs.plain
        self._pace.learn(emitted / max(len(pairs), 1), whole / plain if plain > 0 else 1.0)
        self._exploring.earn(whole)
        self._prices.settle()
        step.left = self._clock()
        step.spent += step.left - start
        self._keep_books(emitted + step.rows - len(pairs), ctx.seconds, pace)

    def _learn(self, pairs: list[Pair], ctx: ObserveContext) -> tuple[int, int]:
        """What the target said of what was claimed. Returns how many tokens came, and how wide the pass was."""
        lengths, width = [], ctx.width
        batch, seems, fresh = self._choosing.batch.places, SEEMS if self._step.rows == 1 else FACTS, True
        for (_, row), draft, verdict in zip(pairs, ctx.drafts, ctx.verdicts, strict=True):
            lengths.append(len(verdict.tokens))
            width = max(width, 1 + len(draft))
            # Where nodes amid it were not fed the rest has other numbers.
            fed = len(draft) if draft is row.draft or begins(row.draft, draft) else 0
            if row.claims.asked:
                row.right = row.claims.learn(verdict.tokens, batch, fed, seems, fresh=fresh)
                fresh = False
            row.claims.step += 1
        self._together.learn(pairs, lengths)
        return sum(lengths), width

    def _keep_books(self, emitted: int, measured: float, pace: float) -> None:
        step, deciding = self._step, self._prices.deciding
        self._prices.decided((step.spent - step.asking * pace) / pace)
        if step.around >= 0.0:
            self._prices.went_around(step.around / pace / step.rows)
        written = self._books.keep(step, emitted, self._choosing.batch.came, measured, pace, deciding)
        if written and self._books.ledger.held_back >= OFTEN:
            self._experts.blame(self._curve.seconds(step.rows, step.context, self._nodes))

    def _follow(self, member: Member, pairs: Sequence[Pair], ctx: ObserveContext, pace: float, start: float) -> float:
        """Show a member what came of it, for the rows it was asked for; returns the seconds, from `start` on."""
        bit = member.bit
        places = [place for place, (_, row) in enumerate(pairs) if row.claims.asked & row.able & bit]
        if not places:
            return 0.0
        member.observe(pairs, places, ctx)
        took = self._clock() - start
        self._prices.note(pays.FOLLOWING, member.index, took / pace / len(places))
        return took

    def forget(self) -> None:
        for records in self._records:
            records.forget()
        self._learnt_nothing()
        for member in self._members:
            member.proposer.forget()

    def end(self, seq_id: int) -> None:
        row = self._rows.pop(seq_id, None)
        self._write_down()
        for member in self._members:
            if row is not None and row.begun & member.bit:
                member.end(seq_id)
