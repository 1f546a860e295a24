"""Muon for the matrices inside the blocks (batched over layers), AdamW for the embedding and the norms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def orthogonal(batch: Tensor, steps: int = 5) -> Tensor:
    """Newton-Schulz iteration towards the nearest semi-orthogonal matrices."""
    flip = batch.shape[-2] > batch.shape[-1]
    x = batch.mT if flip else batch
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if flip else x


class Optimiser:
    """Both optimisers behind one ``step(scale)``."""

    def __init__(self, model: nn.Module, muon_rate: float, adam_rate: float) -> None:
        matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
        rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
        shapes = sorted({tuple(p.shape) for p in matrices})
        self.stacks = [[p for p in matrices if tuple(p.shape) == shape] for shape in shapes]
        self.momenta = [torch.zeros(len(s), *s[0].shape, device=s[0].device) for s in self.stacks]
        self.muon_rate, self.adam_rate = muon_rate, adam_rate
        self.adam = torch.optim.AdamW(rest, lr=adam_rate, betas=(0.9, 0.97), eps=1e-10, weight_decay=0.0)

    @torch.no_grad()
    def step(self, scale: float, momentum: float = 0.95, decay: float = 0.05) -> None:
        """One update at ``scale`` times the base rates."""
        rate = self.muon_rate * scale
        for stack, buffer in zip(self.stacks, self.momenta, strict=True):
            grads = torch.stack([p.grad for p in stack if p.grad is not None])
            buffer.lerp_(grads, 1 - momentum)
            update = orthogonal(grads.lerp(buffer, momentum))
            update *= max(1.0, update.shape[-2] / update.shape[-1]) ** 0.5
            for weight, change in zip(stack, update, strict=True):
                weight.mul_(1 - rate * decay).add_(change, alpha=-rate)
        for group in self.adam.param_groups:
            group["lr"] = self.adam_rate * scale
        self.adam.step()

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"momenta": self.momenta, "adam": self.adam.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """From the checkpoint."""
        for mine, saved in zip(self.momenta, state["momenta"], strict=True):
            mine.copy_(saved)
        self.adam.load_state_dict(state["adam"])
