"""The identity matrix on a CUDA device: `pytest -m gpu`. float32, where no near tie is expected."""

import copy
from typing import Any

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
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        target.score([Feed(1, (5, 6, 7), chain([8, 9]))])
    names = {event.key for event in profile.key_averages()}
    assert any("attention" in name for name in names)
    assert not [name for name in names if "cudnn" in name]


def test_the_embedded_pair_says_there_what_it_says_plainly() -> None:
    target, draft = demo.pair()
    with LLM(target, draft, dtype="float32", device="cuda") as llm:
        for temperature in (0.0, 1.0):
            params = SamplingParams(max_tokens=100, temperature=temperature, seed=3)
            plain = llm.generate("Once upon a time", params, method="plain")
            for method in LLM.methods():
                assert llm.generate("Once upon a time", params, method=method).token_ids == plain.token_ids
