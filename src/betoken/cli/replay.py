"""`betoken replay`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from betoken.cli.common import INTERRUPTED, Device, Dtype, busy, readable_errors

if TYPE_CHECKING:
    from betoken.bench.replay_setup import Replays

DEFAULT = "ngram,suffix,mix"


def replay(
    trace: Annotated[
        Path, typer.Argument(help="A recording, or a log of prompts and answers: JSON lines, gzipped or not.")
    ],
    method: Annotated[
        list[str] | None, typer.Option("--method", help="Repeatable, or with commas; options after it: mix:nodes=16.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Of ngram: spec-bench or vllm.")] = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="Nodes of a draft, at most.")] = None,
    warm: Annotated[bool, typer.Option("--warm", help="Remember earlier conversations of the file.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many conversations.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Run this model too, made to say the recording; a config.json gets random weights."),
    ] = None,
    draft: Annotated[str | None, typer.Option("--draft", help="Draft model with the same vocabulary.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Of a log of text: folder or hub name.")] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    json: Annotated[bool, typer.Option("--json", help="JSON on standard output, nothing else there.")] = False,
) -> None:
    """How would each method have done on recorded text? Exact, without a model; with one, also how fast."""
    with readable_errors():
        from betoken.bench.replay_setup import Wish, prepare
        from betoken.logs import read_any
        from betoken.trace import Trace

        with busy("reading (and, at the first use after installation, compiling for ten seconds)"):
            found = read_any(trace, tokenizer or (model if model and Path(model).is_dir() else None))
            found = Trace(found.header, found.conversations[:limit])
            names = [name.strip() for given in method or [DEFAULT] for name in given.split(",") if name.strip()]
            replays = prepare(found, Wish(names, nodes, preset, warm, model, draft, dtype, device))
        complete = _run(replays)
        _show(replays, warm=warm, json=json)
    if not complete:
        raise typer.Exit(INTERRUPTED)


def _run(replays: "Replays") -> bool:
    """Replay under a progress bar; whether it came to its end."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
    total = len(replays.trace.conversations) * len(replays.replays)
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total, completed=-1)
        try:
            replays.run(lambda what: bar.update(task, description=what, advance=1))
        except KeyboardInterrupt:
            return False
    return True


def _show(replays: "Replays", *, warm: bool, json: bool) -> None:
    from betoken.bench.replay_report import report, to_json

    if json:
        print(to_json(replays, warm=warm))
    else:
        Console().print(report(replays, warm=warm))
