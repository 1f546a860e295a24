"""`betoken compare`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    check_place,
    progress,
    readable_errors,
    save,
)

if TYPE_CHECKING:
    from betoken.bench.compare import Bench, Report


def compare(
    model: Model = None,
    draft: DraftModel = None,
    methods: Annotated[str, typer.Option(help="With commas between, options after them: ngram,draft:k=6.")] = "",
    prompts: Annotated[Path | None, typer.Option(help="JSON lines, or one prompt per line.")] = None,
    per_group: Annotated[int | None, typer.Option(min=1, help="At most so many prompts of each group.")] = None,
    max_tokens: MaxTokens = 128,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts decoded at once.")] = 1,
    temperature: Annotated[
        list[float] | None, typer.Option(help="May be given several times; default: 0 and 1.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Measure everything so often; medians count.")] = 1,
    dtype: Dtype = "auto",
    device: Device = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of the sampled answers.")] = 0,
    recalibrate: Recalibrate = False,
    json: Annotated[bool, typer.Option("--json", help="JSON on standard output, nothing else there.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write the JSON to a file, too.")] = None,
) -> None:
    """Which method pays, on which kind of prompt? Measures them in turns and checks that no answer changes."""
    with readable_errors():
        check_place(output)
        with busy("loading"):
            from betoken.bench.compare import Bench, Setup
            from betoken.bench.measure import Plan

            plan = Plan(tuple(temperature or (0.0, 1.0)), max_tokens, batch_size, rounds, seed)
            for heat in plan.temperatures:
                plan.params(heat)
            names = tuple(name.strip() for name in methods.split(",") if name.strip())
            bench = Bench(Setup(model, draft, names, prompts, per_group, dtype, device, plan, recalibrate))
        with bench:
            report = _measure(bench)
        _show_report(report, json=json, output=output)
    if not report.complete:
        raise typer.Exit(INTERRUPTED)
    if report.different:
        raise typer.Exit(1)


def _measure(bench: "Bench") -> "Report":
    with progress(bench.calls, done=-1) as tell:
        return bench.run(tell)


def _show_report(report: "Report", *, json: bool, output: Path | None) -> None:
    from betoken.bench.compare import to_json
    from betoken.bench.report import heading, table, words

    save(output, to_json(report))
    if json:
        print(to_json(report))
        return
    console = Console()
    console.print(heading(report.header, report.plan))
    console.print(table(report.cells))
    console.print(words(report.cells))
    if not report.complete:
        console.print("[yellow]Interrupted: this is what was measured until then.[/]")
