"""Keys and values that are copied from row to row, and a cache that has a limit, on real models."""

from typing import Any

import numpy as np
import pytest
import torch
from architectures import CONFIGS, tiny
from strategies import misbehaving

from betoken.draft import Draft
from betoken.engine import Engine, Request
from betoken.errors import NoRoomError
from betoken.params import SamplingParams
from betoken.scheduler import Limits
from betoken.targets.base import Feed, Keeper
from betoken.targets.hf import HFTarget
from betoken.targets.toy import markov

TEXT = tuple(int(token) for token in np.random.default_rng(0).integers(1, 60, 40))
NAMES = [name for name in CONFIGS if name in ("llama", "gpt2", "gemma3", "mistral", "qwen3", "qwen3_moe", "phi3")]


def last_logits(target: HFTarget, row: int, tokens: tuple[int, ...]) -> Any:
    logits = target.score([Feed(row, tokens)]).logits(0, -1)
    target.commit(row, ())
    return logits


@pytest.mark.parametrize("name", NAMES)
def test_a_copied_row_goes_on_as_the_one_it_was_copied_from(name: str) -> None:
    """Slots of a neighbour, or of too many tokens, came along."""
    target = HFTarget(tiny(name), pack=False)
    assert isinstance(target, Keeper)
    whole = last_logits(target, 1, TEXT)
    last_logits(target, 2, TEXT[::-1])
    saved = target.save(1)
    target.release(1)
    last_logits(target, 3, TEXT[5:30])
    target.load(4, saved, 25)
    target.fork(4, 5, 20)
    assert (target.length(4), target.length(5)) == (25, 20)
    for row, length in ((4, 25), (5, 20)):
        assert np.allclose(last_logits(target, row, TEXT[length:]), whole, atol=1e-9)
    for row in (2, 3, 4, 5):
        target.release(row)
    target.trim()
    assert target.kv_bytes == 0
    target.load(6, saved, 30)
    assert np.allclose(last_logits(target, 6, TEXT[30:]), whole, atol=1e-9), "after all memory was given back"
    target.release(6)


def test_a_pass_without_memory_leaves_nothing_behind() -> None:
    """New rows were known before there was room for them, and could not be given back."""
    target = HFTarget(tiny("llama"), pack=False)
    whole = last_logits(target, 1, TEXT)
    target.limit_kv(target.kv_needed(1, 100))
    target.score([Feed(1, (5,))])
    pending = target.kv_used
    with pytest.raises(NoRoomError):
        target.score([Feed(1, (), Draft((6, 7), (-1, -1))), *(Feed(row, TEXT[:row]) for row in (9, 4, 12))])
    assert [target.length(row) for row in (1, 4, 9, 12)] == [len(TEXT), 0, 0, 0] and target.kv_used == pending
    for row in (9, 4, 12):
        target.release(row)
    target.truncate(1, len(TEXT) - 1)
    assert np.allclose(last_logits(target, 1, TEXT[-1:]), whole, atol=1e-9)


def test_a_limit_of_memory_is_kept() -> None:
    target = HFTarget(tiny("llama"), pack=False)
    target.limit_kv(target.kv_needed(2, 100))
    last_logits(target, 1, TEXT)
    last_logits(target, 2, TEXT)
    assert target.kv_bytes <= target.kv_needed(2, 100)
    with pytest.raises(NoRoomError, match="there is room for"):
        last_logits(target, 3, TEXT * 3)
    target.release(3)
    assert np.isfinite(last_logits(target, 2, TEXT[:3])).all(), "the others go on"


def test_what_torch_says_of_memory_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    target = HFTarget(tiny("llama"), pack=False)
    for failure in (torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("[enforce fail] can't allocate memory")):

        def fails(*given: Any, failure: Exception = failure, **more: Any) -> None:
            raise failure

        with monkeypatch.context() as patch:
            patch.setattr(target, "model", fails)
            with pytest.raises(NoRoomError):
                target.score([Feed(1, TEXT)])
        target.release(1)
    monkeypatch.setattr(target, "model", lambda *given, **more: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        target.score([Feed(1, TEXT)])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_engine_with_limits_says_the_same(name: str, temperature: float) -> None:
    """Read in pieces, from kept rows, beside others, with rows that had to give way: float64, ==."""
    prompts = [TEXT[:n] for n in (3, 33, 36, 7)] + [(*TEXT[:34], 5, 6), TEXT]
    params = [SamplingParams(temperature=temperature, seed=place, max_tokens=12) for place in range(len(prompts))]
    batch = [Request(prompt, one) for prompt, one in zip(prompts, params, strict=True)]
    target = HFTarget(tiny(name), pack=False)
    plain = [said(target, [one], None)[0] for one in batch]
    target.score([Feed(-1, (1,))])
    target.release(-1)
    tight = Limits(rows=4, chunk=8, stall=0.5, step_tokens=60, kv_bytes=target.kv_needed(4, 60), kept_bytes=1 << 20)
    proposer = misbehaving("tree", 3, markov(6))
    proposer.script, script = (lambda seq: script(seq)), proposer.script
    engine = Engine(target, proposer, limits=tight, max_nodes=8)
    proposer.propose = lambda ctx: [script(seq) for seq in ctx.seqs]  # type: ignore[method-assign]
    for _ in range(2):  # the second time all prompts begin in kept rows
        assert said(target, batch, proposer, engine) == plain
    assert len(engine.rows.prefixes)
    target.limit_kv(None)


def said(target: HFTarget, batch: list[Request], proposer: Any, engine: Engine | None = None) -> list[tuple[int, ...]]:
    engine = engine or Engine(target, proposer)
    found: dict[int, tuple[int, ...]] = {engine.add(one): () for one in batch}
    while engine.unfinished:
        for event in engine.step():
            found[event.seq_id] += event.tokens
    return [*found.values()]
