"""One sequence's tree of claims, filled anew at every step: drafters' answers laid over each other (`mixing`), what each was worth, whom
to ask next (`pays`), and what became of it (`settling`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from betoken.addresses import Places, items, places
from betoken.draft import EMPTY, Draft
from betoken.policy import calls, mixing, pays
from betoken.policy.mixing import CONSTELLATIONS, MOST, NONE, OTHERS, OWN_DEPTHS, Floats, Ints
from betoken.policy.views import Known, Mine, unpriced

UNKNOWN_SCORE, NO_LESSONS = (math.nan,), np.zeros(0)
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


class Claims:
    """The tree, of at most `room` nodes; `most` of one draft. priced: where the prices of those lie who are asked (`views.Priced`).

    asked: bits, by member
    added: what the tree adds, in tokens (`mixing.worth`); worth: what the last answer was worth of it
    step: of the request; whoever asks counts
    """

    __slots__ = (
        "_before", "_chosen", "_emitted", "_known", "_members", "_mine", "_most", "_own_prices", "_parents", "_places", "_priced", "_records", "_room", "_tokens", "_values", "added", "asked", "size", "step",
        "where", "worth",
    )  # fmt: skip

    def __init__(self, records: Records, room: int, most: int | None = None, priced: Places | None = None) -> None:
        self._records, self._most, self._room = records, most, room
        self._own_prices = unpriced(MOST) if priced is None else None
        self._priced = places(self._own_prices) if self._own_prices is not None else priced
        row = [np.empty(room, np.int64) for _ in range(5)]
        mine = self._mine = Mine(
            np.empty((room + 1, 6), np.int64), np.empty((room + 1, mixing.COLUMNS)), row[0], row[1],
            np.zeros((MOST, 2), np.int64), np.zeros((MOST, OWN_DEPTHS + 1, 2)), pays.no_answers(MOST), np.zeros(2),
            records.brought.copy(), np.zeros(MOST), np.empty(room + 1, np.int64), row[2], row[3], row[4], np.empty(room),
        )  # fmt: skip
        self._known, self._places = records.places, places(mine)
        self._emitted, self._values = items(mine.emitted), items(mine.values)
        self._tokens, self._parents, self._members = items(mine.tokens), items(mine.parents), items(mine.members)
        self.step, self.worth = 0, 0.0
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

    def clear(self, before: int = pays.UNKNOWN) -> None:
        """A new step: nothing is claimed. before: what came of the last one (`pays.standing`)."""
        self._before = self.where = before
        self.size = self.asked = self._chosen = 0
        self.added = 0.0

    def whom(self, extra: float, able: int, begun: int, readers: int, rate: float) -> int:
        """Whom to ask now, -1: nobody; see `pays.whom`. Nobody is asked twice."""
        able &= ~self.asked
        if not able:
            return -1
        member: int = calls.whom(
            self._known, self._places, self._priced, extra, able, begun, readers, self.where, self.step, rate
        )
        return member

    def add(self, member: int, draft: Draft, more: Floats, rate: float = 1.0) -> float:
        """`lay` for a draft. Of one that has more nodes than may be fed, the first ones: the others' answers need room, too."""
        tokens, parents = np.array(draft.tokens, np.int64), np.array(draft.parents, np.int64)
        scores = np.array(draft.scores or UNKNOWN_SCORE * len(draft), np.float64)
        most = self._most if len(tokens) == len(scores) == len(parents) else len(tokens)
        return self.lay(member, (tokens[:most], parents[:most], scores[:most], NO_LESSONS), more, rate)

    def lay(self, member: int, draft: tuple[Ints, Ints, Floats, Floats], more: Floats, rate: float = 1.0) -> float:
        """Lay a member's draft (`proposers.base.Grown`) over the tree; returns what the tree adds now, in tokens (see `mixing.worth`).
        more: `[1 + N]`, by how much longer a pass with so many nodes takes, each second worth `rate` tokens. Raises ValueError for a
        draft that is no tree, before anything is laid."""
        tokens, parents, scores, lessons = draft
        size, added, self.worth, where, chosen = calls.take(
            self._known, self._places, self._priced, self.size, self.asked, member, tokens, parents, scores, lessons,
            self._before, more, rate, self._chosen, self.where, self.step,
        )  # fmt: skip
        if size == NONE:
            raise ValueError("a draft that is no tree")
        self.size, self.added, self.where, self._chosen = size, added, where, chosen
        self.asked |= 1 << member
        return added  # type: ignore[no-any-return]

    def gain(self, gained: Floats, brings: Floats, most: int, value: float = 1.0, *, fresh: bool = False) -> None:
        """Add to `gained`, `[1 + N]`, how many tokens the likeliest 0, 1, ... nodes, at most `most`, are expected to bring; and to
        `brings` the same, and what is learnt from feeding them, each worth `value`. fresh: to nothing, whatever stands there."""
        calls.gain(self._known, self._places, self.size, gained, brings, most, value, fresh)

    def best(self, nodes: int, names: Sequence[str] | None = None, held_back: str = "") -> Draft:
        """The likeliest nodes, likeliest first, each by the name of whoever was asked first of those who claim it. After `add`."""
        nodes = min(nodes, self.size)
        if not nodes:
            return EMPTY if not held_back else Draft.trusted((), (), held_back=held_back)
        calls.pick(self._places, nodes)
        sources = None if names is None else tuple([names[member] for member in self._members[:nodes]])
        tokens, parents = tuple(self._tokens[:nodes]), tuple(self._parents[:nodes])
        return Draft.trusted(tokens, parents, tuple(self._values[:nodes]), sources=sources, held_back=held_back)

    def learn(self, emitted: Sequence[int], fed: int = 0, came: Floats | None = None, seems: float = SEEMS) -> int:
        """What the target said; returns how deep the tree was right.

        fed:   how many nodes of `best` were; what became of them counts for those who were asked
        seems: how much of what an answer brought is what it seemed to be worth
        came:  `[MOST]`, to which is added how many accepted nodes were each member's, alone or first
        """
        if not self.asked:
            return 0
        said, count = self._emitted, min(len(emitted), self._room + 1)  # no tree is deeper
        for place in range(count):
            said[place] = emitted[place]
        came = np.zeros(MOST) if came is None else came
        fed = min(fed, self.size)
        return calls.settle(  # type: ignore[no-any-return]
            self._known, self._places, self.size, self.asked, self._before, fed, count, came, seems
        )

    def chance(self, member: int, score: float, depth: int) -> float:
        """What a member's score has meant where nobody else claimed the same."""
        return float(calls.chance(self._known, self._places, self._before, member, score, depth))

    def rate(self, member: int) -> float:
        """How often a node of a member was right where its parent was."""
        (hits, trials), (own_hits, own_trials) = (
            self._records.mixer[CONSTELLATIONS + member, 0],
            self._mine.own[member, OWN_DEPTHS],
        )
        others = (hits + 3) / (trials + 5)
        return float((own_hits + OTHERS * others) / (own_trials + OTHERS))
