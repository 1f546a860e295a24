"""Figures of benchmarks: what was measured, the bound it has to reach, a median's bootstrap interval, a table. No stopwatch in here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
from rich.table import Table

RESAMPLES = 10_000


@dataclass(frozen=True)
class Figure:
    """Something measured, and the bound it has to reach: at least, or where `most` at most; `strict`: not the bound itself.

    bound: None where nothing is promised
    """

    what: str
    value: float
    bound: float | None
    low: float | None = None
    high: float | None = None
    most: bool = False
    strict: bool = False
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        if self.bound is None:
            return True
        if self.value == self.bound:
            return not self.strict
        return (self.value < self.bound) is self.most

    def as_json(self) -> dict[str, Any]:
        return {**self.__dict__, "reached": self.reached}


@dataclass
class Found:
    """What a part found: figures, and all that they were made of."""

    figures: list[Figure] = field(default_factory=list)
    data: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {"figures": [figure.as_json() for figure in self.figures], "data": self.data}


def interval(ratios: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % of the medians of rounds drawn anew, with replacement."""
    drawn = np.random.default_rng(seed).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(np.asarray(ratios)[drawn], axis=1), (0.025, 0.975))
    return float(low), float(high)


def held(
    what: str, ratios: Sequence[float], bound: float | None, *, most: bool = False, strict: bool = False, **more: Any
) -> Figure:
    """The median of paired ratios against a bound."""
    low, high = interval(ratios)
    return Figure(what, median(ratios), bound, low, high, most, strict, more)


def show(title: str, figures: Sequence[Figure]) -> Table:
    """Figures as a table; columns of `more` in the order they first appear."""
    extra = list(dict.fromkeys(name for figure in figures for name in figure.more))
    table = Table(title=title, box=None, header_style="bold", title_justify="left", pad_edge=False)
    for name in ("what", *extra, "measured", "95 %", "bound", ""):
        table.add_column(name, justify="left" if name in ("what", "") else "right", no_wrap=True)
    for figure in figures:
        sign = ("<" if figure.strict else "≤") if figure.most else (">" if figure.strict else "≥")
        spread = "" if figure.low is None else f"{figure.low:.3f}–{figure.high:.3f}"
        table.add_row(
            figure.what,
            *(_spelt(figure.more.get(name, "")) for name in extra),
            f"{figure.value:.3f}",
            spread,
            "" if figure.bound is None else f"{sign} {figure.bound:g}",
            "" if figure.bound is None else "reached" if figure.reached else "[red]NOT reached",
        )
    return table


def _spelt(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
