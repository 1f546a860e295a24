"""Forward passes of well-known shapes with random weights: what they take, and what `auto` makes of that.

`python benchmarks/shapes.py --shapes llama-1b llama-8b qwen3-30b-a3b [--output FILE]`, on a GPU that has room for them.

    curve     T(rows, width, context), medians; `benchmarks/auto.py --only replay --curves FILE` replays recordings under it
    contest   the embedded pair's answers, forced on the shape (its passes are real, its words are not): `auto`, plain decoding and
              fixed settings in turns; `generate` of transformers beside them, which says what its random weights say

Random weights route tokens of a mixture evenly, so more experts are touched than by a trained one: T rises sooner.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from auto import environment
from auto_parts.common import AUTO, PLAIN, Bench, Ids, Settings
from auto_parts.contest import ByHand, Contest, Outcome
from auto_parts.slow import recorded
from figures import Figure, held, show
from rich.console import Console
from rich.table import Table

from betoken.bench.compare import write
from betoken.curves import TEXT
from betoken.draft import chain
from betoken.errors import NoRoomError
from betoken.loading import DTYPES, pick_device, quiet
from betoken.policy.cost import Measured, Point
from betoken.targets.base import Feed
from betoken.targets.hf import HFTarget

SCHEMA, THEIRS = "betoken.shapes/1", "transformers"
WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 17, 24, 32, 33, 48, 64, 65, 96, 128)
WIDTHS_OF_ROWS = (1, 2, 4, 8, 16, 32, 64)
CONTEXTS, ROWS, LONG = (128, 1024, 4096, 16384), (2, 4, 8, 16, 32), 1024
PASSES, WARM_UP = 5, 60
RIVALS = (AUTO, PLAIN, "mix:nodes=8", "mix:nodes=24", "mix:nodes=40")


def _llama(hidden: int, layers: int, heads: int, kv: int, inner: int, vocab: int, *, tied: bool) -> Any:
    return transformers.LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        intermediate_size=inner,
        vocab_size=vocab,
        max_position_embeddings=32768,
        tie_word_embeddings=tied,
    )


def _qwen_moe(hidden: int, layers: int, heads: int, experts: int, inner: int, vocab: int) -> Any:
    return transformers.Qwen3MoeConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=4,
        head_dim=128,
        num_experts=experts,
        num_experts_per_tok=8,
        moe_intermediate_size=inner,
        vocab_size=vocab,
        max_position_embeddings=32768,
        norm_topk_prob=True,
    )


SHAPES: dict[str, Callable[[], Any]] = {
    "llama-tiny": lambda: _llama(64, 2, 4, 2, 128, 8192, tied=True),
    "llama-1b": lambda: _llama(2048, 16, 32, 8, 8192, 128256, tied=True),
    "llama-8b": lambda: _llama(4096, 32, 32, 8, 14336, 128256, tied=False),
    "qwen3-moe-tiny": lambda: _qwen_moe(64, 2, 4, 16, 32, 8192),
    "qwen3-30b-a3b": lambda: _qwen_moe(2048, 48, 32, 128, 768, 151936),
}


def random_model(config: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Made where it will run: moving it there would take longer than measuring."""
    with quiet(), torch.device(device):
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def curve(target: HFTarget, text: Sequence[int], until: float) -> dict[Point, float]:
    """Medians of passes in turns, as far as time and memory go; the most important ones first."""
    taken: dict[Point, list[float]] = {}
    grids = [(1, context, WIDTHS) for context in CONTEXTS] + [(rows, LONG, WIDTHS_OF_ROWS) for rows in ROWS]
    for rows, context, widths in grids:
        try:
            _fill(target, text, rows, context)
            for _ in range(0 if taken else WARM_UP):
                _timed(target, text, rows, 8, context)
            for _ in range(PASSES):
                for width in widths:
                    if time.perf_counter() > until:
                        return _medians(taken)
                    _timed(target, text, rows, width, context)
                    taken.setdefault((rows, width, context), []).append(_timed(target, text, rows, width, context))
        except NoRoomError:
            continue
        finally:
            for row in range(rows):
                target.release(row)
    return _medians(taken)


def _medians(taken: dict[Point, list[float]]) -> dict[Point, float]:
    return {point: median(seconds) for point, seconds in taken.items()}


def _fill(target: HFTarget, text: Sequence[int], rows: int, context: int) -> None:
    for row in range(rows):
        while (have := target.length(row)) < context:
            target.score([Feed(row, tuple(_some(text, min(2048, context - have), have)))])
            target.commit(row, ())


def replay(points: dict[Point, float]) -> dict[int, float]:
    """Seconds by width of one row, at the longest context of which most widths are known."""
    known: dict[int, dict[int, float]] = {}
    for (rows, width, context), seconds in points.items():
        if rows == 1:
            known.setdefault(context, {})[width] = seconds
    return max(known.items(), key=lambda one: (len(one[1]), one[0]))[1]


