"""Prompt lookup against a brute-force reading of its rules."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from betoken.errors import ParameterError
from betoken.params import SamplingParams
from betoken.proposers.base import ProposeContext, SeqView, Workshop, build
from betoken.proposers.ngram import PRESETS, Ngram, Rule
from betoken.sampling import Sampler
from betoken.targets.base import TargetInfo

SAMPLER = Sampler(SamplingParams(), seed=0, vocab_size=8)
RULES = [Rule(), Rule(1, 3, 4), Rule(2, 2, 3, earliest=True), Rule(1, 3, 2, whole=True), *PRESETS.values()]


def view(tokens: Sequence[int], room: int = 100) -> SeqView:
    return SeqView(0, tokens, 1, SAMPLER, room)


def brute_force(tokens: Sequence[int], rule: Rule) -> tuple[int, ...]:
    """The rule, read aloud: longest n first; every earlier place; the first or the last that qualifies."""
    for n in range(rule.n_max, rule.n_min - 1, -1):
        ends = [end for end in range(n, len(tokens)) if tuple(tokens[end - n : end]) == tuple(tokens[-n:])]
        if rule.whole and rule.earliest:
            ends = [end for end in ends if end + rule.k <= len(tokens)]
        elif rule.whole:
            ends = [end for end in ends[-1:] if end + rule.k <= len(tokens)]
        if ends:
            end = ends[0] if rule.earliest else ends[-1]
            return tuple(tokens[end : end + (rule.k if n > 1 else min(rule.k, rule.single))])
    return ()


@pytest.mark.parametrize("rule", RULES)
@given(tokens=st.lists(st.integers(0, 3), min_size=1, max_size=40), steps=st.lists(st.integers(1, 5), max_size=8))
def test_incremental_lookup_follows_the_rule(rule: Rule, tokens: list[int], steps: list[int]) -> None:
    """The index matched the text's own end with itself, or missed n-grams that straddle two steps."""
    proposer = Ngram(rule)
    proposer.begin(view(tokens[:1]))
    known = 1
    for step in [0, *steps]:
        known = min(known + step, len(tokens))
        (draft,) = proposer.propose(ProposeContext([view(tokens[:known])]))
        assert draft.tokens == brute_force(tokens[:known], rule)
        assert draft.is_chain


def test_no_longer_than_the_room() -> None:
    """Drafting past max_tokens is work thrown away."""
    proposer = Ngram(Rule(1, 2, 8))
    proposer.begin(view([1]))
    for room, expected in ((0, ()), (2, (2, 3))):
        (draft,) = proposer.propose(ProposeContext([view([1, 2, 3, 4, 1], room)]))
        assert draft.tokens == expected


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"preset": "x"}, "preset"),
        ({"k": 0}, "k"),
        ({"n_min": 5}, "n_min"),
        ({"n_max": 2.5}, "n_max"),
        ({"preset": "vllm", "k": 2}, "preset"),
    ],
)
def test_bad_options_name_themselves(options: dict[str, Any], name: str) -> None:
    """A typo in an option must not fall back to a default in silence."""
    with pytest.raises(ParameterError, match=f"^{name} "):
        build("ngram", Workshop(TargetInfo("toy", 8), options=options))


def test_presets_differ_from_the_default() -> None:
    """spec-bench takes the earliest match, the default the latest; a preset that is ignored would pass everything else."""
    tokens = [1, 2, 3, *range(10, 20), 1, 2, 4, *range(20, 30), 1, 2]
    drafts = {}
    for name, options in (("default", {}), ("spec-bench", {"preset": "spec-bench"})):
        proposer = build("ngram", Workshop(TargetInfo("toy", 64), options=options))
        assert proposer is not None
        proposer.begin(view(tokens[:1]))
        drafts[name] = proposer.propose(ProposeContext([view(tokens)]))[0].tokens
    assert drafts["default"][0] == 4
    assert drafts["spec-bench"] == (3, *range(10, 19))
