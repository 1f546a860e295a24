"""`reference`: drafts from a text that the caller expects to come back mostly unchanged (`generate(..., reference=...)`).

What OpenAI's interface calls predicted outputs. The output is followed through the reference token by token. Where they part, the
last tokens said are looked for in the reference; until enough of them agree again, two places are drafted from at once: the one
found, and the place as if tokens had been replaced one for one. (A third, as if all that is new had been put in before the old place,
gained nothing: the first token after it finds the place.)
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from betoken.draft import EMPTY, ROOT, Draft
from betoken.errors import ParameterError
from betoken.policy import judged, kept
from betoken.proposers.base import BaseProposer, ObserveContext, ProposeContext, SeqView, Workshop, register

# So many tokens in a row that agree are in step; no longer n-grams are indexed. A single token is looked for this far ahead only.
SOLID, AHEAD = 4, 32
# The longest agreement told apart, in bits; how many trials a first belief weighs, how slowly trials fade.
BITS, WEIGHT, FADE = 8, 4.0, 0.99
MOST = 4096

FOUND, FAR, REPLACED = "found", "far", "replaced"
# First beliefs: that the next token agrees, after none, 1, 2 to 3, 4 to 7, ... tokens did.
BELIEFS = {
    FOUND: (0.3, 0.5, 0.7, 0.9, 0.94, 0.96, 0.97, 0.98, 0.98),
    FAR: (0.2, 0.3, 0.5),
    REPLACED: (0.4, 0.6, 0.8),
}

Situation = tuple[str, int]


def _situation(kind: str, agreed: int) -> Situation:
    """What is known of a place: how it was come by, and how many tokens agreed so far; in step it matters no more how."""
    return FOUND if agreed >= SOLID else kind, min(agreed.bit_length(), BITS)


@dataclass(slots=True)
class _Rates:
    """How often the reference's next token came, by situation. Old trials fade."""

    hits: dict[Situation, float] = field(default_factory=dict)
    trials: dict[Situation, float] = field(default_factory=dict)

    def of(self, situation: Situation) -> float:
        kind, bits = situation
        return (self.hits.get(situation, 0.0) + WEIGHT * BELIEFS[kind][bits]) / (
            self.trials.get(situation, 0.0) + WEIGHT
        )

    def learn(self, situation: Situation, hit: bool) -> None:
        self.hits[situation] = self.hits.get(situation, 0.0) * FADE + hit
        self.trials[situation] = self.trials.get(situation, 0.0) * FADE + 1


@dataclass(slots=True)
class _Follower:
    """Where one output stands in its reference.

    ends:   n-gram of the reference -> the places after its occurrences, in order
    start:  where the output begins in the sequence
    read:   how much of the sequence was followed
    place:  the token of the reference expected next
    agreed: how many of the last tokens agree with what stands before `place`
    broken: the token of the reference that was expected when output and reference were last in step
    lost:   how many tokens were said since
    """

    reference: Sequence[int]
    start: int
    ends: dict[tuple[int, ...], list[int]] = field(default_factory=dict)
    read: int = 0
    place: int = 0
    agreed: int = SOLID
    broken: int = 0
    lost: int = 0

    def __post_init__(self) -> None:
        self.read = self.start
        reference = tuple(self.reference)
        for end in range(1, len(reference) + 1):
            for n in range(1, min(SOLID, end) + 1):
                self.ends.setdefault(reference[end - n : end], []).append(end)

    def follow(self, tokens: Sequence[int]) -> None:
        for end in range(self.read + 1, len(tokens) + 1):
            if self.agreed and self.reference[self.place : self.place + 1] == (tokens[end - 1],):
                self.place, self.agreed = self.place + 1, self.agreed + 1
            else:
                self.place, self.agreed = self._find(tokens, end)
            in_step = self.agreed >= SOLID
            self.broken, self.lost = (self.place, 0) if in_step else (self.broken, self.lost + 1)
        self.read = len(tokens)

    def _find(self, tokens: Sequence[int], end: int) -> tuple[int, int]:
        """The place after the longest n-gram of the reference that the output ends in, and n; (0, 0) where there is none.

        Of several places the nearest one ahead of where they parted; behind it, or far ahead, only long ones count.
        """
        for n in range(min(SOLID, end - self.start), 0, -1):
            places = self.ends.get(tuple(tokens[end - n : end]), [])
            ahead = bisect_left(places, self.broken + 1)
            if ahead < len(places) and (n > 1 or places[ahead] <= self.broken + AHEAD):
                return places[ahead], n
            if ahead and n > 2:
                return places[ahead - 1], n
        return 0, 0

    def branches(self) -> Iterator[tuple[str, int, int]]:
        """(kind, place, agreed) to draft from."""
        if self.agreed:
            near = self.broken < self.place <= self.broken + AHEAD
            yield FOUND if near else FAR, self.place, self.agreed
        if self.agreed < SOLID:
            yield REPLACED, self.broken + self.lost, 0


