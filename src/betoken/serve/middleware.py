"""What stands before every request: an id, a key, a body that is neither too large nor too slow, and errors as JSON."""

import asyncio
import logging
import re
import uuid
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from betoken.serve.errors import APIError, readable
from betoken.serve.replies import dumps
from betoken.serve.settings import Settings

LOG = logging.getLogger("betoken.serve")
GUARDED = ("/v1", "/tokenize", "/detokenize")
SPEAKABLE = re.compile(r"[\w.:-]{1,128}", re.ASCII)
SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


async def answer(failure: APIError, send: Send) -> None:
    body = dumps(failure.body())
    headers = [(name.lower().encode(), value.encode()) for name, value in failure.headers.items()]
    headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": failure.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Door:
    """The one middleware. `scope["state"]["owner"]`, `["request_id"]` and `["size"]` are there for what comes after. refused: told of statuses."""

    def __init__(self, app: ASGIApp, settings: Settings, refused: Callable[[int], None]) -> None:
        self._app, self._settings, self._refused = app, settings, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        number = _number(Headers(scope=scope).get("x-request-id"))
        state = scope.setdefault("state", {})
        state["request_id"] = number
        started = False

        async def named(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = number
                for name, value in SAFE.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            state["owner"] = self._owner(scope)
            body = await self._body(scope, receive)
            state["size"] = len(body)
            await self._app(scope, _replayed(body, receive), named)
        except Exception as failure:
            if started:
                raise
            told = readable(failure)
            if told.status >= 500 and told is not failure:
                LOG.exception("request %s failed", number)
            self._refused(told.status)
            await answer(told, named)

    def _owner(self, scope: Scope) -> str:
        path: str = scope["path"]
        root: str = scope.get("root_path", "")
        path = path.removeprefix(root) if root else path
        owner = self._settings.owner(Headers(scope=scope).get("authorization"))
        if owner is not None:
            return owner
        if path.startswith(GUARDED) and scope["method"] != "OPTIONS":
            message = "a key is needed: send it as Authorization: Bearer ..., one of those the server was started with"
            raise APIError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        return "nobody"

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """All of it. Raises APIError."""
        most = self._settings.max_body
        length = Headers(scope=scope).get("content-length")
        if length is not None and length.isdecimal() and int(length) > most:
            raise _too_large(most)
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return b""
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                await _collect(parts, receive, most)
        except TimeoutError:
            raise APIError(408, "the request's body did not come in time", code="timeout") from None
        return b"".join(parts)


async def _collect(parts: list[bytes], receive: Receive, most: int) -> None:
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise APIError(400, "the client went amid its request")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise _too_large(most)
        more = message.get("more_body", False)


def _too_large(most: int) -> APIError:
    return APIError(413, f"the request has more than {most:,} bytes (--max-body)", code="request_too_large")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body again; then whatever comes, which is the client going."""
    told = False

    async def replay() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _number(given: str | None) -> str:
    return given if given is not None and SPEAKABLE.fullmatch(given) else uuid.uuid4().hex
