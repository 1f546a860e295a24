"""Figures that do not change unless a method does: replays of a short recording of the embedded pair.

`tests/data/demo.trace.jsonl.gz` is `betoken record demo.trace.jsonl.gz --per-group 2 --max-tokens 48`: ten greedy answers
of the embedded target. Where a change of a method moves a figure on purpose, put the new one here and say why.
"""

from pathlib import Path

import pytest

from betoken.bench.replay import Replay
from betoken.methods import spelt
from betoken.proposers.base import Workshop, build
from betoken.targets.replay import ReplayTarget
from betoken.trace import read

TRACE = read(Path(__file__).parent / "data" / "demo.trace.jsonl.gz")

# method (":warm=1": earlier conversations remembered): steps, drafts, draft tokens, accepted tokens. All emit 449 tokens in steps, and ten in prefills.
PINS: dict[str, tuple[int, int, int, int]] = {
    "plain": (449, 0, 0, 0),
    "naive": (274, 190, 376, 175),
    "ngram": (202, 116, 520, 247),
    "ngram:preset=spec-bench": (204, 102, 931, 245),
    "ngram:preset=vllm": (289, 50, 223, 160),
    "suffix": (173, 88, 1205, 276),
    "mix": (144, 140, 5572, 305),
    "mix:nodes=8": (174, 171, 1368, 275),
    "suffix:warm=1": (166, 105, 1456, 283),
    "mix:warm=1": (136, 133, 5320, 313),
}


@pytest.mark.parametrize("method", PINS)
def test_a_method_drafts_what_it_always_did(method: str) -> None:
    name, options = spelt(method)
    target = ReplayTarget(TRACE.vocab_size, TRACE.eos_ids)
    warm = bool(options.pop("warm", False))
    make = lambda: build(name, Workshop(target.info, None, options))  # noqa: E731
    stats = Replay(method, make, target, warm=warm).run(TRACE).total
    assert stats.emitted_tokens == 449
    assert (stats.steps, stats.drafts, stats.draft_tokens, stats.accepted_tokens) == PINS[method]


def test_the_recording_is_whole() -> None:
    assert TRACE.vocab_size == 4096
    assert [one.category for one in TRACE.conversations] == [
        group for group in ("prose", "quote", "code", "maths", "lists") for _ in range(2)
    ]
    assert sum(len(output.tokens) for one in TRACE.conversations for output in one.outputs) == 459
