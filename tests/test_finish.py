"""What a token is worth where all that counts is when the last row ends: against the time it really saves."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import VOCAB, request
from test_policy import Guess, World

from betoken.draft import Draft
from betoken.engine import Engine
from betoken.policy.finish import AHEAD, worth
from betoken.proposers.base import SeqView

ROWS = st.lists(st.tuples(st.integers(1, 10**9), st.floats(0.5, 50)), min_size=1, max_size=40)


@given(rows=ROWS, others=st.integers(0, 9), alone=st.floats(1e-6, 1e3), more=st.floats(0, 10))
def test_on_average_a_token_is_worth_one(rows: list[tuple[int, float]], others: int, alone: float, more: float) -> None:
    rooms, paces = zip(*rows, strict=True)
    values = worth(rooms, paces, len(rows) + others, alone, alone * (1 + more))
    assert np.isfinite(values).all() and (values >= 0).all()
    assert float((values * paces).sum()) == pytest.approx(sum(paces))


def test_rows_that_are_alike_are_worth_the_same() -> None:
    assert worth([90] * 5, [1.3] * 5, 5, 4.0, 6.0) == pytest.approx([1.0] * 5)
    assert worth([7], [2.0], 1, 4.0, 4.0) == pytest.approx([1.0])


def taken(rooms: Sequence[float], paces: Sequence[float], alone: float, together: float) -> float:
    """Time until the last row ends, where each goes on as it does."""
    each = (together - alone) / (len(rooms) - 1)
    steps = [room / pace for room, pace in zip(rooms, paces, strict=True)]
    return (together - len(rooms) * each) * max(steps) + each * sum(steps)


@pytest.mark.parametrize("paces", [(1.0, 3.0, 3.0), (2.0, 1.5, 0.5)])
def test_values_are_as_the_time_that_a_token_saves(paces: tuple[float, ...]) -> None:
    """Where it is clear which row will be the last."""
    rooms, times = [200.0] * 3, (4.0, 6.0)
    before = taken(rooms, paces, *times)
    saved = [
        before - taken([room - 1e-6 * (place == row) for place, room in enumerate(rooms)], paces, *times)
        for row in range(3)
    ]
    values = worth([200] * 3, paces, 3, *times)
    assert values / values.sum() == pytest.approx(np.array(saved) / sum(saved), rel=0.01)


def test_where_every_row_costs_a_pass_it_does_not_matter_who_is_last() -> None:
    """A row that is faster anyway saves less of its own time."""
    assert worth([10, 10**6], [1.0, 2.0], 2, 3.0, 6.0) == pytest.approx([1.5, 0.75])


def test_rows_that_nobody_drafts_for_take_their_part_of_a_pass() -> None:
    """They are no reason to believe that the drafted ones cost more."""
    alone, each = 4.3, 0.3
    found = worth([200, 200], [1.0, 3.0], 8, alone, alone + 7 * each)
    assert found == pytest.approx(worth([200, 200], [1.0, 3.0], 2, alone, alone + each))


def test_nobody_looks_far_ahead() -> None:
    assert worth([AHEAD, AHEAD], [1.0, 1.5], 2, 4.0, 5.0) == pytest.approx(
        worth([10**9, AHEAD], [1.0, 1.5], 2, 4.0, 5.0)
    )


class Uneven(Guess):
    """Guesses the first row badly, and all others well."""

    def _guess(self, seq: SeqView) -> Draft:
        self.share = self.score = 0.3 if seq.seq_id % 8 == 0 else 0.9
        return super()._guess(seq)


def closed(draining: bool | None) -> float:
    """Seconds that eight rows take until the last one ends; None: plain decoding."""
    world = World(lambda rows, width: 4.0 + 0.3 * rows * width)
    auto = None if draining is None else world.auto({"guess": Uneven(world, 0.5, depth=4)})
    engine = Engine(world.target, auto, clock=world.clock, max_rows=8)
    engine.draining = bool(draining)
    dice = random.Random(1)
    for _ in range(3):
        for _ in range(8):
            prompt = (0, dice.randrange(VOCAB), dice.randrange(VOCAB))
            engine.add(request(prompt, max_tokens=150, ignore_eos=True, temperature=1.0, seed=dice.randrange(99)))
        engine.run(lambda event: None)
    return world.target.now


def test_a_batch_that_only_has_to_end_is_done_sooner_for_knowing_it() -> None:
    """Seven rows are guessed well, and the batch is done when the eighth is. Tokens a second of all rows are not what counts."""
    assert closed(True) < 0.97 * closed(False)
    assert closed(True) < closed(None)
