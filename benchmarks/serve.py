"""What `betoken serve` is held to, on the embedded pair: `python benchmarks/serve.py [--only PART ...] [--output FILE]`.

Servers run in processes of their own on this machine, this process is the load: streaming clients that keep what arrives and when, and
parse it after the clock has stopped. Only one server is asked at a time. Medians of paired ratios over rounds, their 95 % intervals
from 10,000 resamples of the rounds. Tokens are counted by one counter: the model's tokenizer, on the texts that were streamed.

    throughput  tokens a second at 1, 8 and 32 clients, against `transformers serve` on the same weights (it needs accelerate and psutil)
    off         the same server with speculation and without
    latency     time to the first text at 32 clients; how long streams wait while a prompt of 3,000 tokens is read
    stall       the longest stall of the event loop at 32 clients
    turns       the first text of a second turn with 2,000 tokens of history, against a cold start
    memory      what is left of 10,000 short requests

Where other processes were at work meanwhile, it is measured again; where they never stop, that is said, and nothing is worth believing.

What a server has said before must not help the side that speculates: every round has salts (`cache_salt`) of its own, and within a
round every prompt comes once under each. --quick shows in a minute or two that everything runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from figures import Figure, Found, show
from rich.console import Console
from serve_parts import latency, memory, off, stall, throughput, turns
from serve_parts.common import Bench, Settings
from serve_parts.process import Server

from betoken.files import replacing

PARTS: dict[str, Callable[[Bench], Found]] = {
    "throughput": throughput.run,
    "off": off.run,
    "latency": latency.run,
    "stall": stall.run,
    "turns": turns.run,
    "memory": memory.run,
}
SCHEMA = "betoken.serve-benchmark/1"
PACKAGES = ("betoken", "torch", "transformers", "fastapi", "uvicorn", "httpx2", "numba")


def environment(bench: Bench) -> dict[str, Any]:
    return {
        "machine": machine(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "servers": bench.servers,
        "measured again": bench.repeated,
        "kept though disturbed": bench.disturbed,
        "settings": asdict(bench.settings),
    }


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return f"{model}, {os.cpu_count()} cores"


def to_json(bench: Bench, found: dict[str, Found], seconds: dict[str, float], failures: dict[str, str]) -> str:
    return json.dumps(
        {
            "schema": SCHEMA,
            "environment": environment(bench),
            "seconds": seconds,
            "failures": failures,
            "differences": bench.differences,
            "parts": {name: part.as_json() for name, part in found.items()},
        },
        indent=1,
    )


def measure(bench: Bench, names: list[str], output: Path | None) -> dict[str, str]:
    """Part by part; what there is is printed and written after each. A part that fails leaves the others their turn."""
    found: dict[str, Found] = {}
    seconds: dict[str, float] = {}
    failures: dict[str, str] = {}
    console = Console() if sys.stdout.isatty() else Console(width=200)
    for name in names:
        start = time.perf_counter()
        try:
            found[name] = PARTS[name](bench)
        except Exception as failure:
            for server in Server.running:
                server.say_end()
            failures[name] = f"{type(failure).__name__}: {failure}"
            console.print(f"[bold red]{name} failed:[/] {failures[name]}", "", highlight=False)
        seconds[name] = time.perf_counter() - start
        if name in found:
            printed(console, f"{name} ({seconds[name]:.0f} s)", found[name].figures)
        if output is not None:
            with replacing(output) as rough:
                rough.write_text(to_json(bench, found, seconds, failures) + "\n", encoding="utf-8")
    return failures


def printed(console: Console, title: str, figures: list[Figure]) -> None:
    """A table for each run of figures that say the same things."""
    for number, (_, alike) in enumerate(itertools.groupby(figures, key=lambda figure: tuple(figure.more))):
        console.print(show("" if number else title, [*alike]), "")


def asked(args: argparse.Namespace) -> Settings:
    if args.quick:
        return Settings(min(args.rounds, 2), 24, 2, 300, 2.0, args.seed, quick=True)
    return Settings(args.rounds, args.max_tokens, max(args.rounds, 9), args.requests, seed=args.seed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, help="these parts")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--requests", type=int, default=10_000, help="short ones, for memory")
    parser.add_argument("--seed", type=int, default=0, help="of the order of prompts and of texts that are drawn")
    parser.add_argument("--quick", action="store_true", help="a smoke test: 2 rounds, 24 tokens, 300 short requests")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    bench = Bench(asked(args))
    with bench.open:
        failures = measure(bench, args.only or [*PARTS], args.output)
    if bench.repeated or bench.disturbed:
        bench.say(
            f"others were at work: measured again {bench.repeated} times; {bench.disturbed} times kept, for want of a quiet moment"
        )
    if bench.differences:
        Console().print(f"[bold red]{len(bench.differences)} outputs differ from those without speculation")
    return 1 if failures or bench.differences else 0


if __name__ == "__main__":
    sys.exit(main())
