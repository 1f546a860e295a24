"""The shorter ways a model is given on a CPU: the same function up to rounding, and the model comes back as it was."""

import copy
from typing import Any

import pytest
import torch
from architectures import CONFIGS, plain_logits, tiny
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig, LlamaForCausalLM

from betoken.targets.attention import NAME, _attend, group_heads, without_plans
from betoken.targets.base import Feed
from betoken.targets.hf import HFTarget
from betoken.targets.lookup import flatten_lookup
from betoken.targets.packing import FEW_PRODUCTS, can_pack, pack_linears

DTYPES = [torch.float32, torch.bfloat16]
needs_bfloat16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no bfloat16 instructions to pack for"
)


def layers(dtype: torch.dtype) -> nn.Sequential:
    """One layer on either side of `FEW_PRODUCTS`, one of them with a bias."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 600), nn.ReLU(), nn.Linear(600, 700, bias=False)).to(dtype)


def llama(dtype: torch.dtype, *, tied: bool = False) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config).to(dtype).eval()


@needs_bfloat16
@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("one_path", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@torch.inference_mode()
def test_packed_layers_differ_by_rounding_and_come_back(dtype: torch.dtype, one_path: bool, free: bool) -> None:
    model = layers(dtype)
    before = copy.deepcopy(model.state_dict())
    inputs = [torch.randn(1, 1, 64).to(dtype), torch.randn(2, 3, 64).to(dtype), torch.randn(50, 64).to(dtype)]
    plain = [model(x) for x in inputs]
    undo = pack_linears(model, free=free, one_path=one_path)
    for x, expected in zip(inputs, plain, strict=True):
        got = model(x)
        assert got.dtype == dtype and got.shape == expected.shape
        assert (got - expected).abs().max() <= 16 * torch.finfo(dtype).eps * expected.abs().max()
    undo()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert all("forward" not in module.__dict__ for module in model.modules())
    assert [torch.equal(model(x), expected) for x, expected in zip(inputs, plain, strict=True)] == [True] * 3
    copy.deepcopy(model)


@needs_bfloat16
def test_free_lets_the_plain_weights_go() -> None:
    """Packing beside the plain weights would need twice the memory of a large model."""
    model = layers(torch.bfloat16)
    big = model[2].weight
    undo = pack_linears(model, free=True)
    assert big.untyped_storage().nbytes() <= 64
    assert (big.shape, big.dtype, big.device.type) == ((700, 600), torch.bfloat16, "cpu")
    undo()
    assert model[2].weight is big and big.untyped_storage().nbytes() >= 700 * 600 * 2


def test_tied_weights_stay() -> None:
    """The embedding reads the same tensor: freed, every token would look alike."""
    model = llama(torch.float32, tied=True)
    undo = pack_linears(model, free=True)
    assert model.get_input_embeddings().weight.std() > 0
    undo()


def test_what_is_left_alone() -> None:
    class Own(nn.Linear):
        """Not a plain linear layer: a quantised one, for example."""

    model = nn.Sequential(Own(600, 700), nn.Linear(600, 700), nn.Linear(600, 700).double(), nn.Linear(600, 700))
    model[1].register_forward_hook(lambda *_: None)
    undo = pack_linears(model)
    assert ["forward" in layer.__dict__ for layer in model] == [False, False, False, True]
    undo()
    assert not can_pack(tiny("llama")) and not can_pack(nn.ReLU())


@pytest.mark.parametrize("queries", [1, 3, 8])
@pytest.mark.parametrize(("heads", "groups", "dim"), [(4, 1, 16), (6, 2, 64), (4, 4, 16)])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_grouped_attention_is_attention(heads: int, groups: int, dim: int, queries: int, dtype: torch.dtype) -> None:
    """Guards the folding of heads into queries: head h of group g must meet key g, and its own query's mask."""
    torch.manual_seed(0)
    query = torch.randn(2, queries, heads, dim).transpose(1, 2).to(dtype)
    key, value = torch.randn(2, 2, groups, 11, dim).to(dtype)
    mask = torch.where(torch.rand(2, 1, queries, 11) < 0.5, 0.0, -1e9).to(dtype)
    mask[..., 0] = 0
    mixed, _ = _attend(nn.Module(), query, key, value, mask, scaling=0.3)
    repeated = (part.repeat_interleave(heads // groups, 1).double() for part in (key, value))
    expected = scaled_dot_product_attention(query.double(), *repeated, attn_mask=mask.double(), scale=0.3)
    assert (mixed.double() - expected.transpose(1, 2)).abs().max() < 32 * torch.finfo(dtype).eps


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_every_shorter_way_keeps_the_function(name: str) -> None:
    """A tree's logits through all of them, against the model's own forward before; and after, when they are undone."""
    model = copy.deepcopy(tiny(name, torch.float32, seed=3))
    tokens = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    before = plain_logits(model, tokens)
    target = HFTarget(model, pack=True, own=True)
    assert any("forward" in module.__dict__ for module in model.modules())
    target.score([Feed(0, tuple(tokens[:-1]))])
    target.commit(0, ())
    after = target.score([Feed(0, tuple(tokens[-1:]))]).logits(0, -1)
    assert (torch.from_numpy(after) - before[-1]).abs().max() < 1e-4 * before.abs().max()
    target.close()
    assert torch.equal(plain_logits(model, tokens), before)
    assert model.config.get_text_config()._attn_implementation != NAME
    copy.deepcopy(model)


def test_lookup_is_flat_and_assignments_still_count() -> None:
    model = layers(torch.float32)
    undo = flatten_lookup(model)
    assert model[0].__dict__["weight"] is model[0].weight
    other = nn.Parameter(torch.zeros(600, 64))
    model[0].weight = other
    assert model[0].weight is other and dict(model[0].named_parameters())["weight"] is other
    undo()
    assert model[0].weight is other and "weight" not in model[0].__dict__
    assert model(torch.ones(1, 64)).shape == (1, 700)


def test_other_attentions_are_left_alone() -> None:
    model = llama(torch.float32)
    model.set_attn_implementation("eager")
    group_heads(model)()
    assert model.config._attn_implementation == "eager"


def test_few_products_is_a_power_of_two() -> None:
    """The tests above need a layer on each side of it."""
    assert 64 * 600 < FEW_PRODUCTS < 600 * 700


def test_cudnn_attention_is_off_while_anybody_is_inside() -> None:
    """The switch is the whole process's: the first one in turns it, the last one out turns it back."""
    first, second = without_plans(torch.device("cuda")), without_plans(torch.device("cuda:0"))
    for before in (True, False):
        torch.backends.cuda.enable_cudnn_sdp(before)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        second.__exit__(None, None, None)
        assert torch.backends.cuda.cudnn_sdp_enabled() == before
    torch.backends.cuda.enable_cudnn_sdp(True)
    with without_plans(torch.device("cpu")):
        assert torch.backends.cuda.cudnn_sdp_enabled()
