"""Linear layers laid out for a CPU once instead of at every call. A model's answers change by rounding only.

oneDNN reorders a plain weight whenever it multiplies with it; a packed weight is reordered at load. Where a layer and
the rows it is given are so few that oneDNN's own overhead is most of the time, a plain float32 product is faster, for
bfloat16 weights too (products are summed in float32 either way). Both measured on 2 server cores: see docs/speed.md.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

Undo = Callable[[], None]
DTYPES = (torch.float32, torch.bfloat16)
FEW_PRODUCTS = 2**18


def can_pack(model: nn.Module) -> bool:
    """Whether the model's weights are on a CPU whose torch can pack them."""
    weight = next(model.parameters(), None)
    return weight is not None and weight.device.type == "cpu" and _fits_onednn(weight.dtype)


def _fits_onednn(dtype: torch.dtype) -> bool:
    if dtype not in DTYPES or not torch._C._has_mkldnn:
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack_linears(model: nn.Module, *, free: bool = False, one_path: bool = False) -> Undo:
    """Pack every plain `nn.Linear`; returns what gives the model back as it was.

    free:     let plain weights go while packed ones stand in for them: half the memory, but the model cannot be saved
              until it is given back
    one_path: never the float32 product, whose sums depend on how many rows there are

    Packed weights live beside the module tree, so parameters, state dict and hooks are what they were. Quantised,
    hooked and subclassed layers are left alone.
    """
    owners = Counter(id(weight) for module in model.modules() for weight in module._parameters.values())
    undo: list[Undo] = []
    with torch.inference_mode():
        for module in model.modules():
            if _is_plain(module):
                shared = owners[id(module.weight)] > 1
                undo.append(_pack(module, free=free and not shared, one_path=one_path))

    def give_back() -> None:
        while undo:
            undo.pop()()

    return give_back


def _is_plain(module: nn.Module) -> bool:
    if type(module) is not nn.Linear or "forward" in module.__dict__ or type(module.weight) is not nn.Parameter:
        return False
    hooked = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
    return not hooked and module.weight.dtype in DTYPES and module.weight.device.type == "cpu"


def _pack(module: Any, *, free: bool, one_path: bool) -> Undo:
    weight: Tensor = module.weight.detach()
    bias = None if module.bias is None else module.bias.detach()
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    few = not one_path and weight.numel() < FEW_PRODUCTS
    module.forward = _standing_for(module, _two_ways(packed, weight, bias) if few else _one_way(packed, bias))
    if not free or few:
        return lambda: module.__dict__.pop("forward", None)
    # One element, seen from everywhere: shape, dtype and device stay what they were.
    module.weight.data = torch.zeros((), dtype=weight.dtype).expand(weight.shape)

    def unpack() -> None:
        module.__dict__.pop("forward", None)
        module.weight.data = packed.to_dense()

    return unpack


def _standing_for(module: Any, forward: Any) -> Any:
    """Let a function be asked what is asked of linear layers."""
    forward.stands_for = module
    for name in ("weight", "bias", "in_features", "out_features"):
        setattr(forward, name, getattr(module, name))
    return forward


def _one_way(packed: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    multiply = torch.ops.mkldnn._linear_pointwise.default

    def forward(input: Tensor) -> Tensor:
        product: Tensor = multiply(input, packed, bias, "none", [], "")
        return product

    return forward


def _two_ways(packed: Tensor, weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    multiply, dtype, size = torch.ops.mkldnn._linear_pointwise.default, weight.dtype, weight.shape[0]
    plain, plain_bias = weight.float(), None if bias is None else bias.float()

    def forward(input: Tensor) -> Tensor:
        # A graph (`tracing`) cannot hold packed weights.
        if input.numel() * size < FEW_PRODUCTS or torch._C._get_tracing_state() is not None:
            return linear(input.float(), plain, plain_bias).to(dtype)
        product: Tensor = multiply(input, packed, bias, "none", [], "")
        return product

    return forward
