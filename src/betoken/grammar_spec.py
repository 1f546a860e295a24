"""What shape an output must have, as callers write it: a JSON schema, a regular expression, a grammar, a list of texts.
Checked as far as that goes without a tokenizer; `grammar` compiles it. No dependencies.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from betoken.errors import ParameterError

KINDS = ("json_object", "json_schema", "regex", "lark", "choice")
# Bytes of a specification. What a grammar may cost beyond that is bounded where it is compiled.
MOST_BYTES = {"json_object": 0, "json_schema": 131_072, "regex": 16_384, "lark": 32_768, "choice": 65_536}
DEEPEST = 64
EXPECTED = 'one of {"json_object": True}, {"json_schema": {...}}, {"regex": "..."}, {"lark": "..."}, {"choice": [...]}'


@dataclass(frozen=True, slots=True)
class GrammarSpec:
    """A shape that an output must have.

    kind:  "json_object" (any), "json_schema", "regex", "lark" (a grammar like Lark's, as `llguidance` reads them, or GBNF), "choice"
    value: True; a schema (a mapping, or its JSON text); the expression; the grammar; a list of texts. Kept as text, a
           choice as a tuple of texts
    Raises ParameterError, naming the kind.
    """

    kind: str
    value: Any = True

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ParameterError("grammar", self.kind, EXPECTED)
        kept = _READERS[self.kind](self.value)
        size = sum(len(_encoded(self.kind, text)) + 1 for text in ((kept,) if isinstance(kept, str) else kept))
        if kept and size > MOST_BYTES[self.kind]:
            raise ParameterError(self.kind, shortened(kept), f"at most {MOST_BYTES[self.kind]} bytes, not {size}")
        object.__setattr__(self, "value", kept)

    @classmethod
    def of(cls, given: Any) -> Self:
        """A mapping of one kind to its value, e.g. `{"regex": "[0-9]+"}`. Raises ParameterError."""
        if isinstance(given, cls):
            return given
        if not isinstance(given, Mapping) or len(given) != 1:
            raise ParameterError("grammar", given, EXPECTED)
        return cls(*next(iter(given.items())))

    def as_mapping(self) -> dict[str, Any]:
        """What `of` reads, as JSON has it."""
        if self.kind == "json_object":
            return {self.kind: True}
        if self.kind == "json_schema":
            return {self.kind: json.loads(self.value)}
        return {self.kind: list(self.value) if self.kind == "choice" else self.value}


def shortened(value: Any) -> str:
    """For messages: a schema of a hundred thousand characters helps nobody."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 200 else text[:200] + "..."


def _any_object(value: Any) -> str:
    if value is not True:
        raise ParameterError("json_object", value, "True")
    return ""


def _schema(value: Any) -> str:
    expected = "a JSON schema: a mapping, or its JSON text"
    try:
        schema = json.loads(value) if isinstance(value, str | bytes) else value
        text = json.dumps(schema, allow_nan=False)
    except RecursionError:
        raise ParameterError("json_schema", shortened(value), f"a schema nested at most {DEEPEST} deep") from None
    except (ValueError, TypeError) as failure:
        raise ParameterError("json_schema", shortened(value), f"{expected} ({failure})") from None
    if not isinstance(schema, Mapping | bool):
        raise ParameterError("json_schema", shortened(value), expected)
    if _depth(text) > DEEPEST:
        raise ParameterError("json_schema", shortened(text), f"a schema nested at most {DEEPEST} deep")
    return text


def _depth(text: str) -> int:
    """How deep a JSON text is nested; brackets inside strings count too, which a schema can do without."""
    depth = deepest = 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        deepest = max(deepest, depth)
    return deepest


def _text(kind: str) -> Any:
    def read(value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise ParameterError(kind, value, "a non-empty string")
        return value

    return read


def _choices(value: Any) -> tuple[str, ...]:
    texts = tuple(value) if isinstance(value, list | tuple) else ()
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise ParameterError("choice", value, "a list of non-empty strings, at least one")
    return tuple(dict.fromkeys(texts))


def _encoded(kind: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as failure:
        raise ParameterError(kind, shortened(text), f"text without half a character (at {failure.start})") from None


_READERS: dict[str, Any] = {
    "json_object": _any_object,
    "json_schema": _schema,
    "regex": _text("regex"),
    "lark": _text("lark"),
    "choice": _choices,
}
