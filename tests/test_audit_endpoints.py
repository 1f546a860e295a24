"""Two real HTTP servers on this machine with scripted answers, and the command that compares them."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from betoken.bench.audit_endpoints import Setup
from betoken.cli import app

Answer = tuple[int, str, bytes]
Script = Callable[[str, dict[str, Any], int], Answer]  # path, body, how many requests came before -> answer


class Scripted:
    """An HTTP server that answers as its script says, and remembers what it was asked."""

    def __init__(self, script: Script) -> None:
        self.asked: list[tuple[str, dict[str, Any], str | None]] = []
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply({})

            def do_POST(self) -> None:
                self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def reply(self, body: dict[str, Any]) -> None:
                status, kind, data = script(self.path, body, len(scripted.asked))
                scripted.asked.append((self.path, body, self.headers.get("Authorization")))
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                with contextlib.suppress(BrokenPipeError):  # somebody who waited long enough
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[[Script], Scripted]]:
    running: list[Scripted] = []

    def start(script: Script) -> Scripted:
        running.append(Scripted(script))
        return running[-1]

    yield start
    for server in running:
        server.close()


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.txt"
    path.write_text("once\n")
    return str(path)


def as_json(found: Any, status: int = 200) -> Answer:
    return status, "application/json", json.dumps(found).encode()


def saying(*tokens: str, margin: float = 3.0, rival: str = "?", logprobs: bool = True) -> Script:
    """Greedy text completions; at every token the rival lies `margin` below."""

    def script(path: str, body: dict[str, Any], _: int) -> Answer:
        if path == "/v1/models":
            return as_json({"data": [{"id": "tiny"}]})
        if path != "/v1/completions":
            return as_json({"error": {"message": "no such path"}}, 404)
        tops = [{token: -0.1, rival: -0.1 - margin, "far": -20.0} for token in tokens]
        said = {"tokens": [*tokens], "top_logprobs": tops} if logprobs and body.get("logprobs") else None
        return as_json({"choices": [{"text": "".join(tokens), "logprobs": said}]})

    return script


def audit(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["audit", *arguments], env={"OPENAI_API_KEY": ""})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def compare(one: Scripted, other: Scripted, prompts: str, *more: str) -> tuple[int, str, str]:
    return audit("--endpoint", one.url, "--against", other.url, "--prompts", prompts, *more)


Serve = Callable[[Script], Scripted]


def test_the_same_text_is_identical(serve: Serve, prompts: str) -> None:
    one, other = serve(saying("a", "b")), serve(saying("a", "b"))
    code, out, _ = compare(one, other, prompts, "--max-tokens", "7", "--api-key", "secret")
    assert code == 0 and "1 prompts: 1 identical, 0 near tie, 0 undecided, 0 bug" in out
    path, body, key = one.asked[-1]
    assert (path, key) == ("/v1/completions", "Bearer secret")
    assert body == {"model": "tiny", "prompt": "once", "max_tokens": 7, "temperature": 0, "logprobs": 5}
    assert len([path for path, *_ in one.asked if path == "/v1/completions"]) == 2
    assert "secret" not in out


def test_a_narrow_difference_is_a_near_tie_and_a_wide_one_a_bug(serve: Serve, prompts: str, tmp_path: Path) -> None:
    near = serve(saying("a", "b", margin=0.1, rival="c")), serve(saying("a", "c", margin=0.2, rival="b"))
    assert compare(*near, prompts)[0] == 0
    code, out, _ = compare(*near, prompts, "--dtype", "float32")
    assert code == 1 and "bug        line-1: token 1, 'b' where 'c' was expected, margin 0.2" in out
    assert compare(*near, prompts, "--dtype", "float32", "--near-tie", "0.3")[0] == 0
    far = serve(saying("a", "b", margin=4.0, rival="c")), serve(saying("a", "c", margin=0.2, rival="b"))
    file = tmp_path / "out.json"
    code, out, _ = compare(*far, prompts, "--json", "--output", str(file), "--api-key", "secret")
    found = json.loads(out)
    assert code == 1 and json.loads(file.read_text()) == found and "secret" not in out
    assert found["schema"] == "betoken.audit-endpoints/1" and found["counts"]["bug"] == 1
    assert found["findings"][0]["margin"] == pytest.approx(4) and found["findings"][0]["said"] == ["c", "b"]
    assert found["settings"]["bound"] == 0.5


def test_a_token_that_is_not_listed_is_a_bug_if_even_the_last_one_listed_is_far(serve: Serve, prompts: str) -> None:
    assert compare(serve(saying("b")), serve(saying("c")), prompts)[0] == 1
    code, out, _ = compare(serve(saying("b", "x", rival="far")), serve(saying("b", rival="far")), prompts)
    assert code == 1 and "'x' where '(end)' was expected" in out


def test_without_logprobs_a_difference_is_undecided(serve: Serve, prompts: str) -> None:
    one, other = serve(saying("a", "b", logprobs=False)), serve(saying("a", "c", logprobs=False))
    code, out, _ = compare(one, other, prompts)
    assert code == 3 and "character 1, 'b' where 'c' was expected (no log-probabilities)" in out


def test_a_server_that_refuses_logprobs_is_asked_without(serve: Serve, prompts: str) -> None:
    def script(path: str, body: dict[str, Any], count: int) -> Answer:
        if "logprobs" in body:
            return as_json({"error": {"message": "logprobs are not supported"}}, 400)
        return saying("a")(path, body, count)

    one = serve(script)
    assert compare(one, serve(saying("a")), prompts)[0] == 0
    assert ["logprobs" in body for path, body, _ in one.asked if path != "/v1/models"] == [True, False, False]


def test_a_server_that_contradicts_itself_decides_nothing(serve: Serve, prompts: str) -> None:
    def script(path: str, body: dict[str, Any], count: int) -> Answer:
        return saying("ab"[count % 2])(path, body, count)

    code, out, _ = compare(serve(script), serve(saying("x")), prompts)
    assert code == 3 and "does not repeat itself" in out and "its output varies by itself" in out


def test_chat_completions(serve: Serve, prompts: str) -> None:
    def script(token: str, margin: float, rival: str) -> Script:
        def answer(path: str, body: dict[str, Any], _: int) -> Answer:
            assert path == "/v1/chat/completions"
            assert body["messages"] == [{"role": "user", "content": "once"}] and body["top_logprobs"] == 5
            top = [{"token": token, "logprob": -0.1}, {"token": rival, "logprob": -0.1 - margin}]
            entry = {"token": token, "logprob": -0.1, "top_logprobs": top}
            return as_json({"choices": [{"message": {"content": token}, "logprobs": {"content": [entry]}}]})

        return answer

    ways = ["--chat", "--endpoint-model", "m"]
    assert compare(serve(script("a", 0.1, "b")), serve(script("b", 0.1, "a")), prompts, *ways)[0] == 0
    assert compare(serve(script("a", 0.9, "b")), serve(script("b", 0.1, "a")), prompts, *ways)[0] == 1


def html(*_: Any) -> Answer:
    return 200, "text/html", b"<html><body>It works!</body></html>"


WRONG: list[tuple[Answer, str]] = [
    ((200, "text/html", b"<html>It works!</html>"), "answered text/html that is no JSON ('<html>It works!</html>')"),
    ((200, "application/json", b'{"choices": ['), "that is no JSON"),
    (as_json({"choices": []}), "JSON that is no completion"),
    (as_json({"choices": [{"text": 5}]}), "whose text is 5"),
    (as_json([1]), "expected a JSON object"),
    (
        as_json({"error": {"message": "wrong key"}}, 401),
        "HTTP 401 ('wrong key'); it refuses the key; give one with --api-key",
    ),
    (as_json({"detail": "Not Found"}, 404), "HTTP 404 ('Not Found'); it knows no such path or model"),
    ((500, "text/plain", b"boom"), "HTTP 500 ('boom'); look at the server's log"),
    (as_json({"error": "too long"}, 400), "HTTP 400 ('too long')"),
]


@pytest.mark.parametrize(("answer", "words"), WRONG, ids=[words[:24] for _, words in WRONG])
def test_what_a_server_does_wrong_is_one_readable_line(serve: Serve, prompts: str, answer: Answer, words: str) -> None:
    code, out, error = compare(serve(lambda *_: answer), serve(saying("a")), prompts, "--endpoint-model", "m")
    assert (code, out) == (2, "")
    assert error.startswith("error: ") and words in error and "Traceback" not in error


def test_a_server_that_is_not_there_or_slow(serve: Serve, prompts: str) -> None:
    gone = Scripted(html)
    gone.close()
    code, _, error = compare(gone, serve(saying("a")), prompts)
    assert code == 2 and "cannot be reached" in error and "is the server running" in error
    release = threading.Event()

    def slow(*_: Any) -> Answer:
        release.wait(5)
        return as_json({})

    code, _, error = compare(serve(slow), serve(saying("a")), prompts, "--timeout", "0.2", "--endpoint-model", "m")
    release.set()
    assert code == 2 and "no answer within 0.2 seconds" in error and "--timeout" in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--endpoint", "http://127.0.0.1:1"], "give both --endpoint URL and --against URL"),
        (["--endpoint", "nonsense", "--against", "http://127.0.0.1:1"], "expected an address such as"),
        (["--endpoint", "ftp://x", "--against", "http://127.0.0.1:1"], "expected an address such as"),
        (["--endpoint", "http://127.0.0.1:1", "--against", "http://["], "expected an address such as"),
        (
            ["--endpoint", "http://x", "--against", "http://y", "--methods", "ngram"],
            "--methods: for models loaded here",
        ),
        (["--endpoint", "http://x", "--against", "http://y", "--dtype", "int4"], "one of bfloat16"),
        (["--endpoint", "http://x", "--against", "http://y", "--prompts", "nowhere"], "cannot be read"),
    ],
)
def test_bad_options_are_one_readable_line(arguments: list[str], words: str) -> None:
    code, out, error = audit(*arguments)
    assert (code, out) == (2, "") and error.startswith("error: ") and words in error


def test_prompts_a_kind_of_completion_does_not_take(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "hi"}]}\n')
    one = serve(saying("a"))
    code, _, error = compare(one, one, str(path))
    assert code == 2 and "--chat asks for chat completions" in error
    path.write_text('{"prompt": [1, 2]}\n')
    code, _, error = compare(one, one, str(path), "--chat")
    assert code == 2 and "leave out --chat" in error
    assert compare(one, one, str(path))[0] == 0


def test_an_interrupted_comparison_says_what_it_found(serve: Serve, tmp_path: Path) -> None:
    from betoken.bench.audit_endpoints import run, workloads

    path = tmp_path / "prompts.txt"
    path.write_text("one\ntwo\nthree\n")
    one = serve(saying("a"))

    def tell(name: str) -> None:
        if name == "line-2":
            raise KeyboardInterrupt

    setup = Setup(one.url, one.url, prompts=path)
    report = run(setup, workloads(setup), tell)
    assert not report.complete and [finding.id for finding in report.findings] == ["line-1", "line-2"]
