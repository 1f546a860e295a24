"""Answers that must have a form, over HTTP: valid whenever they end by themselves, and the same with and without speculation."""

import json
import random
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import jsonschema_rs
import pytest
from serving import NAME, Served, at_rest, served
from test_grammar import schema


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as found:
        yield found
        assert at_rest(found)


def chat(server: Served, **fields: Any) -> httpx.Response:
    body = {
        "messages": [{"role": "user", "content": "Say something"}],
        "max_tokens": 120,
        "seed": 3,
        "temperature": 0.8,
        **fields,
    }
    return httpx.post(server.v1 + "/chat/completions", json=body, timeout=120)


def said(answer: httpx.Response) -> tuple[str, str]:
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    return choice["message"]["content"], choice["finish_reason"]


def test_200_schemas(server: Served) -> None:
    """Valid whenever it finishes with stop; speculative equal to plain."""
    schemas = [schema(random.Random(seed)) for seed in range(200)]

    def one(place: int) -> tuple[tuple[str, str], tuple[str, str]]:
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schemas[place], "strict": True}}
        more = {"response_format": form, "seed": place, "temperature": (0.0, 0.8)[place % 2], "max_tokens": 80}
        return said(chat(server, **more)), said(chat(server, **more, speculation={"enabled": False}))

    with ThreadPoolExecutor(8) as pool:
        answers = [*pool.map(one, range(200))]
    stopped = 0
    for wanted, (fast, plain) in zip(schemas, answers, strict=True):
        assert fast == plain
        if fast[1] == "stop":
            stopped += 1
            jsonschema_rs.validate(wanted, json.loads(fast[0]))
    assert stopped > 100


def test_other_forms(server: Served) -> None:
    text, reason = said(chat(server, guided_regex=r"[a-f]{3}-[0-9]{2}"))
    assert re.fullmatch(r"[a-f]{3}-[0-9]{2}", text) and reason == "stop"
    text, _ = said(chat(server, guided_choice=["yes", "no", "maybé"], stream=False))
    assert text in ("yes", "no", "maybé")
    text, reason = said(chat(server, guided_grammar='start: "a" "b"+ "c"', max_tokens=60))
    assert re.fullmatch("ab+c", text) if reason == "stop" else re.fullmatch("ab*c?", text)
    text, reason = said(chat(server, response_format={"type": "json_object"}, max_tokens=200))
    assert reason != "stop" or isinstance(json.loads(text), dict)
    text, _ = said(chat(server, guided_json='{"enum": [1, 2]}'))
    assert json.loads(text) in (1, 2)
    assert said(chat(server, response_format={"type": "text"}))[0]
    text, reason = said(chat(server, structured_outputs={"regex": r"[a-f]{3}-[0-9]{2}"}))
    assert reason == "stop" and re.fullmatch(r"[a-f]{3}-[0-9]{2}", text)
    assert said(chat(server, structured_outputs={"choice": ["yes", "no"]}))[0] in ("yes", "no")
    assert json.loads(said(chat(server, structured_outputs={"json": {"enum": [7]}}))[0]) == 7
    assert said(chat(server, structured_outputs={"grammar": 'start: "x" "y"'}))[0] == "xy"
    assert said(chat(server, structured_outputs={"json_object": True}))[0].startswith("{")
    for field in ("grammar", "guided_grammar"):  # GBNF, as llama.cpp has it
        assert said(chat(server, **{field: 'root ::= "p" digit "q"\ndigit ::= [4-6]'}))[0] in ("p4q", "p5q", "p6q")
    with httpx.stream(
        "POST",
        server.v1 + "/completions",
        json={"model": NAME, "prompt": "x", "guided_choice": ["red", "blue"], "stream": True},
    ) as answer:
        chunks = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) in ("red", "blue")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_regex": "("}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_grammar": "nonsense"}, "guided_grammar"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": {"type": "string", "minLength": 5, "maxLength": 2}}, "guided_json"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": []}}}}, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}},
            "response_format",
        ),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_regex and guided_choice"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a"}, "guided_regex": "a"}, "guided_regex and structured_outputs.regex"),
        ({"grammar": 'root ::= ( "a"'}, "grammar"),
        ({"grammar": "root ::= " + "(" * 3000}, "grammar"),
    ],
)
def test_an_impossible_form_is_refused(server: Served, fields: dict[str, Any], param: str) -> None:
    answer = chat(server, **fields)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param, answer.text
