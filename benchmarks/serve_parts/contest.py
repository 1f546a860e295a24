"""Rivals in turns on the same requests, another one first each round; only one of them is asked at a time."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any

from rich.progress import track

from serve_parts.common import WARM_UP_TOKENS, Bench, many
from serve_parts.load import Reply, Round, load
from serve_parts.quiet import quietly
from serve_parts.sides import Side

CONTEXT = 40
_numbers = itertools.count(1)


def new_salt() -> str:
    """Nobody has used it: what earlier requests left helps nobody."""
    return f"salt {next(_numbers)}"


@dataclass(frozen=True)
class Rival:
    """A server, and what its requests have that others' have not."""

    name: str
    side: Side
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Turn:
    """A round of one rival, and the processor seconds its server took."""

    round: Round
    cpu_seconds: float


@dataclass
class Outcome:
    """By rival and round.

    rates:       tokens a second, prompts included
    firsts:      mean seconds to the first text
    processors:  that were busy with it, in the mean
    alike:       shares of texts that are the first rival's; where one differs, it is among `differences`
    """

    rates: dict[str, list[float]]
    firsts: dict[str, list[float]]
    alike: dict[str, list[float]]
    processors: dict[str, list[float]]
    differences: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, names: Sequence[str]) -> Outcome:
        rates, firsts, alike, processors = ({name: list[float]() for name in names} for _ in range(4))
        return cls(rates, firsts, alike, processors)

    def ratios(self, name: str, other: str) -> list[float]:
        return [mine / theirs for mine, theirs in zip(self.rates[name], self.rates[other], strict=True)]

    def rate(self, name: str) -> float:
        return median(self.rates[name])

    def as_json(self) -> dict[str, Any]:
        return {
            "tokens_per_s": self.rates,
            "first_text_s": self.firsts,
            "processors": self.processors,
            "identical": self.alike,
            "differences": self.differences,
        }


def contest(bench: Bench, clients: int, rivals: Sequence[Rival]) -> Outcome:
    """Rounds at one number of clients, after one short round for everyone that does not count."""
    names = [rival.name for rival in rivals]
    outcome = Outcome.of(names)
    for rival in rivals:
        _turn(bench, clients, rival, max_tokens=WARM_UP_TOKENS)
    label = many(clients)
    for number in track(range(bench.settings.rounds), label, console=bench.console, transient=True):
        start = number % len(rivals)
        said: dict[str, list[Reply]] = {}
        for rival in (*rivals[start:], *rivals[:start]):
            turn = quietly(bench, lambda rival=rival: _turn(bench, clients, rival))  # type: ignore[misc]
            said[rival.name] = turn.round.replies()
            outcome.rates[rival.name].append(bench.tokens(said[rival.name]) / turn.round.seconds)
            outcome.firsts[rival.name].append(mean(reply.first for reply in said[rival.name]))
            outcome.processors[rival.name].append(turn.cpu_seconds / turn.round.seconds)
        for rival in rivals[1:]:
            first, other = said[names[0]], said[rival.name]
            differences = _differences(clients, rival.name, first, other)
            outcome.alike[rival.name].append(1 - len(differences) / len(first))
            outcome.differences += differences
            if rival.side is rivals[0].side:
                bench.differences += differences
    return outcome


def _turn(bench: Bench, clients: int, rival: Rival, **more: Any) -> Turn:
    asks = bench.asks(rival.side, clients, new_salt(), **rival.extra, **more)
    before = rival.side.cpu_seconds()
    done = load(rival.side.url, asks, clients)
    return Turn(done, rival.side.cpu_seconds() - before)


def _differences(clients: int, name: str, first: Sequence[Reply], other: Sequence[Reply]) -> list[dict[str, Any]]:
    """Where two rivals said something else: the place in the list of requests, and both texts from shortly before on."""
    found = []
    for place, (mine, theirs) in enumerate(zip(first, other, strict=True)):
        if mine.text != theirs.text:
            start = max(_first_difference(mine.text, theirs.text) - CONTEXT, 0)
            texts = [text[start : start + 2 * CONTEXT] for text in (mine.text, theirs.text)]
            asked = [one.usage.get("prompt_tokens") for one in (mine, theirs)]
            found.append({"clients": clients, "rival": name, "request": place, "texts": texts, "prompt_tokens": asked})
    return found


def _first_difference(text: str, other: str) -> int:
    pairs = enumerate(zip(text, other, strict=False))
    return next((place for place, (one, two) in pairs if one != two), min(len(text), len(other)))
