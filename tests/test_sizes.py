"""Passes padded to few sizes: the same scores, and no more memory."""

from copy import deepcopy
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from architectures import tiny
from hypothesis import given
from hypothesis import strategies as st

from betoken.draft import Draft
from betoken.targets.base import Feed
from betoken.targets.hf import HFTarget
from betoken.targets.sizes import ceiled, padded, sizes


@given(rows=st.integers(1, 70), queries=st.integers(1, 600), most=st.integers(1, 80))
def test_a_size_is_near_or_nothing_is_padded(rows: int, queries: int, most: int) -> None:
    more, longer = padded(rows, queries, max(rows, most))
    assert rows <= more <= max(rows, most) and queries <= longer
    assert more - rows <= -(-rows // 8) and longer - queries <= queries // 8
    assert (more, longer) == (rows, queries) or ceiled(more * longer) == more * longer


def test_there_are_few_sizes() -> None:
    found = [*sizes(1000)]
    assert found[:20] == [*range(1, 17), 18, 20, 22, 24] and len(found) < 70
    assert all(ceiled(size) == size for size in found)
    assert all(larger - size <= -(-size // 8) for size, larger in pairwise(found))
    assert all(ceiled(size) in found for size in range(1, 900))


def small(name: str) -> Any:
    """In a dtype that can be packed."""
    return deepcopy(tiny(name)).float()


FEEDS = [
    Feed(1, (5, 6, 7), Draft((8, 9, 8), (-1, -1, 1))),
    Feed(2, tuple(range(1, 22))),
    Feed(3, (1, 2), Draft((3,), (-1,))),
]


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "mistral"])
def test_what_is_padded_says_the_same(name: str) -> None:
    """Idle rows behind the last one, and more tokens in each: their keys and values were seen by somebody."""
    found: dict[bool, list[Any]] = {}
    for pads in (False, True):
        target = HFTarget(small(name))
        assert target._pads
        target._pads = pads
        for row in (7, 8, 9, 10):  # leaves slots with something in them, and room for idle rows
            target.score([Feed(row, tuple(range(2, 60)))])
        for row in (7, 8, 9, 10):
            target.release(row)
        scores = target.score(FEEDS)
        found[pads] = [
            scores.logits(index, node) for index, feed in enumerate(FEEDS) for node in range(-1, len(feed.draft))
        ]
        for feed in FEEDS:
            target.commit(feed.row, ())
        later = [Feed(feed.row, (11,)) for feed in FEEDS]
        again = target.score(later)
        found[pads] += [again.logits(index, -1) for index in range(3)]
        assert [target.length(feed.row) for feed in FEEDS] == [3, 21, 2]
    for padded_logits, plain in zip(found[True], found[False], strict=True):
        assert np.allclose(padded_logits, plain, atol=1e-5)


def test_what_is_padded_needs_no_more_memory() -> None:
    target = HFTarget(small("llama"))
    target.score([Feed(1, tuple(range(1, 60)))])
    target.commit(1, ())
    held = target.kv_bytes
    target.limit_kv(held)
    slots = held // target.kv_needed(1, 1)
    while target.length(1) < slots:
        target.score([Feed(1, (3,) * min(21, slots - target.length(1)))])
        target.commit(1, ())
    assert target.kv_bytes == held


def test_large_models_and_mixtures_are_not_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not HFTarget(small("qwen3_moe"))._pads and not HFTarget(small("llama"), reproducible=True)._pads
    assert not HFTarget(small("llama"), pack=False)._pads
    monkeypatch.setattr("betoken.targets.hf.PADDED", 10)
    assert not HFTarget(small("llama"))._pads


def test_to_be_warm_leaves_nothing() -> None:
    target = HFTarget(small("llama"))
    target.warm_up(60.0)
    assert not target._rows and not target._order
    HFTarget(small("llama"), pack=False).warm_up(1.0)
    target.trim()
    target.limit_kv(target.kv_needed(1, 40))
    target.warm_up(60.0)
    assert not target._rows and target.kv_bytes <= target.kv_needed(1, 40)
