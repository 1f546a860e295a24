"""Two independently trained small models, where the measuring data lies beside the project: every method, both rules of
temperature, one by one and in a batch, packed and not; the same texts as plain decoding."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from betoken import LLM, SamplingParams

MODELS = Path(__file__).parents[2] / "shared" / "data" / "models"
PROMPTS = ["Once upon a time", "Lily had a red ball. Lily had a", "One day, Tom"]
METHODS = [*(name for name in LLM.methods() if name != "plain"), "draft:k=6", "draft:k=3:width=3:nodes=7"]

pytestmark = pytest.mark.skipif(not MODELS.is_dir(), reason="the measuring data is not beside the project")


@pytest.fixture(scope="module", params=[True, False], ids=["packed", "unpacked"])
def llm(request: pytest.FixtureRequest) -> Iterator[LLM]:
    with LLM(MODELS / "stories260K", MODELS / "llama2xs260K", dtype="float32", pack=request.param) as made:
        yield made


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.3])
def test_every_method_says_what_plain_decoding_says(llm: LLM, temperature: float) -> None:
    params = SamplingParams(max_tokens=60, temperature=temperature, seed=11)
    plain = [llm.generate(prompt, params, method="plain").token_ids for prompt in PROMPTS]
    for method in METHODS:
        assert [result.token_ids for result in llm.generate(PROMPTS, params, method=method)] == plain, method


def test_a_trained_draft_model_helps(llm: LLM) -> None:
    """All of the above holds where nothing is accepted."""
    for temperature in (0.0, 1.0):
        params = SamplingParams(max_tokens=100, temperature=temperature, seed=1)
        assert (llm.generate(PROMPTS[0], params, method="draft").stats.tokens_per_step or 0) > 1.8


def test_residual_acceptance_accepts_and_repeats(llm: LLM) -> None:
    params = SamplingParams(max_tokens=60, temperature=1.0, seed=2)
    with LLM(
        (llm.target.model, llm.tokenizer), llm._draft.model if llm._draft else None, acceptance="residual", pack=False
    ) as other:
        first, second = (other.generate(PROMPTS[0], params) for _ in range(2))
    assert first.token_ids == second.token_ids
    assert (first.stats.tokens_per_step or 0) > 1.8
