"""The program: one command, one file."""

import sys
from typing import Annotated

import typer

from betoken.cli.audit import audit
from betoken.cli.common import INTERRUPTED
from betoken.cli.compare import compare
from betoken.cli.explain import explain
from betoken.cli.generate import generate
from betoken.cli.record import record
from betoken.cli.replay import replay
from betoken.cli.serve import serve

app = typer.Typer(
    help="Decode several tokens per forward pass, and say exactly what the model would have said.",
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _command in (compare, generate, serve, explain, record, replay, audit):
    app.command()(_command)


@app.callback()
def _betoken(
    version: Annotated[bool, typer.Option("--version", help="Print the version, and end.", is_eager=True)] = False,
) -> None:
    if version:
        from betoken import __version__

        print(__version__)
        raise typer.Exit


def main() -> None:
    """The program. Ctrl-C wherever no command has anything to say about it: exit code 130, no traceback."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
