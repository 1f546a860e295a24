"""`auto`: nobody chooses a method or a length. Every step decides, from measured cost and calibrated acceptance, whom to ask and what
to feed; nothing is always among the choices.

The member whose answer is expected to be worth most beyond its price is asked, then the next, each only where what it adds to the
tree so far pays for its time (`policy.pays`); a draft model is stopped level by level by the same rule. Their trees are laid over each other (`policy.claims`), and
as many of the likeliest nodes are fed as bring in more than the time they add (`policy.cost`) is worth at the tokens per second that
are being made. A batch has one budget, for it is as wide as its widest row.

Decisions follow the clock; the text cannot, since the walk keeps only what the target says itself.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from betoken.draft import EMPTY, Draft, trunk
from betoken.errors import BetokenError, ParameterError
from betoken.policy.cost import Curve, Measured
from betoken.policy.ledger import Ledger, Note
from betoken.policy.pays import FADE, HOPE, OWN_FADE, Experience, Lately, Price, Trust, expected, situation
from betoken.proposers.base import (
    BaseProposer,
    Needs,
    ObserveContext,
    ProposeContext,
    Proposer,
    SeqView,
    TopIds,
    Workshop,
    budget_of,
    build,
    methods,
    register,
)

if TYPE_CHECKING:
    from betoken.policy.claims import Claims

NAME = "auto"
LOG = logging.getLogger("betoken.auto")
MOST_NODES = 512
# Of the time that passes, this share may go to asking drafters that do not seem to pay.
EXPLORE = 0.005
# How quickly the rate of tokens follows, a step.
RATE_FADE = 0.95
# What time is worth: by the rate of tokens lately, and by what this step could bring; the latter's share.
PROSPECT = 0.6
# How much of what a member is worth one node more or less to learn from decides.
LESSON, LESSONS = 0.012, 0.15
# Nobody is asked for the sake of it who was asked so few steps ago. What beginning a sequence costs is spread over so many steps.
RESTING, BEGINNING = 4, 24
# What a node costs is taken from how much longer passes get up to so many nodes.
WIDE = 32
# Where nobody pays nobody is thought of for 1, 3, 7 steps.
LONGEST_REST = 7
# A member that is asked alone, and pays, need not be judged at every step.
SELDOM = 2
# Nodes less likely than this share of what a node must be worth need not be drafted: calibration may still raise them.
SLACK = 0.1
HEATS = (0.0, 0.6)
# Experts are to blame where drafts were cut so often and a pass over eight nodes more takes so many times as long.
OFTEN, RISES = 64, 1.4


class _Steady:
    """A clock made of another's steps: those that are negative, endless or no number are left out."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._last, self._now = clock, 0.0, 0.0

    def __call__(self) -> float:
        shown = self._clock()
        if 0 < (step := shown - self._last) < 1e6:
            self._now += step
        if -math.inf < shown < math.inf:
            self._last = shown
        return self._now


@dataclass(slots=True)
class _Row:
    """What is known of one sequence."""

    heat: int
    claims: "Claims"
    own: list[Experience]
    trust: list[Trust]
    begun: set[int] = field(default_factory=set)
    dropped: set[int] = field(default_factory=set)
    asked: list[int] = field(default_factory=list)
    where: list[int] = field(default_factory=list)  # the situation each was asked in
    added: float = 0.0
    fed: int = 0
    right: int | None = None
    steps: int = 0
    tired: int = 0
    rest: int = 0

    def rests(self) -> bool:
        """Whether nobody need be thought of in this step: nobody paid lately, and who is not asked does not change."""
        self.rest -= 1
        return self.rest >= 0

    def tire(self, nobody: bool) -> None:
        """Nobody paid, or somebody did."""
        self.tired = min(2 * self.tired + 1, LONGEST_REST) if nobody else 0
        self.rest = self.tired


@dataclass(slots=True)
class _Step:
    """What the last step decided, until it is observed."""

    rows: int = 0
    context: int = 0
    nodes: int = 0
    most: int = 0  # nodes there were, of the row that had most
    expected: float = 0.0
    asking: float = 0.0  # measured, at the usual pace
    seconds: float = 0.0  # predicted, at the usual pace: the pass, and asking
    spent: float = 0.0  # measured: asking and deciding


