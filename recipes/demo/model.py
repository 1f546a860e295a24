"""The training-side Llama: the same function as ``LlamaForCausalLM``, with fused projections and fewer operations."""

from __future__ import annotations

import torch
from presets import Shape
from torch import Tensor, nn
from torch.nn import functional


class Norm(nn.Module):
    """RMSNorm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],), self.weight, 1e-5)


class Block(nn.Module):
    """Attention and gated MLP, each with a residual."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        width, head = shape.hidden, shape.head_dim
        self.norm1, self.norm2 = Norm(width), Norm(width)
        self.qkv = nn.Linear(width, (shape.heads + 2 * shape.kv_heads) * head, bias=False)
        self.out = nn.Linear(shape.heads * head, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * shape.mlp, bias=False)
        self.down = nn.Linear(shape.mlp, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        heads, kv = self.shape.heads, self.shape.kv_heads
        rows, length, _ = x.shape
        qkv = self.qkv(self.norm1(x)).view(rows, length, heads + 2 * kv, -1).transpose(1, 2)
        a, b = qkv[:, : heads + kv].chunk(2, -1)
        qk = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
        keys = qk[:, heads:].repeat_interleave(heads // kv, 1)
        values = qkv[:, heads + kv :].repeat_interleave(heads // kv, 1)
        mixed = functional.scaled_dot_product_attention(qk[:, :heads], keys, values, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(rows, length, -1))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
        return x + self.down(functional.silu(gate) * up)


class TinyLlama(nn.Module):
    """Tied-embedding Llama."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed = nn.Embedding(shape.vocab, shape.hidden)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.hidden)
        inverse = shape.theta ** (-torch.arange(0, shape.head_dim, 2) / shape.head_dim)
        angles = torch.arange(shape.context)[:, None] * inverse
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self._init()

    def _init(self) -> None:
        nn.init.normal_(self.embed.weight, std=0.05)
        for name, weight in self.named_parameters():
            if weight.ndim == 2 and "embed" not in name:
                scale = weight.shape[1] ** -0.5
                if "out" in name or "down" in name:
                    scale /= (2 * self.shape.layers) ** 0.5
                nn.init.normal_(weight, std=0.7 * scale)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits of every position."""
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, cos, sin)
        return functional.linear(self.norm(x), self.embed.weight)


def weighted_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Sum of weighted cross-entropies."""
    losses = functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    return (losses * weights.flatten()).sum()


def llama_state(model: TinyLlama) -> dict[str, Tensor]:
    """The weights under Hugging Face's names."""
    shape = model.shape
    split = [shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, shape.kv_heads * shape.head_dim]
    state = {"model.embed_tokens.weight": model.embed.weight, "model.norm.weight": model.norm.weight}
    for index, block in enumerate(model.blocks):
        prefix = f"model.layers.{index}."
        query, key, value = block.qkv.weight.split(split)
        gate, up = block.gate_up.weight.chunk(2)
        state |= {
            f"{prefix}input_layernorm.weight": block.norm1.weight,
            f"{prefix}post_attention_layernorm.weight": block.norm2.weight,
            f"{prefix}self_attn.q_proj.weight": query,
            f"{prefix}self_attn.k_proj.weight": key,
            f"{prefix}self_attn.v_proj.weight": value,
            f"{prefix}self_attn.o_proj.weight": block.out.weight,
            f"{prefix}mlp.gate_proj.weight": gate,
            f"{prefix}mlp.up_proj.weight": up,
            f"{prefix}mlp.down_proj.weight": block.down.weight,
        }
    return {name: tensor.detach() for name, tensor in state.items()}
