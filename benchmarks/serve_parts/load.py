"""Load: clients that ask and read streams. While a clock may be running, arrivals are kept and nothing is parsed."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2 as httpx

from serve_parts.process import ServerFailedError

TIMEOUT_S = 600.0
T = TypeVar("T")


@dataclass(frozen=True)
class Ask:
    """A request, ready to be sent."""

    path: str
    body: bytes

    @classmethod
    def of(cls, path: str, body: dict[str, Any]) -> Ask:
        return cls(path, json.dumps(body).encode())


class Exchange:
    """One request and what came back, with times of a clock that only its process knows."""

    __slots__ = ("arrivals", "ask", "ended", "sent")

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.sent = self.ended = 0.0
        self.arrivals: list[tuple[float, bytes]] = []

    async def run(self, http: httpx.AsyncClient) -> None:
        """Raises ServerFailedError for whatever is no success."""
        headers = {"Content-Type": "application/json"}
        self.sent = time.perf_counter()
        async with http.stream("POST", self.ask.path, content=self.ask.body, headers=headers) as response:
            if response.status_code != httpx.codes.OK:
                said = (await response.aread()).decode(errors="replace")
                raise ServerFailedError(f"{self.ask.path}: {response.status_code} {said[:500]}")
            async for data in response.aiter_raw():
                self.arrivals.append((time.perf_counter(), data))
        self.ended = time.perf_counter()


@dataclass(frozen=True)
class Reply:
    """What a stream said.

    times: when text came, one for each read that brought some; since the request was sent
    steps: the same of tokens, some of which have no text; only where the request asked for `return_token_sources`
    """

    text: str
    times: list[float]
    steps: list[float]
    seconds: float
    usage: dict[str, Any]
    finish_reason: str | None

    @property
    def first(self) -> float:
        """How long the first text took."""
        return self.times[0] if self.times else self.seconds


def reply(exchange: Exchange) -> Reply:
    """Read an event stream. Raises ServerFailedError for an error in it, and for one without an end."""
    texts: list[str] = []
    times: list[float] = []
    steps: list[float] = []
    usage: dict[str, Any] = {}
    reason = None
    for when, chunk in _events(exchange):
        if "error" in chunk:
            raise ServerFailedError(f"{exchange.ask.path}: {chunk['error']}")
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices", ()):
            reason = choice.get("finish_reason") or reason
            text = choice.get("text") or choice.get("delta", {}).get("content") or ""
            texts.append(text)
            for came, seen in ((text, times), ("step" in choice, steps)):
                if came and (not seen or when > seen[-1]):
                    seen.append(when)
    if reason is None and exchange.ended:
        raise ServerFailedError(f"{exchange.ask.path}: the stream ended without a finish_reason")
    since, stepped = ([when - exchange.sent for when in each] for each in (times, steps))
    return Reply("".join(texts), since, stepped, exchange.ended - exchange.sent, usage, reason)


def _events(exchange: Exchange) -> list[tuple[float, dict[str, Any]]]:
    """The chunks, with the times at which their last byte came."""
    found, rest = [], b""
    for when, data in exchange.arrivals:
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            kind, _, value = line.strip().partition(b":")
            if kind == b"data" and value.strip() != b"[DONE]":
                found.append((when, json.loads(value)))
    return found


@dataclass(frozen=True)
class Round:
    """What came of a list of requests, in its order; seconds: from the first request to the end of the last answer."""

    exchanges: list[Exchange]
    seconds: float

    def replies(self) -> list[Reply]:
        return [reply(exchange) for exchange in self.exchanges]


def client(url: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(base_url=url, limits=limits, timeout=TIMEOUT_S, trust_env=False)


Meanwhile = Callable[[httpx.AsyncClient, Sequence[Exchange]], Coroutine[Any, Any, None]]


def load(url: str, asks: Sequence[Ask], clients: int, meanwhile: Meanwhile | None = None) -> Round:
    """So many clients work through a list, each with one request at a time.

    meanwhile: somebody else, who sees what has arrived so far
    """

    async def work() -> list[Exchange]:
        exchanges = [Exchange(ask) for ask in asks]
        waiting = iter(exchanges)

        async def one(http: httpx.AsyncClient) -> None:
            for exchange in waiting:
                await exchange.run(http)

        async with client(url) as http, asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(one(http))
            if meanwhile is not None:
                group.create_task(meanwhile(http, exchanges))
        return exchanges

    exchanges = undisturbed(work)
    start = min(exchange.sent for exchange in exchanges)
    return Round(exchanges, max(exchange.ended for exchange in exchanges) - start)


def undisturbed(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run it to its end without a pause for garbage; one failure says more than a group of them."""
    gc.collect()
    gc.disable()
    try:
        return asyncio.run(work())
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    finally:
        gc.enable()
