"""`merge`: several methods draft, one tree is fed: the nodes likeliest to be accepted under one budget, whoever proposed them.

Scores of different methods mean different things, so each is corrected by what became of that method's nodes so far
(`policy.Calibration`); a node proposed by several is believed as if they erred independently. Every node whose parent the target
emitted is a trial, also where it was not fed: the target's token says of each of them whether it was right.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from betoken.draft import Draft, merge
from betoken.errors import ParameterError
from betoken.policy import MARGIN, Calibration, judged, kept
from betoken.proposers.base import (
    BaseProposer,
    Needs,
    ObserveContext,
    ProposeContext,
    Proposer,
    SeqView,
    Workshop,
    budget_of,
    build,
    fewer,
    methods,
    register,
)

NAME = "merge"
DEFAULT = "reference+mix+recycling"
UNSCORED = 0.5  # what a node without a score is taken for until something is known
MOST = 4096

Claim = tuple[str, float]  # a member and the score it gave a node


@dataclass(frozen=True, slots=True)
class _Laid:
    """The members' drafts laid over each other, and who proposed which node. A pinned node is not proposed."""

    draft: Draft
    claims: Sequence[Sequence[Claim]]
    joint: list[float] = field(default_factory=list)  # what the claims on a node make together


def _lay(names: Sequence[str], drafts: Sequence[Draft]) -> _Laid:
    laid, places = merge(drafts)
    claims: list[list[Claim]] = [[] for _ in range(len(laid))]
    for name, draft, place in zip(names, drafts, places, strict=True):
        for node, where in enumerate(place):
            if node not in draft.pinned:
                claims[where].append((name, UNSCORED if draft.scores is None else draft.scores[node]))
    return _Laid(laid, claims)


class Merge(BaseProposer):
    """One tree of at most `nodes` draft tokens out of the members' trees. Pinned nodes come on top of that.

    A member sees in `observe` the tree that was really fed, which may hold more or fewer nodes than its own and in another order: it
    must find its nodes by their tokens (all methods here do). In residual mode members that draw their tokens are refused: a law
    that a node was drawn from is lost by choosing nodes for their value.

    Raises ParameterError.
    """

    name = NAME

    def __init__(self, members: Mapping[str, Proposer], *, nodes: int = 40) -> None:
        if isinstance(nodes, bool) or not isinstance(nodes, int) or not 1 <= nodes <= MOST:
            raise ParameterError("nodes", nodes, f"a whole number from 1 to {MOST}")
        self._members, self._nodes = dict(members), nodes
        needs = [member.needs for member in self._members.values()]
        self.needs = Needs(max(need.top_ids for need in needs), any(need.draft_probs for need in needs))
        self._calibration = Calibration()
        self._pending: dict[int, _Laid] = {}

    @property
    def library(self) -> Any:
        """What a member remembers of earlier answers; None where none does."""
        remembered = (getattr(member, "library", None) for member in self._members.values())
        return next((library for library in remembered if library is not None), None)  # an empty one counts

    def begin(self, seq: SeqView) -> None:
        for member in self._members.values():
            member.begin(seq)

    def propose(self, ctx: ProposeContext) -> list[Draft]:
        drafts = [self._drafts(name, ctx) for name in self._members]
        return [self._merge(seq, own) for seq, own in zip(ctx.seqs, zip(*drafts, strict=True), strict=True)]

    def _drafts(self, name: str, ctx: ProposeContext) -> list[Draft]:
        drafts = self._members[name].propose(ctx)
        if any(draft.probs is not None for draft in drafts):
            raise ParameterError("of", name, 'methods that draw no tokens, or acceptance="exact"')
        return drafts

    def _merge(self, seq: SeqView, drafts: Sequence[Draft]) -> Draft:
        laid = self._pending[seq.seq_id] = _lay(tuple(self._members), drafts)
        scores = [self._score(laid, node) for node in range(len(laid.draft))]
        return kept(laid.draft, scores, self._nodes)

    def _score(self, laid: _Laid, node: int) -> float:
        """First each claim by its member's record, then all of them by the record of those who agree: a token that one
        member proposes and another, asked too, does not is worth less than its score says."""
        claims, depth, wrong = laid.claims[node], laid.draft.depths[node], 1.0
        for name, score in claims:
            wrong *= 1 - self._calibration.value(name, score, depth)
        laid.joint.append(max(1 - wrong, MARGIN))
        return self._calibration.value(_together(claims), laid.joint[node], depth)

    def observe(self, ctx: ObserveContext) -> None:
        for seq, verdict in zip(ctx.seqs, ctx.verdicts, strict=True):
            self._learn(self._pending.pop(seq.seq_id), verdict.tokens)
        for member in self._members.values():
            k = member.needs.top_ids
            top_ids, top_logits = [fewer(top, range(len(top)), k) for top in (ctx.top_ids, ctx.top_logits)]
            member.observe(replace(ctx, top_ids=top_ids, top_logits=top_logits))

    def _learn(self, laid: _Laid, tokens: Sequence[int]) -> None:
        for node, hit in judged(laid.draft, tokens):
            claims, depth = laid.claims[node], laid.draft.depths[node]
            together = [(_together(claims), laid.joint[node])] if claims else []  # a pinned node is nobody's claim
            for name, score in (*claims, *together):
                self._calibration.learn(name, score, depth, hit)

    def forget(self) -> None:
        self._calibration = Calibration()
        for member in self._members.values():
            member.forget()

    def end(self, seq_id: int) -> None:
        self._pending.pop(seq_id, None)
        for member in self._members.values():
            member.end(seq_id)


def _together(claims: Sequence[Claim]) -> str:
    """The record that these members have in common; no member has this name."""
    return "all: " + "+".join(name for name, _ in claims)


def _members_of(of: Any) -> dict[str, dict[str, Any]]:
    """Names and options, from "ngram+recycling" or {"ngram": {"k": 12}, "recycling": {}}."""
    named = of if isinstance(of, Mapping) else {name: {} for name in str(of).split("+")}
    possible = [name for name in methods() if name not in ("plain", NAME)]
    repeated = isinstance(of, str) and len(named) < len(of.split("+"))
    if not named or repeated or not all(name in possible for name in named):
        raise ParameterError("of", of, 'different methods, as in "ngram+recycling", of ' + ", ".join(possible))
    return {name: dict(options or {}) for name, options in named.items()}


@register(NAME, budget="nodes", knobs=("of", "nodes"))
def _build(workshop: Workshop) -> Merge:
    given = dict(workshop.options)
    members: dict[str, Proposer] = {}
    for name, options in _members_of(given.pop("of", DEFAULT)).items():
        if "nodes" in given and (budget := budget_of(name)) is not None:
            options.setdefault(budget, given["nodes"])
        member = build(name, replace(workshop, options=options))
        assert member is not None  # only plain decoding has none
        members[name] = member
    return Merge(members, **given)
