"""The likeliest tokens, against sorting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from betoken.targets.likeliest import LANES, likeliest


@given(rows=st.integers(0, 4), size=st.integers(1, 3 * LANES + 5), k=st.integers(1, 9), seed=st.integers(0, 99))
def test_the_highest_come_first(rows: int, size: int, k: int, seed: int) -> None:
    k = min(k, size)
    logits = np.random.default_rng(seed).permuted(np.arange(rows * size, dtype=np.float32).reshape(rows, size), axis=1)
    found, values = likeliest(logits, k)
    assert (found == (-logits).argsort(1)[:, :k]).all()
    assert (values == np.take_along_axis(logits, found, 1)).all()


@pytest.mark.parametrize("value", [-np.inf, np.nan, 0.0, np.inf])
@pytest.mark.parametrize("size", [8, 64, 200])
def test_ids_are_ids_whatever_the_logits(value: float, size: int) -> None:
    """Masked rows, rows of no numbers: different tokens of the vocabulary all the same; what is higher leads."""
    logits = np.full((2, size), value, np.float32)
    logits[1, 5] = 1.0
    found, values = likeliest(logits, 8)
    assert ((found >= 0) & (found < size)).all() and all(len({*row}) == 8 for row in found)
    assert found[1, 0] == 5 or not value < 1
    assert np.array_equal(values, np.take_along_axis(logits, found, 1), equal_nan=True)
