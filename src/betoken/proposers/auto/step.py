"""What was decided in one step, until it is observed."""

from dataclasses import dataclass, field

from betoken.draft import Draft


@dataclass(slots=True)
class Step:
    """What the last step decided, until it is observed."""

    rows: int = 0
    context: int = 0
    nodes: int = 0
    most: int = 0  # nodes there were, of the row that had most
    forgotten: bool = False  # a plain pass, to see what it takes
    expected: float = 0.0
    plain: float = 0.0  # a pass without drafts, predicted, at the usual pace
    asking: float = 0.0  # measured, at the usual pace
    seconds: float = 0.0  # predicted, at the usual pace: the pass, and asking
    spent: float = 0.0  # measured: asking and deciding
    asked: list[int] = field(default_factory=list)  # rows that asked each member
    rate: float = 0.0  # tokens a second, of all rows
    least: float = 0.0  # no node less likely need be drafted
    pace: float = 1.0  # how slow the machine is
    now: float = 0.0  # when the clock was looked at last
    left: float | None = None  # when the policy had last done its part; None: unknown, or somebody is new since
    around: float = 0.0  # measured: what was done since the step before, but for the pass, drafting and deciding


def begins(whole: Draft, fed: Draft) -> bool:
    """Whether what was fed is the first nodes of a draft."""
    return fed.tokens == whole.tokens[: len(fed)] and fed.parents == whole.parents[: len(fed)]
