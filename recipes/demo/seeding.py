"""Write a copying circuit into a half-trained model, because 10 M tokens are too few for one to grow by itself.

An induction circuit is two steps: a head that tells each position what the token before it was, and a later head that
looks for positions whose previous token is the current one and repeats what stands there. Trained on little data,
models stay without it for long and then find it suddenly. Here both heads are written in closed form (rotary phases
for "one before", ridge regressions for everything else) and training polishes them.
"""

from __future__ import annotations

import torch
from model import TinyLlama
from torch import Tensor

SOURCE = 1
MATCH = (4, 6)
SLOW = 7
PEAK = 6.0
PHASE_WEIGHTS = (40.0, 40.0, 30.0, 20.0, 10.0, 6.0, 4.0, 4.0)


def _entering(model: TinyLlama, ids: Tensor, index: int) -> tuple[Tensor, Tensor]:
    """The residual stream before block ``index`` and what its attention reads."""
    x = model.embed(ids)
    cos, sin = model.cos[: ids.shape[1]], model.sin[: ids.shape[1]]
    for block in model.blocks[:index]:
        x = block(x, cos, sin)
    return x, model.blocks[index].norm1(x)


def _fit(inputs: Tensor, outputs: Tensor, ridge: float = 3e-3) -> Tensor:
    """The linear map, as a weight matrix, from inputs to outputs."""
    x, y = inputs.flatten(0, -2).double(), outputs.flatten(0, -2).double()
    gram = x.T @ x / len(x)
    gram += ridge * gram.diagonal().mean() * torch.eye(x.shape[1], dtype=gram.dtype, device=x.device)
    return torch.linalg.solve(gram, x.T @ y / len(x)).T.float()


class Codes:
    """Token identities as principal components of a table, weighted by how often tokens occur."""

    def __init__(self, table: Tensor, ids: Tensor) -> None:
        counts = torch.bincount(ids.flatten(), minlength=len(table)).float().sqrt() + 0.3
        weights = (counts / counts.sum())[:, None]
        self.centred = table - (weights * table).sum(0)
        values, vectors = torch.linalg.eigh((weights * self.centred).T @ self.centred)
        self.vectors = vectors.flip(1)
        self.scales = values.flip(0).clamp_min(1e-8).sqrt()

    def unit(self, count: int) -> Tensor:
        """The first ``count`` components of every token, of unit variance and equal length."""
        code = self.centred @ self.vectors[:, :count] / self.scales[:count]
        return code / code.norm(dim=1, keepdim=True) * count**0.5


def _source_heads(model: TinyLlama, ids: Tensor, code: Tensor, loud: float) -> None:
    """An early block notes, in quiet directions of the stream, the codes of the token before and of the token itself."""
    block, shape = model.blocks[SOURCE], model.shape
    size, half = shape.head_dim, shape.head_dim // 2
    later, _ = _entering(model, ids, MATCH[0])
    flat = later.flatten(0, 1)
    quiet = torch.linalg.eigh((flat.T @ flat).double()).eigenvectors.float()
    _, read = _entering(model, ids, SOURCE)
    ones = _fit(read, torch.ones_like(read[..., :1]))
    speed = shape.theta ** (-torch.arange(half, device=ids.device) / half)
    amplitude = torch.zeros(half, device=ids.device)
    amplitude[: len(PHASE_WEIGHTS)] = torch.tensor(PHASE_WEIGHTS, device=ids.device).mul(size**0.5).sqrt()
    amplitude[-1] = ((sum(PHASE_WEIGHTS) - PEAK) * size**0.5) ** 0.5
    query = block.qkv.weight[: shape.heads * size].view(shape.heads, size, -1)
    for head, distance in enumerate((1, 0, 2, 3)):
        angle = speed * distance
        angle[-1] = torch.pi
        query[head] = torch.cat((amplitude * angle.cos(), -amplitude * angle.sin()))[:, None] * ones
    key = block.qkv.weight[shape.heads * size :][:size]
    key[:] = torch.cat((amplitude, torch.zeros_like(amplitude)))[:, None] * ones
    block.qkv.weight[-size:] = _fit(read, code[ids])
    out = block.out.weight.view(-1, shape.heads, size)
    strength = later.pow(2).mean().sqrt() * loud
    out[:] = 0
    out[:, 0] = quiet[:, :size] * strength
    out[:, 1] = quiet[:, size : 2 * size] * strength


def _match_head(model: TinyLlama, ids: Tensor, code: Tensor, index: int, sharp: float, gain: float) -> None:
    """A head that finds the current token among the previous tokens and repeats what follows it."""
    block, shape = model.blocks[index], model.shape
    size, half = shape.head_dim, shape.head_dim // 2
    part = MATCH.index(index)
    x, read = _entering(model, ids, index)
    slow = [*range(SLOW, half), *range(half + SLOW, size)]
    code = code[:, : len(slow)] if part == 0 else code[:, -len(slow) :]
    query = block.qkv.weight[:size]
    key = block.qkv.weight[shape.heads * size :][:size]
    strength = (sharp * size**0.5) ** 0.5
    query[:], key[:] = 0, 0
    query[slow] = strength * _fit(read, code[ids])
    key[slow] = strength * _fit(read[:, 1:], code[ids][:, :-1])
    words = Codes(model.embed.weight, ids)
    directions = words.vectors[:, part * size : (part + 1) * size]
    aim = (words.centred @ directions / words.scales[part * size : (part + 1) * size])[ids]
    block.qkv.weight[-size:] = _fit(read, aim)
    out = block.out.weight.view(-1, shape.heads, size)
    out *= 0.3
    out[:, 0] = directions * x.pow(2).mean().sqrt() * gain


@torch.no_grad()
def seed_copying(model: TinyLlama, ids: Tensor, sharp: float = 1.0, gain: float = 1.0, loud: float = 0.4) -> None:
    """Change the blocks ``SOURCE`` and ``MATCH`` in place; ``ids`` are rows of ordinary training text."""
    for block in model.blocks[:SOURCE]:
        block.out.weight.zero_()
    every = torch.arange(len(model.embed.weight), device=ids.device)[:, None]
    code = Codes(_entering(model, every, SOURCE)[1][:, 0], ids).unit(model.shape.head_dim)
    _source_heads(model, ids, code, loud)
    for index in MATCH:
        _match_head(model, ids, code, index, sharp, gain)
