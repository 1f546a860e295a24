"""What a policy did, kept for whoever asks why: `betoken explain`, benchmarks, a server's metrics. No torch.

Times are seconds. What was predicted was predicted before the step, from what had been seen until then.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

KEPT = 4096


class Note(NamedTuple):
    """One step of all rows.

    rows, context: of the forward pass; nodes: of its widest draft; most: how many could have been fed
    asked:         how many rows asked each member
    expected, emitted: tokens of all rows
    predicted_s, measured_s: of the forward pass and of asking, deciding and observing
    plain_s:       what a pass without drafts would have taken, by the curve, at the machine's pace then
    """

    rows: int
    context: int
    nodes: int
    most: int
    asked: tuple[int, ...]
    expected: float
    emitted: int
    predicted_s: float
    measured_s: float
    plain_s: float


@dataclass(slots=True)
class Account:
    """What one member was asked, and what came of it.

    asked:    rows that asked it; worth: tokens that the tree was expected to gain by that; seconds: what it took
    accepted: accepted nodes that it claimed, alone or first
    """

    asked: int = 0
    worth: float = 0.0
    seconds: float = 0.0
    accepted: int = 0


@dataclass(slots=True)
class Ledger:
    """Sums over all steps, and the last `KEPT` notes."""

    names: Sequence[str]
    accounts: dict[str, Account] = field(default_factory=dict)
    notes: deque[Note] = field(default_factory=lambda: deque(maxlen=KEPT))
    steps: int = 0
    rows: int = 0  # of all steps together
    emitted: int = 0
    expected: float = 0.0
    predicted_s: float = 0.0
    measured_s: float = 0.0
    plain_s: float = 0.0  # of as many plain steps
    held_back: int = 0  # steps in which nodes were left out because the pass would have taken too long

    def __post_init__(self) -> None:
        self.accounts = {name: Account() for name in self.names}

    def note(self, note: Note) -> None:
        self.notes.append(note)
        self.steps += 1
        self.rows += note.rows
        self.emitted += note.emitted
        self.expected += note.expected
        self.predicted_s += note.predicted_s
        self.measured_s += note.measured_s
        self.plain_s += note.plain_s
        self.held_back += note.nodes < note.most
