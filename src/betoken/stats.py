"""What speculation did, counted as vLLM counts it. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import zip_longest

from betoken.speculation import Speculation, together


@dataclass(slots=True)
class Stats:
    """Counters of one request, or of many merged. The first token of an output comes from the prefill and is no step.

    steps:           forward passes of the target that had this row in them, prefill excluded
    emitted_tokens:  tokens those steps kept (correction or bonus token counted)
    drafts:          non-empty drafts
    draft_tokens:    their nodes; a pinned node counts only where it was accepted
    accepted_tokens: nodes on accepted paths
    accepted_per_position: `[i]` how many drafts had their (i+1)-th token of the path accepted
    held_back_by_experts: steps whose draft was cut short because of the target's experts: other tokens wake other ones, and the pass
                     would have taken too long
    draft_s, verify_s, host_s: seconds in the proposer, in the target's forward, and in everything else; a batch's time
                     is shared equally by its rows
    prefill_s:       seconds in the prompt's forward passes
    cached_tokens:   of the prompt, not read but taken from an ended row
    speculation:     what was in force, the method that drafted named; of merged requests each different one once
    """

    steps: int = 0
    emitted_tokens: int = 0
    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    accepted_per_position: list[int] = field(default_factory=list)
    held_back_by_experts: int = 0
    draft_s: float = 0.0
    verify_s: float = 0.0
    host_s: float = 0.0
    prefill_s: float = 0.0
    cached_tokens: int = 0
    speculation: tuple[Speculation, ...] = ()

    def observe(self, *, emitted: int, drafted: int, accepted: int) -> None:
        """Count one step of one row."""
        self.steps += 1
        self.emitted_tokens += emitted
        if not drafted:
            return
        self.drafts += 1
        self.draft_tokens += drafted
        self.accepted_tokens += accepted
        self.accepted_per_position += [0] * (accepted - len(self.accepted_per_position))
        for position in range(accepted):
            self.accepted_per_position[position] += 1

    def merge(self, other: "Stats") -> "Stats":
        """The counters of both; associative, and `Stats()` is neutral."""
        pairs = zip_longest(self.accepted_per_position, other.accepted_per_position, fillvalue=0)
        merged = Stats(
            accepted_per_position=[ours + theirs for ours, theirs in pairs],
            speculation=together(self.speculation, other.speculation),
        )
        for counter in fields(Stats):
            if counter.name not in ("accepted_per_position", "speculation"):
                setattr(merged, counter.name, getattr(self, counter.name) + getattr(other, counter.name))
        return merged

    @property
    def acceptance_rate(self) -> float | None:
        """Accepted / drafted; None where nothing was drafted."""
        return self.accepted_tokens / self.draft_tokens if self.draft_tokens else None

    @property
    def mean_acceptance_length(self) -> float | None:
        """1 + accepted / non-empty drafts (vLLM's definition: the correction or bonus token counted)."""
        return 1 + self.accepted_tokens / self.drafts if self.drafts else None

    @property
    def tokens_per_step(self) -> float | None:
        """Emitted / steps (Spec-Bench's "mean accepted tokens")."""
        return self.emitted_tokens / self.steps if self.steps else None

    @property
    def acceptance_per_position(self) -> list[float]:
        """`[i]`: share of non-empty drafts whose (i+1)-th path token was accepted."""
        return [count / self.drafts for count in self.accepted_per_position]


def total(stats: Sequence[Stats]) -> Stats:
    """All of them merged."""
    merged = Stats()
    for one in stats:
        merged = merged.merge(one)
    return merged
