"""What one request may say about speculation: whether, who drafts, how much. It decides how soon a text comes, never which. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from betoken.errors import ParameterError


@dataclass(frozen=True, slots=True)
class Speculation:
    """What holds for one request.

    enabled:   False: nothing is drafted for it, and no drafter sees it; other requests of its batch go on as they were
    method:    who drafts, as `LLM(method=...)` has it; None: whoever drafts anyway
    max_nodes: no draft has more nodes; None: as many as the method likes
    Raises ParameterError.
    """

    enabled: bool = True
    method: str | None = None
    max_nodes: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.enabled, bool):
            raise ParameterError("enabled", self.enabled, "True or False, in speculation")
        if self.method is not None and not isinstance(self.method, str):
            raise ParameterError("method", self.method, 'a method such as "mix:nodes=8", in speculation')
        whole = isinstance(self.max_nodes, int) and not isinstance(self.max_nodes, bool)
        if self.max_nodes is not None and (not whole or self.max_nodes < 1):
            raise ParameterError(
                "max_nodes", self.max_nodes, 'a whole number of at least 1 (to have nothing drafted, set "enabled")'
            )

    @classmethod
    def of(cls, given: "Wish") -> Self:
        """A mapping of these fields; None: the defaults. Raises ParameterError."""
        if isinstance(given, cls):
            return given
        if given is not None and not isinstance(given, Mapping):
            raise ParameterError("speculation", given, 'a mapping such as {"enabled": True, "max_nodes": 8}')
        known = [field.name for field in fields(cls)]
        for name in given or ():
            if name not in known:
                raise ParameterError("speculation", name, "these keys: " + ", ".join(known))
        return cls(**(given or {}))

    @property
    def words(self) -> str:
        """For people: "auto", "auto, at most 8 nodes a draft", "off"."""
        if not self.enabled:
            return "off"
        most = "" if self.max_nodes is None else f", at most {self.max_nodes} nodes a draft"
        return (self.method or "on") + most


Wish = Speculation | Mapping[str, Any] | None
USUAL = Speculation()


def wishes(given: Any, count: int) -> list[Speculation]:
    """One for each of several prompts: a `Wish` for all, or a list of one each. Raises ParameterError."""
    if given is None or isinstance(given, Speculation | Mapping):
        return [Speculation.of(given)] * count
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ParameterError("speculation", given, "a mapping, or a list of one a prompt")
    if len(given) != count:
        raise ParameterError("speculation", f"{len(given)} of them", f"one for all {count} prompts, or one each")
    return [Speculation.of(one) for one in given]


def together(*parts: Sequence[Speculation]) -> tuple[Speculation, ...]:
    """All that was in force, each once, in an order that does not depend on who came first."""
    return tuple(sorted({one for part in parts for one in part}, key=repr))
