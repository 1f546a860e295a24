"""What goes wrong around a server: clients that vanish, drafters that throw, no memory, an engine that dies. Nothing hangs."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from serving import NAME, Served, another, at_rest, served

from betoken.errors import NoRoomError

TEXT: dict[str, Any] = {"model": NAME, "prompt": "Once upon a time", "max_tokens": 20, "temperature": 0}
LONG: dict[str, Any] = {
    **TEXT,
    "max_tokens": 2000,
    "ignore_eos": True,
    "stream": True,
    "speculation": {"enabled": False},
}


@pytest.fixture
def server() -> Iterator[Served]:
    with another() as llm, served(llm, write_seconds=1.0, body_seconds=2.0) as found:
        yield found


def ask(server: Served, **fields: Any) -> httpx.Response:
    return httpx.post(server.v1 + "/completions", json={**TEXT, **fields}, timeout=60)


def raw(server: Served, body: dict[str, Any]) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    content = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    return connection


def test_clients_that_vanish_by_the_hundred(server: Served) -> None:
    """Amid their stream, before their first token, without a word or with a reset; who stays is served as if alone."""
    expected = ask(server).json()["choices"][0]["text"]
    with ThreadPoolExecutor(24) as pool:
        staying = [pool.submit(ask, server) for _ in range(4)]
        for number in range(200):
            connection = raw(server, {**LONG, "prompt": f"Client {number}"})
            if number % 3 == 0:
                connection.settimeout(5)
                with contextlib.suppress(TimeoutError):
                    connection.recv(100)
            if number % 2:
                linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.close()
        assert [one.result().json()["choices"][0]["text"] for one in staying] == [expected] * 4
    assert at_rest(server, 30)
    assert ask(server).json()["choices"][0]["text"] == expected


def test_whole_answers_are_cancelled_too(server: Served) -> None:
    with contextlib.suppress(httpx.ReadTimeout):
        httpx.post(server.v1 + "/completions", json={**LONG, "stream": False}, timeout=0.3)
    assert at_rest(server)


def test_a_reader_that_reads_nothing_is_dropped(server: Served) -> None:
    """Its stream filled buffers for ever; others go on meanwhile."""
    connections = []
    for _ in range(3):
        connection = raw(
            server, {**LONG, "max_tokens": 4000, "speculation": {"enabled": True}, "return_token_sources": True}
        )
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connections.append(connection)
    assert ask(server).status_code == 200
    assert at_rest(server, 40)
    for connection in connections:
        connection.close()


def test_connections_that_say_nothing(server: Served) -> None:
    """Half-open ones hold nothing but a socket."""
    host, port = server.url.removeprefix("http://").split(":")
    idle = [socket.create_connection((host, int(port))) for _ in range(50)]
    for connection in idle[:25]:
        connection.sendall(b"POST /v1/completions HT")
    assert ask(server).status_code == 200
    for connection in idle:
        connection.close()
    assert httpx.get(server.url + "/health").status_code == 200


@pytest.mark.parametrize("where", ["propose", "observe", "begin"])
def test_a_drafter_that_throws(server: Served, where: str) -> None:
    expected = ask(server, speculation={"enabled": False}).json()["choices"][0]["text"]
    proposer = server.service.drafting.proposer()

    def fails(*given: Any) -> Any:
        raise RuntimeError("broken drafter")

    setattr(proposer, where, fails)
    for stream in (False, True):
        assert ask(server, stream=stream).status_code == 200
    assert ask(server).json()["choices"][0]["text"] == expected
    assert at_rest(server) and httpx.get(server.url + "/health").status_code == 200


def poisoned(server: Served, failure: Exception, token: int) -> None:
    """The target fails where a prompt has this token."""
    target = server.service.worker.engine.target
    score = target.score

    def broken(feeds: Any) -> Any:
        if any(token in feed.tokens for feed in feeds):
            raise failure
        return score(feeds)

    target.score = broken  # type: ignore[method-assign]


@pytest.mark.parametrize(("failure", "status"), [(NoRoomError("no memory"), 503), (ValueError("a bug"), 500)])
def test_a_row_that_fails_fails_alone(server: Served, failure: Exception, status: int) -> None:
    expected = ask(server, max_tokens=60).json()["choices"][0]["text"]
    poisoned(server, failure, 777)
    with ThreadPoolExecutor(8) as pool:
        others = [pool.submit(ask, server, max_tokens=60) for _ in range(4)]
        failing = [pool.submit(ask, server, prompt=[5, 777, 6], stream=stream) for stream in (False, True)]
        for one in failing:
            answer = one.result()
            assert answer.status_code == status, answer.text
            assert answer.json()["error"]["message"] and "a bug" not in answer.text
        assert [one.result().json()["choices"][0]["text"] for one in others] == [expected] * 4
    assert at_rest(server) and httpx.get(server.url + "/health").status_code == 200


def test_an_engine_that_dies(server: Served) -> None:
    """Everybody who waits is told, in a stream too; who comes later is refused; health says so."""
    engine = server.service.worker.engine
    step, alive = engine.step, threading.Event()

    def dies() -> Any:
        if alive.is_set():
            raise SystemError("the end")
        return step()

    engine.step = dies  # type: ignore[method-assign]
    with ThreadPoolExecutor(3) as pool:
        whole = pool.submit(httpx.post, server.v1 + "/completions", json={**LONG, "stream": False}, timeout=30)
        with httpx.stream("POST", server.v1 + "/completions", json=LONG, timeout=30) as stream:
            chunks = stream.iter_lines()
            next(chunks)
            alive.set()
            lines = [line for line in chunks if line]
        assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "engine_dead"
        assert whole.result().status_code == 503
    assert httpx.get(server.url + "/health").status_code == 503
    assert ask(server).status_code == 503 and ask(server, stream=True).status_code == 503


def test_what_is_asked_while_it_drains(server: Served) -> None:
    server.service.worker.draining = True
    assert ask(server).status_code == 503
    assert httpx.get(server.url + "/health").json() == {"status": "draining"}


def test_the_event_loop_goes_on(server: Served) -> None:
    """A prompt that is made into tokens in the event loop stops everybody's stream: it answers while one is being read."""
    reader, reading, go_on = server.service._reader, threading.Event(), threading.Event()
    read = reader.read

    def slow(*given: Any) -> Any:
        reading.set()
        assert go_on.wait(60)
        return read(*given)

    reader.read = slow  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, server)
        assert reading.wait(30)
        assert httpx.get(server.url + "/health").status_code == 200
        go_on.set()
        assert waiting.result().status_code == 200


def test_who_waits_when_the_server_ends_is_told(server: Served) -> None:
    """The thread ended, and nobody told those that it had served."""
    with httpx.stream("POST", server.v1 + "/completions", json=LONG, timeout=30) as stream:
        chunks = stream.iter_lines()
        next(chunks)
        server.service.worker.stop()
        lines = [line for line in chunks if line]
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "overloaded"
