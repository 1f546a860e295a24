"""One sequence's tree of claims, filled anew at every step: drafters' answers laid over each other (`mixing`), what each was worth, whom
to ask next (`pays`), and what became of it (`settling`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from betoken.addresses import Places, items, places
from betoken.draft import EMPTY, Draft
from betoken.noise import LIKELIEST, Draw
from betoken.policy import calls, mixing, pays
from betoken.policy.mixing import MOST, NONE, OWN_DEPTHS, Floats, Ints
from betoken.policy.views import (
    ADDED,
    BASE,
    CHOSEN,
    DEAF,
    MORE,
    POSITION,
    STOOD,
    WHERE,
    WORTH,
    Known,
    Mine,
    Wide,
    unpriced,
)

UNKNOWN_SCORE, NO_LESSONS = (math.nan,), np.zeros(0)
NO_TREE = "a draft that is no tree"
# Of what an answer brought this share is what it seemed to be worth, where nobody says otherwise.
SEEMS = 0.5


@dataclass(frozen=True, slots=True)
class Records:
    """What became of claims and of answers, of all requests of one heat; and where these arrays lie."""

    mixer: Floats = field(default_factory=mixing.untaught)
    meant: Floats = field(default_factory=lambda: np.zeros((MOST, mixing.BINS, 4)))
    after: Floats = field(default_factory=lambda: np.zeros((mixing.BEFORE, MOST, mixing.DEPTHS, 2)))
    answers: Floats = field(default_factory=lambda: pays.no_answers(MOST))
    sums: Floats = field(default_factory=lambda: np.zeros(2))
    brought: Floats = field(default_factory=lambda: np.full(MOST, pays.HOPE))
    places: Places = field(init=False)

    def __post_init__(self) -> None:
        known = Known(self.mixer, self.meant, self.after, self.answers, self.sums, self.brought)
        object.__setattr__(self, "places", places(known))

    def forget(self) -> None:
        self.brought[:] = pays.HOPE
        self.mixer[:] = mixing.untaught()
        for other in (self.meant, self.after, self.answers, self.sums):
            other[:] = 0.0


class Batch:
    """What drafts of up to so many nodes bring all rows of a step; see `views.Wide`."""

    def __init__(self, nodes: int) -> None:
        self._known = Wide(np.zeros(nodes + 1), np.zeros(nodes + 1), np.zeros(nodes + 1), np.zeros(MOST))
        self.places, self.came = places(self._known), items(self._known.came)

    @property
    def gained(self) -> Floats:
        return self._known.gained

    @property
    def brings(self) -> Floats:
        return self._known.brings

    def takes(self, seconds: Floats) -> None:
        """A pass with 0, 1, ... nodes takes so long; the same array for many steps."""
        if seconds is not self._known.seconds:
            self._known = self._known._replace(seconds=seconds)
            self.places[2] = places((seconds,))[0]


class Claims:
    """The tree, of at most `room` nodes; `most` of one draft. priced: where the prices of those lie who are asked (`views.Priced`).

    asked: bits, by member
    step: of the request; whoever asks counts
    """

    __slots__ = (
        "_at", "_bases", "_emitted", "_given", "_members", "_mine", "_more", "_most", "_numbers", "_own_prices", "_parents", "_records", "_room", "_state", "_tokens", "_values", "asked", "size", "step",
    )  # fmt: skip

    def __init__(self, records: Records, room: int, most: int | None = None, priced: Places | None = None) -> None:
        self._records, self._most, self._room = records, most, room
        row = [np.empty(room, np.int64) for _ in range(5)]
        mine = self._mine = Mine(
            np.empty((room + 1, 6), np.int64), np.empty((room + 1, mixing.COLUMNS)), row[0], row[1],
            np.zeros((MOST, 2), np.int64), np.zeros((MOST, OWN_DEPTHS + 1, 2)), pays.no_answers(MOST), np.zeros(2),
            records.brought.copy(), np.zeros(MOST), np.empty(room + 1, np.int64), row[2], row[3], row[4], np.empty(room),
            np.zeros(POSITION + 1, np.int64), np.zeros(WORTH + 1),
        )  # fmt: skip
        if priced is None:
            self._own_prices = unpriced(MOST)  # held
            priced = places(self._own_prices)
        self._at = np.concatenate([records.places, places(mine), priced, np.zeros((1, 2), np.int64)])
        self._more: Floats | None = None
        self._given: Sequence[Ints | Floats] = ()
        self._emitted, self._values = items(mine.emitted), items(mine.values)
        self._tokens, self._parents, self._members = items(mine.tokens), items(mine.parents), items(mine.members)
        self._state, self._numbers = items(mine.state), items(mine.numbers)
        self._bases = items(mine.state.view(np.uint64))
        self.step = 0
        self.clear()

    @property
    def own(self) -> Floats:
        """The request's constants (`mixing`)."""
        return self._mine.own

    @property
    def answers(self) -> Floats:
        """What its answers were worth (`pays`)."""
        return self._mine.answers

    @property
    def brought(self) -> Floats:
        """`[MOST]`: what answers of each member brought here, of all of them lately."""
        return self._mine.brought

    @property
    def added(self) -> float:
        """What the tree adds, in tokens (`mixing.worth`)."""
        return self._numbers[ADDED]  # type: ignore[no-any-return]

    @property
    def worth(self) -> float:
        """What the last answer was worth of it."""
        return self._numbers[WORTH]  # type: ignore[no-any-return]

    def clear(self, before: int = pays.UNKNOWN, draw: Draw = LIKELIEST, deaf: int = 0) -> None:
        """A new step: nothing is claimed. before: what came of the last one (`pays.standing`); draw: the next token's; deaf: bits: whose
        scores take no account of its noise."""
        state = self._state
        state[DEAF], state[POSITION] = deaf if draw.temperature > 0 else 0, draw.position
        self._bases[BASE] = draw.base
        state[STOOD] = state[WHERE] = before
        state[CHOSEN] = self.size = self.asked = 0
        self._numbers[ADDED] = 0.0

    def whom(self, extra: float, able: int, begun: int, near: int, readers: int, rate: float) -> int:
        """Whom to ask now, -1: nobody; see `pays.whom`. Nobody is asked twice."""
        able &= ~self.asked
        return calls.whom(self._at, extra, able, begun, near, readers, self.step, rate) if able else -1

    def add(self, member: int, draft: Draft, more: Floats, rate: float = 1.0) -> float:
        """`lay` for a draft. Of one that has more nodes than may be fed, the first ones: the others' answers need room, too."""
        scores = draft.scores or UNKNOWN_SCORE * len(draft)
        count = len(draft.tokens)
        if not count == len(draft.parents) == len(scores):
            raise ValueError(NO_TREE)
        numbers = np.array(draft.tokens, np.int64), np.array(draft.parents, np.int64), np.array(scores, np.float64)
        self._given = (*numbers, NO_LESSONS)  # held until the next
        return self.lay(
            member, count if self._most is None else min(count, self._most), places(self._given), more, rate
        )

    def lay(self, member: int, count: int, drafted: Places, more: Floats, rate: float = 1.0) -> float:
        """Lay a member's draft of so many nodes over the tree; returns what the tree adds now, in tokens (see `mixing.worth`).
        drafted: where tokens, parents, scores and lessons lie (`proposers.base.Grown`); more: `[1 + N]`, by how much longer a pass with
        so many nodes takes, each second worth `rate` tokens. Raises ValueError for a draft that is no tree, before anything is laid."""
        if more is not self._more:
            self._more, self._at[MORE] = more, places((more,))[0]
        size = calls.take(self._at, drafted, count, member, rate, self.size, self.asked, self.step)
        if size == NONE:
            raise ValueError(NO_TREE)
        self.size = size
        self.asked |= 1 << member
        return self._numbers[ADDED]  # type: ignore[no-any-return]

    def gain(self, wide: Places, most: int, value: float = 1.0, *, fresh: bool = False) -> None:
        """Add to `gained` of a `views.Wide` how many tokens the likeliest 0, 1, ... nodes, at most `most`, are expected to bring; and to
        `brings` the same, and what is learnt from feeding them, each worth `value`. fresh: to nothing, whatever stands there."""
        calls.gain(self._at, wide, self.size, most, value, fresh)

    def choose(
        self, wide: Places, own: int, rows: float, asking: float, usual: float, prospect: float, most: int
    ) -> tuple[int, float, float]:
        """`gain`, what of it to feed (`calls.widest`), and `picked` of these, for a sequence that is alone and of whose nodes at most `own`
        are fed."""
        return calls.choose(self._at, wide, self.size, own, rows, asking, usual, prospect, most)  # type: ignore[no-any-return]

    def best(self, nodes: int, names: Sequence[str] | None = None, held_back: str = "") -> Draft:
        """The likeliest nodes, likeliest first, each by the name of whoever was asked first of those who claim it. After `add`."""
        self.pick(nodes)
        return self.picked(nodes, names, held_back)

    def pick(self, nodes: int) -> None:
        """Have the likeliest nodes ready."""
        calls.pick(self._at, min(nodes, self.size))

    def picked(self, nodes: int, names: Sequence[str] | None = None, held_back: str = "") -> Draft:
        """Those that were picked last, at most so many."""
        nodes = min(nodes, self.size)
        if not nodes:
            return EMPTY if not held_back else Draft.trusted((), (), held_back=held_back)
        sources = None if names is None else tuple([names[member] for member in self._members[:nodes]])
        tokens, parents = tuple(self._tokens[:nodes]), tuple(self._parents[:nodes])
        return Draft.trusted(tokens, parents, tuple(self._values[:nodes]), sources=sources, held_back=held_back)

    def learn(
        self, emitted: Sequence[int], wide: Places, fed: int = 0, seems: float = SEEMS, *, fresh: bool = False
    ) -> int:
        """What the target said; returns how deep the tree was right.

        fed:   how many nodes of `best` were; what became of them counts for those who were asked
        seems: how much of what an answer brought is what it seemed to be worth
        wide:  of whose `came`, a `views.Wide`'s, is added to how many accepted nodes were each member's, alone or first; fresh: to nothing
        """
        if not self.asked:
            return 0
        said, count = self._emitted, min(len(emitted), self._room + 1)  # no tree is deeper
        for place in range(count):
            said[place] = emitted[place]
        return calls.settle(  # type: ignore[no-any-return]
            self._at, wide, self.size, self.asked, min(fed, self.size), count, seems, fresh
        )

    def chances(self, member: int, score: float, depth: int) -> tuple[float, float]:
        """What a member's score has meant where nobody else claimed the same; and how often a node of the member was right where its
        parent was."""
        return calls.chance(self._at, member, score, depth)  # type: ignore[no-any-return]
