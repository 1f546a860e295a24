"""Attention over shared key/value heads without copying them, and on CUDA without kernels that are built anew for each shape.

As soon as there are several queries and a mask, `transformers` repeats keys and values for every query head. A CPU needs
no copies: few queries are folded, so that all heads of a group are queries of one key/value head; many go to torch's own
grouped kernel, which is slow for few (10 times at one query of Llama-3-8B's shape in bfloat16; see docs/speed.md).

Where there is a mask, torch prefers cuDNN's attention on recent GPUs, which makes a plan for each new shape. Each of our passes is
longer than the last one, and trees change their width: on an H200 a step took 45 ms the first time, and 14 the second time through the
same lengths. Over long contexts that kernel is worth its plans, for few, padded shapes (`hf.FAR`).
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "betoken_grouped_sdpa"
FEW_QUERIES = 8


def group_heads(model: Any) -> Callable[[], None]:
    """Let a model on a CPU attend in groups; returns what undoes it. Models with another attention are left alone."""
    config = model.config.get_text_config()
    if model.device.type != "cpu" or config._attn_implementation != "sdpa":
        return lambda: None
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    config._attn_implementation = NAME

    def undo() -> None:
        config._attn_implementation = "sdpa"

    return undo


class _WithoutPlans(AbstractContextManager[None]):
    """torch's switch for cuDNN's attention, off while anybody is inside: it is one for the whole process."""

    def __init__(self) -> None:
        self._lock, self._inside, self._before = threading.Lock(), 0, True

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
                torch.backends.cuda.enable_cudnn_sdp(False)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                torch.backends.cuda.enable_cudnn_sdp(self._before)


_without_plans = _WithoutPlans()


def without_plans(device: torch.device) -> AbstractContextManager[None]:
    """Inside, attention on this device takes no kernel that has to be built for a new shape."""
    return _without_plans if device.type == "cuda" else nullcontext()


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """The interface of transformers' attention functions: `[B, H, Q, D]` in, `[B, Q, H, D]` out."""
    unusual = dropout or any(others.get(name) is not None for name in ("softcap", "position_bias", "cache"))
    if unusual or attention_mask is None or attention_mask.shape[1] != 1:
        result: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
        return result
    heads, groups, queries = int(query.shape[1]), int(key.shape[1]), int(query.shape[2])  # a trace has tensors there
    # The grouped kernel is slow for few queries, except on small float32 heads.
    slow = query.dtype != torch.float32 or query.shape[3] >= 64
    if heads == groups or queries >= FEW_QUERIES or not slow:
        mixed = scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=scaling, enable_gqa=heads != groups
        )
    else:
        mixed = _folded(query, key, value, attention_mask, scaling)
    return mixed.transpose(1, 2).contiguous(), None


def _folded(query_BHQD: Tensor, key: Tensor, value: Tensor, mask_B1QS: Tensor, scaling: float | None) -> Tensor:
    rows, heads, queries, dim = query_BHQD.shape
    groups = key.shape[1]
    folded = query_BHQD.reshape(rows, groups, heads // groups * queries, dim)
    if queries > 1:
        slots = mask_B1QS.shape[3]
        mask_B1QS = mask_B1QS.expand(rows, heads // groups, queries, slots).reshape(rows, 1, -1, slots)
    mixed = scaled_dot_product_attention(folded, key, value, attn_mask=mask_B1QS, scale=scaling)
    return mixed.view(rows, heads, queries, dim)
