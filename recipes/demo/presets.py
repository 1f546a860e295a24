"""Sizes and schedules of the demo pair."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A Llama's dimensions."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int = 4096
    context: int = 4096
    theta: float = 1_000_000.0

    @property
    def parameters(self) -> int:
        """Exact count, the tied embedding once."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.vocab * self.hidden + self.layers * (attention + self.hidden * (3 * self.mlp + 2)) + self.hidden


@dataclass(frozen=True)
class Preset:
    """One way to run the recipe."""

    target: Shape
    draft: Shape
    target_tokens: int
    draft_tokens: int
    story_characters: int
    workers: int
    unit: int
    units: int
    seed_tokens: int | None = None
    muon_rate: float = 0.02
    adam_rate: float = 0.004
    decay: float = 0.3
    long: float = 0.08
    vocab: int = 4096
    seed: int = 17


CPU = Preset(
    target=Shape(hidden=112, layers=16, heads=4, kv_heads=1, head_dim=32, mlp=272),
    draft=Shape(hidden=48, layers=2, heads=3, kv_heads=1, head_dim=16, mlp=96),
    target_tokens=16_000_000,
    draft_tokens=8_000_000,
    story_characters=5_000_000,
    workers=2,
    unit=1024,
    units=2,
    seed_tokens=2_000_000,
)
"""Two CPU cores, about an hour and a half: one process a core; a step is ``workers * units * unit`` tokens."""

GPU = Preset(
    target=Shape(hidden=512, layers=10, heads=8, kv_heads=4, head_dim=64, mlp=1408),
    draft=Shape(hidden=192, layers=2, heads=6, kv_heads=2, head_dim=32, mlp=512),
    target_tokens=800_000_000,
    draft_tokens=400_000_000,
    story_characters=120_000_000,
    workers=1,
    unit=32_768,
    units=4,
)
"""One GPU; ready, not run for the shipped weights."""

PRESETS = {"cpu": CPU, "gpu": GPU}
