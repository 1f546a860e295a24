"""`auto`: nobody chooses a method or a length. Every step decides, from measured cost and calibrated acceptance, whom to ask and what
to feed; nothing is always among the choices. How is told in `deciding`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from betoken.errors import ParameterError
from betoken.proposers.base import Proposer, Workshop, budget_of, build, methods, register

NAME = "auto"
DEFAULT = ("reference", "mix", "recycling", "draft")
NODES = 64


def _members_of(of: Any, workshop: Workshop) -> dict[str, dict[str, Any]]:
    """Names and options. By default all that can run here."""
    if of is None:
        able = {"recycling": workshop.target.has_logits, "draft": workshop.draft is not None}
        return {name: {} for name in DEFAULT if able.get(name, True)}
    named = of if isinstance(of, Mapping) else {name: {} for name in str(of).split("+")}
    possible = [name for name in methods() if name not in ("plain", "merge", "lookahead", NAME)]
    if isinstance(of, str) and len(named) < len(of.split("+")):
        named = {}
    if not named or not all(name in possible for name in named):
        raise ParameterError("of", of, 'different methods, as in "mix+draft", of ' + ", ".join(possible))
    return {name: dict(options or {}) for name, options in named.items()}


@register(NAME, budget="nodes", knobs=("of", "nodes", "explore", "load"))
def _build(workshop: Workshop) -> Proposer:
    # Here and not above: the compiler behind it takes half a second to import.
    from betoken.proposers.auto.deciding import Auto

    given = dict(workshop.options)
    most = given.get("nodes", NODES)
    load = given.pop("load", None)
    members: dict[str, Proposer] = {}
    for name, options in _members_of(given.pop("of", None), workshop).items():
        if (budget := budget_of(name)) is not None and name != "draft":
            options.setdefault(budget, most)
        if name == "draft":
            options = {"k": 16, "worth": 0.0, **options}
        if load is not None and name in ("mix", "suffix"):
            options.setdefault("load", load)
        member = build(name, replace(workshop, options=options))
        assert member is not None  # only plain decoding has none
        members[name] = member
    return Auto(
        members,
        curve=workshop.curve,
        branching=workshop.target.can_branch,
        experts=workshop.target.experts,
        clock=workshop.clock,
        **given,
    )
