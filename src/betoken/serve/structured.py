"""What form an answer must have, in the fields clients know: OpenAI's `response_format`, vLLM's `structured_outputs` and `guided_*`,
llama.cpp's `grammar`."""

import json
from typing import Any

from betoken.errors import ParameterError
from betoken.grammar_spec import GrammarSpec
from betoken.serve.protocol import Generation, ResponseFormat


def form_of(body: Generation) -> tuple[str, GrammarSpec | None]:
    """The field, and what it asks for; None: nothing. Raises ParameterError."""
    asked: dict[str, tuple[str, Any]] = {}
    if body.response_format is not None and body.response_format.type != "text":
        asked["response_format"] = _format(body.response_format)
    newer = body.structured_outputs
    for field, kind, value in (
        ("guided_json", "json_schema", body.guided_json),
        ("guided_regex", "regex", body.guided_regex),
        ("guided_choice", "choice", body.guided_choice),
        ("guided_grammar", "lark", body.guided_grammar),
        ("grammar", "lark", body.grammar),
        ("structured_outputs.json", "json_schema", newer and newer.json_),
        ("structured_outputs.regex", "regex", newer and newer.regex),
        ("structured_outputs.choice", "choice", newer and newer.choice),
        ("structured_outputs.grammar", "lark", newer and newer.grammar),
        ("structured_outputs.json_object", "json_object", (newer and newer.json_object) or None),
    ):
        if value is not None:
            asked[field] = kind, _parsed(field, value) if kind == "json_schema" else value
    if newer is not None and "structural_tag" in newer.unknown:
        raise ParameterError("structured_outputs", "structural_tag", "json, regex, choice, grammar or json_object")
    if len(asked) > 1:
        raise ParameterError(" and ".join(asked), f"{len(asked)} forms", "one form of answer")
    for field, (kind, value) in asked.items():
        try:
            return field, GrammarSpec(kind, value)
        except ParameterError as failure:
            raise renamed(failure, field) from failure
    return "", None


def renamed(failure: ParameterError, field: str) -> ParameterError:
    """The same, under the name the client knows."""
    return ParameterError(field, failure.value, failure.expected)


def _format(given: ResponseFormat) -> tuple[str, Any]:
    if given.type == "json_object":
        return "json_object", True
    if given.json_schema is None or given.json_schema.schema_ is None:
        raise ParameterError("response_format", given.type, '"json_schema": {"name": ..., "schema": {...}} with it')
    return "json_schema", given.json_schema.schema_


def _parsed(field: str, given: Any) -> Any:
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given)
    except (ValueError, RecursionError) as failure:
        raise ParameterError(field, given[:80], f"a JSON schema, as an object or as JSON ({failure})") from failure
