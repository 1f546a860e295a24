"""Everything a client can do wrong: the right status, OpenAI's shape, and nothing left behind."""

import json
import logging
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from serving import NAME, Served, another, at_rest, served

KEYS = ("first-secret", "second-sécret")
HEADERS = {"Authorization": "Bearer first-secret"}


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(keys=KEYS, max_body=200_000, max_n=4, max_stops=3, max_prompts=5, body_seconds=1.0) as found:
        yield found
        assert at_rest(found)


def post(server: Served, path: str, body: Any, **more: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **HEADERS, **more}
    return httpx.post(server.url + path, content=content, headers=headers, timeout=60)


def check(answer: httpx.Response, status: int, param: str | None = None, code: str | None = None) -> str:
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    assert param is None or error["param"] == param, error
    assert code is None or error["code"] == code, error
    assert "Traceback" not in answer.text
    return str(error["message"])


TEXT = {"model": NAME, "prompt": "Hello", "max_tokens": 2}
CHAT = {"model": NAME, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("temperature", {"temperature": -1}, "temperature"),
    ("temperature no number", {"temperature": "hot"}, "temperature"),
    ("top_p", {"top_p": 0}, "top_p"),
    ("top_p above", {"top_p": 1.5}, "top_p"),
    ("top_k", {"top_k": -5}, "top_k"),
    ("min_p", {"min_p": 2}, "min_p"),
    ("n", {"n": 0}, "n"),
    ("n above", {"n": 5}, "n"),
    ("max_tokens", {"max_tokens": 0}, "max_tokens"),
    ("max_tokens below", {"max_tokens": -3}, "max_tokens"),
    ("min_tokens", {"min_tokens": 9}, "min_tokens"),
    ("presence", {"presence_penalty": 3}, "presence_penalty"),
    ("frequency", {"frequency_penalty": -3}, "frequency_penalty"),
    ("repetition", {"repetition_penalty": 0}, "repetition_penalty"),
    ("stops", {"stop": ["a", "b", "c", "d"]}, "stop"),
    ("empty stop", {"stop": [""]}, "stop"),
    ("bias of no token", {"logit_bias": {"abc": 1}}, "logit_bias"),
    ("bias of an unknown token", {"logit_bias": {"999999": 1}}, "logit_bias"),
    ("bias", {"logit_bias": {"5": 1e9}}, "logit_bias"),
    ("allowed", {"allowed_token_ids": []}, "allowed_token_ids"),
    ("stop ids", {"stop_token_ids": [-1]}, "stop_token_ids"),
    ("bad words", {"bad_words": [""]}, "bad_words"),
    ("bad words, many", {"bad_words": ["a"] * 5000}, "bad_words"),
    ("bad words, long", {"bad_words": ["a" * 60_000]}, "bad_words"),
    ("bias of digits", {"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
    ("a reference of digits", {"guided_json": {"anyOf": [{"$ref": "#/anyOf/" + "9" * 5000}]}}, "guided_json"),
    ("speculation", {"speculation": {"method": "nonsense"}}, "speculation.method"),
    ("an option of a method", {"speculation": {"method": "ngram:nonsense=3"}}, "speculation.method"),
    ("a value of an option", {"speculation": {"method": "ngram:k=-3"}}, "speculation.method"),
    ("a file of the server's", {"speculation": {"method": "mix:load=secret"}}, "speculation.method"),
    ("memory of the server's", {"speculation": {"method": "recycling:pairs=16777216"}}, "speculation.method"),
    ("a window without end", {"speculation": {"method": "lookahead:window=100000"}}, "speculation.method"),
    ("max_nodes", {"speculation": {"max_nodes": 0}}, "speculation.max_nodes"),
    ("functions", {"functions": [{"name": "f"}]}, "functions"),
    ("logprobs of the prompt", {"prompt_logprobs": 1}, "prompt_logprobs"),
    ("llama.cpp's samplers", {"mirostat": 2}, "mirostat"),
    ("a key of speculation", {"speculation": {"nonsense": 1}}, "speculation.nonsense"),
]


@pytest.mark.parametrize(("fields", "param"), [one[1:] for one in WRONG], ids=[one[0] for one in WRONG])
@pytest.mark.parametrize("stream", [False, True])
def test_a_value_out_of_its_range(server: Served, fields: dict[str, Any], param: str, stream: bool) -> None:
    """A 500, a stream that broke off, or an answer that did not do what was asked."""
    check(post(server, "/v1/completions", {**TEXT, **fields, "stream": stream}), 400, param)
    check(post(server, "/v1/chat/completions", {**CHAT, **fields, "stream": stream}), 400, param)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": NAME}, "prompt"),
        ({**TEXT, "prompt": ""}, "prompt"),
        ({**TEXT, "prompt": []}, "prompt"),
        ({**TEXT, "prompt": [[]]}, "prompt"),
        ({**TEXT, "prompt": [99999]}, "prompt"),
        ({**TEXT, "prompt": ["a"] * 6}, "prompt"),
        ({**TEXT, "prompt": "\ud800"}, "prompt"),
        ({**TEXT, "prompt": "word " * 9000}, "prompt"),
        ({**TEXT, "suffix": "x"}, "suffix"),
        ({**TEXT, "best_of": 3}, "best_of"),
        ({**TEXT, "echo": True, "logprobs": 1}, "echo"),
        ({**TEXT, "logprobs": 21}, "logprobs"),
        ({**TEXT, "logprobs": -1}, "logprobs"),
    ],
)
def test_completions_that_cannot_be(server: Served, body: Any, param: str) -> None:
    check(post(server, "/v1/completions", body), 400, param)


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": []},
        {"messages": "Hi"},
        {"messages": [{"role": "user"}, 3]},
        {"messages": [{"content": "no role"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"messages": [{"role": "user", "content": "\udfff"}]},
        {"top_logprobs": 2},
        {"logprobs": True, "top_logprobs": 21},
        {"chat_template_kwargs": {"tokenize": True}},
        {"chat_template_kwargs": {"chat_template": "{{ 1 }}"}},
        {"chat_template_kwargs": {"self": 1}},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"continue_final_message": True},
        {
            "messages": [{"role": "assistant", "content": "I"}],
            "continue_final_message": True,
            "add_generation_prompt": True,
        },
    ],
)
def test_chats_that_cannot_be(server: Served, fields: dict[str, Any]) -> None:
    check(post(server, "/v1/chat/completions", {**CHAT, **fields}), 400)