def _timed(target: HFTarget, text: Sequence[int], rows: int, width: int, context: int) -> float:
    """A pass waits for the device itself: it hands over the likeliest tokens."""
    feeds = []
    for row in range(rows):
        root, *nodes = _some(text, width, 3 * context + 31 * row)
        feeds.append(Feed(row, (root,), chain(nodes)))
    start = time.perf_counter()
    target.score(feeds)
    seconds = time.perf_counter() - start
    for row in range(rows):
        target.truncate(row, context)
    return seconds


def _some(text: Sequence[int], count: int, start: int) -> Iterator[int]:
    return (text[(start + i) % len(text)] for i in range(count))


class Theirs:
    """`generate` of transformers as it comes, over prompts and answers as long as ours: a turn in each round, before our rivals'."""

    def __init__(self, model: Any, scripts: dict[Ids, Ids]) -> None:
        self._model, self._sizes = model, [(prompt, len(answer)) for prompt, answer in scripts.items()]
        self.rates: list[float] = []  # tokens a second; the first is a warm-up's

    def __call__(self, _: str) -> None:
        start = time.perf_counter()
        tokens = sum(_generated(self._model, prompt, size) for prompt, size in self._sizes)
        self.rates.append(tokens / (time.perf_counter() - start))


def _generated(model: Any, prompt: Ids, size: int) -> int:
    ids = torch.tensor([prompt], device=model.device)
    limits = {"max_new_tokens": size, "min_new_tokens": size}
    with quiet():
        said = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, **limits)
    return int(said.shape[1]) - len(prompt)


def one(
    bench: Bench, name: str, device: torch.device, dtype: torch.dtype, scripts: dict[Ids, Ids], limit: float
) -> Any:
    """A shape's curve and its contest, as JSON takes it."""
    start = time.perf_counter()
    model = random_model(SHAPES[name](), device, dtype)
    made = time.perf_counter() - start
    theirs, target = Theirs(model, scripts), HFTarget(model)
    try:
        points = curve(target, bench.llm.token_ids(TEXT), time.perf_counter() + limit)
        found = {
            "shape": name,
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "dtype": str(dtype).removeprefix("torch."),
            "made_s": made,
            "points": [[*point, seconds] for point, seconds in points.items()],
            "replay": replay(points),
        }
        stage = ByHand(target, None, lambda: Measured(points), scripts)
        batches = [[prompt] for prompt in scripts]
        contest = Contest(bench, stage, name, RIVALS, batches, bench.settings.params(), before=theirs)
        outcome = contest.run(bench.settings.rounds)
        outcome.rates[THEIRS] = theirs.rates[1:]
        return {**found, **outcome.as_json(), "figures": [figure.as_json() for figure in _figures(name, outcome)]}
    finally:
        target.close()


def _figures(name: str, outcome: Outcome) -> list[Figure]:
    rivals = [rival for rival in outcome.rates if rival != PLAIN]
    return [held(f"{name}, {rival} / plain", outcome.ratios(rival, PLAIN), None) for rival in rivals]


def table(found: Sequence[Any]) -> Table:
    """Milliseconds by shape, rows and context."""
    shown = Table(title="milliseconds of a pass, by its width", box=None, title_justify="left", header_style="bold")
    for head in ("shape", "rows", "context", *map(str, WIDTHS)):
        shown.add_column(head, justify="left" if head == "shape" else "right")
    for one_ in found:
        points = {(rows, context): {} for rows, _, context, _ in one_["points"]}
        for rows, width, context, seconds in one_["points"]:
            points[rows, context][width] = f"{1e3 * seconds:.1f}"
        for (rows, context), cells in points.items():
            shown.add_row(one_["shape"], str(rows), str(context), *(cells.get(width, "") for width in WIDTHS))
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=[*SHAPES], default=["llama-tiny", "qwen3-moe-tiny"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--per-group", type=int, default=1, help="at most so many prompts of each group")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--limit", type=float, default=30.0, help="seconds for each curve")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="bfloat16", choices=[*DTYPES])
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    bench = Bench(Settings(args.rounds, 0, args.per_group, args.max_tokens))
    scripts = recorded(bench, bench.few(args.per_group))
    device, console = pick_device(args.device), Console(width=200)
    found = []
    for name in args.shapes:
        found.append(one(bench, name, device, DTYPES[args.dtype], scripts, args.limit))
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if args.output is not None:
            content = {"schema": SCHEMA, "environment": environment(bench, device.type), "shapes": found}
            write(args.output, json.dumps(content, indent=1))
    console.print(table(found))
    console.print(show("contests", [Figure(**_own(figure)) for one_ in found for figure in one_["figures"]]))
    return 1 if bench.differences else 0


def _own(figure: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in figure.items() if key != "reached"}


if __name__ == "__main__":
    sys.exit(main())
