"""Counters, by vLLM's definitions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from betoken.speculation import Speculation, together
from betoken.stats import Stats, total

COUNTS = st.integers(0, 1000)
SECONDS = COUNTS.map(lambda n: n / 8)  # eighths add exactly
STATS = st.builds(
    Stats,
    **dict.fromkeys(("steps", "emitted_tokens", "drafts", "draft_tokens", "accepted_tokens"), COUNTS),
    **dict.fromkeys(("draft_s", "verify_s", "host_s", "prefill_s"), SECONDS),
    accepted_per_position=st.lists(COUNTS, max_size=5),
    speculation=st.lists(
        st.sampled_from((Speculation(), Speculation(False), Speculation(method="mix"))), max_size=3
    ).map(together),
)


@given(STATS, STATS, STATS)
def test_merge_is_associative_and_commutes(a: Stats, b: Stats, c: Stats) -> None:
    """A merged field was dropped, or the longer list of positions cut to the shorter."""
    assert a.merge(b).merge(c) == a.merge(b.merge(c)) == total([c, b, a])
    assert a.merge(Stats()) == a == Stats().merge(a)


@given(STATS, STATS)
def test_merge_leaves_its_parts_alone(a: Stats, b: Stats) -> None:
    """The total of a batch kept counting into the first request's list."""
    before = list(a.accepted_per_position)
    a.merge(b).accepted_per_position.append(1)
    a.merge(b).observe(emitted=3, drafted=9, accepted=2)
    assert a.accepted_per_position == before


def test_the_definitions_on_an_example() -> None:
    """An empty draft entered the mean acceptance length; the bonus token entered the acceptance rate."""
    stats = Stats()
    stats.observe(emitted=4, drafted=5, accepted=3)
    stats.observe(emitted=1, drafted=3, accepted=0)
    stats.observe(emitted=1, drafted=0, accepted=0)
    assert stats.accepted_per_position == [1, 1, 1]
    assert (stats.steps, stats.emitted_tokens, stats.drafts, stats.draft_tokens, stats.accepted_tokens) == (
        3,
        6,
        2,
        8,
        3,
    )
    assert stats.acceptance_rate == 3 / 8
    assert stats.mean_acceptance_length == 1 + 3 / 2
    assert stats.tokens_per_step == 2
    assert stats.acceptance_per_position == [0.5, 0.5, 0.5]


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)).filter(lambda step: step[1] <= step[0]), max_size=20))
def test_positions_sum_to_accepted_and_never_rise(steps: list[tuple[int, int]]) -> None:
    """A later position was counted without the earlier ones on its path."""
    stats = Stats()
    for drafted, accepted in steps:
        stats.observe(emitted=accepted + 1, drafted=drafted, accepted=accepted)
    assert sum(stats.accepted_per_position) == stats.accepted_tokens
    assert stats.accepted_per_position == sorted(stats.accepted_per_position, reverse=True)
    assert stats.emitted_tokens == stats.accepted_tokens + stats.steps


@pytest.mark.parametrize("name", ["acceptance_rate", "mean_acceptance_length", "tokens_per_step"])
def test_nothing_drafted_has_no_rate(name: str) -> None:
    """Plain decoding divided by zero, or claimed an acceptance of 0."""
    assert getattr(Stats(), name) is None
    assert Stats().acceptance_per_position == []
