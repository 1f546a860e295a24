"""A tokenizer and an untrained Llama small enough to build in a test, and folders holding them."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

EOS, END = "<|endoftext|>", "<|end|>"
CHAT = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


@cache
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, a few merges, two special tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "n"), ("â", "Ĥ"), ("o", "ð")]
    pieces = [EOS, END, *letters, *("".join(pair) for pair in merges)]
    core = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=EOS, additional_special_tokens=[END])
    tokenizer.chat_template = CHAT
    return tokenizer


def tiny_llama(seed: int = 0, *, hidden: int = 32, layers: int = 2, vocab: int | None = None) -> Any:
    """An untrained Llama whose weights are large enough that it reads its context."""
    config = LlamaConfig(
        vocab_size=len(byte_tokenizer()) if vocab is None else vocab,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).eval()
    for name, weight in model.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(weight, std=0.35)
    return model


def near_copy(model: Any, off_by: float = 0.02) -> Any:
    """A draft model that mostly agrees: the model itself, its weights a little off."""
    near = copy.deepcopy(model)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in near.parameters():
            weight.mul_(1 + off_by * torch.randn_like(weight))
    return near


def save_pair(folder: Path, off_by: float = 0.02) -> tuple[Path, Path]:
    """A target and a draft model that mostly agrees with it, as folders."""
    target, draft = folder / "target", folder / "draft"
    tiny_llama(0).save_pretrained(target)
    near_copy(tiny_llama(0), off_by).save_pretrained(draft)
    for place in (target, draft):
        byte_tokenizer().save_pretrained(place)
    return target, draft
