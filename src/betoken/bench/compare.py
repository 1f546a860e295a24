"""The comparison from beginning to end: load, tokenise, measure in turns, check every output, report."""

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

import betoken
from betoken import demo
from betoken.bench.cells import PLAIN, Cell, Judged, cells
from betoken.bench.measure import Item, MethodRunner, Plan, Run, Runner, TransformersRunner, calls, measure
from betoken.bench.tie import Comparison, Sameness, compare, loops
from betoken.bench.workloads import Workload, first_of_each, read
from betoken.errors import BetokenError, PromptError
from betoken.files import replacing
from betoken.llm import LLM
from betoken.loading import load
from betoken.methods import spelt

SCHEMA = "betoken.compare/1"
TRANSFORMERS = "transformers"
USUAL = ("auto", "ngram", "suffix", "mix", "recycling", "merge", "lookahead", "draft")


@dataclass(frozen=True, slots=True)
class Setup:
    """What is compared. No model means the embedded pair, no prompts the embedded ones, no methods the usual ones.

    limit: at most so many prompts of each group; None for all
    recalibrate: see `LLM`
    """

    model: str | None = None
    draft: str | None = None
    methods: tuple[str, ...] = ()
    prompts: Path | None = None
    limit: int | None = None
    dtype: str = "auto"
    device: str = "auto"
    plan: Plan = field(default_factory=Plan)
    recalibrate: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it. `complete` is False where somebody interrupted the measurement."""

    cells: list[Cell]
    runs: list[Run]
    judged: Judged
    header: Mapping[str, Any]
    plan: Plan
    complete: bool

    @property
    def different(self) -> int:
        """How many outputs of our own methods differ from plain decoding beyond a near tie; a defect if not 0."""
        wrong = [key for key, found in self.judged.items() if found.sameness is Sameness.DIFFERENT]
        return sum(method != TRANSFORMERS for method, _, _ in wrong)


class Bench:
    """Loaded models, runners and tokenised prompts, ready to be measured. Close it, or use it in a `with` statement."""

    def __init__(self, setup: Setup, workloads: Sequence[Workload] | None = None) -> None:
        """workloads: these, and not those that the setup names."""
        self.setup = setup
        if workloads is None:
            workloads = first_of_each(read(setup.prompts or demo.prompts()), setup.limit)
        model, draft = pair_of(setup)
        names = chosen(setup.methods, with_draft=draft is not None)
        first = next((name for name in names if name != TRANSFORMERS and name != PLAIN), PLAIN)
        self.llm = LLM(
            model,
            draft,
            method=first,
            dtype=setup.dtype,
            device=setup.device,
            max_rows=setup.plan.batch_size,
            recalibrate=setup.recalibrate,
        )
        try:
            self.items = [item_of(self.llm, workload) for workload in workloads]
            self.runners = [self._runner(name, model) for name in names]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let the models go."""
        self.llm.close()

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _runner(self, name: str, model: str) -> Runner:
        if name != TRANSFORMERS:
            return MethodRunner(self.llm, name)
        copy = load(model, dtype=self.llm.info.dtype, device=self.llm.info.device)
        return TransformersRunner(copy.model, self.llm.target.info.eos_ids)

    @property
    def calls(self) -> int:
        """How many steps `run` will tell about."""
        return calls(self.runners, self.items, self.setup.plan)

    def run(self, tell: Callable[[str], None] = lambda _: None) -> Report:
        """Measure and judge. Ctrl-C ends it early, with a report of what was measured until then."""
        runs: list[Run] = []
        complete = True
        try:
            measure(self.runners, self.items, self.setup.plan, runs=runs, tell=tell)
        except KeyboardInterrupt:
            complete = False
        judged = self._judge(runs)
        return Report(cells(runs, judged), runs, judged, self.header(), self.setup.plan, complete)

    def _judge(self, runs: Sequence[Run]) -> dict[tuple[str, float, str], Comparison]:
        """Every output against plain decoding's; transformers' only where greedy, since its noise is another one."""
        plain = {
            (run.temperature, item.id): said.token_ids
            for run in runs
            if run.method == PLAIN
            for item, said in zip(run.items, run.said, strict=True)
        }
        judged: dict[tuple[str, float, str], Comparison] = {}
        for run in runs:
            if run.method == PLAIN or (run.method == TRANSFORMERS and run.temperature > 0):
                continue
            params = self.setup.plan.params(run.temperature)
            for item, said in zip(run.items, run.said, strict=True):
                reference = plain.get((run.temperature, item.id))
                if reference is not None:
                    verdict = compare(self.llm.target, item.ids, params, reference, said.token_ids)
                    judged[run.method, run.temperature, item.id] = verdict
        return judged

    def header(self) -> dict[str, Any]:
        """What was measured, on what. The embedded models go by their names, not by where they lie."""
        embedded = {"model": "embedded target"} if self.setup.model is None else {}
        if self.setup.model is None and self.setup.draft is None:
            embedded["draft"] = "embedded draft model"
        return {
            "model": {**asdict(self.llm.info), **embedded},
            "betoken": betoken.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
            "machine": _machine(self.llm.info.device),
            "threads": torch.get_num_threads(),
            "prompts": len(self.items),
            "prompt_tokens": sum(len(item.ids) for item in self.items),
        }


