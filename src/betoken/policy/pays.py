"""What asking a drafter has been worth, and what it took: whether to ask it again, now. No torch.

Worth is counted in tokens: how much more the whole tree was expected to add after the answer than before it, nodes' own cost taken off
(`Claims.add`). It depends on what is there already: a drafter that only repeats a certain copy adds nothing to it. So it is kept by
situation; for all requests together, and for each request, whose own experience soon outweighs the others' and is slowly forgotten.
"""

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field

# Situations: what the tree adds already, in tokens; where nobody was asked yet, how deep the last step's tree was right.
ADDED = (0.05, 0.15, 0.35, 0.7, 1.5, 3.0, 6.0, 12.0)
RIGHT = (0, 2)
UNKNOWN, SITUATIONS = len(RIGHT) + 1, len(RIGHT) + 2 + len(ADDED) + 1
# What a drafter is hoped to be worth before it was ever asked, and how many answers what it is usually worth outweighs.
HOPE, HOPED = 0.5, 1.0
FADE, OWN_FADE = 0.97, 0.9
# So many answers of others are as good as one's own; one's own fade by so much a step.
OTHERS, FORGET = 2.0, 0.985
# So many tokens that were expected and did not come, or did, halve the doubt in a member's answers; in one request, and of all. They fade.
TRUST, OWN_TRUST, TRUST_FADE, MOST_TRUST = 1.5, 2.0, 0.95, 1.2
LATELY = 15
FEWEST = 3  # answers before a price is believed: the first one may have had to load something


def situation(added: float, right: int | None, *, first: bool) -> int:
    """Where a row stands. right: how deep the last step's tree was right, None where nobody was asked then."""
    if first:
        return UNKNOWN if right is None else bisect_left(RIGHT, right)
    return UNKNOWN + 1 + bisect_left(ADDED, added)


@dataclass(slots=True)
class Experience:
    """Answers, fading: how many, what they were worth together, and at which step the last one came; by situation."""

    count: list[float] = field(default_factory=lambda: [0.0] * SITUATIONS)
    worth: list[float] = field(default_factory=lambda: [0.0] * SITUATIONS)
    last: list[int] = field(default_factory=lambda: [0] * SITUATIONS)

    def learn(self, where: int, worth: float, fade: float, step: int = 0) -> None:
        fade *= self._left(where, step)
        self.count[where] = self.count[where] * fade + 1
        self.worth[where] = self.worth[where] * fade + worth
        self.last[where] = step

    def of(self, where: int, step: int) -> tuple[float, float]:
        """How many answers count now, and what they were worth together."""
        left = self._left(where, step)
        return self.count[where] * left, self.worth[where] * left

    def _left(self, where: int, step: int) -> float:
        return float(FORGET ** (step - self.last[where])) if step else 1.0


@dataclass(slots=True)
class Trust:
    """Tokens expected of a member's nodes that were fed, and those that came, by the situation it was asked in. What an answer seems to
    be worth is a matter of probabilities, and of nodes whose turn never comes nothing is learnt; what was accepted is a fact."""

    expected: list[float] = field(default_factory=lambda: [0.0] * SITUATIONS)
    came: list[float] = field(default_factory=lambda: [0.0] * SITUATIONS)

    def learn(self, where: int, expected: float, came: float) -> None:
        self.expected[where] = self.expected[where] * TRUST_FADE + expected
        self.came[where] = self.came[where] * TRUST_FADE + came

    def of(self, where: int, others: "Trust") -> float:
        """How much of what is expected will come, by this request and, where it knows little, by the others."""
        shared = (others.came[where] + TRUST) / (others.expected[where] + TRUST)
        return min((self.came[where] + OWN_TRUST * shared) / (self.expected[where] + OWN_TRUST), MOST_TRUST)


@dataclass(slots=True)
class Lately:
    """The median of a number lately: what one odd moment does not move; and the mean, which sees what is rare."""

    values: deque[float] = field(default_factory=lambda: deque(maxlen=LATELY))
    middle: float = 0.0
    mean: float = 0.0

    def learn(self, value: float) -> None:
        self.values.append(value)
        self.mean = sum(self.values) / len(self.values)
        self.middle = sorted(self.values)[len(self.values) // 2]


@dataclass(slots=True)
class Price:
    """What asking one drafter takes, in seconds a row, at the machine's usual pace."""

    seconds: Lately = field(default_factory=Lately)
    following: Lately = field(default_factory=Lately)  # of observing what came of it
    beginning: Lately = field(default_factory=Lately)  # of reading a sequence before the first draft

    @property
    def known(self) -> bool:
        return len(self.seconds.values) >= FEWEST

    @property
    def row(self) -> float:
        return self.seconds.middle + self.following.middle


def expected(shared: Experience, own: Experience, where: int, step: int, usual: float = HOPE) -> float:
    """What one more answer is expected to be worth, in tokens. step: of the request; usual: what the drafter was worth lately, for
    situations in which it has hardly been asked."""
    others = OTHERS * (shared.worth[where] + HOPED * usual) / (shared.count[where] + HOPED)
    count, worth = own.of(where, step)
    return (worth + others) / (count + OTHERS)
