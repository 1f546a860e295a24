"""Short passes of a draft model as graphs: what the model itself says, over everything that moves its keys and values."""

import logging
from collections import Counter
from functools import wraps
from typing import Any

import numpy as np
import pytest
import torch
from architectures import CONFIGS, VOCAB, tiny
from tiny_models import tiny_llama

from betoken.draft import Draft
from betoken.targets.base import Feed
from betoken.targets.hf import HFTarget
from betoken.targets.tracing import CHECKS, LONGEST, OFTEN

# What a graph cannot hold: which experts a token goes to is decided in Python.
EXPERTS = ("mixtral", "qwen3_moe")
DENSE = [name for name in CONFIGS if name not in EXPERTS]


def pair(name: str) -> tuple[HFTarget, HFTarget]:
    """A model whose passes may be traced, and the same one's that may not."""
    model = tiny(name, torch.float32)
    return HFTarget(model, guesses=True), HFTarget(model, pack=False)


def walk(targets: tuple[HFTarget, HFTarget], row: int, rounds: int, seed: int = 0) -> float:
    """Catch up by one to six tokens, draft a few levels, keep some; returns how far the logits were apart at most."""
    rng, worst = np.random.default_rng(seed), 0.0

    def both(feed: Feed, node: int) -> None:
        nonlocal worst
        ours, theirs = (target.score([feed]).logits(0, node) for target in targets)
        worst = max(worst, float(np.abs(ours - theirs).max()) / float(np.abs(theirs).max()))

    for _ in range(rounds):
        tokens = tuple(int(token) for token in rng.integers(3, VOCAB, rng.integers(1, LONGEST + 1)))
        both(Feed(row, tokens), -1)
        chain = tuple(int(token) for token in rng.integers(3, VOCAB, rng.integers(0, 4)))
        levels = len(chain)
        for level in range(levels):
            both(Feed(row, (), Draft(chain[: level + 1], tuple(range(-1, level))), level), level)
        kept = range(int(rng.integers(0, levels + 1)))
        for target in targets:
            target.commit(row, kept)
    return worst


@pytest.mark.parametrize("name", DENSE)
def test_a_traced_model_says_what_it_says_itself(name: str) -> None:
    targets = pair(name)
    for row in range(6):  # rows come and go, the cache grows, and the last row takes the place of who leaves
        assert walk(targets, row, 8, seed=row) < 1e-4
        if row % 2:
            for target in targets:
                target.release(row - 1)
        assert walk(targets, row, 2, seed=100 + row) < 1e-4
    traced = targets[0]._traced
    assert traced is not None
    assert all(traced.knows(size) for size in (1, 2, 3))


def test_a_trace_is_what_runs() -> None:
    """Once it is known nobody calls the model for a short chain; for all else as ever."""
    model = tiny("llama", torch.float32)
    calls: list[int] = []
    forward = model.forward

    @wraps(forward)
    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs["input_ids"].shape[1])
        return forward(*args, **kwargs)

    model.forward = counted
    try:
        HFTarget(model)
        anyway = Counter(calls)
        calls.clear()
        target = HFTarget(model, guesses=True)
        for size in range(1, LONGEST + 1):
            assert calls.count(size) - anyway[size] == OFTEN + CHECKS + 1  # once while it is traced
        assert target.kv_used == 0
        calls.clear()
        target.score([Feed(0, (5,))])
        assert not calls
        target.commit(0, ())
        target.score([Feed(0, (6,), Draft((7,), (-1,)))])  # somebody may want both tokens' logits
        target.score([Feed(0, (8,) * (LONGEST + 1))])
        assert calls == [2, LONGEST + 1]
        target.score([Feed(0, (5,)), Feed(1, (5,))])
        assert len(calls) == 3
    finally:
        del model.forward


@pytest.mark.parametrize("name", EXPERTS)
def test_a_mixture_is_not_traced(name: str) -> None:
    assert pair(name)[0]._traced is None


def test_nothing_is_traced_where_nobody_checks_it() -> None:
    assert HFTarget(tiny("llama", torch.float32))._traced is None
    assert HFTarget(tiny("llama", torch.float32), guesses=True, pack=False)._traced is None
    assert HFTarget(tiny("llama", torch.float32), guesses=True, reproducible=True)._traced is None


class _Moody(torch.nn.Module):
    """Does something else at every other position, once the text is longer than what is tried at load: a trace has seen one of them."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        found = self.inner(hidden, *args, **kwargs)
        last = int(kwargs["position_ids"][0, -1])
        odd = last > 16 and last % 2 == 1
        return -found if odd else found


class _Broken(torch.nn.Module):
    """Cannot be traced at all."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if torch._C._get_tracing_state() is not None:
            raise RuntimeError("not to be traced\nat all")
        return self.inner(*args, **kwargs)


@pytest.mark.parametrize("wrapper", [_Moody, _Broken])
def test_what_cannot_be_traced_is_run_as_ever(wrapper: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_llama(seed=3)
    model.model.layers[0] = wrapper(model.model.layers[0])
    with caplog.at_level(logging.INFO, "betoken.traced"):
        targets = HFTarget(model, guesses=True), HFTarget(model, pack=False)
        for target in targets:
            target.score([Feed(0, (5,) * 20)])
            target.commit(0, ())
        assert walk(targets, 0, 12) < 1e-4
    assert len(caplog.records) == 1
    assert "passes are not traced: " in caplog.text and "at all" not in caplog.text


def test_weights_that_are_trained_stay_so() -> None:
    model = tiny_llama(seed=4)
    weights = [weight.requires_grad for weight in model.parameters()]
    assert all(weights)
    target = HFTarget(model, guesses=True)
    for _ in range(OFTEN + CHECKS):
        target.score([Feed(0, (5,))])
        target.truncate(0, 0)
    assert target._traced is not None and target._traced.knows(1)
    assert [weight.requires_grad for weight in model.parameters()] == weights


def test_a_full_cache_is_left_to_the_model() -> None:
    """A graph writes where it is told; where there is no room the cache has to grow first."""
    targets = pair("llama")
    walk(targets, 0, 8)
    slots = targets[0]._cache.slots
    for target in targets:
        target.truncate(0, 0)
        target.score([Feed(0, (5,) * (slots - 1))])
        target.commit(0, ())
    for _ in range(3):
        ours, theirs = (target.score([Feed(0, (6,))]).logits(0, -1) for target in targets)
        assert np.allclose(ours, theirs, atol=1e-4 * float(np.abs(theirs).max()))
        for target in targets:
            target.commit(0, ())
    assert targets[0]._cache.slots > slots
