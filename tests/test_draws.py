"""Draws looked at through a bound, against all the noise there is."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import EOS, VOCAB, laws_of_sampling

from betoken.draws import CHUNK, drawn, gumbel_of, highest, key_at
from betoken.noise import base, gumbel
from betoken.params import SamplingParams
from betoken.sampling import Sampler

SIZES = (1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7)


def all_noise(law: npt.NDArray[Any], temperature: float, seed: int, position: int) -> npt.NDArray[np.float64]:
    values = law.astype(np.float64)
    return values if temperature == 0 else values / temperature + gumbel(seed, 0, position, len(law))


def best_of(values: npt.NDArray[Any], count: int) -> list[int]:
    return np.argsort(-values, kind="stable")[:count].tolist()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("temperature", [0.0, 0.1, 1.0, 2.0, 50.0])
@pytest.mark.parametrize("spread", [0.0, 1.0, 10.0])
def test_the_highest_are_those_of_all_noise(size: int, temperature: float, spread: float) -> None:
    rng = np.random.default_rng(size)
    for seed in range(20):
        law = rng.normal(0, spread, size)
        law[rng.random(size) < 0.2] = -np.inf
        law[rng.integers(size)] = 0.0
        values = all_noise(law, temperature, seed, seed)
        ids, found = np.zeros(8, np.int64), np.empty(8)
        noisy, weights = temperature > 0, law / temperature if temperature else law
        highest(weights, noisy, np.uint64(base(seed, 0)), seed, ids, found)
        count = min(8, int(np.isfinite(values).sum()))
        assert ids[:count].tolist() == best_of(values, count)
        np.testing.assert_allclose(found[:count], values[ids[:count]], rtol=1e-12)
        if noisy:
            assert drawn(weights, np.uint64(base(seed, 0)), seed) == best_of(values, 1)[0]


@given(st.integers(0, 2**63 - 1), st.integers(0, 10_000), st.integers(0, 3 * CHUNK))
def test_the_twin_is_the_noise(seed: int, position: int, token: int) -> None:
    noise = gumbel(seed, 0, position, token + 1)[token]
    key = np.uint64(key_at(np.uint64(base(seed, 0)), position))
    assert gumbel_of(key, token) == pytest.approx(noise, rel=1e-12, abs=1e-12)


def test_where_nothing_is_left_the_first_is_taken() -> None:
    """As `argmax` does: of a law of -inf alone, and of equals."""
    assert drawn(np.full(700, -np.inf), np.uint64(5), 3) == 0
    ids, values = np.zeros(3, np.int64), np.empty(3)
    highest(np.zeros(700), False, np.uint64(5), 3, ids, values)
    assert ids.tolist() == [0, 1, 2]


def test_a_rare_number_is_seen() -> None:
    """The bound is tight only for likely numbers: a token far behind must still be drawn as often as its law says, at the right draws."""
    law = np.zeros(4 * CHUNK)
    law[1:] = -9.0
    positions = range(3000)
    found = [drawn(law, np.uint64(base(1, 0)), position) for position in positions]
    assert found == [int(np.argmax(law + gumbel(1, 0, position, len(law)))) for position in positions]
    assert 0 < sum(token > 0 for token in found) < len(found)


LOGITS = st.lists(st.sampled_from([-4.0, -1.0, -0.5, 0.0, 0.25, 0.5, 2.0, 3.0]), min_size=VOCAB, max_size=VOCAB)
TOKENS = st.lists(st.integers(0, VOCAB - 1), max_size=6)


@given(LOGITS, laws_of_sampling(), TOKENS, TOKENS)
def test_a_sampler_chooses_what_is_highest(
    logits: list[float], fields: dict[str, Any], output: list[int], ahead: list[int]
) -> None:
    """Whatever is asked of the law: the token is the argmax of the law and all the noise, and leaders are in that order."""
    params = SamplingParams(**fields)
    sampler = Sampler(params, seed=params.seed or 0, vocab_size=VOCAB, eos_ids=(EOS,))
    for token in output:
        sampler.push(token)
    values = np.array(logits)
    assert sampler.choose(values) == sampler.perturbed_argmax(values)
    perturbed = sampler.perturbed(values, ahead)
    tokens, heights = sampler.leaders(values, ahead, 4)
    count = min(4, int(np.isfinite(perturbed).sum()))
    assert tokens[:count] == best_of(perturbed, count)
    np.testing.assert_allclose(heights[:count], perturbed[tokens[:count]], rtol=1e-12)


def test_a_whole_number_as_temperature_compiles_nothing_anew() -> None:
    """Compiled code is made for each type of number it is given; of some of what a draw is handed to that takes ten seconds."""
    logits = np.arange(VOCAB, dtype=np.float32)
    samplers = [Sampler(SamplingParams(temperature=heat), seed=0, vocab_size=VOCAB) for heat in (2.0, 2)]
    samplers[0].choose(logits)
    known = len(drawn.signatures)
    assert samplers[1].choose(logits) == samplers[0].choose(logits)
    assert len(drawn.signatures) == known
    assert all(isinstance(sampler.draw_at(0).temperature, float) for sampler in samplers)
