"""One sequence's tree of claims, filled anew at every step: drafters' answers laid over each other (`mixing`), what each was worth, whom
to ask next (`pays`), and what became of it (`settling`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from betoken.draft import EMPTY, Draft
from betoken.policy import mixing, pays, settling
from betoken.policy.mixing import CONSTELLATIONS, MOST, NONE, OTHERS, OWN_DEPTHS, Floats, Ints

UNKNOWN_SCORE, NO_LESSONS = (math.nan,), np.zeros(0)
# Of what an answer brought this share is what it seemed to be worth, where nobody says otherwise.
SEEMS = 0.5


@dataclass(slots=True)
class Records:
    """What became of claims and of answers, of all requests of one heat."""

    mixer: Floats = field(default_factory=mixing.untaught)
    meant: Floats = field(default_factory=lambda: np.zeros((MOST, mixing.BINS, 4)))
    after: Floats = field(default_factory=lambda: np.zeros((mixing.BEFORE, MOST, mixing.DEPTHS, 2)))
    answers: Floats = field(default_factory=lambda: pays.no_answers(MOST))
    sums: Floats = field(default_factory=lambda: np.zeros(2))
    brought: Floats = field(default_factory=lambda: np.full(MOST, pays.HOPE))

    def forget(self) -> None:
        self.brought[:] = pays.HOPE
        self.mixer[:] = mixing.untaught()
        for other in (self.meant, self.after, self.answers, self.sums):
            other[:] = 0.0


class Claims:
    """The tree, of at most `room` nodes; `most` of one draft.

    asked: bits, by member; turns: `[MOST, 2]` who was asked, in that order, and in which situation
    added: what the tree adds, in tokens (`mixing.worth`); worth: what the last answer was worth of it
    gains: `[MOST]` what each member's last answer was worth; brought: what answers brought here, of all of them lately
    hoped: what was expected of whom `whom` named last; step: of the request; whoever asks counts
    """

    __slots__ = (
        "_before", "_floats", "_ints", "_most", "_order", "_picked", "_records", "_values", "added", "answers", "asked", "brought", "gains", "hoped", "own", "size", "step", "sums",
        "turns", "where", "worth",
    )  # fmt: skip

    def __init__(self, records: Records, room: int, most: int | None = None) -> None:
        self._records, self._most = records, most
        self.own = np.zeros((MOST, OWN_DEPTHS + 1, 2))
        self.answers, self.sums = pays.no_answers(MOST), np.zeros(2)
        self.gains, self.brought = np.zeros(MOST), records.brought.copy()
        self.turns = np.zeros((MOST, 2), np.int64)
        self._ints: Ints = np.empty((room + 1, 6), np.int64)
        self._floats: Floats = np.empty((room + 1, mixing.COLUMNS))
        self._order = np.empty(room, np.int64)
        self._picked, self._values = np.empty((3, room), np.int64), np.empty(room)
        self.step, self.hoped, self.worth = 0, math.nan, 0.0
        self.clear()

    def clear(self, before: int = pays.UNKNOWN) -> None:
        """A new step: nothing is claimed. before: what came of the last one (`pays.standing`)."""
        self._before = self.where = before
        self.size = self.asked = 0
        self.added = 0.0

    def whom(
        self, prices: Floats, rated: Floats, extra: float, able: int, begun: int, readers: int, rate: float
    ) -> int:
        """Whom to ask now, -1: nobody; see `pays.whom`. Nobody is asked twice."""
        able &= ~self.asked
        if not able:
            return -1
        answers = self._records.answers, self.answers
        member, self.hoped = pays.whom(
            prices, rated, extra, *answers, able, begun, readers, self.where, self.step, rate
        )
        return int(member)

    def add(self, member: int, draft: Draft, costs: Floats) -> float:
        """`lay` for a draft. Of one that has more nodes than may be fed, the first ones: the others' answers need room, too."""
        tokens, parents = np.array(draft.tokens, np.int64), np.array(draft.parents, np.int64)
        scores = np.array(draft.scores or UNKNOWN_SCORE * len(draft), np.float64)
        most = self._most if len(tokens) == len(scores) == len(parents) else len(tokens)
        return self.lay(member, (tokens[:most], parents[:most], scores[:most], NO_LESSONS), costs)

    def lay(self, member: int, draft: tuple[Ints, Ints, Floats, Floats], costs: Floats) -> float:
        """Lay a member's draft (`proposers.base.Grown`) over the tree; returns what the tree adds now, in tokens (see `mixing.worth`). Raises ValueError for a
        draft that is no tree, before anything is laid."""
        known = self._records
        tokens, parents, scores, lessons = draft
        size, added, worth = mixing.take(
            self._ints, self._floats, self.size, self.asked, member, tokens, parents, scores, lessons,
            known.meant, known.mixer, known.after, self._before, self.own, self._order, costs, self.added,
            known.answers, self.answers, self.where, self.step,
        )  # fmt: skip
        if size == NONE:
            raise ValueError("a draft that is no tree")
        turn = self.asked.bit_count()
        self.turns[turn, 0], self.turns[turn, 1] = member, self.where
        self.size, self.added, self.worth = size, added, worth
        self.gains[member] = worth
        self.asked |= 1 << member
        self.where = pays.situation(added)
        return float(added)

    def gain(self, gained: Floats, brings: Floats, most: int, value: float = 1.0) -> None:
        """Add to `gained`, `[1 + N]`, how many tokens the likeliest 0, 1, ... nodes, at most `most`, are expected to bring; and to
        `brings` the same, and what is learnt from feeding them, each worth `value`."""
        if self.size:
            mixing.gain(
                self._floats, self.size, self._order, self._records.sums, self.sums, gained, brings, most, value
            )

    def best(self, nodes: int, names: Sequence[str] | None = None, held_back: str = "") -> Draft:
        """The likeliest nodes, likeliest first, each by the name of whoever was asked first of those who claim it. After `add`."""
        nodes = min(nodes, self.size)
        if not nodes:
            return EMPTY if not held_back else Draft.trusted((), (), held_back=held_back)
        mixing.pick(self._ints, self._floats, self._order, nodes, self.turns, self._picked, self._values)
        tokens, parents, members = self._picked[:, :nodes].tolist()
        values = tuple(self._values[:nodes].tolist())
        sources = None if names is None else tuple([names[member] for member in members])
        return Draft.trusted(tuple(tokens), tuple(parents), values, sources=sources, held_back=held_back)

    def learn(self, emitted: Any, fed: int = 0, came: Floats | None = None, seems: float = SEEMS) -> int:
        """What the target said; returns how deep the tree was right.

        fed:   how many nodes of `best` were; what became of them counts for those who were asked
        seems: how much of what an answer brought is what it seemed to be worth
        came:  `[MOST]`, to which is added how many accepted nodes were each member's, alone or first
        """
        if not self.asked:
            return 0
        known = self._records
        return int(
            settling.settle(
                self._ints, self._floats, self.size, self._order, min(fed, self.size), np.array(emitted, np.int64),
                self.turns, self.asked, self.gains, known.answers, self.answers, known.sums, self.sums,
                known.brought, self.brought, np.zeros(MOST) if came is None else came,
                known.meant, known.mixer, known.after, self._before, self.own, seems,
            )
        )  # fmt: skip

    def chance(self, member: int, score: float, depth: int) -> float:
        """What a member's score has meant where nobody else claimed the same."""
        constellation = self._records.mixer[2 * 3**member]
        return float(
            mixing.chance(
                self._records.meant, constellation, self._records.after[self._before], self.own, member, score, depth
            )
        )

    def rate(self, member: int) -> float:
        """How often a node of a member was right where its parent was."""
        (hits, trials), (own_hits, own_trials) = (
            self._records.mixer[CONSTELLATIONS + member, 0],
            self.own[member, OWN_DEPTHS],
        )
        others = (hits + 3) / (trials + 5)
        return float((own_hits + OTHERS * others) / (own_trials + OTHERS))
