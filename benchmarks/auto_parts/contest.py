"""Rivals in turns on the same prompts, one process, one counter of tokens; every output compared with plain decoding's.

A round is one pass over all batches. Each round has a namespace of its own, so that nobody remembers the answers of the last one.
"""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol

from rich.progress import track

from auto_parts.common import AUTO, PLAIN, Bench, Forecast, Ids
from betoken import LLM, SamplingParams
from betoken.bench.measure import WARM_UP_TOKENS
from betoken.bench.tie import compare, first_difference
from betoken.engine import Engine, Request
from betoken.methods import proposer_of, spelt
from betoken.policy.cost import Curve
from betoken.proposers.base import Proposer, Workshop
from betoken.stats import Stats, total
from betoken.targets.base import Target
from betoken.targets.hf import HFTarget
from betoken.targets.replay import ForcedTarget

_numbers = itertools.count(1)


def new_namespace() -> str:
    return f"round {next(_numbers)}"


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one rival.

    seconds: of all of it, the prompts included; steps_s, stepped: of its steps alone, and the tokens those gave
    trail:   after each step, where somebody looked: seconds since the call began, tokens so far
    """

    outputs: list[Ids]
    seconds: float
    steps_s: float
    stepped: int
    trail: list[tuple[float, int]] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return sum(map(len, self.outputs))


class Stage(Protocol):
    """Where rivals run."""

    def call(self, method: str, batch: Sequence[Ids], params: SamplingParams, namespace: str) -> Call: ...

    def proposer(self, method: str) -> Proposer | None: ...

    def judge(self, prompt: Ids, params: SamplingParams, plain: Ids, other: Ids) -> str: ...


class Live:
    """An `LLM` as users have it."""

    def __init__(self, llm: LLM) -> None:
        self.llm = llm

    def call(self, method: str, batch: Sequence[Ids], params: SamplingParams, namespace: str) -> Call:
        start = time.perf_counter()
        results = self.llm.generate([*batch], params, method=method, namespace=namespace)
        seconds = time.perf_counter() - start
        return _counted([r.token_ids for r in results], seconds, [r.stats for r in results])

    def proposer(self, method: str) -> Proposer | None:
        return self.llm._room(method, None).engine.proposer

    def judge(self, prompt: Ids, params: SamplingParams, plain: Ids, other: Ids) -> str:
        return str(compare(self.llm.target, prompt, params, plain, other).sameness)


class ByHand:
    """Engines over any target.

    curve:   makes the curve of an `auto` that is to be built
    scripts: what is to be said after each prompt, where the target does not speak for itself
    real:    the model that says whether a difference is a near tie
    """

    def __init__(
        self,
        target: Target,
        draft: Target | None,
        curve: Callable[[], Curve],
        scripts: Mapping[Ids, Ids] | None = None,
        real: HFTarget | None = None,
    ) -> None:
        self._target = target if scripts is None else ForcedTarget(target)
        self._draft, self._curve, self._scripts, self._real = draft, curve, scripts, real
        self._engines: dict[str, Engine] = {}

    def engine(self, method: str) -> Engine:
        if method not in self._engines:
            name, options = spelt(method)
            curve = self._curve() if name == AUTO else None
            proposer = proposer_of(name, Workshop(self._target.info, self._draft, options, curve))
            self._engines[method] = Engine(self._target, proposer)
        return self._engines[method]

    def proposer(self, method: str) -> Proposer | None:
        return self.engine(method).proposer

    def call(self, method: str, batch: Sequence[Ids], params: SamplingParams, namespace: str) -> Call:
        engine = self.engine(method)
        start = time.perf_counter()
        said: dict[int, list[int]] = {self._add(engine, prompt, params, namespace): [] for prompt in batch}
        stats: dict[int, Stats] = {}
        trail: list[tuple[float, int]] = []
        tokens = 0
        while engine.unfinished:
            for event in engine.step():
                said[event.seq_id] += event.tokens
                stats[event.seq_id] = event.stats
                tokens += len(event.tokens)
            trail.append((time.perf_counter() - start, tokens))
        seconds = time.perf_counter() - start
        return _counted([tuple(tokens) for tokens in said.values()], seconds, [*stats.values()], trail)

    def _add(self, engine: Engine, prompt: Ids, params: SamplingParams, namespace: str) -> int:
        if self._scripts is None:
            return engine.add(Request(prompt, params, namespace=namespace))
        script = self._scripts[prompt]
        params = params.replaced(max_tokens=None, ignore_eos=True)
        row = engine.add(Request(prompt, params, ends=len(script), namespace=namespace))
        assert isinstance(self._target, ForcedTarget)
        self._target.record(row, (*prompt, *script))
        return row

    def judge(self, prompt: Ids, params: SamplingParams, plain: Ids, other: Ids) -> str:
        return "a script!" if self._real is None else str(compare(self._real, prompt, params, plain, other).sameness)


def _counted(
    outputs: list[Ids], seconds: float, stats: Sequence[Stats], trail: list[tuple[float, int]] | None = None
) -> Call:
    all_ = total(stats)
    return Call(outputs, seconds, all_.draft_s + all_.verify_s + all_.host_s, all_.emitted_tokens, trail or [])


@dataclass
class Outcome:
    """Tokens a second of each rival, one value a round: of whole calls, and of steps alone; all rounds' `seeds`."""

    label: str
    rates: dict[str, list[float]]
    step_rates: dict[str, list[float]]
    seeds: list[int] = field(default_factory=list)

    def rate(self, name: str) -> float:
        return median(self.rates[name])

    def ratios(self, name: str, other: str, *, steps: bool = False) -> list[float]:
        """Paired by rounds."""
        rates = self.step_rates if steps else self.rates
        return [mine / theirs for mine, theirs in zip(rates[name], rates[other], strict=True)]

    def fastest(self, names: Sequence[str]) -> str:
        return max(names, key=self.rate)

    def as_json(self) -> dict[str, Any]:
        return {
            "contest": self.label,
            "seeds": self.seeds,
            "tokens_per_s": self.rates,
            "tokens_per_s_of_steps": self.step_rates,
        }


