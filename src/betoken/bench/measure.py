"""Timed runs: every method on the same prompts, in turns, in one process, its tokens counted by the same counter."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol

import torch

from betoken.llm import LLM
from betoken.loading import quiet
from betoken.params import SamplingParams
from betoken.stats import Stats

Ids = tuple[int, ...]
WARM_UP_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Said:
    """One output: its tokens (an ending token included), and its counters where there are any."""

    token_ids: Ids
    stats: Stats | None = None


class Runner(Protocol):
    """Something that decodes a batch."""

    @property
    def name(self) -> str: ...

    def run(self, prompts: Sequence[Ids], params: SamplingParams) -> list[Said]: ...


@dataclass(frozen=True, slots=True)
class MethodRunner:
    """One of our methods. A prompt that comes again (another round, another temperature, after warming up) starts a new namespace:
    a method that remembers across requests would know its answer by heart, and be measured at that."""

    llm: LLM
    name: str
    _seen: list[set[Ids]] = field(default_factory=lambda: [set()])

    def run(self, prompts: Sequence[Ids], params: SamplingParams) -> list[Said]:
        if self._seen[-1].intersection(prompts):
            self._seen.append(set())
        self._seen[-1].update(prompts)
        results = self.llm.generate(list(prompts), params, method=self.name, namespace=f"round {len(self._seen)}")
        return [Said(result.token_ids, result.stats) for result in results]


@dataclass(frozen=True, slots=True)
class TransformersRunner:
    """`model.generate` of transformers itself, on a copy of the model that nobody has touched."""

    model: Any
    eos_ids: frozenset[int]
    name: str = "transformers"

    def run(self, prompts: Sequence[Ids], params: SamplingParams) -> list[Said]:
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(prompt)) + [*prompt] for prompt in prompts], device=self.model.device)
        seen = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]).to(ids.device)
        torch.manual_seed(params.seed or 0)
        with quiet(), torch.inference_mode():
            rows = self.model.generate(ids, attention_mask=seen, generation_config=self._config(params))
        return [Said(_until_end(row[width:], self.eos_ids)) for row in rows.tolist()]

    def _config(self, params: SamplingParams) -> Any:
        from transformers import GenerationConfig

        end = sorted(self.eos_ids)
        sampled = {} if params.greedy else {"temperature": params.temperature, "top_k": 0, "top_p": 1.0}
        return GenerationConfig(
            max_new_tokens=params.max_tokens,
            do_sample=not params.greedy,
            num_beams=1,
            repetition_penalty=1.0,
            eos_token_id=end or None,
            pad_token_id=end[0] if end else 0,
            **sampled,
        )


def _until_end(tokens: Sequence[int], eos_ids: frozenset[int]) -> Ids:
    end = next((place for place, token in enumerate(tokens) if token in eos_ids), len(tokens) - 1)
    return tuple(tokens[: end + 1])


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt of the measurement."""

    id: str
    group: str
    ids: Ids


@dataclass(slots=True)
class Run:
    """One method on one batch: seconds of each round, and what was said (the same in every round).

    Seconds are of the whole call: prefill, decoding, and the way back to token ids and text.
    """

    method: str
    temperature: float
    items: Sequence[Item]
    said: Sequence[Said] = ()
    seconds: list[float] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return sum(len(said.token_ids) for said in self.said)

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / median(self.seconds)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. `temperatures` one after the other; `rounds` times all of it."""

    temperatures: tuple[float, ...] = (0.0, 1.0)
    max_tokens: int = 128
    batch_size: int = 1
    rounds: int = 1
    seed: int = 0

    def params(self, temperature: float) -> SamplingParams:
        return SamplingParams(temperature=temperature, max_tokens=self.max_tokens, seed=self.seed)


def batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Batches of one group each, in order."""
    for group in dict.fromkeys(item.group for item in items):
        members = [item for item in items if item.group == group]
        yield from (members[start : start + size] for start in range(0, len(members), size))


def measure(
    runners: Sequence[Runner], items: Sequence[Item], plan: Plan, *, runs: list[Run], tell: Callable[[str], None]
) -> None:
    """Fill `runs`, so that who is interrupted keeps what there is. `tell` is called before every timed call."""
    for runner in runners:
        tell(f"warming up {runner.name}")
        for temperature in plan.temperatures:
            short = plan.params(temperature).replaced(max_tokens=min(WARM_UP_TOKENS, plan.max_tokens))
            runner.run([items[0].ids], short)
    known: dict[tuple[str, float, int], Run] = {}
    for temperature, place, batch, runner in _schedule(runners, items, plan):
        tell(f"{heat(temperature)} · {batch[0].id} · {runner.name}")
        run = known.get((runner.name, temperature, place)) or Run(runner.name, temperature, batch)
        start = time.perf_counter()
        said = runner.run([item.ids for item in batch], plan.params(temperature))
        run.seconds.append(time.perf_counter() - start)
        if not run.said:
            run.said = said
            runs.append(run)
            known[runner.name, temperature, place] = run


def calls(runners: Sequence[Runner], items: Sequence[Item], plan: Plan) -> int:
    """How often `measure` will tell."""
    return len(runners) + sum(1 for _ in _schedule(runners, items, plan))


def _schedule(
    runners: Sequence[Runner], items: Sequence[Item], plan: Plan
) -> Iterator[tuple[float, int, Sequence[Item], Runner]]:
    """Per batch the methods follow one another, another one first each time: what else the machine does hits all."""
    for number in range(plan.rounds):
        for temperature in plan.temperatures:
            for place, batch in enumerate(batches(items, plan.batch_size)):
                turn = (place + number) % len(runners)
                for runner in (*runners[turn:], *runners[:turn]):
                    yield temperature, place, batch, runner


def heat(temperature: float) -> str:
    """How a temperature is called."""
    return "greedy" if temperature == 0 else f"temperature {temperature:g}"