def chosen(names: Sequence[str], *, with_draft: bool) -> list[str]:
    """The methods to compare, plain decoding always among them. Raises ParameterError for a name nobody knows."""
    known = LLM.methods()
    usual = [name for name in USUAL if name in known and (name != "draft" or with_draft)]
    wanted = list(dict.fromkeys(names)) or [TRANSFORMERS, PLAIN, *usual]
    kinds = [spelt(name)[0] for name in wanted if name != TRANSFORMERS]
    if "draft" in kinds and not with_draft:
        raise BetokenError(
            "the method draft needs a draft model; name one with --draft, or leave draft out of --methods"
        )
    return wanted if PLAIN in wanted else [PLAIN, *wanted]


def pair_of(setup: Setup) -> tuple[str, str | None]:
    """The target and the draft model that are meant."""
    if setup.model is not None:
        return setup.model, setup.draft
    model, draft = demo.pair()
    return model, setup.draft or draft


def item_of(llm: LLM, workload: Workload) -> Item:
    """A prompt in token ids. Raises PromptError where the model has no room for it."""
    messages = workload.messages
    ids = tuple(llm.chat_prompt(messages) if messages else llm.token_ids(workload.prompt))
    context = llm.target.info.context
    if context is not None and len(ids) >= context:
        raise PromptError(f"prompt {workload.id} has {len(ids)} tokens; {llm.info.model} has room for {context - 1}")
    return Item(workload.id, workload.group, ids)


def _machine(device: str) -> str:
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def to_json(report: Report) -> str:
    """The whole report as JSON, `schema` first; names as in `Cell`, `Plan`, `LLMInfo`."""
    plan = asdict(report.plan)
    return json.dumps(
        {
            "schema": SCHEMA,
            "complete": report.complete,
            "environment": dict(report.header),
            "settings": plan,
            "cells": [asdict(cell) for cell in report.cells],
            "outputs": [entry for run in report.runs for entry in _outputs(run, report.judged)],
        },
        indent=2,
    )


def _outputs(run: Run, judged: Judged) -> list[dict[str, Any]]:
    """One entry per output; `batch_seconds` holds the rounds of the call it was part of."""
    entries = []
    for item, said in zip(run.items, run.said, strict=True):
        verdict = judged.get((run.method, run.temperature, item.id))
        entries.append(
            {
                "method": run.method,
                "temperature": run.temperature,
                "group": item.group,
                "id": item.id,
                "prompt_tokens": len(item.ids),
                "token_ids": list(said.token_ids),
                "batch_seconds": run.seconds,
                "batch_size": len(run.items),
                "looping": loops(said.token_ids),
                "against_plain": None if verdict is None else asdict(verdict),
            }
        )
    return entries


def write(path: Path, text: str) -> None:
    """Write a file all at once. Raises BetokenError."""
    with replacing(path) as rough:
        rough.write_text(text + "\n", encoding="utf-8")