@dataclass(slots=True)
class _Tree:
    """The branches as one tree. A node that two of them share is as likely as the likelier says."""

    rates: _Rates
    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    situations: list[Situation] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    children: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, tokens: Sequence[int], kind: str, agreed: int) -> None:
        node = ROOT
        for ahead, token in enumerate(tokens):
            situation = _situation(kind, agreed + ahead)
            score = self.rates.of(situation)
            parent, node = node, self.children.setdefault((node, token), len(self.tokens))
            if node == len(self.tokens):
                self.tokens.append(token)
                self.parents.append(parent)
                self.situations.append(situation)
                self.scores.append(score)
            elif score > self.scores[node]:
                self.situations[node], self.scores[node] = situation, score


class Reference(BaseProposer):
    """Drafts from `SeqView.reference`; without one, nothing.

    nodes:     how many tokens are drafted at most
    min_value: nodes less likely than this to be accepted are not drafted

    Raises ParameterError.
    """

    name = "reference"

    def __init__(self, *, nodes: int = 32, min_value: float = 0.05) -> None:
        if isinstance(nodes, bool) or not isinstance(nodes, int) or not 1 <= nodes <= MOST:
            raise ParameterError("nodes", nodes, f"a whole number from 1 to {MOST}")
        if isinstance(min_value, bool) or not isinstance(min_value, int | float) or not 0 <= min_value < 1:
            raise ParameterError("min_value", min_value, "a number from 0 to below 1")
        self._nodes, self._min_value = nodes, min_value
        self._rates = _Rates()
        self._followers: dict[int, _Follower] = {}
        self._pending: dict[int, tuple[Draft, list[Situation]]] = {}

    def begin(self, seq: SeqView) -> None:
        if seq.reference:
            self._followers[seq.seq_id] = _Follower(tuple(seq.reference), seq.prompt_length)

    def propose(self, ctx: ProposeContext) -> list[Draft]:
        return [self._draft(seq) if seq.reference else EMPTY for seq in ctx.seqs]

    def _draft(self, seq: SeqView) -> Draft:
        follower = self._followers[seq.seq_id]
        if follower.start != seq.prompt_length:  # another turn, with an output of its own
            follower = self._followers[seq.seq_id] = _Follower(tuple(seq.reference), seq.prompt_length)
        follower.follow(seq.tokens)
        tree, length = _Tree(self._rates), min(self._nodes, seq.room)
        for kind, place, agreed in follower.branches() if length > 0 else ():
            tree.add(follower.reference[place : place + length], kind, agreed)
        draft = Draft(tuple(tree.tokens), tuple(tree.parents), tuple(tree.scores))
        self._pending[seq.seq_id] = draft, tree.situations
        return kept(draft, tree.scores, self._nodes, self._min_value)

    def observe(self, ctx: ObserveContext) -> None:
        for seq, verdict in zip(ctx.seqs, ctx.verdicts, strict=True):
            if seq.seq_id in self._pending:
                draft, situations = self._pending.pop(seq.seq_id)
                for node, hit in judged(draft, verdict.tokens):
                    self._rates.learn(situations[node], hit)

    def forget(self) -> None:
        self._rates = _Rates()

    def end(self, seq_id: int) -> None:
        for state in (self._followers, self._pending):
            state.pop(seq_id, None)


@register("reference", budget="nodes", knobs=("nodes", "min_value"))
def _build(workshop: Workshop) -> Reference:
    return Reference(**workshop.options)
