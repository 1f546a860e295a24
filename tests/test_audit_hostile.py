"""Servers that are slow, huge, malformed or spell otherwise, and settings that libraries below would choke on."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_audit_endpoints import Answer, Script, Serve, as_json, audit, compare, prompts, saying, serve

from betoken.bench import audit_server
from betoken.bench.audit_json import dumped
from betoken.bench.audit_server import shown

__all__ = ["prompts", "serve"]  # fixtures


def spelt(*tokens: str, text: str | None = None, top: dict[str, float] | None = None) -> Script:
    """A completion whose tokens need not spell its text."""

    def script(path: str, body: dict[str, Any], _: int) -> Answer:
        tops = [top or {token: -0.1, "far": -20.0} for token in tokens]
        said = {"tokens": [*tokens], "top_logprobs": tops}
        return as_json({"choices": [{"text": "".join(tokens) if text is None else text, "logprobs": said}]})

    return script


M = ("--endpoint-model", "m")


def test_the_same_text_in_other_tokens_is_no_bug(serve: Serve, prompts: str) -> None:
    """Both say "abx" and "aby"; what differs first as tokens is not what differs as text."""
    code, out, _ = compare(serve(spelt("ab", "x")), serve(spelt("a", "b", "y")), prompts, *M)
    assert code == 3 and "character 2, 'x' where 'y' was expected (the servers cut the text into different" in out
    assert compare(serve(spelt("ab", "x")), serve(spelt("a", "b", "x")), prompts, *M)[0] == 0
    assert compare(serve(spelt("Ġab", "x", text=" abx")), serve(spelt(" ab", "y")), prompts, *M)[0] == 3


def test_a_token_after_the_text_is_its_end(serve: Serve, prompts: str) -> None:
    code, out, _ = compare(serve(spelt("a", "</s>", text="a")), serve(spelt("a", "b")), prompts, *M)
    assert code == 1 and "token 1, '</s>' where 'b' was expected" in out


def test_a_server_compared_with_that_contradicts_itself_decides_nothing(serve: Serve, prompts: str) -> None:
    def script(path: str, body: dict[str, Any], count: int) -> Answer:
        return saying("ab"[count % 2])(path, body, count)

    code, out, _ = compare(serve(saying("x")), serve(script), prompts, *M)
    assert code == 3 and "the server it is compared with does not repeat itself" in out


def test_log_probabilities_that_are_no_numbers_decide_nothing(serve: Serve, prompts: str, tmp_path: Path) -> None:
    top = {"b": float("nan"), "c": float("-inf"), "d": -1.0}
    code, out, _ = compare(serve(spelt("b", top=top)), serve(spelt("c", top=top)), prompts, *M, "--json")
    found = json.loads(out, parse_constant=pytest.fail)
    assert code == 3 and found["findings"][0]["margin"] is None
    assert json.loads(dumped({"a": [float("inf"), (float("nan"), 1.0)]})) == {"a": [None, [None, 1.0]]}


HUGE = b'{"choices": [{"text": "b", "logprobs": {"tokens": ["b"], "top_logprobs": [{"b": 1' + b"0" * 400 + b"}]}}]}"
MALFORMED: list[tuple[Answer, str]] = [
    ((200, "application/json", HUGE), "JSON that is no completion (OverflowError"),
    ((200, "application/json", b"[" * 100_000), "that is no JSON"),
    ((400, "application/json", b"[" * 100_000), "HTTP 400"),
    ((401, "text/plain", b"wrong key: hush-hush"), "HTTP 401 ('wrong key: …')"),
]


@pytest.mark.parametrize(("answer", "words"), MALFORMED, ids=["huge", "nested", "nested error", "echoed key"])
def test_malformed_answers_are_one_readable_line(serve: Serve, prompts: str, answer: Answer, words: str) -> None:
    code, out, error = compare(serve(lambda *_: answer), serve(saying("a")), prompts, *M, "--api-key", "hush-hush")
    assert (code, out) == (2, "") and error.startswith("error: ") and words in error and "hush" not in error


def test_an_answer_has_a_largest_size(serve: Serve, prompts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_server, "LONGEST_ANSWER", 2**20)
    large = (200, "application/json", b" " * 2**21)
    code, _, error = compare(serve(lambda *_: large), serve(saying("a")), prompts, *M)
    assert code == 2 and "answered more than 1 MB" in error


@pytest.fixture
def trickle() -> Iterator[str]:
    """A server that sends a byte of its headers now and then, for ever."""
    listening, stop = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def run() -> None:
        with contextlib.suppress(OSError), listening.accept()[0] as connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not stop.wait(0.05):
                connection.sendall(b"x")

    thread = threading.Thread(target=run)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    stop.set()
    listening.close()
    thread.join()


def test_the_time_limit_is_for_the_whole_answer(trickle: str, serve: Serve, prompts: str) -> None:
    given = ("--endpoint", serve(saying("a")).url, "--against", trickle, "--prompts", prompts, *M, "--timeout", "0.3")
    code, _, error = audit(*given)
    assert code == 2 and "no answer within 0.3 seconds" in error


PAIR = ["--endpoint", "http://127.0.0.1:1", "--against", "http://127.0.0.1:1"]
BAD = [
    ([*PAIR, "--api-key", "kéy"], "the API key has a blank, a control character"),
    ([*PAIR, "--api-key", "a\nb"], "the API key has a blank, a control character"),
    ([*PAIR, "--endpoint-model", "\ud800"], "half a character"),
    ([*PAIR, *M, "--near-tie", "inf"], "near_tie is inf"),
    ([*PAIR, *M, "--timeout", "inf"], "timeout is inf"),
    ([*PAIR, "--seed", "0"], "--seed: for models loaded here only"),
    ([*PAIR, "--device", "auto"], "--device: for models loaded here only"),
    (["--chat", "--near-tie", "1"], "--chat, --near-tie: for servers only"),
    (["--endpoint", "http://" + "a" * 300, "--against", "http://x"], "expected an address such as"),
    (["--endpoint", "http://x/v1?key=hush", "--against", "http://x"], "without a query"),
    (["--endpoint", "http://x/v1#top", "--against", "http://x"], "without a query"),
    (["--endpoint", "http://u:hush@127.0.0.1:1", "--against", "http://u:hush@127.0.0.1:1"], "cannot be reached"),
    (["--output", "."], "it is a folder"),
    (["--output", "a" * 300], "cannot be written"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[words for _, words in BAD])
def test_bad_settings_are_one_readable_line(arguments: list[str], words: str, prompts: str) -> None:
    code, out, error = audit(*arguments, "--prompts", prompts)
    assert (code, out) == (2, "") and error.startswith("error: ") and words in error and "hush" not in error


@pytest.mark.parametrize(
    ("name", "value"), [("HTTP_PROXY", "gopher://x"), ("ALL_PROXY", "nonsense"), ("SSL_CERT_FILE", "nowhere.pem")]
)
def test_a_broken_environment_is_one_readable_line(
    name: str, value: str, prompts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    code, _, error = audit(*PAIR, *M, "--prompts", prompts)
    assert code == 2 and error.startswith("error: ") and "Traceback" not in error


def test_no_number_at_all_is_refused() -> None:
    code, out, _ = audit(*PAIR, *M, "--near-tie", "nan")
    assert (code, out) == (2, "")


def test_half_a_character_in_a_prompt(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a\\ud800"}\n')
    one = serve(saying("a"))
    code, _, error = compare(one, one, str(path))
    assert code == 2 and "half a character" in error
    path.write_text('{"id": "a\\ud800", "prompt": "a"}\n')
    code, out, _ = compare(serve(saying("a")), serve(saying("b")), str(path))
    assert code == 1 and "a\\ud800: token 0" in out


def test_a_server_that_has_moved_is_named(serve: Serve, prompts: str) -> None:
    one = serve(saying("a"))
    server = audit_server.Server(one.url, model="m", key=None, timeout=5, chat=False)
    with server, pytest.raises(audit_server.ServerError, match="HTTP 308 and points to http://new/v1; give"):
        server._read((308, {"location": "http://u:p@new/v1?x=1"}, b""), "/completions")


def test_addresses_are_shown_without_secrets() -> None:
    assert shown("http://user:pass@host/v1?key=1#x") == "http://host/v1"
    assert shown("user:pass@host") == "host"


def test_the_report_is_printed_before_it_is_saved(serve: Serve, prompts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = serve(saying("a"))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("betoken.bench.compare.write", full)
    code, out, error = compare(one, one, prompts, "--output", str(Path(prompts).with_name("out.json")))
    assert code == 2 and "1 identical" in out and "No space left" in error
