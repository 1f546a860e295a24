"""A method as users write it, and the proposer it means."""

import contextlib
from typing import Any

from betoken.errors import ParameterError
from betoken.proposers.base import Proposer, Workshop, build, methods

PLAIN, AUTO = "plain", "auto"
RESIDUAL = "residual"


def spelt(method: str) -> tuple[str, dict[str, Any]]:
    """A method's name and the options written after it: "draft:k=6:width=2". Raises ParameterError for an unknown name."""
    name, *pairs = method.split(":") if isinstance(method, str) else (method,)
    if name not in methods():
        raise ParameterError("method", method, "one of " + ", ".join(methods()))
    if pairs and name == PLAIN:
        raise ParameterError("method", method, "plain alone: it has no options")
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier() or key in options:
            raise ParameterError("method", method, f"name:option=value:option=value, each once, not {pair!r}")
        options[key] = _value(value)
    return name, options


def _value(text: str) -> int | float | str | None:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return None if text == "none" else text


def proposer_of(name: str, workshop: Workshop) -> Proposer | None:
    """A proposer, with a readable error for an option its method does not have."""
    try:
        return build(name, workshop)
    except TypeError as failure:
        if "unexpected keyword" not in str(failure):
            raise
        raise ParameterError("options", workshop.options, f"options of {name} ({failure})") from failure


def usual(acceptance: str, *, with_draft: bool, chains: bool) -> str:
    """The method where none is named. chains: what is promised holds for chains only, and auto drafts trees."""
    if acceptance != RESIDUAL and not chains:
        return AUTO
    return "draft" if with_draft else "ngram"


def allowed(method: str, acceptance: str) -> tuple[str, dict[str, Any]]:
    """As `spelt`. Raises ParameterError where the acceptance rule cannot have the method, too."""
    name, options = spelt(method)
    if name == AUTO and acceptance == RESIDUAL:
        raise ParameterError(
            "method",
            method,
            'another one where acceptance is "residual": auto keeps nodes by value, which would change the law',
        )
    return name, options