class Auto(BaseProposer):
    """Members by name.

    curve:   what forward passes take; unknown at first where none is given, and learnt
    nodes:   of a draft, at most
    explore: the share of time that asking drafters which do not seem to pay may take
    branching: whether the target takes trees; if not, of each draft its first chain
    experts: how many the target's mixture has; the log then says, once, when they are why drafts are short
    Raises ParameterError.
    """

    name = NAME

    def __init__(
        self,
        members: Mapping[str, Proposer],
        *,
        curve: Curve | None = None,
        nodes: int = 64,
        explore: float = EXPLORE,
        branching: bool = True,
        experts: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if isinstance(nodes, bool) or not isinstance(nodes, int) or not 1 <= nodes <= MOST_NODES:
            raise ParameterError("nodes", nodes, f"a whole number from 1 to {MOST_NODES}")
        if isinstance(explore, bool) or not isinstance(explore, int | float) or not 0 <= explore <= 1:
            raise ParameterError("explore", explore, "a number from 0 to 1")
        from betoken.policy.claims import MOST, Records

        if len(members) > MOST:
            raise ParameterError("of", "+".join(members), f"at most {MOST} methods")
        self._names, self._members = [*members], [*members.values()]
        self._curve: Curve = Measured() if curve is None else curve
        self._branching, self._experts = branching, experts
        self._nodes, self._explore, self._clock = nodes, float(explore), _Steady(clock)
        self.needs = Needs(max((member.needs.top_ids for member in self._members), default=0))
        self._records: list[Records] = [Records() for _ in range(len(HEATS) + 1)]
        self._rows: dict[int, _Row] = {}
        self._learnt_nothing()

    def _learnt_nothing(self) -> None:
        count = len(self._members)
        self._shared = [[Experience() for _ in range(count)] for _ in self._records]
        self._trust = [[Trust() for _ in range(count)] for _ in self._records]
        self._prices = [Price() for _ in range(count)]
        self._levels, self._overhead = Lately(), Lately()
        self._worths = [Lately() for _ in range(count)]
        # A row's tokens, and how many plain passes they took, both fading; and what that makes.
        self._tokens, self._passes, self._speedup = 1.0, 1.0, 1.0
        self._allowance = 0.0
        self._since, self._turn = [0] * count, 0
        self._step = _Step()
        self.ledger = Ledger(self._names)

    @property
    def library(self) -> Any:
        """What a member remembers of earlier answers; None where none does."""
        remembered = (getattr(member, "library", None) for member in self._members)
        return next((library for library in remembered if library is not None), None)

    def begin(self, seq: SeqView) -> None:
        """Members are begun when they are first asked: a draft model that is never asked need not read the prompt. Those that
        remember what is said are begun at once."""
        from betoken.policy.claims import Claims

        temperature = seq.sampler.params.temperature
        heat = sum(temperature > edge for edge in HEATS)
        claims = Claims(self._records[heat], self._room)
        row = self._rows[seq.seq_id] = _Row(
            heat, claims, [Experience() for _ in self._members], [Trust() for _ in self._members]
        )
        for index, member in enumerate(self._members):
            if getattr(member, "library", None) is not None:
                self._begin(index, [(seq, row)])

    @property
    def _room(self) -> int:
        return 2 * self._nodes + 64

    def _begin(self, index: int, pairs: Sequence[tuple[SeqView, _Row]]) -> None:
        for seq, row in pairs:
            if index not in row.begun:
                row.begun.add(index)
                start = self._clock()
                self._guarded(index, [(seq, row)], lambda seq=seq: self._members[index].begin(seq))  # type: ignore[misc]
                self._prices[index].beginning.learn((self._clock() - start) / self._curve.pace)

    def propose(self, ctx: ProposeContext) -> list[Draft]:
        if ctx.stochastic:
            raise ParameterError(
                "method", NAME, 'a method by name where acceptance is "residual": auto keeps nodes by value'
            )
        start = self._clock()
        rows, context = max(ctx.rows, len(ctx.seqs)), max(len(seq.tokens) for seq in ctx.seqs)
        seconds = self._curve.seconds(rows, context, self._nodes)
        rate = float(self._speedup * rows / seconds[0])
        costs = (seconds - seconds[0]) * (rate / rows)
        pairs = [(seq, self._rows[seq.seq_id]) for seq in ctx.seqs]
        for _, row in pairs:
            row.claims.clear(situation(0.0, row.right, first=True))
            row.asked.clear()
            row.where.clear()
            row.added = 0.0
        asking = self._ask_all(pairs, rate, costs)
        drafts = self._choose(pairs, rows, seconds, asking, rate)
        step = self._step
        step.context, step.spent = context, self._clock() - start
        return drafts

    def _ask_all(self, pairs: Sequence[tuple[SeqView, _Row]], rate: float, costs: Any) -> float:
        """Each row asks whom it thinks is worth most, then the next, until nobody seems to pay. Returns the seconds that took, at the
        usual pace."""
        took = 0.0
        tried = self._explored(pairs)
        waiting = [(seq, row) for seq, row in pairs if seq.seq_id in tried or not row.rests()]
        while waiting:
            chosen: dict[int, list[tuple[SeqView, _Row]]] = {}
            for seq, row in waiting:
                index = tried.pop(seq.seq_id, None)
                if index is None:
                    index = self._next(seq, row, rate)
                if index is not None:
                    chosen.setdefault(index, []).append((seq, row))
                if not row.asked:
                    row.tire(index is None)
            waiting = [pair for index in sorted(chosen) for pair in chosen[index]]
            for index, asked in chosen.items():
                took += self._ask(index, asked, rate, costs)
        return took

    def _next(self, seq: SeqView, row: _Row, rate: float) -> int | None:
        """Whom a row should ask now: the one whose answer is worth most beyond its price; None where nobody's is."""
        best, most = None, 0.0
        where = situation(row.added, row.right, first=not row.asked)
        shared = self._shared[row.heat]
        for index, price in enumerate(self._prices):
            if index in row.asked or not self._able(index, seq, row):
                continue
            if not price.known:
                return index
            cost = price.row if index in row.begun else price.row + price.beginning.middle / BEGINNING
            lately = self._worths[index]
            usual = lately.mean if lately.values else HOPE
            worth = expected(shared[index], row.own[index], where, row.steps, usual) - rate * cost
            if self._members[index].needs.top_ids:
                worth += LESSONS * self._worths[index].middle
            if worth > most:
                best, most = index, worth
        return best

    def _explored(self, pairs: Sequence[tuple[SeqView, _Row]]) -> dict[int, int]:
        """Who is asked first by whom, to see what comes of it: the one asked least recently, where time has been put by for it."""
        seq, row = pairs[self._turn % len(pairs)]
        self._turn += 1
        able = [index for index in range(len(self._members)) if self._able(index, seq, row)]
        for index in able:
            self._since[index] += 1
        if not able:
            return {}
        index = max(able, key=self._since.__getitem__)
        price = self._prices[index]
        cost = price.row if index in row.begun else price.row + price.beginning.middle
        if self._since[index] < RESTING or self._allowance < cost:
            return {}
        self._allowance -= cost
        return {seq.seq_id: index}

    def _ask(self, index: int, pairs: Sequence[tuple[SeqView, _Row]], rate: float, costs: Any) -> float:
        """Ask one member for some rows; returns the seconds that took, at the usual pace."""
        self._since[index] = 0
        begun = self._clock()
        self._begin(index, pairs)
        pairs = [(seq, row) for seq, row in pairs if index not in row.dropped]
        start = self._clock()
        drafts = self._drafts(index, pairs, rate, costs) if pairs else []
        for (seq, row), draft in zip(pairs, drafts, strict=True):
            if index not in row.dropped:
                self._guarded(index, [(seq, row)], lambda row=row, draft=draft: self._take(index, row, draft, costs))  # type: ignore[misc]
        now, pace, price = self._clock(), self._curve.pace, self._prices[index]
        price.seconds.learn((now - start) / pace / max(len(pairs), 1))
        self.ledger.accounts[self._names[index]].seconds += now - begun
        return (now - begun) / pace

    def _able(self, index: int, seq: SeqView, row: _Row) -> bool:
        if index in row.dropped or seq.room < 1:
            return False
        return self._names[index] != "reference" or bool(seq.reference)

    def _drafts(self, index: int, pairs: Sequence[tuple[SeqView, _Row]], rate: float, costs: Any) -> Sequence[Draft]:
        levels = _Levels(self, index, pairs, rate, costs)
        least = SLACK * float(costs[min(WIDE, self._nodes)]) / min(WIDE, self._nodes)
        ctx = ProposeContext([seq for seq, _ in pairs], rows=len(pairs), least=least, pays=levels)
        drafts = self._guarded(index, pairs, lambda: self._members[index].propose(ctx))
        if _one_each(drafts, len(pairs)):
            return list(drafts) if self._branching else [trunk(draft) for draft in drafts]
        if not any(index in row.dropped for _, row in pairs):
            self._drop(index, pairs, "it returned something else than one draft a sequence")
        return [EMPTY] * len(pairs)

    def _take(self, index: int, row: _Row, draft: Draft, costs: Any) -> None:
        where, known = situation(row.added, row.right, first=not row.asked), row.claims.size
        added = row.claims.add(index, draft, costs)
        row.asked.append(index)
        row.where.append(where)
        # Who only says what others said makes it look likelier, and no other token will come of it.
        new = row.claims.size > known
        worth = (added - row.added) * row.trust[index].of(where, self._trust[row.heat][index]) if new else 0.0
        self._shared[row.heat][index].learn(where, worth, FADE)
        row.own[index].learn(where, worth, OWN_FADE, row.steps)
        row.added = added
        self._worths[index].learn(worth)
        account = self.ledger.accounts[self._names[index]]
        account.asked += 1
        account.worth += worth

    def _choose(
        self, pairs: Sequence[tuple[SeqView, _Row]], rows: int, seconds: Any, asking: float, rate: float
    ) -> list[Draft]:
        """As wide as pays for the whole batch; each row's likeliest nodes up to there, for padding costs as much."""
        from betoken.policy.claims import widest

        step, gained = self._step, np.zeros(self._nodes + 1)
        for seq, row in pairs:
            row.claims.gain(gained, self._nodes if seq.max_nodes is None else seq.max_nodes)
        step.rows, step.nodes = rows, int(widest(gained, seconds, rows, asking, rate, PROSPECT, self._lesson(pairs)))
        step.most, step.asking = min(max(row.claims.size for _, row in pairs), self._nodes), asking
        step.expected, step.seconds = float(rows + gained[step.nodes]), float(seconds[step.nodes] + asking)
        drafts = [row.claims.best(min(step.nodes, seq.max_nodes or step.nodes)) for seq, row in pairs]
        for (_, row), draft in zip(pairs, drafts, strict=True):
            row.fed = len(draft)
        return drafts

    def _lesson(self, pairs: Sequence[tuple[SeqView, _Row]]) -> float:
        """What the next steps gain from a node that is fed in this one: a member that learns from what the target says after each
        node, accepted or not, needs nodes to learn from. In tokens, of all rows; as much as such members are worth."""
        return LESSON * sum(
            self._worths[index].middle for _, row in pairs for index in row.asked if self._members[index].needs.top_ids
        )

    def observe(self, ctx: ObserveContext) -> None:
        start = self._clock()
        step, pace = self._step, self._curve.pace
        emitted = 0
        for seq, draft, verdict in zip(ctx.seqs, ctx.drafts, ctx.verdicts, strict=True):
            row = self._rows[seq.seq_id]
            emitted += len(verdict.tokens)
            # Where some of it was not fed the rest has other numbers. Who is alone is looked at now and then: that takes time, too.
            if row.fed and row.fed == len(draft) and (len(row.asked) > 1 or row.steps % SELDOM == 0):
                self._credit(row, verdict.path)
            row.right = row.claims.learn(verdict.tokens) if row.asked else None
            row.steps += 1
        width = 1 + max(len(draft) for draft in ctx.drafts)
        self._curve.learn(step.rows, width, step.context, ctx.seconds)
        following = sum(self._follow(index, ctx, pace) for index in range(len(self._members)))
        whole = step.seconds + following
        plain = float(self._curve.seconds(step.rows, step.context, self._nodes)[0])
        self._tokens = RATE_FADE * self._tokens + emitted / max(len(ctx.seqs), 1)
        self._passes = RATE_FADE * self._passes + (whole / plain if plain > 0 else 1.0)
        self._speedup = self._tokens / self._passes
        dearest = max((price.row + price.beginning.middle for price in self._prices), default=0.0)
        self._allowance = min(self._allowance + self._explore * whole, 2 * dearest)
        step.spent += self._clock() - start
        rows = [self._rows[seq.seq_id] for seq in ctx.seqs]
        asked = tuple(sum(index in row.asked for row in rows) for index in range(len(self._members)))
        seconds = pace * (step.seconds + self._overhead.middle), ctx.seconds + step.spent
        self._overhead.learn((step.spent - step.asking * pace) / pace)
        emitted += step.rows - len(ctx.seqs)  # a token each for rows that nothing is drafted for
        note = Note(
            step.rows, step.context, step.nodes, step.most, asked, step.expected, emitted, *seconds, plain * pace
        )
        self.ledger.note(note)
        if self._experts and self.ledger.held_back == OFTEN:
            self._blame_experts(step)

    def _blame_experts(self, step: _Step) -> None:
        """Every new token of a pass may wake experts that no other one needs: a mixture's passes get longer where a dense model's do not."""
        seconds = self._curve.seconds(step.rows, step.context, self._nodes)
        few = min(8, self._nodes)
        if (longer := float(seconds[few] / seconds[0])) > RISES:
            self._experts = 0
            LOG.info(
                "drafts are kept short: a pass over %d tokens more takes %.1f times as long, for this model has experts, and other "
                "tokens need other ones",
                few,
                longer,
            )

    def _credit(self, row: _Row, path: Sequence[int]) -> None:
        credits = row.claims.credits(row.fed, path, row.asked)
        for index, where, (hoped, came) in zip(row.asked, row.where, credits, strict=True):
            row.trust[index].learn(where, hoped, came)
            self._trust[row.heat][index].learn(where, hoped, came)
            self.ledger.accounts[self._names[index]].accepted += int(came)

    def _follow(self, index: int, ctx: ObserveContext, pace: float) -> float:
        """Show a member what came of it, for the rows it was asked for; returns the seconds, at the usual pace."""
        places = [place for place, seq in enumerate(ctx.seqs) if index in self._rows[seq.seq_id].asked]
        places = [place for place in places if index not in self._rows[ctx.seqs[place].seq_id].dropped]
        if not places:
            return 0.0
        start = self._clock()
        member = self._members[index]
        k = member.needs.top_ids
        shown = replace(
            ctx,
            seqs=[ctx.seqs[place] for place in places],
            drafts=[ctx.drafts[place] for place in places],
            verdicts=[ctx.verdicts[place] for place in places],
            top_ids=TopIds(lambda i: ctx.top_ids[places[i]][:, :k], len(places)) if k else (),
        )
        pairs = [(seq, self._rows[seq.seq_id]) for seq in shown.seqs]
        self._guarded(index, pairs, lambda: member.observe(shown))
        took = (self._clock() - start) / pace
        self._prices[index].following.learn(took / len(places))
        return took

    def _guarded(self, index: int, pairs: Sequence[tuple[SeqView, _Row]], call: Callable[[], Any]) -> Any:
        """What a member says; None where it fails, and then it is not asked again for these rows."""
        try:
            return call()
        except BetokenError:
            raise  # the user's to mend
        except Exception as failure:
            self._drop(index, pairs, f"{type(failure).__name__}: {failure}")
            return None

    def _drop(self, index: int, pairs: Sequence[tuple[SeqView, _Row]], why: str) -> None:
        LOG.warning("%s is not asked any more for this request: %s", self._names[index], why)
        for _, row in pairs:
            row.dropped.add(index)

    def forget(self) -> None:
        for records in self._records:
            records.forget()
        self._learnt_nothing()
        for member in self._members:
            member.forget()

    def end(self, seq_id: int) -> None:
        row = self._rows.pop(seq_id, None)
        for index in row.begun if row is not None else ():
            try:
                self._members[index].end(seq_id)
            except Exception as failure:
                LOG.warning("%s failed at the end of a request: %s", self._names[index], failure)


def _one_each(drafts: Any, count: int) -> bool:
    whole = isinstance(drafts, Sequence) and len(drafts) == count
    return whole and all(isinstance(draft, Draft) for draft in drafts)


class _Levels:
    """Whether a draft model should read on, level by level."""

    def __init__(self, auto: Auto, index: int, pairs: Sequence[tuple[SeqView, _Row]], rate: float, costs: Any) -> None:
        self._auto, self._index, self._rate, self._costs = auto, index, rate, costs
        self._rows = {seq.seq_id: row for seq, row in pairs}
        self._last = auto._clock()
        self._count = 0
        self._reached: dict[int, tuple[int, float]] = {}

    def __call__(self, frontier: Sequence[tuple[int, Sequence[float]]]) -> list[bool]:
        """frontier: for each sequence that may go on its id and the scores down to its likeliest last node."""
        auto = self._auto
        now = auto._clock()
        if self._count:
            auto._levels.learn((now - self._last) / auto._curve.pace / self._count)
        cost = self._rate * auto._levels.middle
        # Whoever was asked is asked for one level at least: that this pays was decided before.
        going = [not scores or self._gain(seq_id, scores) > cost for seq_id, scores in frontier]
        self._count, self._last = sum(going), now
        return going

    def _gain(self, seq_id: int, scores: Sequence[float]) -> float:
        """What one more level is expected to add to what is fed, in tokens."""
        deep = min(len(scores), len(self._costs) - 2)
        row = self._rows[seq_id]
        known, reach = self._reached.get(seq_id, (0, 1.0))
        for depth in range(known, len(scores)):  # the chain goes on where it was
            reach *= row.claims.chance(self._index, scores[depth], depth + 1)
        self._reached[seq_id] = len(scores), reach
        return reach * row.claims.rate(self._index) - float(self._costs[deep + 1] - self._costs[deep])


DEFAULT = ("reference", "mix", "recycling", "draft")


def _members_of(of: Any, workshop: Workshop) -> dict[str, dict[str, Any]]:
    """Names and options. By default all that can run here."""
    if of is None:
        able = {"recycling": workshop.target.has_logits, "draft": workshop.draft is not None}
        return {name: {} for name in DEFAULT if able.get(name, True)}
    named = of if isinstance(of, Mapping) else {name: {} for name in str(of).split("+")}
    possible = [name for name in methods() if name not in ("plain", "merge", "lookahead", NAME)]
    if isinstance(of, str) and len(named) < len(of.split("+")):
        named = {}
    if not named or not all(name in possible for name in named):
        raise ParameterError("of", of, 'different methods, as in "mix+draft", of ' + ", ".join(possible))
    return {name: dict(options or {}) for name, options in named.items()}


@register(NAME, budget="nodes", knobs=("of", "nodes", "explore", "load"))
def _build(workshop: Workshop) -> Auto:
    given = dict(workshop.options)
    most = given.get("nodes", 64)
    load = given.pop("load", None)
    members: dict[str, Proposer] = {}
    for name, options in _members_of(given.pop("of", None), workshop).items():
        if (budget := budget_of(name)) is not None and name != "draft":
            options.setdefault(budget, most)
        if name == "draft":
            options = {"k": 16, "worth": 0.0, **options}
        if load is not None and name in ("mix", "suffix"):
            options.setdefault("load", load)
        member = build(name, replace(workshop, options=options))
        assert member is not None  # only plain decoding has none
        members[name] = member
    return Auto(
        members,
        curve=workshop.curve,
        branching=workshop.target.can_branch,
        experts=workshop.target.experts,
        clock=workshop.clock,
        **given,
    )
