"""Each group of the embedded prompts, greedy and at temperature 1: `auto` against the best single method at its best length."""

from __future__ import annotations

from statistics import mean, median
from typing import Any

from figures import Figure, Found, held

from auto_parts.common import AUTO, PLAIN, Bench, Ids
from auto_parts.contest import Contest, Live, Outcome
from auto_parts.sweep import BEST, SWEEP_SEEDS, settings

BOUND = 0.97


def run(bench: Bench) -> Found:
    found = Found()
    for temperature in (0.0, 1.0):
        for group, prompts in bench.groups.items():
            figure, data = _group(bench, group, prompts, temperature)
            found.figures.append(figure)
            found.data.append(data)
            bench.say(f"{figure.what}: {figure.value:.3f} of {figure.more['best']}")
    ratios = [figure.value for figure in found.figures]
    found.figures.append(Figure("mean over all groups", mean(ratios), 1.0, strict=True))
    return found


def _group(bench: Bench, group: str, prompts: list[Ids], temperature: float) -> tuple[Figure, dict[str, Any]]:
    label, batches = f"{group}, T = {temperature:g}", [[ids] for ids in prompts]
    params, stage = bench.settings.params(temperature), Live(bench.llm)
    fixed = settings(bench.settings.quick)
    swept = Contest(bench, stage, f"sweep: {label}", fixed, batches, params).run(
        bench.settings.sweeps, first_seed=SWEEP_SEEDS
    )
    best_two = sorted(fixed, key=swept.rate, reverse=True)[:BEST]
    rivals = [AUTO, *dict.fromkeys((PLAIN, *best_two))]
    fresh = Contest(bench, stage, label, rivals, batches, params).run(bench.settings.rounds)
    best = fresh.fastest(rivals[1:])
    data = {
        "group": group,
        "temperature": temperature,
        "prompts": len(prompts),
        "sweep": {name: swept.rate(name) for name in fixed},
        "best": best,
        "auto_over_best": fresh.ratios(AUTO, best),
        "auto_over_best_in_steps": fresh.ratios(AUTO, best, steps=True),
        **fresh.as_json(),
    }
    return _figure(label, fresh, best), data


def _figure(label: str, fresh: Outcome, best: str) -> Figure:
    return held(
        label,
        fresh.ratios(AUTO, best),
        BOUND,
        best=best,
        **{
            "best/plain": median(fresh.ratios(best, PLAIN)),
            "auto/plain": median(fresh.ratios(AUTO, PLAIN)),
            "in steps alone": median(fresh.ratios(AUTO, best, steps=True)),
        },
    )