def test_what_is_too_long_says_how_long(server: Served) -> None:
    said = check(
        post(server, "/v1/completions", {**TEXT, "prompt": "word " * 9000}), 400, code="context_length_exceeded"
    )
    assert "4096" in said


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 50_000, b'{"prompt": ' + b"[" * 50_000, b'{"a":' * 20_000],
)
def test_bodies_that_are_no_requests(server: Served, content: bytes) -> None:
    for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"):
        check(post(server, path, content), 400)


def test_bodies_of_another_kind(server: Served) -> None:
    """What is wrong is the header, which curl sets by itself to something else."""
    for kind in ("application/x-www-form-urlencoded", "text/plain"):
        said = check(post(server, "/v1/completions", TEXT, **{"Content-Type": kind}), 400, code="invalid_content_type")
        assert "Content-Type: application/json" in said and kind in said
    said = check(post(server, "/v1/completions", b'{"prompt": "a",}'), 400, code="invalid_json")
    assert "no JSON" in said and "character 15" in said


def test_fields_that_ask_for_nothing(server: Served) -> None:
    """Some clients send every field they know of, at its neutral value."""
    neutral = {"mirostat": 0, "typical_p": 1.0, "use_beam_search": False, "functions": None, "logits_processors": []}
    assert post(server, "/v1/completions", {**TEXT, **neutral}).status_code == 200


def test_errors_speak_json(server: Served) -> None:
    said = check(post(server, "/v1/completions", {**TEXT, "echo": True, "logprobs": 1}), 400, "echo")
    assert said.startswith("echo is true; expected")


def test_numbers_that_are_none(server: Served) -> None:
    for word in (b"NaN", b"Infinity", b"-Infinity", b"1e999"):
        check(post(server, "/v1/completions", b'{"prompt": "a", "temperature": ' + word + b"}"), 400, "temperature")
    for fields in ({"seed": 10**30}, {"seed": -5}, {"max_tokens": 10**12, "stop": "e"}):
        assert post(server, "/v1/completions", {**TEXT, "max_tokens": 2, **fields}).status_code == 200


def test_keys(server: Served) -> None:
    for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/v1/nothing"):
        for given in ("", "Bearer", "Bearer wrong", "Basic first-secret", "first-secret", "Bearer first-secret2"):
            answer = httpx.post(server.url + path, json=TEXT, headers={"Authorization": given})
            check(answer, 401, code="invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer" and "secret" not in answer.text
    assert httpx.get(server.v1 + "/models").status_code == 401
    for path in ("/health", "/metrics", "/version", "/", "/openapi.json"):
        assert httpx.get(server.url + path).status_code == 200, path
    other = httpx.get(server.v1 + "/models", headers={"Authorization": "Bearer second-sécret".encode()})
    assert other.status_code == 200
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=server.v1, api_key="wrong", max_retries=0).models.list()


