"""Batches of 1 to 16 mixed prompts, greedy: `auto` against plain decoding at that batch, and against fixed settings."""

from __future__ import annotations

from statistics import mean, median

from figures import Figure, Found, held

from auto_parts.common import AUTO, PLAIN, Bench, Ids
from auto_parts.contest import Contest, Live, Outcome

SIZES = (1, 2, 4, 8, 16)
PROMPTS = 32
FIXED = ("suffix:nodes=8", "recycling:nodes=7", "recycling:nodes=16", "ngram", "draft:k=2:worth=0")
BOUND = 0.97


def run(bench: Bench) -> Found:
    found, speedups = Found(), dict.fromkeys((AUTO, *FIXED), ())
    prompts = bench.mixed(PROMPTS)
    for size in SIZES:
        if size > len(prompts):
            bench.say(f"batch {size}: there are only {len(prompts)} prompts; left out")
            continue
        outcome = _size(bench, size, prompts)
        for name in speedups:
            speedups[name] = (*speedups[name], median(outcome.ratios(name, PLAIN)))
        found.figures.append(_figure(size, outcome))
        found.data.append({"batch": size, **outcome.as_json()})
        bench.say(f"batch {size}: {found.figures[-1].value:.3f} of plain")
    means = {name: mean(values) for name, values in speedups.items()}
    best = max(FIXED, key=means.__getitem__)
    found.figures.append(
        Figure("mean speed-up over all batches", means[AUTO], means[best], strict=True, more={"best fixed": best})
    )
    found.data.append({"mean_speedups": means})
    return found


def _size(bench: Bench, size: int, prompts: list[Ids]) -> Outcome:
    """Full batches only."""
    batches = [prompts[start : start + size] for start in range(0, len(prompts) - size + 1, size)]
    rivals = (AUTO, PLAIN, *FIXED)
    contest = Contest(bench, Live(bench.llm), f"batch {size}", rivals, batches, bench.settings.params())
    return contest.run(bench.settings.rounds)


def _figure(size: int, outcome: Outcome) -> Figure:
    best = outcome.fastest(FIXED)
    more = {
        "best fixed": best,
        "best/plain": median(outcome.ratios(best, PLAIN)),
        "auto/best": median(outcome.ratios(AUTO, best)),
        "in steps alone": median(outcome.ratios(AUTO, PLAIN, steps=True)),
    }
    return held(f"batch {size}, auto/plain", outcome.ratios(AUTO, PLAIN), BOUND, **more)