@dataclass
class Contest:
    """Who runs where, on what. Rivals are methods as users write them, plain decoding among them.

    before: called before each round, with its namespace; after: likewise
    watch:  told of every counted call: method, round, place of the batch
    """

    bench: Bench
    stage: Stage
    label: str
    rivals: Sequence[str]
    batches: Sequence[Sequence[Ids]]
    params: SamplingParams
    before: Callable[[str], object] = lambda _: None
    after: Callable[[str], object] = lambda _: None
    watch: Callable[[str, int, int, Call], object] = lambda *_: None

    def run(self, rounds: int, *, first_seed: int = 0) -> Outcome:
        """Warm up, then so many rounds. A forecast is kept of those in which `auto` takes part."""
        self._warm_up()
        empty: dict[str, list[float]] = {name: [] for name in self.rivals}
        found = Outcome(self.label, empty, {name: [] for name in self.rivals})
        kept = []
        for number in track(range(rounds), self.label, console=self.bench.console, transient=True):
            seed = self.bench.settings.seed + first_seed + number
            found.seeds.append(seed)
            self._renew()
            self._round(number, self.params.replaced(seed=seed), found)
            kept.append(self._sums())
        self._forecast(kept)
        return found

    def _warm_up(self) -> None:
        """The first call of a method compiles. `auto` sees all prompts once, and says what it says in a namespace of its own."""
        short = self.params.replaced(max_tokens=min(WARM_UP_TOKENS, self.bench.settings.max_tokens))
        for name in self.rivals:
            self.stage.call(name, self.batches[0], short, new_namespace())
        if AUTO in self.rivals:
            space = new_namespace()
            self.before(space)
            for batch in self.batches:
                self.stage.call(AUTO, batch, self.params, space)
            self.after(space)

    def _round(self, number: int, params: SamplingParams, found: Outcome) -> None:
        space = new_namespace()
        self.before(space)
        gc.collect()
        calls: dict[str, list[Call]] = {name: [] for name in self.rivals}
        for place, batch in enumerate(self.batches):
            turn = (place + number) % len(self.rivals)
            for name in (*self.rivals[turn:], *self.rivals[:turn]):
                call = self.stage.call(name, batch, params, space)
                calls[name].append(call)
                self.watch(name, number, place, call)
            self._compare(batch, params, {name: mine[-1].outputs for name, mine in calls.items()})
        self.after(space)
        for name, mine in calls.items():
            found.rates[name].append(sum(call.tokens for call in mine) / sum(call.seconds for call in mine))
            steps_s = sum(call.steps_s for call in mine)
            found.step_rates[name].append(sum(call.stepped for call in mine) / steps_s if steps_s else float("nan"))

    def _compare(self, batch: Sequence[Ids], params: SamplingParams, outputs: Mapping[str, list[Ids]]) -> None:
        expected = outputs[PLAIN if PLAIN in outputs else self.rivals[0]]
        for name, said in outputs.items():
            for prompt, plain, other in zip(batch, expected, said, strict=True):
                if plain != other:
                    self._differs(name, prompt, params, plain, other)

    def _differs(self, name: str, prompt: Ids, params: SamplingParams, plain: Ids, other: Ids) -> None:
        place = first_difference(plain, other)
        verdict = self.stage.judge(prompt, params, plain, other)
        self.bench.differences.append(
            {
                "contest": self.label,
                "method": name,
                "seed": params.seed,
                "prompt_begins": list(prompt[:16]),
                "position": place,
                "judged": verdict,
            }
        )
        self.bench.say(f"[bold red]ANOTHER TEXT[/]: {self.label}, {name}, from token {place} on ({verdict})")

    def _renew(self) -> None:
        """A new ledger for each round."""
        auto: Any = self.stage.proposer(AUTO) if AUTO in self.rivals else None
        if auto is not None:
            auto._books.ledger = type(auto.ledger)(auto.ledger.names)

    def _sums(self) -> tuple[float, float, float, float]:
        auto: Any = self.stage.proposer(AUTO) if AUTO in self.rivals else None
        if auto is None:
            return 0.0, 0.0, 0.0, 0.0
        ledger = auto.ledger
        return ledger.expected, ledger.predicted_s, float(ledger.emitted), ledger.measured_s

    def _forecast(self, rounds: Sequence[tuple[float, float, float, float]]) -> None:
        for number, sums in enumerate(rounds):
            if all(sums):
                self.bench.of_rounds.append(_forecast(f"{self.label}, round {number + 1}", sums))
        whole = tuple(map(sum, zip(*rounds, strict=True)))
        if all(whole):
            self.bench.forecasts.append(_forecast(self.label, whole))


def _forecast(label: str, sums: Sequence[float]) -> Forecast:
    expected, predicted_s, emitted, measured_s = sums
    return Forecast(label, expected / predicted_s, emitted / measured_s)
