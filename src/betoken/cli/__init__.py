"""The program: one command, one file."""

import typer

from betoken.cli.audit import audit
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
    """The program."""
    app()
