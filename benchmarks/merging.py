"""Is a merged tree as good as the better of its members? Mean tokens per step on the embedded pair, greedy.

    python benchmarks/merging.py [--orders 4] [--output FILE]

Each group of the embedded prompts is answered from nothing, in several orders of its prompts: what is remembered and learnt
depends on what came first, and one order of seven prompts says little.
"""

import argparse
import json
import random
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from betoken import LLM, SamplingParams, demo
from betoken.bench.workloads import Workload, read
from betoken.stats import Stats, total

METHODS = ("suffix", "recycling", "merge:of=suffix+recycling", "merge:of=mix+recycling")


def answered(llm: LLM, prompts: list[Workload], orders: int) -> float | None:
    """Mean tokens per step over all orders."""
    found: list[Stats] = []
    for seed in range(orders):
        llm.forget()
        shuffled = random.Random(seed).sample(prompts, len(prompts))
        asked = [llm.chat_prompt(one.messages) if one.messages else one.prompt for one in shuffled]
        found += [llm.generate(prompt, SamplingParams(max_tokens=128)).stats for prompt in asked]
    return total(found).tokens_per_step


def main() -> None:
    """Measure, print, and write as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--orders", type=int, default=4)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    prompts = read(Path(demo.prompts()))
    groups = list(dict.fromkeys(prompt.group for prompt in prompts))
    figures: dict[str, dict[str, float | None]] = {}
    target, draft = demo.pair()
    for method in track(METHODS, description="answering"):
        with LLM(target, draft, method=method) as llm:
            figures[method] = {
                group: answered(llm, [prompt for prompt in prompts if prompt.group == group], options.orders)
                for group in groups
            }
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("", *groups):
        table.add_column(name, justify="right" if name else "left")
    for method, row in figures.items():
        table.add_row(method, *(f"{row[group]:.2f}" for group in groups))
    Console().print(table)
    if options.output:
        options.output.write_text(json.dumps({"orders": options.orders, "tokens_per_step": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
