"""The identity matrix on a CUDA device: `pytest -m gpu`. float32, where no near tie is expected."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from architectures import CONFIGS, tiny
from test_hf_identity import decode, methods

from betoken import LLM, SamplingParams, demo
from betoken.draft import chain
from betoken.targets.base import Feed
from betoken.targets.hf import HFTarget

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


def on_gpu(name: str, **options: Any) -> HFTarget:
    return HFTarget(copy.deepcopy(tiny(name, torch.float32, **options)).to("cuda"))


@pytest.mark.parametrize("name", CONFIGS)
def test_any_draft_any_temperature_equals_plain(name: str) -> None:
    target, draft = on_gpu(name), on_gpu(name, seed=1, layers=1)
    for temperature in (0.0, 0.7, 1.3):
        params = SamplingParams(temperature=temperature, seed=5, max_tokens=20, ignore_eos=True)
        plain = decode(target, None, params)
        for label, proposer in methods(target, draft, plain).items():
            assert decode(target, proposer, params) == plain, (label, temperature)


def test_no_attention_kernel_is_built_for_a_shape() -> None:
    """cuDNN's attention would be: tens of milliseconds, at every step."""
    target = HFTarget(copy.deepcopy(tiny("llama", torch.bfloat16)).to("cuda"))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profile:
        target.score([Feed(1, (5, 6, 7), chain([8, 9]))])
    names = {event.key for event in profile.key_averages()}
    assert any("attention" in name for name in names)
    assert not [name for name in names if "cudnn" in name]


@pytest.mark.parametrize("width", [2, 32, 33, 34, 64, 65, 66, 97, 129])
def test_a_wide_pass_says_what_single_tokens_say(width: int) -> None:
    """The embedded target has one head of keys, for which torch's attention is wrong where one query is left over in a block: of a
    draft's last node, and of a prompt's last token."""
    with LLM(demo.pair()[0], dtype="float32", device="cuda") as llm:
        target, text = llm.target, tuple(range(300, 300 + width + 8))
        singly = []
        for token in text:
            singly.append(target.score([Feed(1, (token,))]).logits(0, -1))
            target.commit(1, ())
        together = target.score([Feed(2, text[:width])]).logits(0, -1)
        np.testing.assert_allclose(together, singly[width - 1], rtol=1e-3, atol=1e-3)
        target.score([Feed(3, text[:8])])
        target.commit(3, ())
        scores = target.score([Feed(3, text[8:9], chain(text[9:]))])
        for node in range(-1, width - 1):
            np.testing.assert_allclose(scores.logits(0, node), singly[9 + node], rtol=1e-3, atol=1e-3)


def test_the_embedded_pair_says_there_what_it_says_plainly() -> None:
    target, draft = demo.pair()
    with LLM(target, draft, dtype="float32", device="cuda") as llm:
        for temperature in (0.0, 1.0):
            params = SamplingParams(max_tokens=100, temperature=temperature, seed=3)
            plain = llm.generate("Once upon a time", params, method="plain")
            for method in LLM.methods():
                assert llm.generate("Once upon a time", params, method=method).token_ids == plain.token_ids
