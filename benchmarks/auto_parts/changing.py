"""One request that changes from prose to code to a table copied from its prompt: tokens forced from a script, forward passes real.

Each part counts from 30 steps of `auto` after its beginning on (from half of its steps on, where it takes fewer than 60); rivals are
timed on the very tokens that were left then.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median
from typing import Any

import numpy as np
from figures import Found, held

from auto_parts.common import AUTO, PLAIN, Bench, Ids
from auto_parts.contest import ByHand, Call, Contest
from auto_parts.sweep import BEST, SWEEP_SEEDS, settings
from betoken.policy.cost import Measured

BOUND = 0.9
STEPS = 30
NAMES = ("prose", "code", "a copied table")
SCRIPTS, PART, TABLE_ROWS = 3, 640, 72
WARMTH = 0.7


@dataclass(frozen=True)
class Script:
    """A prompt, what is said after it, and where in that its parts end."""

    prompt: Ids
    output: Ids
    ends: tuple[int, ...]


Rounds = dict[str, list[list[float]]]  # by rival: a value for each part, a list of them for each round


class Watch:
    """Keeps every call of a round until all rivals have been through a script; then times the parts."""

    def __init__(self, scripts: Sequence[Script], rivals: Sequence[str]) -> None:
        self._scripts, self._rivals = scripts, rivals
        self._calls: dict[tuple[int, int], dict[str, Call]] = {}
        self.left: dict[tuple[int, int], list[int]] = {}

    def __call__(self, name: str, number: int, place: int, call: Call) -> None:
        self._calls.setdefault((number, place), {})[name] = call

    def rates(self, steps: int) -> Rounds:
        """Tokens a second of each part: all scripts of a round together."""
        found: Rounds = {name: [] for name in self._rivals}
        for number in sorted({number for number, _ in self._calls}):
            sums = {name: np.zeros((2, len(NAMES))) for name in self._rivals}
            for place, script in enumerate(self._scripts):
                calls = self._calls[number, place]
                spans = _spans(script, calls.get(AUTO), steps)
                self.left[number, place] = [end - start for start, end in spans]
                for name, call in calls.items():
                    sums[name] += np.array([_timed(call, span) for span in spans]).T
            for name, (tokens, seconds) in sums.items():
                found[name].append([float(rate) for rate in tokens / np.maximum(seconds, 1e-12)])
        return found


def _spans(script: Script, auto: Call | None, steps: int) -> list[tuple[int, int]]:
    """Which tokens of each part count: those after so many steps of `auto`, or all."""
    spans = []
    for start, end in zip((0, *script.ends), script.ends, strict=False):
        after = [tokens for _, tokens in auto.trail if tokens > start] if auto is not None else []
        reached = after[min(steps, len(after) // 2)] if steps and after else start
        spans.append((min(reached, end), end))
    return spans


def _timed(call: Call, span: tuple[int, int]) -> tuple[float, float]:
    """Tokens of a span, and the seconds they took; inside of a step evenly."""
    seconds, tokens = zip(*call.trail, strict=True)
    first, last = np.interp(span, tokens, seconds)
    return float(span[1] - span[0]), float(last - first)


def run(bench: Bench) -> Found:
    scripts = [
        make_script(bench, number)
        for number in range(1 if bench.settings.quick else min(SCRIPTS, bench.settings.per_group or SCRIPTS))
    ]
    llm = bench.llm
    said = {script.prompt: script.output for script in scripts}
    stage = ByHand(llm.target, llm._draft, lambda: Measured(llm.curve().points), said)
    fixed = settings(bench.settings.quick)
    swept = _watched(bench, stage, scripts, fixed, bench.settings.sweeps, SWEEP_SEEDS).rates(0)
    best = [_best(swept, fixed, part) for part in range(len(NAMES))]
    rivals = [AUTO, *dict.fromkeys((PLAIN, *(name for names in best for name in names)))]
    watch = _watched(bench, stage, scripts, rivals, bench.settings.rounds, 0)
    return _found(bench, watch, best, swept)


def _watched(
    bench: Bench, stage: ByHand, scripts: Sequence[Script], rivals: Sequence[str], rounds: int, first_seed: int
) -> Watch:
    watch = Watch(scripts, rivals)
    label = "one request that changes" + (", sweep" if first_seed else "")
    batches = [[script.prompt] for script in scripts]
    Contest(bench, stage, label, rivals, batches, bench.settings.params(), watch=watch).run(
        rounds, first_seed=first_seed
    )
    return watch


def _best(rates: Rounds, names: Sequence[str], part: int) -> list[str]:
    return sorted(names, key=lambda name: -median(values[part] for values in rates[name]))[:BEST]


def _found(bench: Bench, watch: Watch, best: list[list[str]], swept: Rounds) -> Found:
    found, fresh = Found(), watch.rates(STEPS)
    for part, name in enumerate(NAMES):
        rival = _best(fresh, [*dict.fromkeys((PLAIN, *best[part]))], part)[0]
        rates: dict[str, list[float]] = {who: [values[part] for values in rounds] for who, rounds in fresh.items()}
        ratios = _ratios(rates, AUTO, rival)
        more: dict[str, Any] = {
            "best": rival,
            "best/plain": median(_ratios(rates, rival, PLAIN)),
            "auto/plain": median(_ratios(rates, AUTO, PLAIN)),
            "tokens left": round(median(left[part] for left in watch.left.values())),
        }
        found.figures.append(held(f"{name}, from {STEPS} steps on", ratios, BOUND, **more))
        sweep = {who: median(values[part] for values in rounds) for who, rounds in swept.items()}
        found.data.append({"part": name, "auto_over_best": ratios, "tokens_per_s": rates, "sweep": sweep, **more})
        bench.say(f"{name}: {found.figures[-1].value:.3f} of {rival}")
    return found


def _ratios(rates: dict[str, list[float]], name: str, other: str) -> list[float]:
    return [mine / theirs for mine, theirs in zip(rates[name], rates[other], strict=True)]


def make_script(bench: Bench, number: int) -> Script:
    """Prose and code are what the embedded target says to its prompts, at another seed for each script; the table is copied."""
    size = 48 if bench.settings.quick else PART
    table = make_table(bench, number)
    parts = [_spoken(bench, "prose", number, size), _spoken(bench, "code", number, size), table]
    task = bench.llm.token_ids("Tell a story, show the code, and copy the table.\n\n")
    prompt = (*task, *table, *bench.llm.token_ids("\n\n"))
    return Script(prompt, tuple(token for part in parts for token in part), tuple(accumulate(map(len, parts))))


def _spoken(bench: Bench, group: str, number: int, size: int) -> Ids:
    """Answers to the prompts of a group, one after the other, ends left out."""
    params = bench.settings.params(WARMTH).replaced(seed=bench.settings.seed + number, max_tokens=size)
    ends, said = bench.llm.target.info.eos_ids, []
    while len(said) < size:
        for prompt in bench.groups[group]:
            answer = bench.llm.generate(prompt, params, method=PLAIN).token_ids
            said += [token for token in answer if token not in ends]
        params = params.replaced(seed=(params.seed or 0) + 1000)
    return tuple(said[:size])


def make_table(bench: Bench, number: int) -> Ids:
    draw = random.Random(bench.settings.seed + number)
    lines = ["| item | price | stock |", "| --- | --- | --- |"]
    for _ in range(6 if bench.settings.quick else TABLE_ROWS):
        first, second = (bench.llm.tokenizer.decode([draw.choice(bench.words)]).strip() for _ in range(2))
        lines.append(f"| {first} {second} | {draw.randint(1, 99)} | {draw.randint(1, 999)} |")
    return tuple(bench.llm.token_ids("\n".join(lines) + "\n"))
