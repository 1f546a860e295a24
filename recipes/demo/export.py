"""Checkpoints to Hugging Face folders in bfloat16."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from loop import load_model
from model import llama_state
from presets import Shape
from tokenizer import ASSISTANT, END, EOS, PAD, load_tokenizer
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM


def llama_config(shape: Shape, eos: int, pad: int) -> LlamaConfig:
    """The configuration transformers reads."""
    return LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.context,
        rope_parameters={"rope_type": "default", "rope_theta": shape.theta},
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=pad,
    )


def export_model(checkpoint: Path, shape: Shape, tokenizer: Path, folder: Path) -> LlamaForCausalLM:
    """Write one model folder (weights, configuration, tokenizer); an absent checkpoint gives untrained weights."""
    tok = load_tokenizer(tokenizer)
    eos, end, pad = tok.convert_tokens_to_ids([EOS, END, PAD])
    small = load_model(checkpoint, shape, "cpu")
    model = LlamaForCausalLM(llama_config(shape, eos, pad))
    missing = model.load_state_dict(llama_state(small), strict=False)
    if missing.unexpected_keys or [k for k in missing.missing_keys if k != "lm_head.weight"]:
        raise ValueError(f"the exported weights do not fit: {missing}")
    model.tie_weights()
    _check(model, small)
    model = model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(eos_token_id=[eos, end], pad_token_id=pad, bos_token_id=None)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    tok.save_pretrained(part)
    _plain_tokenizer_config(part / "tokenizer_config.json")
    folder.mkdir(parents=True, exist_ok=True)
    for file in part.iterdir():
        file.chmod(0o644)
        file.replace(folder / file.name)
    part.rmdir()
    return model


def _plain_tokenizer_config(file: Path) -> None:
    """Keep to what every transformers version reads."""
    config = json.loads(file.read_text(encoding="utf-8"))
    for key in ("backend", "is_local", "local_files_only"):
        config.pop(key, None)
    config["additional_special_tokens"] = config.pop("extra_special_tokens")
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _check(model: LlamaForCausalLM, small: torch.nn.Module) -> None:
    """Both implementations must give the same logits."""
    ids = torch.arange(5, 69)[None]
    with torch.inference_mode():
        gap = (model(ids).logits - small(ids)).abs().max().item()
    if gap > 1e-3:
        raise ValueError(f"the export changes the logits by {gap}")


def tokenizer_is_ready(folder: Path) -> bool:
    """Whether the tokenizer stage has run."""
    return (folder / "tokenizer.json").exists() and ASSISTANT in (folder / "tokenizer.json").read_text(encoding="utf-8")
