"""Several drafting methods in one engine: each row has its own. What a drafter raises costs it that row, and nothing else. No torch."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from betoken.draft import EMPTY, Draft
from betoken.errors import ParameterError
from betoken.proposers.base import BaseProposer, Needs, ObserveContext, ProposeContext, Proposer, Rests, SeqView

LOG = logging.getLogger("betoken.routing")
NAME = "routed"


@dataclass(slots=True)
class _Route:
    """One method's drafter, and the rows that have it."""

    method: str
    proposer: Proposer | None
    rows: set[int] = field(default_factory=set)


class Routed(BaseProposer):
    """Rows ask whom their request names (`Speculation.method`), or the usual one.

    make:  builds the drafter of a method as users write it; None: plain decoding. Raises ParameterError for what there is not
    usual: the method of requests that name none
    most:  how many other methods stay; of those without a row the one used longest ago goes first
    """

    name = NAME

    def __init__(self, make: Callable[[str], Proposer | None], usual: str, *, most: int = 8) -> None:
        self._make, self._usual, self._most = make, usual, most
        self._routes: dict[str, _Route] = {}
        self._of: dict[int, _Route] = {}
        self.prepare(usual)

    def prepare(self, method: str | None) -> None:
        """Have a method's drafter ready. Raises ParameterError where there is none of that name or with those options."""
        method = method or self._usual
        route = self._routes.pop(method, None) or _Route(method, self._make(method))
        self._routes[method] = route
        self.needs = Needs(max(_top_ids(other) for other in self._routes.values()))  # the most that any of them wants
        idle = [name for name, other in self._routes.items() if not other.rows and name not in (method, self._usual)]
        for name in idle[: max(0, len(self._routes) - 1 - self._most)]:
            del self._routes[name]

    def proposer(self, method: str | None = None) -> Proposer | None:
        """Who drafts for a method, if it is ready."""
        route = self._routes.get(method or self._usual)
        return None if route is None else route.proposer

    def begin(self, seq: SeqView) -> None:
        try:
            self.prepare(seq.method)
        except ParameterError as failure:  # a caller who did not ask before
            LOG.warning("nothing is drafted for request %d: %s", seq.seq_id, failure)
            return
        route = self._routes[seq.method or self._usual]
        if route.proposer is None:
            return
        route.rows.add(seq.seq_id)
        self._of[seq.seq_id] = route
        try:
            route.proposer.begin(seq)
        except Exception as failure:
            self._drop(route, [seq.seq_id], failure)

    def propose(self, ctx: ProposeContext) -> list[Draft]:
        drafts = [EMPTY] * len(ctx.seqs)
        for route, places in self._grouped(ctx.seqs):
            asked = replace(ctx, seqs=[ctx.seqs[place] for place in places])
            for place, draft in zip(places, self._drafts(route, asked), strict=False):
                drafts[place] = draft
        return drafts

    def _drafts(self, route: _Route, ctx: ProposeContext) -> Sequence[Draft]:
        assert route.proposer is not None
        try:
            drafts = route.proposer.propose(ctx)
            if len(drafts) == len(ctx.seqs) and all(isinstance(draft, Draft) for draft in drafts):
                return drafts
            failure: Exception = TypeError("it returned something else than one draft a sequence")
        except Exception as raised:
            failure = raised
        self._drop(route, [seq.seq_id for seq in ctx.seqs], failure)
        return ()

    def observe(self, ctx: ObserveContext) -> None:
        for route, places in self._grouped(ctx.seqs):
            assert route.proposer is not None
            k = _top_ids(route)
            alone = len(places) == len(ctx.seqs) and k in (0, self.needs.top_ids)
            try:
                route.proposer.observe(ctx if alone else ctx.only(places, k))
            except Exception as failure:
                self._drop(route, [ctx.seqs[place].seq_id for place in places], failure)

    def rests(self) -> bool:
        """Where all rows have one drafter, and that one does."""
        drafting = [route for route in self._routes.values() if route.rows]
        drafter: Any = drafting[0].proposer if len(drafting) == 1 else None
        return isinstance(drafter, Rests) and self._of_rest(drafting[0], lambda drafter: drafter.rests())

    def rested(self, rows: int, seconds: float) -> None:
        for route in self._routes.values():
            if route.rows:
                self._of_rest(route, lambda drafter: drafter.rested(rows, seconds))

    def _of_rest(self, route: _Route, call: Callable[[Any], Any]) -> bool:
        """What a drafter says; False where it failed: its rows are not drafted for any more."""
        try:
            return bool(call(route.proposer))
        except Exception as failure:
            self._drop(route, [*route.rows], failure)
            return False

    def _grouped(self, seqs: Sequence[SeqView]) -> list[tuple[_Route, list[int]]]:
        """Places of each route's rows; those that nobody drafts for are in none."""
        found: dict[str, tuple[_Route, list[int]]] = {}
        for place, seq in enumerate(seqs):
            route = self._of.get(seq.seq_id)
            if route is not None:
                found.setdefault(route.method, (route, []))[1].append(place)
        return [*found.values()]

    def end(self, seq_id: int) -> None:
        route = self._of.pop(seq_id, None)
        if route is None or route.proposer is None:
            return
        route.rows.discard(seq_id)
        try:
            route.proposer.end(seq_id)
        except Exception as failure:
            LOG.warning("%s failed at the end of a request: %s", route.method, failure)

    def forget(self) -> None:
        for route in self._routes.values():
            if route.proposer is not None:
                route.proposer.forget()

    def _drop(self, route: _Route, rows: Sequence[int], why: Exception) -> None:
        LOG.warning("%s drafts no more for this request: %s: %s", route.method, type(why).__name__, why)
        for row in rows:
            self.end(row)


def _top_ids(route: _Route) -> int:
    return 0 if route.proposer is None else route.proposer.needs.top_ids
