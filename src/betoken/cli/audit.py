"""`betoken audit`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from betoken.cli.common import (
    INTERRUPTED,
    Device,
    DraftModel,
    Dtype,
    Model,
    busy,
    check_place,
    printable,
    progress,
    readable_errors,
    save,
)
from betoken.errors import BetokenError

if TYPE_CHECKING:
    from betoken.bench.audit_endpoints import Report as EndpointReport
    from betoken.bench.audit_found import Report

MODELS_ONLY = ("model", "draft", "methods", "batch_size", "temperature", "samples", "device", "seed")
SERVERS_ONLY = ("endpoint_model", "api_key", "chat", "near_tie", "timeout")
# What a setting in the environment, or an answer nobody would think of, still gets out of libraries below.
FOREIGN = (UnicodeError, OverflowError, RecursionError, ValueError, OSError, ImportError)


def audit(
    context: typer.Context,
    model: Model = None,
    draft: DraftModel = None,
    methods: Annotated[
        str, typer.Option(help="With commas between: ngram,draft:k=6; default: all, and a draft tree.")
    ] = "",
    prompts: Annotated[Path | None, typer.Option(help="JSON lines, or one prompt per line.")] = None,
    per_group: Annotated[int | None, typer.Option(min=1, help="At most so many prompts of each group.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens per answer, at most.")] = 64,
    batch_size: Annotated[
        list[int] | None, typer.Option(min=1, help="May be given several times; default: 1 and 4.")
    ] = None,
    temperature: Annotated[
        list[float] | None, typer.Option(help="May be given several times; default: 0 and 1.")
    ] = None,
    samples: Annotated[
        int, typer.Option(min=0, help="Samples per method and prompt for residual mode's law; 0: leave it out.")
    ] = 500,
    dtype: Dtype = "auto",
    device: Device = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of the sampled answers.")] = 0,
    endpoint: Annotated[str | None, typer.Option(help="Audit a running server: its address, …/v1.")] = None,
    against: Annotated[str | None, typer.Option(help="The server it is compared with.")] = None,
    endpoint_model: Annotated[str | None, typer.Option(help="The model's name there; default: the first.")] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="OPENAI_API_KEY", show_envvar=True, help="Sent to both servers.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask the servers for chat completions.")] = False,
    near_tie: Annotated[
        float | None, typer.Option(min=0, help="Servers: the largest log-probability margin of a near tie.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Servers: seconds that a whole answer may take.")] = 60.0,
    json: Annotated[bool, typer.Option("--json", help="JSON on standard output, nothing else there.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write the JSON to a file, too.")] = None,
) -> None:
    """Does speculation change what the model says? Exit status: 0 no bug, 1 a bug, 2 bad input, 3 undecided."""
    given = dict(locals())
    given["named"] = [name for name in given if _from_command_line(context, name)]
    with readable_errors():
        check_place(output)
        status = _models(given) if endpoint is None and against is None else _servers(given)
    if status:
        raise typer.Exit(status)


def _from_command_line(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _models(given: dict[str, Any]) -> int:
    """Audit a model loaded here; the exit status."""
    _refuse(given, SERVERS_ONLY, "for servers only; name two with --endpoint and --against")
    with busy("loading"):
        from betoken.bench.audit import Audit
        from betoken.bench.audit_cases import Setup

        setup = Setup(
            given["model"],
            given["draft"],
            tuple(name.strip() for name in given["methods"].split(",") if name.strip()),
            given["prompts"],
            given["per_group"],
            given["max_tokens"],
            tuple(given["batch_size"] or (1, 4)),
            tuple(given["temperature"] or (0.0, 1.0)),
            given["dtype"],
            given["device"],
            given["seed"],
            given["samples"],
        )
        audit = Audit(setup)
    with audit, progress(audit.calls) as tell:
        report = audit.run(tell)
    _show(report, json=given["json"], output=given["output"])
    if not report.complete:
        return INTERRUPTED
    return 1 if report.bugs else 0


def _show(report: "Report", *, json: bool, output: Path | None) -> None:
    from betoken.bench.audit_report import failures, findings, heading, law_table, rows, table, to_json, words

    if json:
        print(to_json(report))
        save(output, to_json(report))
        return
    console = Console(highlight=False)
    console.print(heading(report), markup=False)
    console.print(table(rows(report.judged)))
    if report.laws:
        console.print(law_table(report.laws))
    for line in (*findings(report.judged), *failures(report)):
        console.print(line, soft_wrap=True)
    console.print(words(report), markup=False)
    if not report.complete:
        console.print("[yellow]Interrupted: this is what was found until then.[/]")
    save(output, to_json(report))


def _servers(given: dict[str, Any]) -> int:
    """Audit a pair of servers; the exit status."""
    from betoken.bench.audit_endpoints import Setup, run, workloads

    if given["endpoint"] is None or given["against"] is None:
        raise BetokenError("servers are compared in pairs; give both --endpoint URL and --against URL")
    _refuse(
        given,
        MODELS_ONLY,
        "for models loaded here only; servers are asked greedily, and their model is named by --endpoint-model",
    )
    setup = Setup(
        given["endpoint"],
        given["against"],
        given["endpoint_model"],
        given["api_key"],
        given["prompts"],
        given["per_group"],
        given["max_tokens"],
        given["chat"],
        "bfloat16" if given["dtype"] == "auto" else given["dtype"],
        given["near_tie"],
        given["timeout"],
    )
    try:
        prompts = workloads(setup)
        with progress(len(prompts)) as tell:
            report = run(setup, prompts, tell)
    except BetokenError:
        raise
    except FOREIGN as failure:
        raise BetokenError(f"the servers cannot be compared ({type(failure).__name__}: {failure})") from failure
    _show_servers(report, json=given["json"], output=given["output"])
    return report.status if report.complete else INTERRUPTED


def _refuse(given: dict[str, Any], names: tuple[str, ...], why: str) -> None:
    """Raise BetokenError for options that would mean nothing."""
    if misplaced := [f"--{name.replace('_', '-')}" for name in given["named"] if name in names]:
        raise BetokenError(f"{', '.join(misplaced)}: {why}")


def _show_servers(report: "EndpointReport", *, json: bool, output: Path | None) -> None:
    from betoken.bench.audit_endpoints import to_json, words

    if json:
        print(to_json(report))
        save(output, to_json(report))
        return
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for line in words(report):
        console.print(printable(line))
    if not report.complete:
        console.print("Interrupted: this is what was found until then.")
    save(output, to_json(report))
