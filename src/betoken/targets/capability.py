"""What can be run without changing its output: refused by name where known, by a probe at load where not.

The probe scores a small branching tree and the same paths as plain sequences through the model's own forward; a model whose
answers differ beyond rounding is refused, or given chains only.
"""

import inspect
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from betoken.draft import Draft
from betoken.errors import UnsupportedModelError
from betoken.targets.base import Feed, TargetInfo

if TYPE_CHECKING:
    from betoken.targets.hf import HFTarget

RECURRENT = (
    "mamba",
    "rwkv",
    "recurrent",
    "xlstm",
    "jamba",
    "bamba",
    "zamba",
    "falcon_h1",
    "lfm2",
    "qwen3_next",
    "nemotron_h",
)
PREFIX = 5
TREE = Draft((1, 2, 3, 4, 5, 6), (-1, -1, 0, 0, 2, 1))
CHAIN = Draft((1, 2, 3), (-1, 0, 1))


@dataclass(frozen=True, slots=True)
class MaskPlan:
    """Which masks a model wants. `windows`: kind of layer -> sliding window or None; one kind "all" where the model takes one mask."""

    num_layers: int
    windows: dict[str, int | None]
    by_layer_type: bool
    keeps_logits: bool


def refuse_unsupported(model: Any) -> None:
    """Raise UnsupportedModelError for what is known not to work, saying what was found and what to do."""
    config = getattr(model, "config", None)
    if config is None or not hasattr(model, "get_output_embeddings"):
        raise UnsupportedModelError(f"{type(model).__name__} is no transformers language model; give a causal LM")
    name = f"{type(model).__name__} ({config.model_type})"
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(f"{name} is an encoder-decoder; only decoder-only causal LMs are supported")
    if model.get_output_embeddings() is None:
        raise UnsupportedModelError(f"{name} has no language-model head; load it with AutoModelForCausalLM")
    kinds = {*(getattr(config.get_text_config(), "layer_types", None) or ())}
    recurrent = sorted(
        kind for kind in kinds if kind not in ("full_attention", "sliding_attention", "chunked_attention")
    )
    if recurrent or any(word in config.model_type for word in RECURRENT) or "past_key_values" not in _arguments(model):
        found = f" ({', '.join(recurrent)} layers)" if recurrent else ""
        raise UnsupportedModelError(
            f"{name} keeps a recurrent state{found} that cannot be rolled back; use an attention-only model"
        )
    if "chunked_attention" in kinds:
        raise UnsupportedModelError(
            f"{name} has chunked-attention layers, which are not supported yet; use another model"
        )
    if "flash" in str(config._attn_implementation) or "flex" in str(config._attn_implementation):
        raise UnsupportedModelError(
            f'{name} was loaded with attn_implementation="{config._attn_implementation}", which takes no tree mask; load it with "sdpa"'
        )
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    if rope.get("rope_type") == "dynamic":
        raise UnsupportedModelError(
            f"{name} rescales its rotary positions as a text grows (dynamic RoPE), so drafted positions would differ; use another rope_type"
        )


def _arguments(model: Any) -> set[str]:
    return {*inspect.signature(model.forward).parameters}


def mask_plan(model: Any) -> MaskPlan:
    """Read from the configuration which layers have a sliding window."""
    config = model.config.get_text_config()
    kinds = [*dict.fromkeys(getattr(config, "layer_types", None) or ())]
    window = getattr(config, "sliding_window", None)
    keeps = "logits_to_keep" in _arguments(model)
    if kinds:
        windows = {kind: window if kind == "sliding_attention" else None for kind in kinds}
        return MaskPlan(config.num_hidden_layers, windows, True, keeps)
    return MaskPlan(config.num_hidden_layers, {"all": window}, False, keeps)


