"""Rows of very different lengths in passes of their own: the same scores, for less."""

from itertools import accumulate, combinations, pairwise
from typing import Any

import numpy as np
import pytest
from architectures import tiny
from hypothesis import given
from hypothesis import strategies as st
from strategies import misbehaving

from betoken.draft import Draft
from betoken.engine import Engine, Request
from betoken.params import SamplingParams
from betoken.targets.base import Feed
from betoken.targets.hf import HFTarget
from betoken.targets.scores import HFScores, JoinedScores
from betoken.targets.splitting import runs
from betoken.targets.toy import markov

Rows = list[tuple[int, int, int]]  # how far after the row before, its slots, its tokens


def spread(rows: Rows) -> tuple[list[int], list[int], list[int]]:
    return (
        list(accumulate(gap for gap, _, _ in rows)),
        [window for _, window, _ in rows],
        [tokens for *_, tokens in rows],
    )


def cost(rows: Rows, ends: list[int], overhead: int, query: float) -> float:
    places, windows, queries = spread(rows)
    return sum(
        overhead + (places[end - 1] - places[start] + 1) * (max(windows[start:end]) + query * max(queries[start:end]))
        for start, end in pairwise([0, *ends])
    )


@given(
    rows=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 60), st.integers(1, 20)), min_size=1, max_size=8),
    overhead=st.integers(0, 200),
    query=st.sampled_from([0.0, 0.5, 3.0, 40.0]),
)
def test_no_partition_costs_less(rows: Rows, overhead: int, query: float) -> None:
    ends = runs(*spread(rows), overhead=overhead, query=query)
    assert ends[-1] == len(rows) and ends == sorted(set(ends))
    inner = range(1, len(rows))
    all_of_them = ([*cut, len(rows)] for size in range(len(rows)) for cut in combinations(inner, size))
    assert cost(rows, ends, overhead, query) == min(cost(rows, each, overhead, query) for each in all_of_them)


def test_one_long_row_goes_alone() -> None:
    def ends(windows: list[int], queries: list[int] | None = None, overhead: int = 8192) -> list[int]:
        return runs(range(len(windows)), windows, queries or [1] * len(windows), overhead=overhead, query=150.0)

    assert ends([100] * 31 + [3000]) == [31, 32]
    assert ends([100] * 32) == [32]
    assert ends([100, 90, 110], overhead=10**6) == [3]
    assert ends([100] * 6, [4, 4, 4, 4, 4, 60]) == [5, 6], "nor are the others fed what only one has"


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "qwen3_moe"])
def test_scores_of_several_passes_are_those_of_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows were fed in another order, at another's place, or twice."""
    feeds = [
        Feed(1, (5, 6, 7), Draft((8, 9, 8), (-1, -1, 1))),
        Feed(2, (9,) * 30 + (4,)),
        Feed(3, (1, 2), Draft((3,), (-1,))),
        Feed(4, tuple(range(1, 41)), Draft((5, 6), (-1, -1))),
    ]
    found: dict[int, Any] = {}
    for overhead in (0, 10**9):
        target = HFTarget(tiny(name), pack=False)
        monkeypatch.setitem(target.__dict__, "_overhead", overhead)
        scores = target.score(feeds)
        assert isinstance(scores, HFScores if overhead else JoinedScores)
        found[overhead] = [
            scores.logits(index, node) for index, feed in enumerate(feeds) for node in range(-1, len(feed.draft))
        ]
        assert [len(scores.top_ids(index, 3)) for index in range(4)] == [4, 1, 2, 3]
        for index, feed in enumerate(feeds):
            logits = np.stack([scores.logits(index, node) for node in range(-1, len(feed.draft))])
            assert (scores.top_logits(index, 3) == np.take_along_axis(logits, scores.top_ids(index, 3), 1)).all()
        for feed in feeds:
            target.commit(feed.row, ())
        again = target.score([Feed(4, (3,)), Feed(1, (2,))])  # another order than the rows'
        found[overhead] += [again.logits(0, -1), again.logits(1, -1)]
    assert np.allclose(np.stack(found[0]), np.stack(found[10**9]), atol=1e-9)


@pytest.mark.parametrize("name", ["llama", "qwen3_moe"])
def test_an_engine_does_not_notice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [(1, 2, 3), (4,) * 40, (5, 6), tuple(range(1, 35)), (7, 8)]
    batch = [
        Request(prompt, SamplingParams(temperature=1.0, seed=place, max_tokens=14))
        for place, prompt in enumerate(prompts)
    ]
    said = []
    for overhead in (0, 10**9):
        target = HFTarget(tiny(name), pack=False)
        monkeypatch.setitem(target.__dict__, "_overhead", overhead)
        proposer = misbehaving("tree", 1, markov(6))
        engine = Engine(target, proposer, max_nodes=9)
        ids = [engine.add(one) for one in batch]
        events: list[Any] = []
        engine.run(events.append)
        said.append([[token for event in events if event.seq_id == row for token in event.tokens] for row in ids])
    assert said[0] == said[1]


def test_reproducible_prompts_are_read_alone() -> None:
    """Rounding depended on whom a prompt was read with."""
    prompts = {row: tuple(range(row, row + 20)) for row in (1, 2, 3)}
    alone, together = (HFTarget(tiny("llama"), pack=False, reproducible=True) for _ in range(2))
    scores = together.score([*(Feed(row, prompt) for row, prompt in prompts.items()), Feed(9, (4,)), Feed(8, (5,))])
    assert isinstance(scores, JoinedScores) and len({id(each) for each, _ in scores._at}) == 4
    for index, (row, prompt) in enumerate(prompts.items()):
        assert np.array_equal(scores.logits(index, -1), alone.score([Feed(row, prompt)]).logits(0, -1))
        alone.release(row)
