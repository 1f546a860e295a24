"""The pair that ships with the package: what it promises, and every method on it in both dtypes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from betoken import LLM, SamplingParams, demo
from betoken.bench.workloads import first_of_each, read

MEGABYTE = 1_000_000


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def llm(request: pytest.FixtureRequest) -> Iterator[LLM]:
    """In bfloat16 the reproducible way: rounding does not depend on what is drafted, as long as that is a chain."""
    if request.param == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no bfloat16 instructions, so packed layers cannot make it reproducible")
    target, draft = demo.pair()
    with LLM(target, draft, dtype=request.param, reproducible=request.param == "bfloat16") as made:
        yield made


def prompts(llm: LLM, per_group: int) -> list[list[int]]:
    return [
        llm.chat_prompt(workload.messages) if workload.messages else llm.token_ids(workload.prompt)
        for workload in first_of_each(read(demo.prompts()), per_group)
    ]


def test_the_pair_is_small_and_the_draft_a_tenth() -> None:
    target, draft = map(Path, demo.pair())
    assert sum(file.stat().st_size for folder in (target, draft) for file in folder.iterdir()) < 80 * MEGABYTE
    with LLM(target, draft, method="plain") as llm:
        assert llm.info.parameters >= 10 * llm.info.draft_parameters
        assert llm.info.context == 4096
        assert llm.target.model.config.model_type == "llama"
    assert (target.parent / "MODEL_CARD.md").is_file()


@pytest.mark.parametrize("method", ["draft", "ngram", "naive", "draft:k=6:worth=0"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_chains_say_what_plain_decoding_says(llm: LLM, method: str, temperature: float) -> None:
    """One by one, and all in one batch of ragged rows."""
    params = SamplingParams(max_tokens=40, temperature=temperature, seed=7)
    ids = prompts(llm, 1)
    plain = [llm.generate(prompt, params, method="plain").token_ids for prompt in ids]
    assert [llm.generate(prompt, params, method=method).token_ids for prompt in ids] == plain
    assert [result.token_ids for result in llm.generate(ids, params, method=method)] == plain


@pytest.mark.parametrize("method", ["lookahead", "draft:k=3:width=3", "recycling", "merge"])
def test_trees_say_what_plain_decoding_says_in_float32(llm: LLM, method: str) -> None:
    if llm.info.dtype != "float32":
        pytest.skip("a tree's rows are summed in another order: bfloat16 promises chains")
    params = SamplingParams(max_tokens=40, temperature=1.0, seed=7)
    for prompt in prompts(llm, 1):
        expected = llm.generate(prompt, params, method="plain").token_ids
        assert llm.generate(prompt, params, method=method).token_ids == expected


def test_it_copies_and_it_writes() -> None:
    """The pair is there to show prompt lookup on copies and a draft model on prose; it must be able to do both."""
    target, draft = demo.pair()
    with LLM(target, draft, dtype="float32") as llm:
        copied = next(w for w in read(demo.prompts()) if w.id == "quote-2")
        text = str(copied.messages[0]["content"]).partition("\n\n")[2]
        result = llm.chat(copied.messages, SamplingParams(max_tokens=200), method="ngram")
        assert result.text.strip() == text.strip()
        assert (result.stats.tokens_per_step or 0) > 3
        story = llm.chat([{"role": "user", "content": "Tell a story about a dog."}], SamplingParams(max_tokens=100))
        assert (story.stats.tokens_per_step or 0) > 1.5


@torch.inference_mode()
def test_a_step_of_the_draft_model_is_a_small_part_of_the_targets() -> None:
    """By count of layers, since a test measures no time."""
    target, draft = demo.pair()
    with LLM(target, draft, dtype="float32") as llm:
        assert llm._draft is not None
        assert llm.target.model.config.num_hidden_layers >= 5 * llm._draft.model.config.num_hidden_layers
