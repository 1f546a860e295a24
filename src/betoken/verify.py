"""The only acceptance code. `walk` is exact and the default; `residual` is the classical rule, opt-in. No torch.

This module knows neither models nor methods: it sees a draft tree and asks for tokens or laws at its nodes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from betoken.draft import ROOT, Draft

Law = npt.NDArray[Any]  # `[V]` probabilities


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a step keeps.

    path:   accepted nodes, root to leaf
    tokens: their tokens and one more from the target (the correction, or the bonus); none where a recording ended
    """

    path: tuple[int, ...]
    tokens: tuple[int, ...]


def walk(draft: Draft, emit: Callable[[int], int | None]) -> Verdict:
    """Follow the target's own tokens down the tree; the first one that no child carries ends the step.

    `emit(node)` is the target's token after that node (-1: the root), asked for once per visited node, in order; None
    ends the walk (a recording has ended). Lossless whatever the draft holds: only emitted tokens are kept.

    With point-mass drafts this accepts a child with the probability the target gives it, as the rejection rule does
    (Leviathan, Kalman, Matias 2023, section 2.3, for a one-hot draft law; Daliri, Musco, Suresh 2024 for the
    shared-noise coupling).
    """
    children = draft.children
    node = ROOT
    path: list[int] = []
    tokens: list[int] = []
    while (token := emit(node)) is not None:
        tokens.append(token)
        child = children.get((node, token))
        if child is None:
            break
        path.append(child)
        node = child
    return Verdict(tuple(path), tuple(tokens))


def residual(
    draft: Draft,
    law_at: Callable[[int], Law],
    uniform: Callable[[int], float],
    replace: Callable[[Law, int], int],
) -> Verdict:
    """The classical rule: accept a drawn token with min(1, p/q), else draw from what is left of p. The target's law,
    other text.

    draft:   with `probs`, node i was drawn from `probs[i]`, its earlier siblings already taken out (see `Draft`);
             without them every node is a point mass
    law_at:  `[V]` the target's normalised law after a node (-1: the root), its history included; asked once per node
             needed
    uniform: a number in (0, 1) for a node, independent of everything the draft was drawn with
    replace: a draw from a `[V]` law for the token that many nodes below the root

    Drawn chains are judged as a block (Sun et al. 2024, arXiv 2403.10444, algorithm 2), everything else by recursive
    rejection without replacement (RSD: Jeon et al. 2024, arXiv 2402.14160; Sequoia: Chen et al. 2024, arXiv
    2402.12374), which for point masses and for one node below the root is the rule of Leviathan, Kalman, Matias 2023,
    section 2.3. Nothing here needs floats: the tests run this code on fractions.

    Raises ValueError for a node that its own law could not have drawn.
    """
    _check_drawn(draft)
    judge = _block if draft.probs is not None and draft.is_chain else _recursive
    path, law = judge(draft, law_at, uniform)
    return Verdict(path, (*(draft.tokens[node] for node in path), replace(law, len(path))))


def _check_drawn(draft: Draft) -> None:
    if draft.probs is None:
        return
    for node, token in enumerate(draft.tokens):
        if not draft.probs[node][token] > 0:
            raise ValueError(
                f"node {node} carries token {token}, which has no probability in the law it was drawn from"
            )


def _recursive(
    draft: Draft, law_at: Callable[[int], Law], uniform: Callable[[int], float]
) -> tuple[tuple[int, ...], Law]:
    """Descend into the first accepted child, level by level; the path and the law its last token is to come from."""
    siblings: dict[int, list[int]] = {}
    for node, parent in enumerate(draft.parents):
        siblings.setdefault(parent, []).append(node)
    path: list[int] = []
    while True:
        node = path[-1] if path else ROOT
        accepted, law = _first_accepted(draft, siblings.get(node, []), law_at(node), uniform)
        if accepted is None:
            return tuple(path), law
        path.append(accepted)


def _first_accepted(
    draft: Draft, nodes: Sequence[int], law: Law, uniform: Callable[[int], float]
) -> tuple[int | None, Law]:
    """Try siblings in draw order, each against what its elders left of the law."""
    for node in nodes:
        token = draft.tokens[node]
        drawn_from = _point_mass(law, token) if draft.probs is None else draft.probs[node]
        if uniform(node) * drawn_from[token] < law[token]:
            return node, law
        law = _left_over(law, drawn_from)
    return None, law


def _block(draft: Draft, law_at: Callable[[int], Law], uniform: Callable[[int], float]) -> tuple[tuple[int, ...], Law]:
    """Block verification: the longest prefix that passes its test, a failed shorter one notwithstanding.

    `reach[i]` is p_i of algorithm 2: how often the target would give the first i tokens for each time the draft gives
    them, capped at 1 after every token.
    """
    laws = [law_at(node) for node in range(ROOT, len(draft))]
    reach: list[Any] = [1]
    for node, token in enumerate(draft.tokens):
        reach.append(min(1, reach[-1] * laws[node][token] / draft.probs[node][token]))
    if not draft or uniform(len(draft) - 1) < reach[-1]:
        return tuple(range(len(draft))), laws[-1]
    for length in range(len(draft) - 1, 0, -1):
        spare = _excess(reach[length] * laws[length], draft.probs[length]).sum()
        if uniform(length - 1) * (spare + 1 - reach[length]) < spare:
            return tuple(range(length)), _left_over(laws[length], draft.probs[length], reach[length])
    return (), _left_over(laws[0], draft.probs[0])


def _point_mass(like: Law, token: int) -> Law:
    mass = np.zeros_like(like)
    mass[token] = 1
    return mass


def _excess(law: Law, drawn_from: Law) -> Law:
    """How much more often the target wants each token than the draft brings it."""
    excess: Law = np.maximum(law - drawn_from, 0)
    return excess


def _left_over(law: Law, drawn_from: Law, reach: Any = 1) -> Law:
    """The law of the token after a rejection; `law` itself where rounding leaves nothing of it."""
    rest = _excess(reach * law, drawn_from)
    mass = rest.sum()
    return rest / mass if mass > 0 else law
