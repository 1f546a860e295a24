"""Tiny un-forked models of many architectures, with weights large enough that a wrong mask shows (asserted here)."""

from functools import cache
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

VOCAB = 64
WINDOW = 8
_SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 96,
    "eos_token_id": 0,
    "bos_token_id": 1,
    "pad_token_id": 2,
}
_GROUPED = {**_SHAPE, "num_key_value_heads": 2}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_MIXED = ["sliding_attention", "full_attention"]

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _GROUPED),
    "qwen3": ("Qwen3Config", {**_GROUPED, "head_dim": 8}),
    "mistral": ("MistralConfig", {**_GROUPED, "sliding_window": WINDOW}),
    "gemma3": ("Gemma3TextConfig", {**_GROUPED, "head_dim": 8, "sliding_window": WINDOW, "layer_types": _MIXED}),
    "gpt2": (
        "GPT2Config",
        {
            "vocab_size": VOCAB,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 96,
            "eos_token_id": 0,
            "bos_token_id": 1,
        },
    ),
    "gpt_neox": ("GPTNeoXConfig", _SHAPE),
    "phi3": ("Phi3Config", _GROUPED),
    "opt": ("OPTConfig", {**_SHAPE, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "mixtral": ("MixtralConfig", {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": ("Qwen3MoeConfig", {**_GROUPED, "head_dim": 8, **_EXPERTS}),
}


@cache
def tiny(name: str, dtype: torch.dtype = torch.float64, seed: int = 0, layers: int = 2) -> Any:
    """An evaluation-mode model; the same name, dtype and seed give the same object."""
    kind, options = CONFIGS[name]
    options = {**options, ("n_layer" if name == "gpt2" else "num_hidden_layers"): layers}
    if layers == 1 and "layer_types" in options:
        options["layer_types"] = _MIXED[:1]
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(getattr(transformers, kind)(**options)).to(dtype).eval()
    if dtype == torch.float64 and hasattr(model.config, "num_experts_per_tok"):
        model.set_experts_implementation("eager")  # the grouped kernel has no float64
    scale(model)
    return model


def scale(model: Any) -> None:
    """Large weights; a default initialisation hardly reads its context, and a wrong mask would pass."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.35)


@torch.inference_mode()
def plain_logits(model: Any, tokens: list[int]) -> torch.Tensor:
    """`[T, V]` logits of the model's own forward: no cache, no mask of ours."""
    logits: torch.Tensor = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
    return logits


def context_sensitivity(model: Any) -> float:
    """How far one changed prompt token moves the last logits."""
    before, after = ([token, 5, 9, 17, 33] for token in (3, 40))
    return float((plain_logits(model, before)[-1] - plain_logits(model, after)[-1]).abs().max())
