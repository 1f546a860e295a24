"""Mixtures of experts: where every token asks other experts, more rows read more weights. The text is plain decoding's, drafts are
fewer."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from architectures import context_sensitivity, scale, tiny
from tiny_models import byte_tokenizer
from transformers import AutoModelForCausalLM, MixtralConfig, Qwen3MoeConfig

from betoken import LLM, SamplingParams
from betoken.engine import Engine, Request
from betoken.policy.cost import Measured, Table
from betoken.policy.measuring import measure
from betoken.proposers.auto.deciding import Auto
from betoken.proposers.base import Workshop, build
from betoken.targets.hf import HFTarget

VOCAB = 64
HIDDEN, EXPERTS, ACTIVE = 128, 32, 2
PROMPTS = ((5, 6, 7, 5, 6, 7), (4,), (9, 8, 7, 6, 5, 4, 3, 2, 1, 9, 8), (11, 12, 11, 12))
_SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": ACTIVE,
    "max_position_embeddings": 512,
    "eos_token_id": 0,
    "bos_token_id": 1,
    "pad_token_id": 2,
}
CONFIGS = {
    "mixtral": lambda: MixtralConfig(**_SHAPE, num_local_experts=EXPERTS, intermediate_size=2 * HIDDEN),
    "qwen3_moe": lambda: Qwen3MoeConfig(
        **_SHAPE, num_experts=EXPERTS, moe_intermediate_size=2 * HIDDEN, intermediate_size=48, head_dim=32
    ),
}


@cache
def large(name: str) -> Any:
    """Tiny still, but with experts enough that a wide pass reads most of the weights and a plain one a sixteenth of them."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]()).to(torch.float64).eval()
    model.set_experts_implementation("eager")  # the grouped kernel has no float64
    scale(model)
    return model


def auto_of(target: HFTarget, draft: HFTarget | None, curve: Any, **options: Any) -> Auto:
    built = build("auto", Workshop(target.info, draft, {"explore": 0.2, **options}, curve=curve))
    assert isinstance(built, Auto)
    return built


def spoken(target: HFTarget, proposer: Any, params: SamplingParams, max_rows: int) -> tuple[list[list[int]], int, int]:
    """The tokens of every prompt; how many nodes were fed, in how many steps."""
    engine = Engine(target, proposer, max_rows=max_rows)
    tokens: dict[int, list[int]] = {engine.add(Request(prompt, params)): [] for prompt in PROMPTS}
    stats: dict[int, Any] = {}
    while engine.unfinished:
        for event in engine.step():
            tokens[event.seq_id] += event.tokens
            stats[event.seq_id] = event.stats
    assert not target._rows
    return [*tokens.values()], sum(one.draft_tokens for one in stats.values()), sum(one.steps for one in stats.values())


@pytest.mark.parametrize("max_rows", [1, 4])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_mixtures_text_is_plain_decodings(name: str, temperature: float, max_rows: int) -> None:
    """With a small mixture for a draft model, which agrees by chance; members that copy; a curve that rises, and one that does not."""
    target, draft = HFTarget(tiny(name), pack=False), HFTarget(tiny(name, seed=1, layers=1), pack=False)
    params = SamplingParams(temperature=temperature, seed=5, max_tokens=24, ignore_eos=True)
    plain, _, _ = spoken(target, None, params, max_rows)
    for curve in (Table({1: 1.0, 64: 1.01}), Table({1: 1.0, 64: 64.0}), Measured()):
        assert spoken(target, auto_of(target, draft, curve), params, max_rows)[0] == plain
        assert not draft._rows


@pytest.mark.parametrize("name", CONFIGS)
def test_a_mixture_large_enough_for_its_experts_to_show(name: str) -> None:
    """It reads its context; a row asks few experts and a text asks many: T(n) must rise, and need not be timed to know it."""
    model = large(name)
    assert context_sensitivity(model) > 0.5
    asked: list[set[int]] = []

    def hear(module: Any, inputs: Any, output: Any) -> None:
        asked.append({*output[-1].flatten().tolist()})

    hooks = [layer.mlp.gate.register_forward_hook(hear) for layer in model.model.layers]
    try:
        touched = []
        for tokens in ([5], [*range(3, 35)]):
            asked.clear()
            with torch.inference_mode():
                model(input_ids=torch.tensor([tokens]))
            touched.append(sum(map(len, asked)) / len(asked))
    finally:
        for hook in hooks:
            hook.remove()
    assert touched[0] == ACTIVE and touched[1] > 4 * ACTIVE


@pytest.mark.parametrize("name", CONFIGS)
def test_a_target_says_how_many_experts_it_has(name: str) -> None:
    """So that stats and words can say that they are why drafts are short; a dense model has none."""
    info = HFTarget(tiny(name), pack=False).info
    assert (info.experts, info.active_experts) == (4, 2)
    dense = HFTarget(tiny("llama"), pack=False).info
    assert (dense.experts, dense.active_experts) == (0, 0)


@pytest.mark.parametrize("name", CONFIGS)
def test_its_passes_can_be_measured(name: str) -> None:
    """Some points of every kind, no row left, and a curve that can be decided by. How long they take is not asserted."""
    target = HFTarget(large(name), pack=False)
    points = measure(target, [*range(3, 60)], limit_s=0.6, max_rows=2)
    assert (1, 1, 192) in points and len({width for _, width, _ in points}) > 3 and not target._rows
    seconds = Measured(points).seconds(1, 192, 63)
    assert seconds.shape == (64,) and (seconds > 0).all() and (seconds[1:] >= seconds[:-1] - 1e-12).all()


@pytest.mark.parametrize("name", CONFIGS)
def test_experts_are_why_drafts_are_short(name: str) -> None:
    """The same model and members under the curve of a dense model, of a mixture, and where each row costs a pass: ever fewer nodes,
    the same text."""
    target = HFTarget(large(name), pack=False)
    params = SamplingParams(max_tokens=40, ignore_eos=True, logit_bias={5: 9.0, 6: 6.0}, temperature=1.0, seed=4)
    plain, _, _ = spoken(target, None, params, 1)
    fed = []
    for curve in (
        Table({1: 1.0, 64: 1.2}),
        Table({1: 1.0, 2: 1.3, 8: 2.2, 16: 3.0, 64: 6.0}),
        Table({1: 1.0, 64: 64.0}),
    ):
        tokens, nodes, steps = spoken(target, auto_of(target, None, curve, of="ngram+naive", explore=0.0), params, 1)
        assert tokens == plain
        fed.append(nodes / steps)
    assert fed[0] > fed[1] > fed[2] and fed[2] < 0.2 < 1 < fed[0]


@pytest.fixture
def cache(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("BETOKEN_CACHE", str(tmp_path))
    yield


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("name", CONFIGS)
def test_an_llm_of_experts_drafts_with_it(name: str) -> None:
    """The whole way in float32: measured, decoded alone and in a batch, with the dtype and the kernels of users."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = CONFIGS[name]()
    config.update({"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 1, "head_dim": 8})
    model = AutoModelForCausalLM.from_config(config).eval()
    scale(model)
    with LLM((model, tokenizer), method="auto", max_rows=4) as llm:
        assert llm.curve().measured
        for temperature in (0.0, 0.8):
            params = SamplingParams(max_tokens=30, ignore_eos=True, temperature=temperature, seed=2)
            for prompts in (["the cat"], ["the cat", "a", "an an an", "the the"]):
                said = llm.generate(prompts, params)
                plain = llm.generate(prompts, params, method="plain")
                assert [one.token_ids for one in said] == [one.token_ids for one in plain]
