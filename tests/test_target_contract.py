"""What every target does with `score`, `commit`, `truncate` and `release`: tables and recordings."""

from collections.abc import Callable
from typing import Any

import pytest
from strategies import VOCAB, toy

from betoken.draft import Draft, chain
from betoken.params import SamplingParams
from betoken.sampling import Sampler
from betoken.targets.base import Feed
from betoken.targets.replay import ForcedTarget, ReplayTarget

PROMPT, ROW = (0, 1, 2), 7


def spoken(count: int) -> list[int]:
    """What the table says after the prompt."""
    tokens = [*PROMPT]
    for _ in range(count):
        tokens.append(int(toy()._logits_of(tokens).argmax()))
    return tokens


SAID = spoken(8)


def recording(target: Any) -> Any:
    target.record(ROW, SAID)
    return target


TARGETS: dict[str, Callable[[], Any]] = {
    "toy": toy,
    "replay": lambda: recording(ReplayTarget(VOCAB)),
    "forced": lambda: recording(ForcedTarget(toy())),
    "forced over a table that says otherwise": lambda: recording(ForcedTarget(toy(5))),
}


def sampler() -> Sampler:
    return Sampler(SamplingParams(), seed=0, vocab_size=VOCAB)


@pytest.mark.parametrize("kind", TARGETS)
def test_score_and_commit(kind: str) -> None:
    """Prefill in parts, a tree, its path, a tree grown in two calls, a shorter row, no row."""
    target = TARGETS[kind]()
    assert target.length(ROW) == 0
    for part in (PROMPT[:2], PROMPT[2:]):
        scores = target.score([Feed(ROW, part)])
        target.commit(ROW, ())
    assert (target.length(ROW), scores.emit(0, -1, sampler())) == (3, SAID[3])
    wrong = (SAID[4] + 1) % VOCAB
    tree = Draft((wrong, SAID[4], SAID[5]), (-1, -1, 1))
    scores = target.score([Feed(ROW, (SAID[3],), tree)])
    assert [scores.emit(0, node, sampler()) for node in (-1, 1, 2)] == SAID[4:7]
    with pytest.raises(ValueError, match="no path"):
        target.commit(ROW, (0, 1))
    target.commit(ROW, (1, 2))
    assert target.length(ROW) == 6
    target.score([Feed(ROW, (SAID[6],), chain(SAID[7:8]))])
    scores = target.score([Feed(ROW, (), chain(SAID[7:9]), start=1)])
    assert scores.emit(0, 0, sampler()) == SAID[8]
    target.commit(ROW, (0, 1))
    assert target.length(ROW) == 9
    target.truncate(ROW, 4)
    assert target.length(ROW) == 4
    assert target.score([Feed(ROW, (SAID[4],))]).emit(0, -1, sampler()) == SAID[5]
    target.release(ROW)
    assert target.length(ROW) == 0
    target.release(ROW)


@pytest.mark.parametrize("kind", [kind for kind in TARGETS if kind != "toy"])
def test_past_the_end_of_a_recording(kind: str) -> None:
    target = TARGETS[kind]()
    scores = target.score([Feed(ROW, (*SAID[:-1],), chain([SAID[-1], 0, 0]))])
    assert [scores.emit(0, node, sampler()) for node in (-1, 0, 1, 2)] == [SAID[-1], None, None, None]
