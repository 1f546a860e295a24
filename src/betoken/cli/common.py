"""What the commands share: options, errors as users read them, a sign of life."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from betoken.errors import BetokenError

if TYPE_CHECKING:
    from betoken.llm import LLM

INTERRUPTED = 130
LINE_SECONDS = 15.0

Model = Annotated[str | None, typer.Option(help="Folder or hub name; default: the embedded model.")]
DraftModel = Annotated[str | None, typer.Option("--draft", help="Draft model with the same vocabulary.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Recalibrate = Annotated[
    bool, typer.Option("--recalibrate", help="Measure anew what forward passes take here, which auto goes by.")
]
MaxTokens = Annotated[int, typer.Option(help="Tokens per answer, at most.")]


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """Errors a user can mend: one red line, exit code 2. Ctrl-C: no traceback, exit code 130."""
    try:
        yield
    except BetokenError as error:
        line = printable(" ".join(str(error).split()))
        Console(stderr=True, soft_wrap=True).print(Text(f"error: {line}", style="red"))
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


@contextlib.contextmanager
def busy(what: str) -> Iterator[None]:
    with Console(stderr=True).status(what):
        yield


@contextlib.contextmanager
def progress(total: int, done: int = 0) -> Iterator[Callable[[str], None]]:
    """A bar on standard error; what is yielded moves it on by one and says what happens. Where nobody watches, a line now and then."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console, total, done)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total, completed=done)
        yield lambda what: bar.update(task, description=what, advance=1)


def _lines(console: Console, total: int, done: int) -> Callable[[str], None]:
    said = time.monotonic()

    def step(what: str) -> None:
        nonlocal done, said
        done += 1
        if time.monotonic() - said >= LINE_SECONDS:
            said = time.monotonic()
            console.print(f"{done}/{total} {what}", highlight=False, markup=False)

    return step


def printable(text: str) -> str:
    """With escapes for halves of characters (lone surrogates), which no terminal takes."""
    return text.encode("utf-8", "backslashreplace").decode()


def check_place(output: Path | None) -> None:
    """Raise BetokenError before the work, where a file could not be written after it."""
    if output is None:
        return
    try:
        if output.exists() and not output.is_file():
            raise BetokenError(
                f"{output} cannot be written: it is {'a folder' if output.is_dir() else 'no plain file'}"
            )
        if not output.parent.is_dir():
            raise BetokenError(f"{output} cannot be written: {output.parent} is no folder")
        # A report is written beside its place first, and then renamed.
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except (OSError, ValueError) as failure:
        reason = getattr(failure, "strerror", None) or failure
        raise BetokenError(f"{output} cannot be written: {reason}") from failure


def save(output: Path | None, text: str) -> None:
    """Write a report to a file, if one was named. Raises BetokenError."""
    from betoken.bench.compare import write

    if output is None:
        return
    try:
        write(output, text)
    except OSError as failure:
        raise BetokenError(f"{output} cannot be written: {failure.strerror}") from failure


def load_model(given: Mapping[str, Any], names: Sequence[str]) -> "LLM":
    """The model of a command's options, else the embedded pair; `names`: which of the options it takes besides."""
    from betoken import demo
    from betoken.llm import LLM

    model, draft = given["model"], given["draft"]
    if model is None:
        model, embedded = demo.pair()
        draft = draft or embedded
    return LLM(model, draft, **{name: given[name] for name in names})
