"""Targets that take longer for every row: one that runs a whole forward pass for each node, and two tiny mixtures of experts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import torch
from figures import Found, held

from auto_parts.common import AUTO, PLAIN, Bench, Ids
from auto_parts.contest import ByHand, Contest, Outcome
from betoken.curves import TEXT
from betoken.loading import quiet
from betoken.policy.cost import Measured
from betoken.policy.measuring import measure
from betoken.targets.base import Feed, Scores, Target
from betoken.targets.hf import HFTarget

BOUND = 0.98
RIVALS = (AUTO, PLAIN)
SCRATCH, SCRATCH_TOKENS = -1_000_000, 128
SHOWN = (1, 2, 4, 8, 16, 32, 64)
PROMPTS_EACH = 2


class EveryRowCosts:
    """A target with no room for two rows in one pass: after the real pass, one more of one token for each node that was fed, in a
    scratch row whose context is as long as a short conversation."""

    def __init__(self, target: Target, text: Sequence[int]) -> None:
        self._target, self._token, self.info = target, text[0], target.info
        filling = [text[place % len(text)] for place in range(SCRATCH_TOKENS)]
        target.score([Feed(SCRATCH, tuple(filling))])
        target.commit(SCRATCH, ())

    def score(self, feeds: Sequence[Feed]) -> Scores:
        scores = self._target.score(feeds)
        for _ in range(sum(len(feed.draft) - feed.start for feed in feeds)):
            self._target.score([Feed(SCRATCH, (self._token,))])
            self._target.truncate(SCRATCH, SCRATCH_TOKENS)
        return scores

    def length(self, row: int) -> int:
        return self._target.length(row)

    def commit(self, row: int, path: Sequence[int]) -> None:
        self._target.commit(row, path)

    def truncate(self, row: int, length: int) -> None:
        self._target.truncate(row, length)

    def release(self, row: int) -> None:
        self._target.release(row)

    def close(self) -> None:
        """The scratch row is given back; the target stays open."""
        self._target.release(SCRATCH)


def run(bench: Bench) -> Found:
    found = Found()
    for label, points, outcome in _all(bench):
        ratios = outcome.ratios(AUTO, PLAIN)
        curve = relative(points)
        more = {"T(8)/T(1)": curve[8], "in steps alone": median(outcome.ratios(AUTO, PLAIN, steps=True))}
        found.figures.append(held(label, ratios, BOUND, **more))
        found.data.append({"auto_over_plain": ratios, "curve": _kept(points), **outcome.as_json()})
        bench.say(f"{label}: {found.figures[-1].value:.3f} of plain; T(n) / T(1): {_spelt(curve)}")
    return found


def _all(bench: Bench) -> Iterator[tuple[str, Any, Outcome]]:
    text, prompts = bench.llm.token_ids(TEXT), bench.few(min(PROMPTS_EACH, bench.settings.per_group or PROMPTS_EACH))
    slowed = EveryRowCosts(bench.llm.target, text)
    try:
        yield _one(bench, "every row costs a forward pass", slowed, prompts, text, None)
    finally:
        slowed.close()
    scripts = recorded(bench, prompts)
    for label, make in (("tiny Mixtral", _mixtral), ("tiny Qwen3-MoE", _qwen)):
        target = HFTarget(_random(make(bench)), own=True)
        try:
            yield _one(bench, label, target, prompts, text, scripts)
        finally:
            target.close()


def _one(
    bench: Bench,
    label: str,
    target: Target,
    prompts: Sequence[Ids],
    text: Sequence[int],
    scripts: dict[Ids, Ids] | None,
) -> tuple[str, Any, Outcome]:
    """Curve, then contest."""
    points = measure(target, text, max_rows=1)
    stage = ByHand(target, bench.llm._draft, lambda: Measured(points), scripts, None if scripts else bench.llm.target)
    batches = [[prompt] for prompt in prompts]
    contest = Contest(bench, stage, label, RIVALS, batches, bench.settings.params())
    return label, points, contest.run(bench.settings.rounds)


def recorded(bench: Bench, prompts: Sequence[Ids]) -> dict[Ids, Ids]:
    """What the embedded target says: random weights say nothing that could be drafted."""
    results = (bench.llm.generate(prompt, bench.settings.params(), method=PLAIN) for prompt in prompts)
    return {prompt: result.token_ids for prompt, result in zip(prompts, results, strict=True)}


def _shape(bench: Bench) -> dict[str, Any]:
    small = bench.settings.quick
    return {
        "vocab_size": bench.llm.target.info.vocab_size,
        "hidden_size": 64 if small else 256,
        "num_hidden_layers": 2 if small else 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 4096,
    }


def _mixtral(bench: Bench) -> Any:
    from transformers import MixtralConfig

    return MixtralConfig(num_local_experts=32, intermediate_size=384, sliding_window=None, **_shape(bench))


def _qwen(bench: Bench) -> Any:
    from transformers import Qwen3MoeConfig

    shape = {"num_experts": 32, "moe_intermediate_size": 384, "intermediate_size": 384, "head_dim": 64}
    return Qwen3MoeConfig(decoder_sparse_step=1, norm_topk_prob=True, **shape, **_shape(bench))


def _random(config: Any) -> Any:
    """Random weights in memory, always the same ones."""
    from transformers import AutoModelForCausalLM

    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def relative(points: Any, context: int = 192) -> dict[int, float]:
    """A curve's passes of one row, in passes of one token."""
    seconds = Measured(points).seconds(1, context, max(SHOWN) - 1)
    return {width: float(seconds[width - 1] / seconds[0]) for width in SHOWN}


def _spelt(curve: dict[int, float]) -> str:
    return ", ".join(f"{width}: {times:.2f}" for width, times in curve.items())


def _kept(points: Any) -> list[list[float]]:
    return [[*point, seconds] for point, seconds in points.items()]