def describe(model: Any, max_context: int | None) -> TargetInfo:
    """Vocabulary, end-of-sequence ids and context of a model."""
    config = model.config.get_text_config()
    eos = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    eos = config.eos_token_id if eos is None else eos
    ids = frozenset() if eos is None else frozenset([eos] if isinstance(eos, int) else eos)
    rope = getattr(config, "rope_parameters", None) or {}
    limits = [max_context, getattr(config, "max_position_embeddings", None)]
    if rope.get("rope_type") == "longrope":
        # Past this length the model switches frequencies for every position of a forward: one text, one side of the boundary.
        limits.append(rope.get("original_max_position_embeddings"))
    known = [limit for limit in limits if limit]
    name = config.name_or_path or type(model).__name__
    vocab_size = model.get_output_embeddings().weight.shape[0]
    experts, active = experts_of(config)
    return TargetInfo(name, vocab_size, ids, min(known) if known else None, experts=experts, active_experts=active)


def experts_of(config: Any) -> tuple[int, int]:
    """How many experts a mixture has, and how many of them see a token; (0, 0) for a dense model."""
    counts = (getattr(config, name, None) for name in ("num_local_experts", "num_experts", "n_routed_experts"))
    experts = next((count for count in counts if isinstance(count, int) and count > 1), 0)
    active = getattr(config, "num_experts_per_tok", None)
    return (experts, active) if experts and isinstance(active, int) and active > 0 else (0, 0)


def probe(target: "HFTarget", info: TargetInfo) -> TargetInfo:
    """Check trees, then chains, against the model's own forward; returns `info` with what the target can do.

    Raises UnsupportedModelError where even a chain's logits differ beyond rounding, with the difference found.
    """
    try:
        error = _difference(target, TREE)
        if error <= _tolerance(target):
            return info
        if _difference(target, CHAIN) <= _tolerance(target):
            return replace(info, can_branch=False)
    except UnsupportedModelError:
        raise
    except Exception as failure:
        raise UnsupportedModelError(
            f"{type(target.model).__name__} fails on a 4-D attention mask with explicit positions ({type(failure).__name__}: "
            f"{failure}); this architecture cannot verify drafts, use another model"
        ) from failure
    raise UnsupportedModelError(
        f"{type(target.model).__name__} answers differently with explicit masks and positions (logits off by {error:.3g}); "
        "its output could not be kept unchanged, use another model"
    )


def _tolerance(target: "HFTarget") -> float:
    """How far two correct forwards may be apart, relative to the largest logit. Many models compute their rotary angles in
    float32 whatever their dtype, so nothing finer is asked."""
    return 256 * max(torch.finfo(target.model.dtype).eps, torch.finfo(torch.float32).eps)


@torch.inference_mode()
def _difference(target: "HFTarget", draft: Draft) -> float:
    """Largest difference between a draft's logits and those of its paths as plain sequences, relative to the largest logit."""
    vocab = target.model.get_output_embeddings().weight.shape[0]
    prefix = tuple(
        (7 * i + 3) % vocab for i in range(PREFIX + (target._plan.windows.get("sliding_attention") or 0) % 64)
    )
    draft = replace(draft, tokens=tuple(token % vocab for token in draft.tokens))
    row = -1
    try:
        target.score([Feed(row, prefix[:-1])])
        target.commit(row, ())
        scores = target.score([Feed(row, prefix[-1:], draft)])
        worst = 0.0
        for node in range(-1, len(draft)):
            path = [draft.tokens[step] for step in draft.path_to(node)]
            plain = _plain_logits(target, (*prefix, *path))
            ours = torch.from_numpy(scores.logits(0, node))
            worst = max(worst, float((ours - plain).abs().max() / plain.abs().max().clamp(min=1e-6)))
    finally:
        target.release(row)
    return worst


def _plain_logits(target: "HFTarget", tokens: tuple[int, ...]) -> Tensor:
    ids = torch.tensor([tokens], device=target.model.device)
    logits: Tensor = target.model(input_ids=ids, use_cache=False).logits[0, -1]
    return logits.float().cpu()
