"""`betoken record`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from betoken.cli.common import INTERRUPTED, Device, DraftModel, Dtype, MaxTokens, Model, busy, readable_errors

if TYPE_CHECKING:
    from betoken.bench.record import Recorded, Recorder


def record(
    out: Annotated[Path, typer.Argument(help="A new file of JSON lines; gzipped where the name ends in .gz.")],
    model: Model = None,
    draft: DraftModel = None,
    method: Annotated[
        str | None, typer.Option(help="Who drafts; changes how soon it is done, not what is said. Default: auto.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="JSON lines, or one prompt per line.")] = None,
    per_group: Annotated[int | None, typer.Option(min=1, help="At most so many prompts of each group.")] = None,
    max_tokens: MaxTokens = 128,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts decoded at once.")] = 1,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the sampled answers.")] = 0,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Record what a model answers, as token ids, for betoken replay."""
    with readable_errors():
        from betoken.trace import refuse_existing

        refuse_existing(out)
        with busy("loading"):
            from betoken.bench.compare import Setup
            from betoken.bench.measure import Plan
            from betoken.bench.record import Recorder

            plan = Plan((temperature,), max_tokens, batch_size, 1, seed)
            names = () if method is None else (method,)
            recorder = Recorder(Setup(model, draft, names, prompts, per_group, dtype, device, plan))
        with recorder:
            done = _run(recorder, out)
    Console(highlight=False, soft_wrap=True).print(Text(_words(out, done)))
    if not done.complete:
        raise typer.Exit(INTERRUPTED)


def _run(recorder: "Recorder", out: Path) -> "Recorded":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=len(recorder.items))
        return recorder.run(out, lambda answers: bar.advance(task, answers))


def _words(out: Path, done: "Recorded") -> str:
    if not done.answers:
        return "Interrupted before the first answer: nothing was recorded."
    count = f"{done.answers} answers" if done.answers > 1 else "1 answer"
    tokens = f"{done.output_tokens} tokens, and {done.prompt_tokens} of their prompts"
    if not done.complete:
        return f"Interrupted: {out} holds {done.answers} of {done.asked} answers ({tokens}), and can be used."
    return f"{out} holds {count} ({tokens}). Try: betoken replay {out}"
