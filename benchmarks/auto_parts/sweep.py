"""Fixed settings, and the best of them: found in a sweep, measured again in fresh rounds beside `auto`."""

from __future__ import annotations

from collections.abc import Sequence

from auto_parts.common import PLAIN

FIXED = (
    PLAIN,
    *(f"ngram:k={k}" for k in (4, 8, 16)),
    *(f"suffix:nodes={nodes}" for nodes in (8, 16, 40, 64)),
    *(f"mix:nodes={nodes}" for nodes in (4, 8, 16, 40)),
    *(f"recycling:nodes={nodes}" for nodes in (7, 16, 24, 40)),
    *(f"draft:k={k}:worth=0" for k in (1, 2, 3, 4, 6)),
    "draft",
    "lookahead",
)
QUICK = (PLAIN, "ngram:k=8", "suffix:nodes=16", "recycling:nodes=16", "draft:k=2:worth=0")
# Seeds of a sweep's rounds begin here: the rounds that count say something else.
SWEEP_SEEDS = 1000
BEST = 2


def settings(quick: bool) -> Sequence[str]:
    """The fixed settings to look at."""
    return QUICK if quick else FIXED
