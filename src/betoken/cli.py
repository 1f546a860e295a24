"""`betoken compare` and `betoken generate`."""

import contextlib
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from betoken.errors import BetokenError, ParameterError, PromptError
from betoken.params import SamplingParams

if TYPE_CHECKING:
    from betoken.bench.compare import Bench, Report
    from betoken.llm import LLM
    from betoken.outputs import Output, Step

INTERRUPTED = 130
app = typer.Typer(
    help="Decode several tokens per forward pass, and say exactly what the model would have said.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Model = Annotated[str | None, typer.Option(help="Folder or hub name; default: the embedded model.")]
DraftModel = Annotated[str | None, typer.Option("--draft", help="Draft model with the same vocabulary.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
MaxTokens = Annotated[int, typer.Option(help="Tokens per answer, at most.")]


def main() -> None:
    """The program."""
    app()


@contextlib.contextmanager
def _readable_errors() -> Iterator[None]:
    """Errors a user can mend: one red line, exit code 2. Ctrl-C: no traceback, exit code 130."""
    try:
        yield
    except BetokenError as error:
        line = " ".join(str(error).split())
        Console(stderr=True, soft_wrap=True).print(Text(f"error: {line}", style="red"))
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


@app.command()
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
    json: Annotated[bool, typer.Option("--json", help="JSON on standard output, nothing else there.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write the JSON to a file, too.")] = None,
) -> None:
    """Which method pays, on which kind of prompt? Measures them in turns and checks that no answer changes."""
    with _readable_errors():
        if output is not None and not output.parent.is_dir():
            raise BetokenError(f"{output} cannot be written: {output.parent} is no folder")
        with _busy("loading"):
            from betoken.bench.compare import Bench, Setup
            from betoken.bench.measure import Plan

            plan = Plan(tuple(temperature or (0.0, 1.0)), max_tokens, batch_size, rounds, seed)
            for heat in plan.temperatures:
                plan.params(heat)
            names = tuple(name.strip() for name in methods.split(",") if name.strip())
            bench = Bench(Setup(model, draft, names, prompts, per_group, dtype, device, plan))
        with bench:
            report = _measure(bench)
        _show_report(report, json=json, output=output)
    if not report.complete:
        raise typer.Exit(INTERRUPTED)
    if report.different:
        raise typer.Exit(1)


@contextlib.contextmanager
def _busy(what: str) -> Iterator[None]:
    with Console(stderr=True).status(what):
        yield


def _measure(bench: "Bench") -> "Report":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=bench.calls, completed=-1)
        return bench.run(lambda what: bar.update(task, description=what, advance=1))


def _show_report(report: "Report", *, json: bool, output: Path | None) -> None:
    from betoken.bench.compare import to_json, write
    from betoken.bench.report import heading, table, words

    if output is not None:
        try:
            write(output, to_json(report))
        except OSError as failure:
            raise BetokenError(f"{output} cannot be written: {failure.strerror}") from failure
    if json:
        print(to_json(report))
        return
    console = Console()
    console.print(heading(report.header, report.plan))
    console.print(table(report.cells))
    console.print(words(report.cells))
    if not report.complete:
        console.print("[yellow]Interrupted: this is what was measured until then.[/]")


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The prompt; - reads it from standard input.")],
    model: Model = None,
    draft: DraftModel = None,
    method: Annotated[
        str | None, typer.Option(help="Who drafts, options after it: draft:k=6; plain for nobody.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Colour every token by who proposed it, and count.")] = False,
    chat: Annotated[bool, typer.Option("--chat", help="The prompt is a user's message.")] = False,
    max_tokens: MaxTokens = 128,
    min_tokens: Annotated[int, typer.Option(help="No end before so many tokens.")] = 0,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Keep the k most likely tokens; 0 keeps all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Keep the most likely tokens up to this probability.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Keep tokens this likely, relative to the best.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: tokens seen become less likely.")] = 1.0,
    presence_penalty: Annotated[float, typer.Option(help="Subtracted from tokens of the output, once.")] = 0.0,
    frequency_penalty: Annotated[float, typer.Option(help="Subtracted for every occurrence.")] = 0.0,
    logit_bias: Annotated[list[str] | None, typer.Option(help="ID=VALUE, added to a logit; repeatable.")] = None,
    bad_words: Annotated[list[str] | None, typer.Option("--bad-word", help="Must not appear; repeatable.")] = None,
    allowed_token_ids: Annotated[list[int] | None, typer.Option("--allowed-token-id", help="Repeatable.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Ends the answer; repeatable.")] = None,
    stop_token_ids: Annotated[list[int] | None, typer.Option("--stop-token-id", help="Repeatable.")] = None,
    include_stop_str: Annotated[bool, typer.Option("--include-stop-str", help="Keep the stop string.")] = False,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on after the model's own end.")] = False,
    n: Annotated[int, typer.Option("-n", "--n", help="How many samples.")] = 1,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text, with any method.")] = None,
    logprobs: Annotated[int | None, typer.Option(help="Print each token's logprob, and of so many others.")] = None,
    acceptance: Annotated[str, typer.Option(help="exact, or residual (the classical rule).")] = "exact",
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Answer one prompt, as a stream."""
    given = dict(locals())
    with _readable_errors():
        params = _params(given)
        if show and (params.n > 1 or params.logprobs is not None):
            raise ParameterError("show", True, "one sample and no logprobs: leave out -n and --logprobs, or --show")
        text = _prompt_text(prompt)
        with _busy("loading"):
            llm = _load(model, draft, method, acceptance, dtype, device)
        with llm:
            ids = llm.chat_prompt([{"role": "user", "content": text}]) if chat else llm.token_ids(text)
            if params.n > 1 or params.logprobs is not None:
                _print_samples(llm, ids, params)
            else:
                _print_stream(llm, ids, params, show=show)


def _params(given: dict[str, Any]) -> SamplingParams:
    """The sampling parameters among a command's options. Raises ParameterError."""
    names = SamplingParams.__dataclass_fields__
    values = {name: value for name, value in given.items() if name in names and value is not None}
    values["logit_bias"] = dict(_bias(pair) for pair in given["logit_bias"] or ())
    return SamplingParams(**values)


def _bias(pair: str) -> tuple[int, float]:
    token, _, value = pair.partition("=")
    try:
        return int(token), float(value)
    except ValueError:
        raise ParameterError("logit-bias", pair, "ID=VALUE, such as 42=-5") from None


def _prompt_text(prompt: str) -> str:
    text = sys.stdin.read().removesuffix("\n") if prompt == "-" else prompt
    if not text:
        raise PromptError("the prompt is empty; give some text, or - with text on standard input")
    return text


def _load(model: str | None, draft: str | None, method: str | None, acceptance: str, dtype: str, device: str) -> "LLM":
    from betoken import demo
    from betoken.llm import LLM

    if model is None:
        model, embedded = demo.pair()
        draft = draft or embedded
    return LLM(model, draft, method=method, acceptance=acceptance, dtype=dtype, device=device)


def _print_stream(llm: "LLM", ids: list[int], params: SamplingParams, *, show: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    colours = _Colours(llm.tokenizer) if show else None
    steps = llm.steps(ids, params)
    last = None
    try:
        for last in steps:
            piece = Text(last.text) if colours is None else colours.paint(last)
            console.print(piece, end="")
            console.file.flush()
    except KeyboardInterrupt:
        console.print("\n[yellow]stopped[/]")
        raise typer.Exit(INTERRUPTED) from None
    finally:
        steps.close()
        if show and last is not None:
            console.print(_legend(llm.method, last))
    if not show:
        console.print()


class _Colours:
    """Which of the text came from whom: characters queue up with their token's source, and leave as text is shown."""

    def __init__(self, tokenizer: Any) -> None:
        from betoken.text import Detokenizer

        self._stream = Detokenizer(tokenizer)
        self._queue: deque[tuple[str, str]] = deque()

    def paint(self, step: "Step") -> Text:
        for token, source in zip(step.token_ids, step.sources, strict=True):
            self._queue.extend((char, source) for char in self._stream.push(token))
        painted = Text()
        for char in step.text:
            _, source = self._queue.popleft() if self._queue else (char, "target")
            painted.append(char, style="" if source == "target" else "green")
        return painted


def _legend(method: str, last: "Step") -> Text:
    from betoken.stats import Stats

    stats: Stats = last.stats
    legend = Text("\n\n").append(f"proposed by {method}", style="green").append(" · from the target\n")
    facts = [f"{stats.emitted_tokens + 1} tokens", f"{stats.steps} steps"]
    if stats.drafts:
        facts.append(f"{stats.accepted_tokens} of {stats.draft_tokens} draft tokens accepted")
        facts.append(f"mean acceptance length {stats.mean_acceptance_length:.2f}")
    seconds = stats.draft_s + stats.verify_s + stats.host_s
    if seconds:
        facts.append(f"{stats.emitted_tokens / seconds:.1f} tokens per second")
    return legend.append(" · ".join([*facts, f"ended by {last.finish_reason or 'you'}"]), style="dim")


def _print_samples(llm: "LLM", ids: list[int], params: SamplingParams) -> None:
    console = Console(highlight=False, soft_wrap=True)
    result = llm.generate(ids, params)
    for output in result.outputs:
        if params.n > 1:
            console.print(Text(f"[{output.index}]", style="dim"))
        console.print(Text(output.text))
        _print_logprobs(console, llm.tokenizer, output)


def _print_logprobs(console: Console, tokenizer: Any, output: "Output") -> None:
    for entry in output.logprobs or ():
        others = "  ".join(f"{tokenizer.decode([token])!r} {value:.2f}" for token, value in entry.top.items())
        console.print(
            Text(f"{entry.logprob:8.3f}  rank {entry.rank}  {tokenizer.decode([entry.token_id])!r}   {others}")
        )
