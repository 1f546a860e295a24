"""What form an answer must have, in the fields clients know: OpenAI's `response_format`, vLLM's `guided_*`."""

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
    if body.guided_json is not None:
        asked["guided_json"] = "json_schema", _parsed(body.guided_json)
    if body.guided_regex is not None:
        asked["guided_regex"] = "regex", body.guided_regex
    if body.guided_choice is not None:
        asked["guided_choice"] = "choice", body.guided_choice
    if body.guided_grammar is not None:
        asked["guided_grammar"] = "lark", body.guided_grammar
    if len(asked) > 1:
        raise ParameterError(" and ".join(asked), len(asked), "one form of answer")
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


def _parsed(given: Any) -> Any:
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given)
    except (ValueError, RecursionError) as failure:
        raise ParameterError(
            "guided_json", given[:80], f"a JSON schema, as an object or as JSON ({failure})"
        ) from failure
