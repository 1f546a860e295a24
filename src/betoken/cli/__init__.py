"""The program: one command, one file."""

import sys

import typer

from betoken.cli.audit import audit
from betoken.cli.common import INTERRUPTED
from betoken.cli.compare import compare
from betoken.cli.generate import generate
from betoken.cli.record import record
from betoken.cli.replay import replay

app = typer.Typer(
    help="Decode several tokens per forward pass, and say exactly what the model would have said.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _command in (compare, generate, record, replay, audit):
    app.command()(_command)


def main() -> None:
    """The program. Ctrl-C wherever no command has anything to say about it: exit code 130, no traceback."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
