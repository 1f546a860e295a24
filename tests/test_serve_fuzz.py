"""The whole API fuzzed against its own description: whatever is sent, nothing is the server's fault."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving import NAME, Served, at_rest, serving

from betoken import LLM, demo
from betoken.scheduler import Limits
from betoken.serve.service import Service
from betoken.serve.settings import Settings

CHECKS = (not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance)


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    """A context so short that every answer ends soon."""
    limits = Limits(rows=4, stall=2.0, kv_bytes=1 << 28, kept_bytes=1 << 24)
    with LLM(demo.pair()[0], method="auto", max_rows=4, max_context=48) as llm:
        service = Service(lambda: llm, Settings(name=NAME), lambda llm: limits)
        with serving(service) as found:
            yield found
            assert at_rest(found)


@pytest.fixture(scope="module")
def api(server: Served) -> Any:
    return schemathesis.openapi.from_url(server.url + "/openapi.json")


OPERATIONS = [
    ("/v1/chat/completions", "POST"),
    ("/v1/completions", "POST"),
    ("/v1/models", "GET"),
    ("/v1/models/{name}", "GET"),
    ("/tokenize", "POST"),
    ("/detokenize", "POST"),
    ("/health", "GET"),
    ("/version", "GET"),
    ("/metrics", "GET"),
]


def test_every_operation_is_fuzzed(api: Any) -> None:
    found = {(path, method.upper()) for path in api for method in api[path]}
    assert found == set(OPERATIONS)


@pytest.mark.parametrize("mode", [*schemathesis.GenerationMode])
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_nothing_is_the_servers_fault(path: str, method: str, mode: Any, api: Any, server: Served) -> None:
    """mode: what the description allows, and what it does not."""
    operation, statuses = api[path][method], Counter[int]()

    @given(data=st.data())
    @settings(max_examples=60 if method == "POST" else 5, deadline=None, suppress_health_check=[*HealthCheck])
    def attack(data: Any) -> None:
        case = data.draw(operation.as_strategy(generation_mode=mode))
        if isinstance(case.body, dict) and data.draw(st.booleans()):
            case.body.pop("model", None)  # no other is served, and what comes after is to be met
        answer = case.call_and_validate(checks=CHECKS, timeout=60)
        statuses[answer.status_code] += 1

    try:
        attack()
    except Unsatisfiable:
        assert method == "GET", "what cannot be sent wrong"
    assert server.service.worker.alive
    print(path, mode, dict(statuses))
