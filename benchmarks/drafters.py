"""Our model-free drafters on recorded text, beside the yardsticks: mean tokens per step, nothing tuned per file.

    python benchmarks/drafters.py FOLDER_OF_TRACES [--trace NAME] [--output FILE]

Defaults of every method but for the budget of nodes. Cold: a conversation's own text. Warm: earlier conversations of the
file too, in order. The yardsticks are described in `yardsticks.py`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import yardsticks
from rich.console import Console
from rich.table import Table

from betoken.bench.replay import Replay
from betoken.proposers.base import Workshop, budget_of, build
from betoken.targets.replay import ReplayTarget
from betoken.trace import read

METHODS = ("ngram", "suffix", "mix")
# What was to be reached, in the order of yardsticks.ROWS; for swe-agent, 5 % above the better yardstick.
GOALS = (2.32, 2.52, 1.67, 1.80, 6.8, 7.1, 3.2, None, 3.65, None, None)


def measure(folder: Path, row: yardsticks.Row, goal: float | None, *, with_yardsticks: bool) -> dict[str, Any]:
    """One row of the table."""
    trace = read(folder / f"{row.trace}.jsonl.gz")
    target = ReplayTarget(trace.vocab_size, trace.eos_ids)
    found: dict[str, Any] = {"trace": row.trace, "nodes": row.nodes, "warm": row.warm, "goal": goal}
    for method in METHODS:
        budget = budget_of(method)
        shop = Workshop(target.info, None, {} if budget is None else {budget: row.nodes})
        total = (
            Replay(method, lambda shop=shop, method=method: build(method, shop), target, warm=row.warm).run(trace).total
        )
        found[method] = total.tokens_per_step
        found[f"{method} nodes"] = total.draft_tokens / total.steps
        found[f"{method} draft us"] = 1e6 * total.draft_s / total.steps
    if with_yardsticks:
        talks = yardsticks.load(folder / f"{row.trace}.jsonl.gz")
        for name, yardstick in yardsticks.YARDSTICKS.items():
            found[name] = yardsticks.measure(talks, yardstick, row.nodes, row.warm)
    return found


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows, the best of ours against what was to be reached."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("trace", "nodes", "", *METHODS, "A", "B", "goal"):
        made.add_column(name, justify="left" if name in ("trace", "") else "right")
    for row in rows:
        figures = [f"{row[name]:.3f}" if name in row else "–" for name in (*METHODS, "A", "B")]
        goal = "–" if row["goal"] is None else f"{row['goal']:.2f}"
        made.add_row(row["trace"], str(row["nodes"]), "warm" if row["warm"] else "cold", *figures, goal)
    return made


def main() -> None:
    """Measure, print, and write as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trace")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--no-yardsticks", action="store_true")
    options = parser.parse_args()
    rows = []
    for row, goal in zip(yardsticks.ROWS, GOALS, strict=True):
        if options.trace in (None, row.trace):
            rows.append(measure(options.folder, row, goal, with_yardsticks=not options.no_yardsticks))
            print(json.dumps(rows[-1]), flush=True)
    Console().print(table(rows))
    if options.output:
        options.output.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
