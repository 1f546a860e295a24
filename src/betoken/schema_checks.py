"""What a JSON schema must not ask for: what no text can be, and what would take a compiler hours or all memory.

The compiler itself bounds nearly everything; two things it does not, and they are counted here: how many patterns meet in
one string, and how large the number is that a number must be a multiple of. Knows JSON, nothing else.
"""

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

Schema = Any  # a mapping, True or False
MOST_PATTERNS = 8  # that one string must match at once: the work doubles with each
LARGEST_MULTIPLE = 10_000  # an automaton has a state for each remainder
SCALARS = {"string", "number", "integer", "boolean", "null"}
ANY_OF = ("anyOf", "oneOf")
NAMED = ("properties", "patternProperties", "$defs", "definitions")
ROUNDS = 64


def objection(root: Schema) -> str | None:
    """What is wrong with a schema, or None. Raises RecursionError for a chain of references a thousand long."""
    if not isinstance(root, dict):
        return None if root is True else "a schema that something fits; False fits nothing"
    try:
        schemas = [*_all(root)]
        if not _fits(root, schemas):
            return "a schema that some finite text fits"
        if max(_Patterns(root).meeting(root)) > MOST_PATTERNS:
            return f"at most {MOST_PATTERNS} patterns and formats meeting in one string"
    except LookupError as failure:
        return f"references inside the schema only ({failure})"
    if _multiple(schemas) > LARGEST_MULTIPLE:
        return f"multipleOf so that all of them have a common multiple of at most {LARGEST_MULTIPLE} units"
    return None


def _all(root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every schema reachable, once; the root first."""
    seen: dict[int, dict[str, Any]] = {}
    waiting: list[Schema] = [root]
    while waiting:
        schema = waiting.pop()
        if not isinstance(schema, dict) or id(schema) in seen:
            continue
        if seen and "$id" in schema:
            raise LookupError("$id below the root")
        seen[id(schema)] = schema
        yield schema
        waiting += [*_children(schema), *_members(schema, "allOf", *ANY_OF), *_referred(root, schema)]


def _children(schema: dict[str, Any]) -> Iterator[Schema]:
    """Schemas of parts of the value."""
    for name in NAMED:
        if isinstance(schema.get(name), dict):
            yield from schema[name].values()
    for name in ("additionalProperties", "items"):
        if isinstance(schema.get(name), dict):
            yield schema[name]
    for name in ("prefixItems", "items"):
        yield from _list(schema.get(name))


def _members(schema: dict[str, Any], *names: str) -> Iterator[Schema]:
    """Schemas of the value itself."""
    for name in names:
        yield from _list(schema.get(name))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _referred(root: dict[str, Any], schema: dict[str, Any]) -> list[Schema]:
    return [_resolved(root, schema["$ref"])] if "$ref" in schema else []


def _resolved(root: dict[str, Any], pointer: Any) -> Schema:
    """Raises LookupError."""
    if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
        raise LookupError(f"$ref {str(pointer)[:80]}")
    at: Any = root
    for part in pointer[2:].split("/") if pointer != "#" else ():
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(at, list) and name.isdecimal() and len(name) < 10 and int(name) < len(at):
            at = at[int(name)]
        elif isinstance(at, dict) and name in at:
            at = at[name]
        else:
            raise LookupError(f"$ref {pointer[:80]}")
    return at


def _fits(root: dict[str, Any], schemas: list[dict[str, Any]]) -> bool:
    """Whether a finite value may fit: a schema that requires itself has none. True where that is not clear."""
    good: set[int] = set()

    def fits(schema: Schema) -> bool:
        return id(schema) in good if isinstance(schema, dict) else schema is not False

    for _ in range(ROUNDS):
        new = {id(one) for one in reversed(schemas) if id(one) not in good and _may_fit(root, one, fits)}
        if id(root) in good or not new:
            return id(root) in good
        good |= new
    return True


def _may_fit(root: dict[str, Any], schema: dict[str, Any], fits: Any) -> bool:
    if not all(map(fits, [*_referred(root, schema), *_members(schema, "allOf")])):
        return False
    ways = [schema[name] for name in ANY_OF if isinstance(schema.get(name), list)]
    if not all(any(map(fits, way)) for way in ways):
        return False
    return "enum" in schema or "const" in schema or any(_type_fits(schema, kind, fits) for kind in _types(schema))


def _types(schema: dict[str, Any]) -> list[Any]:
    given = schema.get("type", "string")
    return given if isinstance(given, list) else [given]


def _type_fits(schema: dict[str, Any], kind: Any, fits: Any) -> bool:
    if kind == "object":
        named = schema.get("properties")
        parts = named if isinstance(named, dict) else {}
        return all(fits(parts.get(name)) for name in _list(schema.get("required")) if isinstance(name, str))
    if kind == "array":
        least, first = schema.get("minItems", 0), _list(schema.get("prefixItems"))
        least = least if isinstance(least, int) else 0
        return all(map(fits, first[:least])) and (least <= len(first) or fits(schema.get("items")))
    return True


class _Patterns:
    """How many patterns a string may have to match at once: in the value itself, and in any part of it."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root, self._known = root, dict[int, tuple[int, int]]()

    def meeting(self, schema: Schema) -> tuple[int, int]:
        if not isinstance(schema, dict):
            return 0, 0
        if id(schema) not in self._known:
            self._known[id(schema)] = (0, 0)  # of a circle nothing more is counted
            self._known[id(schema)] = self._counted(schema)
        return self._known[id(schema)]

    def _counted(self, schema: dict[str, Any]) -> tuple[int, int]:
        own = ("pattern" in schema) + ("format" in schema)
        below = max([0, *(max(self.meeting(child)) for child in _children(schema))])
        together = [self.meeting(one) for one in (*_members(schema, "allOf"), *_referred(self._root, schema))]
        for name in ANY_OF:
            ways = [self.meeting(one) for one in _members(schema, name)]
            together.append((max([0, *(way[0] for way in ways)]), max([0, *(way[1] for way in ways)])))
        return own + sum(one[0] for one in together), below + sum(one[1] for one in together)


def _multiple(schemas: list[dict[str, Any]]) -> int:
    """The least common multiple of every `multipleOf`, in units that make all of them whole; not far past the limit."""
    steps = [Fraction(str(one["multipleOf"])) for one in schemas if _is_number(one.get("multipleOf"))]
    unit = math.lcm(*(step.denominator for step in steps))
    common = 1
    for step in steps:
        common = math.lcm(common, abs(int(step * unit)) or 1)
        if common > LARGEST_MULTIPLE:
            break
    return common


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
