"""`betoken explain`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from betoken.cli.common import (
    INTERRUPTED,
    Device,
    DraftModel,
    Dtype,
    MaxTokens,
    Model,
    Recalibrate,
    busy,
    printable,
    progress,
    readable_errors,
)
from betoken.errors import ParameterError, PromptError


def explain(
    prompt: Annotated[str | None, typer.Argument(help="One prompt; default: those of --prompts.")] = None,
    model: Model = None,
    draft: DraftModel = None,
    prompts: Annotated[Path | None, typer.Option(help="JSON lines, or one prompt per line.")] = None,
    per_group: Annotated[int, typer.Option(min=1, help="At most so many prompts of each group.")] = 2,
    max_tokens: MaxTokens = 128,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts decoded at once.")] = 1,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    dtype: Dtype = "auto",
    device: Device = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of the sampled answers.")] = 0,
    recalibrate: Recalibrate = False,
    json: Annotated[bool, typer.Option("--json", help="JSON on standard output, nothing else there.")] = False,
) -> None:
    """Why does auto draft what it drafts, what is it worth here, and what would help? A page, from a run beside plain decoding."""
    with readable_errors():
        if prompt is not None and prompts is not None:
            raise ParameterError("prompts", str(prompts), "either one prompt, or a file of them")
        if prompt == "":
            raise PromptError("the prompt is empty; give some text, or leave it out for those of --prompts")
        with busy("loading"):
            from betoken.bench.compare import Setup
            from betoken.bench.explain import Explainer, to_json
            from betoken.bench.measure import Plan

            plan = Plan((temperature,), max_tokens, batch_size, 1, seed)
            plan.params(temperature)
            explainer = Explainer(Setup(model, draft, (), prompts, per_group, dtype, device, plan, recalibrate), prompt)
        with explainer, progress(explainer.calls, done=-1) as tell:
            found, complete = explainer.run(tell)
        if json:
            print(to_json(found))
        else:
            Console(highlight=False, markup=False, soft_wrap=True).print(printable(found.text()))
    if not complete:
        raise typer.Exit(INTERRUPTED)
    if found.against is not None and found.against.different:
        raise typer.Exit(1)
