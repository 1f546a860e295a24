"""The figures the core promises, on the embedded pair: `python benchmarks/core.py [--output FILE]`.

Everything in one process, rivals in turns, medians over prompts of per-prompt ratios; tokens counted by one counter. Where
transformers has a choice (how many tokens to draft, and how to change that), the faster of its defaults and ours counts.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import GenerationConfig

from betoken import LLM, SamplingParams, demo
from betoken.bench.compare import _machine, write
from betoken.bench.workloads import first_of_each, read
from betoken.engine import Engine, Request
from betoken.loading import load, quiet
from betoken.methods import proposer_of, spelt
from betoken.proposers.base import Workshop

Ids = tuple[int, ...]
COPYING = ("quote", "code", "lists")


@dataclass(frozen=True)
class Prompt:
    """A prompt and its group."""

    group: str
    ids: Ids


class Rivals:
    """Both sides on the same weights: ours through `LLM`, transformers on copies nobody has touched."""

    def __init__(self, max_tokens: int, dtype: str, per_group: int | None) -> None:
        target, draft = demo.pair()
        self.llm = LLM(target, draft, method="draft", dtype=dtype)
        self.model = load(target, dtype=dtype).model
        self.assistant = load(draft, dtype=dtype).model
        self.max_tokens = max_tokens
        self.eos = sorted(self.llm.target.info.eos_ids)
        self.prompts = [
            Prompt(w.group, tuple(self.llm.chat_prompt(w.messages) if w.messages else self.llm.token_ids(w.prompt)))
            for w in first_of_each(read(demo.prompts()), per_group)
        ]

    def ours(self, method: str) -> Callable[[Sequence[Ids]], int]:
        params = SamplingParams(max_tokens=self.max_tokens)

        def run(prompts: Sequence[Ids]) -> int:
            return sum(len(r.token_ids) for r in self.llm.generate([*prompts], params, method=method))

        return run

    def theirs(self, *, assistant: dict[str, Any] | None = None, **options: Any) -> Callable[[Sequence[Ids]], int]:
        """`model.generate`, one prompt after the other."""

        def one(ids: Ids) -> int:
            config = GenerationConfig(
                max_new_tokens=self.max_tokens,
                do_sample=False,
                num_beams=1,
                eos_token_id=self.eos,
                pad_token_id=self.eos[0],
                **options,
            )
            extra: dict[str, Any] = {}
            if assistant is not None:
                for name, value in assistant.items():
                    setattr(self.assistant.generation_config, name, value)
                extra["assistant_model"] = self.assistant
            with quiet(), torch.inference_mode():
                rows = self.model.generate(
                    torch.tensor([ids]),
                    attention_mask=torch.ones(1, len(ids)).long(),
                    generation_config=config,
                    **extra,
                )
            return rows.shape[1] - len(ids)

        return lambda prompts: sum(map(one, prompts))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Quartiles and count."""
    q1, middle, q3 = quantiles(values, n=4, method="inclusive")
    return {"q1": q1, "median": middle, "q3": q3, "n": len(values)}


def race(
    rivals: dict[str, Callable[[Sequence[Ids]], int]], batches: Sequence[Sequence[Ids]], rounds: int, what: str
) -> dict[str, list[float]]:
    """Tokens per second of each rival on each batch, the median of the rounds; another rival first each time."""
    for run in rivals.values():
        run(batches[0][:1])
    rates: dict[str, list[list[float]]] = {name: [[] for _ in batches] for name in rivals}
    names = list(rivals)
    for number in range(rounds):
        for place, batch in enumerate(track(batches, f"{what}, round {number + 1}", console=Console(stderr=True))):
            turn = (place + number) % len(names)
            for name in names[turn:] + names[:turn]:
                start = time.perf_counter()
                tokens = rivals[name](batch)
                rates[name][place].append(tokens / (time.perf_counter() - start))
    return {name: [median(rounds_) for rounds_ in many] for name, many in rates.items()}


def against(rates: dict[str, list[float]], name: str, *others: str) -> dict[str, Any]:
    """One rival over the faster of others, batch by batch."""
    ratios = [mine / max(theirs) for mine, *theirs in zip(rates[name], *(rates[o] for o in others), strict=True)]
    best = max(others, key=lambda other: sum(rates[other]))
    return {
        **spread(ratios),
        "tokens_per_s": median(rates[name]),
        "other_tokens_per_s": median(rates[best]),
        "other": best,
    }


def plain_against_generate(rivals: Rivals, rounds: int) -> dict[str, Any]:
    batches = [[p.ids] for p in rivals.prompts]
    rates = race({"plain": rivals.ours("plain"), "transformers": rivals.theirs()}, batches, rounds, "plain")
    return against(rates, "plain", "transformers")


