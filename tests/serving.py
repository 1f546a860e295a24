"""A server in a thread of the tests' own process, on a free port of the loopback."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import uvicorn

from betoken import LLM, demo
from betoken.scheduler import Limits
from betoken.serve.app import create_app
from betoken.serve.service import Service
from betoken.serve.settings import Settings

NAME = "betoken-demo"
LIMITS = Limits(rows=16, stall=2.0, step_tokens=4096, kv_bytes=1 << 30, kept_bytes=64 << 20)


@dataclass(frozen=True)
class Served:
    """url: without a slash at its end; v1: what OpenAI's clients call base_url."""

    url: str
    service: Service
    server: uvicorn.Server

    @property
    def v1(self) -> str:
        return self.url + "/v1"


@cache
def embedded() -> LLM:
    """The embedded pair, loaded once a process. One server at a time may use it."""
    target, draft = demo.pair()
    return LLM(target, draft, max_rows=16)


def another() -> LLM:
    """A second one, for a server beside that of the module's."""
    return LLM(demo.pair()[0], method="ngram", max_rows=16)


@contextlib.contextmanager
def served(llm: LLM | None = None, limits: Limits = LIMITS, **settings: Any) -> Iterator[Served]:
    service = Service(lambda: llm or embedded(), Settings(name=NAME, **settings), lambda llm: limits)
    with serving(service) as found:
        yield found


@contextlib.contextmanager
def serving(service: Service) -> Iterator[Served]:
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    config = uvicorn.Config(create_app(service), log_level="warning", log_config=None, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield Served(f"http://127.0.0.1:{bound.getsockname()[1]}", service, server)
    finally:
        server.should_exit = True
        thread.join(20)
        bound.close()
        service.llm.target.limit_kv(None)


def at_rest(served: Served, seconds: float = 10.0) -> bool:
    """Whether the engine comes to have nothing to do and no row."""
    engine, until = served.service.worker.engine, time.monotonic() + seconds
    while time.monotonic() < until:
        if not engine.unfinished and not served.service.worker.open_requests and not engine.target._rows:  # type: ignore[attr-defined]
            return True
        time.sleep(0.02)
    return False