def test_what_there_is_not(server: Served) -> None:
    check(post(server, "/v1/completions", {**TEXT, "model": "gpt-9"}), 404, "model", "model_not_found")
    check(httpx.get(server.v1 + "/models/gpt-9", headers=HEADERS), 404, "model")
    check(httpx.get(server.url + "/nothing"), 404)
    check(httpx.get(server.url + "/page/../app.py"), 404)
    check(httpx.get(server.url + "/page/secrets.txt"), 404)
    check(httpx.get(server.v1 + "/completions", headers=HEADERS), 405)


def test_bodies_that_are_too_large(server: Served) -> None:
    check(post(server, "/v1/completions", b" " * 200_001), 413)
    pieces = (b" " * 50_000 for _ in range(6))
    answer = httpx.post(server.v1 + "/completions", content=pieces, headers=HEADERS)
    check(answer, 413)


def test_a_body_that_does_not_come(server: Served) -> None:
    """A half-sent request held its connection for ever."""
    with _connected(server) as raw:
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer first-secret\r\n")
        raw.sendall(b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        raw.settimeout(10)
        assert b" 408 " in raw.recv(4096)


def _connected(server: Served) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)))


def test_what_is_no_http_at_all(server: Served) -> None:
    for junk in (
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST /v1/completions HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01" * 50,
    ):
        with _connected(server) as raw:
            raw.settimeout(10)
            raw.sendall(junk)
            raw.shutdown(socket.SHUT_WR)
            raw.recv(4096)
    assert httpx.get(server.url + "/health").status_code == 200


def test_unknown_fields_are_ignored_and_logged(server: Served, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "betoken.serve"):
        answer = post(server, "/v1/completions", {**TEXT, "temprature": 0.5, "user": "me"})
    assert answer.status_code == 200
    assert "temprature" in caplog.text and "user" not in caplog.text


def test_tokens_that_are_none(server: Served) -> None:
    check(post(server, "/detokenize", {"tokens": [-1]}), 400, "tokens")
    check(post(server, "/detokenize", {"tokens": ["x"]}), 400)
    check(post(server, "/tokenize", {}), 400)
    check(post(server, "/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "b"}]}), 400)


def test_what_others_asked_is_not_seen(server: Served) -> None:
    """Kept rows of one key began the prompts of another: how soon an answer comes tells what was asked."""
    body = {**TEXT, "prompt": "A long text that was asked before, and that is worth keeping. " * 6, "temperature": 0}
    seconds = [{"Authorization": f"Bearer {key}".encode()} for key in KEYS]

    def cached(headers: dict[str, bytes]) -> int:
        answer = httpx.post(server.v1 + "/completions", json=body, headers=headers, timeout=60).json()
        return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])

    assert cached(seconds[0]) == 0 and cached(seconds[0]) > 0
    assert cached(seconds[1]) == 0, "another key's"


def test_a_full_queue_says_so() -> None:
    """One decodes, one waits, the third is told to come again; the one that waits is answered when the first goes."""
    with another() as llm, served(llm, _one_row(), max_queue=1) as server, ThreadPoolExecutor(1) as pool:
        endless = {**TEXT, "max_tokens": 3500, "ignore_eos": True, "stream": True, "speculation": {"enabled": False}}
        with httpx.stream("POST", server.v1 + "/completions", json=endless) as first:
            chunks = first.iter_raw()  # held, for to drop it would close the stream
            next(chunks)
            waiting = pool.submit(httpx.post, server.v1 + "/completions", json=TEXT, timeout=60)
            while server.service.worker.open_requests < 2:
                time.sleep(0.01)
            full = httpx.post(server.v1 + "/completions", json=TEXT)
            check(full, 429, code="overloaded")
            assert full.headers["retry-after"] == "1"
            assert httpx.post(server.v1 + "/completions", json={**TEXT, "stream": True}).status_code == 429
        assert waiting.result().status_code == 200
        many = httpx.post(server.v1 + "/completions", json={**TEXT, "n": 3})
        check(many, 400, "n", "invalid_value")  # to come again would not help
        assert at_rest(server)


def _one_row() -> Any:
    from betoken.scheduler import Limits

    return Limits(rows=1, kept_bytes=0)


def test_nothing_is_left(server: Served) -> None:
    for _ in range(20):
        post(server, "/v1/completions", {**TEXT, "temperature": -1})
    until = time.monotonic() + 5
    while server.service.worker.open_requests and time.monotonic() < until:
        time.sleep(0.05)
    assert server.service.worker.open_requests == 0


def test_refusals_are_counted(server: Served) -> None:
    """Those at the door were not."""
    httpx.get(server.v1 + "/models", headers={"Authorization": "Bearer wrong"})
    post(server, "/v1/completions", b" " * 200_001)
    text = httpx.get(server.url + "/metrics").text
    for status in (400, 401, 413):
        assert f'betoken:request_failure_total{{model_name="{NAME}",status="{status}"}}' in text
