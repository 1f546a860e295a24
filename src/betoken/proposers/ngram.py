"""`ngram`: prompt lookup (Saxena 2023): what followed the last tokens when they stood in this text before.

Longest match first, most recent occurrence, a short continuation at the end of the text allowed. Two presets reproduce other
systems' exact rules: `spec-bench` and `vllm`.
"""

from dataclasses import dataclass, field
from typing import Any

from betoken.draft import EMPTY, Draft, chain
from betoken.errors import ParameterError
from betoken.proposers.base import BaseProposer, ProposeContext, SeqView, Workshop, register

Gram = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """How a match is chosen.

    n_min, n_max: the shortest and longest match tried, longest first
    k:            how many tokens of the continuation are drafted
    single:       the same after a match of one token only, which says less
    earliest:     take the first occurrence instead of the most recent one
    whole:        only occurrences whose whole k-token continuation lies in the text
    """

    n_min: int = 1
    n_max: int = 4
    k: int = 8
    single: int = 3
    earliest: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        for name in ("n_min", "n_max", "k", "single"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ParameterError(name, value, "a whole number of at least 1")
        if self.n_min > self.n_max:
            raise ParameterError("n_min", self.n_min, f"at most n_max ({self.n_max})")


PRESETS = {
    "spec-bench": Rule(n_min=1, n_max=3, k=10, single=10, earliest=True, whole=True),
    "vllm": Rule(n_min=4, n_max=4, k=5, earliest=True),
}


@dataclass(slots=True)
class _Index:
    """Where each n-gram of one text ends: the place after its first and its most recent occurrence. Grows with the text."""

    rule: Rule
    first: dict[Gram, int] = field(default_factory=dict)
    last: dict[Gram, int] = field(default_factory=dict)
    read: int = 0

    def read_on(self, tokens: Any) -> None:
        """Index every n-gram that ends before the last token; the text's own end must not match itself."""
        for end in range(self.read + 1, len(tokens)):
            for n in range(self.rule.n_min, min(self.rule.n_max, end) + 1):
                gram = tuple(tokens[end - n : end])
                if self.rule.earliest:
                    self.first.setdefault(gram, end)
                else:
                    self.last[gram] = end
        self.read = max(len(tokens) - 1, 0)

    def find(self, tokens: Any) -> tuple[int, int] | None:
        """Where the continuation of the chosen match starts, and how many tokens of it to draft."""
        places = self.first if self.rule.earliest else self.last
        for n in range(min(self.rule.n_max, len(tokens)), self.rule.n_min - 1, -1):
            end = places.get(tuple(tokens[-n:]))
            if end is not None and (not self.rule.whole or end + self.rule.k <= len(tokens)):
                return end, self.rule.k if n > 1 else min(self.rule.k, self.rule.single)
        return None


class Ngram(BaseProposer):
    """Prompt lookup over the sequence's own prompt and output, incrementally indexed: a step costs the new tokens only."""

    name = "ngram"

    def __init__(self, rule: Rule | None = None) -> None:
        self._rule = rule or Rule()
        self._indexes: dict[int, _Index] = {}

    def begin(self, seq: SeqView) -> None:
        self._indexes[seq.seq_id] = _Index(self._rule)

    def propose(self, ctx: ProposeContext) -> list[Draft]:
        return [self._look_up(seq) for seq in ctx.seqs]

    def _look_up(self, seq: SeqView) -> Draft:
        index = self._indexes[seq.seq_id]
        index.read_on(seq.tokens)
        found = index.find(seq.tokens)
        if found is None or seq.room < 1:
            return EMPTY
        start, length = found
        return chain(seq.tokens[start : start + min(length, seq.room)])

    def end(self, seq_id: int) -> None:
        self._indexes.pop(seq_id, None)


@register("ngram", knobs=("n_min", "n_max", "k", "single", "earliest", "whole", "preset"))
def _build(workshop: Workshop) -> Ngram:
    options = dict(workshop.options)
    preset = options.pop("preset", None)
    if preset is None:
        return Ngram(Rule(**options))
    if preset not in PRESETS:
        raise ParameterError("preset", preset, "one of " + ", ".join(sorted(PRESETS)))
    if options:
        raise ParameterError("preset", preset, f"a preset alone, or {', '.join(sorted(options))} without one")
    return Ngram(PRESETS[preset])