def ngram_against_lookup(rivals: Rivals, rounds: int, k: int) -> dict[str, Any]:
    batches = [[p.ids] for p in rivals.prompts if p.group in COPYING]
    field = {
        "ngram": rivals.ours(f"ngram:k={k}"),
        "prompt lookup": rivals.theirs(prompt_lookup_num_tokens=k),
        "prompt lookup, 4-grams": rivals.theirs(prompt_lookup_num_tokens=k, max_matching_ngram_size=4),
    }
    rates = race(field, batches, rounds, "ngram")
    return {
        "as it comes": against(rates, "ngram", "prompt lookup"),
        "4-grams, or as it comes, whichever is faster on a prompt": against(rates, *field),
    }


def assisted(rivals: Rivals) -> dict[str, Callable[[Sequence[Ids]], int]]:
    """transformers' assisted generation: as it comes, and with our number of draft tokens, always all of them."""
    default = {
        "num_assistant_tokens": 20,
        "num_assistant_tokens_schedule": "constant",
        "assistant_confidence_threshold": 0.4,
    }
    fixed = {
        "num_assistant_tokens": 4,
        "num_assistant_tokens_schedule": "constant",
        "assistant_confidence_threshold": 0.0,
    }
    return {
        "assisted": rivals.theirs(assistant=default),
        "assisted, 4 tokens": rivals.theirs(assistant=fixed),
    }


def draft_against_assisted(rivals: Rivals, rounds: int) -> dict[str, Any]:
    field = {"draft": rivals.ours("draft"), **assisted(rivals)}
    rates = race(field, [[p.ids] for p in rivals.prompts], rounds, "draft")
    return {"as it comes": against(rates, "draft", "assisted"), "faster of two": against(rates, *field)}


def batch_of_eight(rivals: Rivals, rounds: int) -> dict[str, Any]:
    """Batches mix all groups; ratios per batch."""
    order = sorted(range(len(rivals.prompts)), key=lambda i: (i * 7919) % len(rivals.prompts))
    ids = [rivals.prompts[i].ids for i in order]
    batches = [ids[start : start + 8] for start in range(0, len(ids) - 7, 8)]
    field = {"draft": rivals.ours("draft"), "plain": rivals.ours("plain"), **assisted(rivals)}
    rates = race(field, batches, rounds, "batch of 8")
    prose = [p.ids for p in rivals.prompts if p.group == "prose"]
    turned = [(prose * 8)[start : start + 8] for start in range(len(prose))]
    own = {name: field[name] for name in ("draft", "plain")}
    return {
        "prose, against plain at batch 8": against(race(own, turned, rounds, "prose"), "draft", "plain"),
        "against assisted generation": against(rates, "draft", "assisted", "assisted, 4 tokens"),
        "against plain at batch 8": against(rates, "draft", "plain"),
    }


def temperature_one(rivals: Rivals, stride: int) -> dict[str, Any]:
    """One draft step at every `stride`-th position of the target's own text, greedy and at temperature 1."""
    engine = _engine(rivals, "draft")
    sums: dict[float, list[int]] = {0.0: [], 1.0: []}
    for prompt in track(rivals.prompts, "temperature", console=Console(stderr=True)):
        for heat in (0.0, 1.0):
            text = rivals.llm.generate(
                prompt.ids, SamplingParams(max_tokens=rivals.max_tokens, temperature=heat, seed=1), method="plain"
            ).token_ids
            for place in range(0, len(text), stride):
                for now in sums:
                    sums[now].append(_first_step(engine, (*prompt.ids, *text[:place]), now, place))
    cold, hot = (sum(sums[heat]) / len(sums[heat]) for heat in (0.0, 1.0))
    return {"median": hot / cold, "tokens per step at 0": cold, "tokens per step at 1": hot, "n": len(sums[0.0])}


def _engine(rivals: Rivals, method: str) -> Engine:
    name, options = spelt(method)
    workshop = Workshop(rivals.llm.target.info, rivals.llm._draft, options)
    return Engine(rivals.llm.target, proposer_of(name, workshop))


def _first_step(engine: Engine, ids: Ids, temperature: float, seed: int) -> int:
    """Tokens of the step after the prompt's own; an end counts as any token, so that all positions weigh the same."""
    request = Request(ids, SamplingParams(temperature=temperature, seed=seed, max_tokens=8, ignore_eos=True))
    seq = engine.add(request)
    engine.step()
    events = engine.step() if engine.unfinished else []
    engine.abort(seq)
    return len(events[0].tokens) if events else 1


class Timed:
    """A model whose forward passes are timed."""

    def __init__(self, model: Any) -> None:
        self._model, self.seconds = model, 0.0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        result = self._model(*arguments, **options)
        self.seconds += time.perf_counter() - start
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def host_time(rivals: Rivals, method: str, temperature: float) -> dict[str, Any]:
    """Milliseconds of a step outside every model's forward, prompts by themselves; one value a prompt."""
    targets = [target for target in (rivals.llm.target, rivals.llm._draft) if target is not None]
    params = SamplingParams(max_tokens=rivals.max_tokens, temperature=temperature, seed=3, ignore_eos=True)
    rivals.llm.generate(rivals.prompts[0].ids, params, method=method)
    values = []
    for prompt in rivals.prompts:
        room = rivals.llm.steps(prompt.ids, params, method=method)
        next(room)
        timers = [Timed(target.model) for target in targets]
        for target, timer in zip(targets, timers, strict=True):
            target.model = timer
        start = time.perf_counter()
        steps = sum(1 for _ in room)
        wall = time.perf_counter() - start
        for target, timer in zip(targets, timers, strict=True):
            target.model = timer._model
        values.append((wall - sum(timer.seconds for timer in timers)) / steps * 1e3)
    return spread(values)


