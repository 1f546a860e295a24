"""From timed runs to the figures of a table: one cell per temperature, group of prompts and method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from betoken.bench.measure import Run
from betoken.bench.tie import Comparison, Sameness, loops
from betoken.stats import Stats, total

ALL = "all"
PLAIN = "plain"

Judged = Mapping[tuple[str, float, str], Comparison]  # (method, temperature, prompt id) -> against plain


@dataclass(frozen=True, slots=True)
class Spread:
    """Lower quartile, median, upper quartile over prompts (batches, where they are larger than one)."""

    q1: float
    median: float
    q3: float

    @staticmethod
    def of(values: Sequence[float]) -> "Spread | None":
        if not values:
            return None
        if len(values) == 1:
            return Spread(values[0], values[0], values[0])
        q1, middle, q3 = quantiles(values, n=4, method="inclusive")
        return Spread(q1, middle, q3)


@dataclass(frozen=True, slots=True)
class Cell:
    """One method on one kind of prompt.

    seconds:      of all calls, prefill included (the median round of each)
    prefill_s:    of that, in the prompts' forward passes; None where it was not measured
    speedup:      tokens per second over plain decoding's on the same prompt; None without plain
    step_cost:    seconds of a step, decoding only, over those of a plain step; None without plain, or without steps
    identical, near_tie, different: outputs against plain decoding with the same seed; all 0 where that says nothing
    margin:       the largest margin among the near ties and differences
    """

    temperature: float
    group: str
    method: str
    prompts: int
    tokens: int
    seconds: float
    prefill_s: float | None
    tokens_per_s: float
    speedup: Spread | None
    mean_acceptance_length: float | None
    acceptance_rate: float | None
    tokens_per_step: float | None
    step_cost: float | None
    identical: int
    near_tie: int
    different: int
    margin: float | None
    looping: float


def cells(runs: Sequence[Run], judged: Judged) -> list[Cell]:
    """The cells of a measurement, by temperature, group, method; and a group "all" where there are several."""
    made: list[Cell] = []
    for temperature in dict.fromkeys(run.temperature for run in runs):
        heated = [run for run in runs if run.temperature == temperature]
        groups = [*dict.fromkeys(run.items[0].group for run in heated)]
        for group in groups:
            made += _group([run for run in heated if run.items[0].group == group], group, judged)
        if len(groups) > 1:
            made += _group(heated, ALL, judged)
    return made


def _group(runs: Sequence[Run], group: str, judged: Judged) -> list[Cell]:
    methods = sorted({run.method for run in runs}, key=_place)
    plain = {run.items[0].id: run for run in runs if run.method == PLAIN}
    return [_cell([run for run in runs if run.method == method], group, plain, judged) for method in methods]


def _place(method: str) -> tuple[int, str]:
    """What is compared with comes first."""
    first = ["transformers", PLAIN]
    return (first.index(method) if method in first else len(first), method)


def _cell(runs: Sequence[Run], group: str, plain: Mapping[str, Run], judged: Judged) -> Cell:
    name, temperature = runs[0].method, runs[0].temperature
    seconds = sum(median(run.seconds) for run in runs)
    stats = _stats(runs)
    ids = [item.id for run in runs for item in run.items]
    verdicts = [judged[key] for key in ((name, temperature, i) for i in ids) if key in judged]
    tokens = sum(run.tokens for run in runs)
    outputs = [said.token_ids for run in runs for said in run.said]
    return Cell(
        temperature=temperature,
        group=group,
        method=name,
        prompts=len(ids),
        tokens=tokens,
        seconds=seconds,
        prefill_s=None if stats is None else stats.prefill_s,
        tokens_per_s=tokens / seconds,
        speedup=Spread.of(
            [run.tokens_per_s / plain[key].tokens_per_s for run in runs if (key := run.items[0].id) in plain]
        ),
        mean_acceptance_length=None if stats is None else stats.mean_acceptance_length,
        acceptance_rate=None if stats is None else stats.acceptance_rate,
        tokens_per_step=None if stats is None else stats.tokens_per_step,
        step_cost=_step_cost(stats, _stats([*plain.values()])),
        identical=sum(verdict.sameness is Sameness.IDENTICAL for verdict in verdicts),
        near_tie=sum(verdict.sameness is Sameness.NEAR_TIE for verdict in verdicts),
        different=sum(verdict.sameness is Sameness.DIFFERENT for verdict in verdicts),
        margin=max((verdict.margin for verdict in verdicts if verdict.margin is not None), default=None),
        looping=sum(map(loops, outputs)) / len(outputs),
    )


def _stats(runs: Sequence[Run]) -> Stats | None:
    found = [said.stats for run in runs for said in run.said if said.stats is not None]
    return total(found) if found else None


def _step_cost(stats: Stats | None, plain: Stats | None) -> float | None:
    if stats is None or plain is None or not stats.steps or not plain.steps:
        return None
    return (_decode_s(stats) / stats.steps) / (_decode_s(plain) / plain.steps)


def _decode_s(stats: Stats) -> float:
    return stats.draft_s + stats.verify_s + stats.host_s
