"""`betoken generate`."""

import sys
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from betoken.cli.common import (
    INTERRUPTED,
    Device,
    DraftModel,
    Dtype,
    MaxTokens,
    Model,
    Recalibrate,
    busy,
    load_model,
    printable,
    readable_errors,
)
from betoken.errors import ParameterError, PromptError
from betoken.grammar_spec import GrammarSpec
from betoken.methods import AUTO, spelt
from betoken.params import SamplingParams
from betoken.speculation import Speculation

if TYPE_CHECKING:
    from betoken.llm import LLM
    from betoken.outputs import Output, Step


def generate(
    prompt: Annotated[str, typer.Argument(help="The prompt; - reads it from standard input.")],
    model: Model = None,
    draft: DraftModel = None,
    method: Annotated[
        str | None, typer.Option(help="Who drafts, options after it: draft:k=6; plain for nobody; default: auto.")
    ] = None,
    reference: Annotated[Path | None, typer.Option(help="A file the answer should repeat mostly unchanged.")] = None,
    no_speculation: Annotated[bool, typer.Option("--no-speculation", help="Draft nothing.")] = False,
    max_nodes: Annotated[int | None, typer.Option(help="Nodes of a draft, at most.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Colour every token by who proposed it, and count.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say afterwards, on standard error, why auto did what it did.")
    ] = False,
    chat: Annotated[bool, typer.Option("--chat", help="The prompt is a user's message.")] = False,
    max_tokens: MaxTokens = 128,
    min_tokens: Annotated[int, typer.Option(help="No end before so many tokens.")] = 0,
    grammar: Annotated[
        str | None,
        typer.Option(
            help="json_object, json_schema=, regex=, lark= (the text, or @FILE) or choice=A|B: the form it must have."
        ),
    ] = None,
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
    recalibrate: Recalibrate = False,
) -> None:
    """Answer one prompt, as a stream."""
    given = dict(locals())
    with readable_errors():
        params = _params(given)
        if show and (params.n > 1 or params.logprobs is not None):
            raise ParameterError("show", True, "one sample and no logprobs: leave out -n and --logprobs, or --show")
        if method is not None and spelt(method)[0] == "reference" and reference is None:
            raise ParameterError("method", method, "a text to draft from with it: --reference FILE")
        if explain and (acceptance != "exact" or spelt(method or AUTO)[0] != AUTO):
            raise ParameterError("explain", True, "the method auto, for no other decides anything")
        text = _prompt_text(prompt)
        more = {
            "reference": None if reference is None else _read(reference),
            "speculation": Speculation(enabled=not no_speculation, max_nodes=max_nodes),
        }
        with busy("loading"):
            llm = load_model(given, ("method", "acceptance", "dtype", "device", "recalibrate"))
        with llm:
            ids = llm.chat_prompt([{"role": "user", "content": text}]) if chat else llm.token_ids(text)
            if params.n > 1 or params.logprobs is not None:
                _print_samples(llm, ids, params, more)
            else:
                _print_stream(llm, ids, params, more, show=show)
            if explain:
                _print_explanation(llm, model)


def _params(given: dict[str, Any]) -> SamplingParams:
    """The sampling parameters among a command's options. Raises ParameterError."""
    names = SamplingParams.__dataclass_fields__
    values = {name: value for name, value in given.items() if name in names and value is not None}
    if given["grammar"] is not None:
        values["grammar"] = _grammar(given["grammar"])
    values["logit_bias"] = dict(_bias(pair) for pair in given["logit_bias"] or ())
    return SamplingParams(**values)


def _grammar(written: str) -> GrammarSpec:
    """KIND=VALUE, KIND=@FILE, or json_object alone. Raises ParameterError."""
    kind, equals, value = written.partition("=")
    if kind == "json_object" and not equals:
        return GrammarSpec(kind)
    if kind not in ("json_schema", "regex", "lark", "choice") or not value:
        raise ParameterError("grammar", written, "json_object, json_schema=..., regex=..., lark=... or choice=A|B")
    if kind == "choice":
        return GrammarSpec(kind, value.split("|"))
    text = _read(Path(value[1:]), "grammar") if value.startswith("@") else value
    return GrammarSpec(kind, text)


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


def _read(file: Path, option: str = "reference") -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as failure:
        reason = getattr(failure, "strerror", None) or failure
        raise ParameterError(option, str(file), f"a text file ({reason})") from failure


def _print_stream(llm: "LLM", ids: list[int], params: SamplingParams, more: dict[str, Any], *, show: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    colours = _Colours(llm.tokenizer) if show else None
    steps = llm.steps(ids, params, **more)
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
            console.print(_legend(last))
    if not show:
        console.print()


def _print_explanation(llm: "LLM", model: str | None) -> None:
    """The embedded model goes by its name, not by where it lies."""
    found = llm.explain()
    page = replace(found, model=model or "embedded target").text()
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print("\n" + printable(page))


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


def _legend(last: "Step") -> Text:
    from betoken.stats import Stats

    stats: Stats = last.stats
    who = ", ".join(one.words for one in stats.speculation)
    who = "nobody, speculation being off" if who == "off" else who
    legend = Text("\n\n").append(f"proposed by {who}", style="green").append(" · from the target\n")
    facts = [f"{stats.emitted_tokens + 1} tokens", f"{stats.steps} steps"]
    if stats.drafts:
        facts.append(f"{stats.accepted_tokens} of {stats.draft_tokens} draft tokens accepted")
        facts.append(f"mean acceptance length {stats.mean_acceptance_length:.2f}")
    seconds = stats.draft_s + stats.verify_s + stats.host_s
    if seconds:
        facts.append(f"{stats.emitted_tokens / seconds:.1f} tokens per second")
    return legend.append(" · ".join([*facts, f"ended by {last.finish_reason or 'you'}"]), style="dim")


def _print_samples(llm: "LLM", ids: list[int], params: SamplingParams, more: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    result = llm.generate(ids, params, **more)
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
