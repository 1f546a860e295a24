"""`betoken serve` as a process: what it says, what it refuses, how it ends."""

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import another, at_rest, served
from typer.testing import CliRunner

from betoken.cli import app
from betoken.serve import service

URL = re.compile(r"https?://127\.0\.0\.1:\d+")
# Beside other tests: threads that spin for each other on too few cores make everything a hundred times as slow.
QUIET = {"OMP_NUM_THREADS": "1"}
ASK: dict[str, Any] = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}


@contextmanager
def process(*options: str, **environment: str) -> Iterator[tuple[str, "subprocess.Popen[str]", list[str]]]:
    """url, process, and the lines it has said so far."""
    command = [sys.executable, "-m", "betoken", "serve", "--port", "0", *options]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **QUIET, **environment})
    assert started.stderr is not None
    said: list[str] = []
    listening = threading.Event()

    def read(lines: Any) -> None:
        for line in lines:
            said.append(line)
            if "Betoken serves" in line:
                listening.set()
        listening.set()

    reader = threading.Thread(target=read, args=(started.stderr,), daemon=True)
    reader.start()
    try:
        assert listening.wait(120), said
        found = next((URL.search(line) for line in said if "Betoken serves" in line), None)
        assert found is not None, said
        yield found.group(), started, said
    finally:
        started.kill()
        started.wait()
        reader.join(5)
        started.stderr.close()


def refused(*options: str) -> str:
    """In this process, for it ends before anything is served."""
    done = CliRunner().invoke(app, ["serve", *options])
    assert done.exit_code == 2, done.output
    return done.output


def test_it_says_what_it_serves_and_drains() -> None:
    """A stream that runs when SIGTERM comes is finished; the exit code says that all is well."""
    with process("--method", "ngram", "--max-rows", "2", BETOKEN_API_KEYS=" one, two ,") as (url, started, said):
        time.sleep(0.3)
        greeting = "".join(said)
        assert (
            "betoken-demo" in greeting
            and "method ngram" in greeting
            and "GiB" in greeting
            and "a key is needed" in greeting
        )
        headers = {"Authorization": "Bearer two"}
        assert httpx.post(url + "/v1/completions", json=ASK).status_code == 401
        assert httpx.post(url + "/v1/completions", json=ASK, headers=headers).status_code == 200
        endless = {**ASK, "max_tokens": 150, "ignore_eos": True, "stream": True, "speculation": {"enabled": False}}
        with httpx.stream("POST", url + "/v1/completions", json=endless, headers=headers, timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            started.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]" and '"finish_reason":"length"' in rest[-2]
        assert started.wait(30) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(url + "/health")


def test_it_does_not_wait_for_ever() -> None:
    with process("--method", "ngram", "--drain-seconds", "1") as (url, started, said):
        endless = {**ASK, "max_tokens": 4000, "ignore_eos": True, "stream": True, "speculation": {"enabled": False}}
        with httpx.stream("POST", url + "/v1/completions", json=endless, timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            began = time.monotonic()
            started.send_signal(signal.SIGTERM)
            told = [line for line in lines if line][-1]
        assert json.loads(told.removeprefix("data: "))["error"]["code"] == "overloaded"
        assert started.wait(15) == 0 and time.monotonic() - began < 12
        assert "Traceback" not in "".join(said)


def test_a_second_signal_ends_it_at_once() -> None:
    with process("--method", "ngram", "--drain-seconds", "600") as (url, started, said):
        endless = {**ASK, "max_tokens": 4000, "ignore_eos": True, "stream": True, "speculation": {"enabled": False}}
        with httpx.stream("POST", url + "/v1/completions", json=endless, timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            started.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            started.send_signal(signal.SIGTERM)
            assert '"error"' in [line for line in lines if line][-1]
        assert started.wait(15) == 0
        assert "Traceback" not in "".join(said)


def test_the_log_says_what_is_done(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(service, "REPORT_SECONDS", 0.05)
    with another() as llm, served(llm) as server, caplog.at_level("INFO", "betoken.serve"):
        assert httpx.post(server.v1 + "/completions", json={**ASK, "max_tokens": 40}, timeout=60).status_code == 200
        assert at_rest(server)

        def lines() -> list[str]:
            return [record.getMessage() for record in caplog.records if "tokens/s" in record.getMessage()]

        time.sleep(0.5)
        said = lines()
        assert said and all("of answers" in line and "waiting" in line for line in said)
        time.sleep(0.5)
        assert lines() == said, "where nothing is done nothing is said"


def test_ctrl_c_ends_it() -> None:
    with process("--method", "ngram") as (url, started, said):
        assert httpx.get(url + "/health").status_code == 200
        started.send_signal(signal.SIGINT)
        assert started.wait(15) in (0, 130)
        assert "Traceback" not in "".join(said)


def test_what_it_refuses(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = refused("--port", str(taken.getsockname()[1]))
        assert "cannot listen" in said and "--port" in said
    assert "log-level" in refused("--log-level", "loud")
    assert "--ssl-certfile" in refused("--ssl-keyfile", __file__)
    assert "ssl-keyfile" in refused("--ssl-keyfile", str(tmp_path / "none"), "--ssl-certfile", __file__)
    assert "kv-memory" in refused("--kv-memory", "-1")
    assert "that are there" in refused("--kv-memory", "500000", "--port", "0")
    assert "4096" in refused("--max-model-len", "100000", "--port", "0")
    assert "two models" in refused("./one", "--model", "./two")
    assert "no-such-model" in refused("./no-such-model")
    assert "chat-template" in refused("--chat-template", str(tmp_path / "none"))
    assert "port" in refused("--port", "99999")
    assert "max-rows" in refused("--max-rows", "0")
    assert "max-queue" in refused("--max-queue", "0")
    assert "api-key" in refused("--api-key", " ")
    assert "no-such-model" in refused("--model", "./no-such-model")
    assert "one of" in refused("--method", "nonsense", "--port", "0")
    assert "TLS" in refused("--port", "0", "--method", "ngram", "--ssl-keyfile", __file__, "--ssl-certfile", __file__)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="a certificate is made with openssl, and there is none")
def test_tls(tmp_path: Path) -> None:
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    make = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-keyout",
        key,
        "-out",
        certificate,
    ]
    subprocess.run([*make, *subject], check=True, capture_output=True)
    with process("--method", "ngram", "--ssl-keyfile", key, "--ssl-certfile", certificate) as (url, _, _):
        assert url.startswith("https")
        trust = ssl.create_default_context(cafile=certificate)
        assert httpx.post(url + "/v1/completions", json=ASK, verify=trust).status_code == 200
        assert httpx.get(url + "/", verify=trust).status_code == 200


def test_a_full_disk_is_no_obstacle(tmp_path: Path) -> None:
    """What forward passes take cannot be kept: it is measured anyway."""
    nowhere = tmp_path / "file"
    nowhere.write_text("no folder")
    with process("--method", "auto", BETOKEN_CACHE=str(nowhere)) as (url, _, _):
        assert httpx.post(url + "/v1/completions", json=ASK, timeout=60).status_code == 200