def memory(rivals: Rivals, method: str) -> dict[str, Any]:
    """Resident bytes less weights and KV, at steps 200 and 2,000 of one answer."""
    params = SamplingParams(max_tokens=None, ignore_eos=True, temperature=1.0, seed=1)
    ids = rivals.prompts[0].ids
    seen: dict[int, int] = {}
    for number, _ in enumerate(rivals.llm.steps(ids, params, method=method)):
        if number in (200, 2000):
            seen[number] = _resident(rivals)
        if number == 2000:
            break
    if 2000 not in seen:
        return {"median": float("nan"), "n": number}
    return {"median": seen[2000] / seen[200], "MB at 200": seen[200] / 1e6, "MB at 2000": seen[2000] / 1e6, "n": 1}


def _resident(rivals: Rivals) -> int:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    targets = [target for target in (rivals.llm.target, rivals.llm._draft) if target is not None]
    models = [*(target.model for target in targets), rivals.model, rivals.assistant]
    weights = sum(w.untyped_storage().nbytes() for model in models for w in model.parameters())
    return pages * 4096 - sum(target.kv_bytes for target in targets) - weights


def measure(rivals: Rivals, rounds: int) -> dict[str, Any]:
    """All of it. Keys: what; values: figures, with the bound they have to reach."""
    eight = batch_of_eight(rivals, rounds)
    helped = draft_against_assisted(rivals, rounds)
    lookup = ngram_against_lookup(rivals, rounds, 10)
    return {
        "plain / transformers.generate": (1.2, plain_against_generate(rivals, rounds)),
        "ngram / transformers' prompt lookup, copying prompts, k = 10": (1.3, lookup["as it comes"]),
        "the same, prompt lookup's faster setting of two, prompt by prompt": (
            1.3,
            lookup["4-grams, or as it comes, whichever is faster on a prompt"],
        ),
        "draft / transformers' assisted generation": (1.3, helped["as it comes"]),
        "the same, assisted generation's faster setting of two, prompt by prompt": (1.3, helped["faster of two"]),
        "8 prompts at once, draft / assisted generation one by one": (2.5, eight["against assisted generation"]),
        "8 prompts at once, draft / plain": (1.1, eight["against plain at batch 8"]),
        "8 prose prompts at once, draft / plain": (1.1, eight["prose, against plain at batch 8"]),
        "draft, tokens per step, temperature 1 / 0": (0.8, temperature_one(rivals, 4)),
        "host ms a step, plain, greedy": (-0.6, host_time(rivals, "plain", 0.0)),
        "host ms a step, plain, temperature 1": (-1.0, host_time(rivals, "plain", 1.0)),
        "host ms a step, draft, greedy": (-0.6, host_time(rivals, "draft", 0.0)),
        "host ms a step, draft, temperature 1": (-1.0, host_time(rivals, "draft", 1.0)),
        "memory at step 2,000 / 200, plain": (-1.01, memory(rivals, "plain")),
        "memory at step 2,000 / 200, ngram": (-1.01, memory(rivals, "ngram")),
    }


def show(figures: dict[str, Any]) -> Table:
    table = Table(box=None, header_style="bold", title_justify="left")
    for name in ("what", "measured", "quartiles", "n", "bound", ""):
        table.add_column(name, justify="left" if name == "what" else "right")
    for what, (bound, found) in figures.items():
        value = found["median"]
        good = value >= bound if bound > 0 else value <= -bound
        quartiles_ = f"{found['q1']:.3f}–{found['q3']:.3f}" if "q1" in found else ""
        sign = "≥" if bound > 0 else "≤"
        table.add_row(
            what,
            f"{value:.3f}",
            quartiles_,
            str(found["n"]),
            f"{sign} {abs(bound):g}",
            "reached" if good else "[red]NOT reached",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--per-group", type=int)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    rivals = Rivals(args.max_tokens, args.dtype, args.per_group)
    figures = measure(rivals, args.rounds)
    Console().print(show(figures))
    if args.output is not None:
        environment = {
            "machine": _machine("cpu"),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            "dtype": args.dtype,
            "rounds": args.rounds,
            "max_tokens": args.max_tokens,
            "prompts": len(rivals.prompts),
        }
        write(args.output, json.dumps({"environment": environment, "figures": figures}, indent=2))


if __name__ == "__main__":
    main()
