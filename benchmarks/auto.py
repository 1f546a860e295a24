"""What `auto` is held to, on the embedded pair: `python benchmarks/auto.py [--only PART ...] [--output FILE]`.

Everything in one process, rivals in turns, another one first each time; tokens counted by one counter, times of whole calls, prompts
included. Medians of paired ratios over rounds, their 95 % intervals from 10,000 resamples of the rounds. Every output is compared with
plain decoding's at the same seed: where one differs, it is said, and the exit code is 1.

    groups    each group of prompts, T = 0 and 1, against the best single method at its best length
    hurting   texts built to hurt, against plain decoding
    batches   1 to 16 mixed prompts at once, against plain decoding and fixed settings
    slow      targets for which every row costs: a whole forward pass each; tiny mixtures of experts
    changing  one request that changes from prose to code to a copied table, against the best fixed setting of each part
    policy    what deciding takes, a step
    replay    only where it is asked for, with --traces FOLDER: recorded conversations under tables of costs

What was predicted is held against what came, over all parts that ran; --quick shows in a minute that everything runs.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numba
import numpy
import torch
import transformers
from auto_parts import batches, changing, groups, hurting, policy, replaying, slow
from auto_parts.common import Bench, Settings
from figures import Figure, Found, show
from rich.console import Console

import betoken
from betoken.bench.compare import _machine, write

PARTS: dict[str, Callable[[Bench], Found]] = {
    "groups": groups.run,
    "hurting": hurting.run,
    "batches": batches.run,
    "slow": slow.run,
    "changing": changing.run,
    "policy": policy.run,
}
REPLAY = "replay"
SCHEMA = "betoken.auto-benchmark/1"
ERROR = 0.08


def predicted(bench: Bench) -> Found:
    """How far off predictions were, over all runs so far."""
    errors = [forecast.error for forecast in bench.forecasts]
    if not errors:
        return Found()
    by_round = median(forecast.error for forecast in bench.of_rounds)
    worst = max(bench.forecasts, key=lambda forecast: forecast.error)
    more = {"runs": len(errors), "median of single rounds": by_round, "worst": f"{worst.error:.3f} {worst.label}"}
    data = [{**asdict(forecast), "error": forecast.error} for forecast in bench.forecasts]
    return Found([Figure("median error of predicted tokens/s", median(errors), ERROR, most=True, more=more)], data)


def environment(bench: Bench, device: str = "cpu") -> dict[str, Any]:
    return {
        "machine": _machine(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "betoken": betoken.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": numpy.__version__,
        "numba": numba.__version__,
        "settings": asdict(bench.settings),
    }


def to_json(bench: Bench, found: dict[str, Found], seconds: dict[str, float]) -> str:
    return json.dumps(
        {
            "schema": SCHEMA,
            "environment": environment(bench),
            "seconds": seconds,
            "differences": bench.differences,
            "parts": {name: part.as_json() for name, part in found.items()},
        },
        indent=1,
    )


def chosen(args: argparse.Namespace) -> dict[str, Callable[[Bench], Found]]:
    """The parts to run, by name."""
    names = args.only or list(PARTS)
    parts = {name: PARTS[name] for name in names if name != REPLAY}
    if REPLAY in names:
        parts[REPLAY] = lambda bench: replaying.run(bench, args.traces, args.limit, args.curves)
    return parts


def measure(bench: Bench, parts: dict[str, Callable[[Bench], Found]], output: Path | None) -> None:
    """Part by part; what there is is printed and written after each."""
    found: dict[str, Found] = {}
    seconds: dict[str, float] = {}
    console = wide()
    for name, run in parts.items():
        start = time.perf_counter()
        found[name] = run(bench)
        seconds[name] = time.perf_counter() - start
        console.print(show(f"{name} ({seconds[name]:.0f} s)", found[name].figures), "")
        found["prediction"] = predicted(bench)
        if output is not None:
            write(output, to_json(bench, found, seconds))
    if found["prediction"].figures:
        console.print(show("prediction", found["prediction"].figures))


def wide() -> Console:
    """Tables are for files as well."""
    console = Console()
    return console if console.is_terminal else Console(width=180)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*PARTS, REPLAY], help="these parts")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--sweeps", type=int, default=2, help="rounds in which the best fixed setting is looked for")
    parser.add_argument("--per-group", type=int, help="at most so many prompts of each group")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--quick", action="store_true", help="a smoke test: 2 rounds, 1 prompt a group, 24 tokens")
    parser.add_argument("--traces", type=Path, help="a folder of traces, for replay")
    parser.add_argument("--limit", type=int, help="at most so many conversations of each trace, for replay")
    parser.add_argument("--curves", type=Path, help="what benchmarks/shapes.py wrote: replay under its curves")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if REPLAY in (args.only or ()) and args.traces is None:
        parser.error("replay needs --traces FOLDER")
    asked = Settings(args.rounds, args.sweeps, args.per_group, args.max_tokens, args.seed, args.dtype)
    if args.quick:
        asked = Settings(2, 1, args.per_group or 1, 24, args.seed, args.dtype, quick=True)
    bench = Bench(asked)
    measure(bench, chosen(args), args.output)
    if bench.differences:
        Console().print(f"[bold red]{len(bench.differences)} outputs differ from plain decoding's")
    return 1 if bench.differences else 0


if __name__ == "__main__":
    sys.exit(main())
