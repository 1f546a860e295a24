"""The HTTP side: routes, and which error goes out how. The event loop waits for nothing but queues."""

import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from betoken import __version__
from betoken.errors import BetokenError, PromptError
from betoken.serve.asking import plain
from betoken.serve.errors import APIError, readable
from betoken.serve.middleware import Door
from betoken.serve.protocol import (
    ChatRequest,
    CompletionRequest,
    Detokenized,
    DetokenizeRequest,
    ErrorBody,
    Generation,
    Tokenized,
    TokenizeRequest,
)
from betoken.serve.replies import ALIVE, Reply, dumps, sse
from betoken.serve.service import Service
from betoken.serve.streams import EventStream, GoneError, while_there
from betoken.serve.worker import Call

LOG = logging.getLogger("betoken.serve")
ALIVE_SECONDS = 15.0
PAGE_POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
PAGE_FILES = ("race.js", "dom.js", "lane.js", "plot.js", "verdict.js", "wire.js", "race.css", "favicon.svg")
SAYS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": about}
    for status, about in (
        (400, "what was asked cannot be done, and why"),
        (401, "no key, or a wrong one"),
        (404, "no such model"),
        (408, "the request did not come in time"),
        (413, "the request is too large"),
        (429, "too many requests wait already"),
        (500, "an error of the server"),
        (503, "no memory, or about to end"),
    )
}
EVENTS = {"text/event-stream": {"schema": {"description": "events of chunks, then of [DONE], where stream is true"}}}
KEY = Depends(HTTPBearer(auto_error=False, description="one of the server's keys, where it has any"))
Key = Annotated[HTTPAuthorizationCredentials | None, KEY]


class Compact(JSONResponse):
    """JSON that takes whatever a model may say, halves of characters too."""

    def render(self, content: Any) -> bytes:
        return dumps(content)


def create_app(service: Service, *, root_path: str = "") -> FastAPI:
    """The application. It starts the service with itself, and stops it."""

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    app = FastAPI(
        title="Betoken",
        version=__version__,
        description="OpenAI-compatible completions with speculative decoding inside: the same text, sooner.",
        lifespan=life,
        root_path=root_path,
        default_response_class=Compact,
        responses=SAYS,
        redirect_slashes=False,
    )
    app.add_middleware(Door, settings=service.settings, refused=service.metrics.refused)
    if origins := service.settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=[*origins],
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-ID"],
        )
    _errors(app, service)
    _completions(app, service)
    _models(app, service)
    _tokens(app, service)
    _about(app, service)
    if service.settings.page:
        _page(app)
    _describe(app)
    return app


def _errors(app: FastAPI, service: Service) -> None:
    def told(failure: APIError) -> Response:
        service.metrics.refused(failure.status)
        return Compact(failure.body(), failure.status, headers=failure.headers)

    async def ours(request: Request, failure: Exception) -> Response:
        return told(readable(failure))

    async def invalid(request: Request, failure: Exception) -> Response:
        assert isinstance(failure, RequestValidationError)
        return told(_invalid(failure, request.headers.get("content-type")))

    async def http(request: Request, failure: Exception) -> Response:
        assert isinstance(failure, HTTPException)
        message = {404: f"there is nothing at {request.url.path}"}.get(failure.status_code, str(failure.detail))
        return told(APIError(failure.status_code, message, headers=failure.headers))

    async def gone(request: Request, failure: Exception) -> Response:
        return Response(status_code=499)

    for kind in (APIError, BetokenError):
        app.add_exception_handler(kind, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(GoneError, gone)


def _invalid(failure: RequestValidationError, content_type: str | None) -> APIError:
    """The first of what does not fit: where, and why."""
    errors = failure.errors()
    first: dict[str, Any] = errors[0] if errors else {"loc": ("body",), "msg": "not what was expected", "type": ""}
    if "json" not in (content_type or ""):
        found = f"it has {content_type}" if content_type else "it has none"
        message = f"the request needs the header Content-Type: application/json; {found}"
        return APIError(400, message, code="invalid_content_type")
    if first["type"] == "json_invalid":
        why, place = first.get("ctx", {}).get("error", "it cannot be read"), first["loc"][-1]
        return APIError(400, f"the request's body is no JSON: {why}, at character {place}", code="invalid_json")
    where = ".".join(str(step) for step in first["loc"] if step != "body")
    others = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return APIError(400, f"{where or 'the request'}: {first['msg']}{others}", param=where or None, code="invalid_type")


def _completions(app: FastAPI, service: Service) -> None:
    async def answer(body: Generation, request: Request) -> Response:
        asked = await service.read(body, request.state.owner, request.state.size)
        call = service.submit(asked)
        reply = Reply(asked, service.settings.name, service.tokenizer)
        if not body.stream:
            return Compact(await while_there(request, _whole(call, reply)))
        await while_there(request, _begun(call, service.settings.patience))
        return EventStream(_events(call, reply, service), seconds=service.settings.write_seconds)

    @app.post("/v1/chat/completions", tags=["completions"], responses={200: {"content": EVENTS}})
    async def chat(body: ChatRequest, request: Request, key: Key = None) -> Response:
        """Answer a conversation."""
        return await answer(body, request)

    @app.post("/v1/completions", tags=["completions"], responses={200: {"content": EVENTS}})
    async def complete(body: CompletionRequest, request: Request, key: Key = None) -> Response:
        """Go on with a text."""
        return await answer(body, request)


async def _begun(call: Call, seconds: float) -> None:
    try:
        await call.begun(seconds)
    except BaseException:
        call.close()
        raise


async def _whole(call: Call, reply: Reply) -> dict[str, Any]:
    async with contextlib.aclosing(call.parts()) as parts:
        async for part in parts:
            if part is not None:
                reply.choices[part.index].take(part)
    return reply.whole()


async def _events(call: Call, reply: Reply, service: Service) -> AsyncGenerator[bytes]:
    """The stream. What goes wrong in it is its last event, for its status is sent already."""
    try:
        yield reply.opening()
        async with contextlib.aclosing(call.parts(ALIVE_SECONDS)) as parts:
            async for part in parts:
                yield ALIVE if part is None else reply.chunk(part)
        yield reply.closing()
    except APIError as failure:
        service.metrics.refused(failure.status)
        yield sse(failure.body())
    finally:
        call.close()


def _models(app: FastAPI, service: Service) -> None:
    made = int(time.time())

    def model() -> dict[str, Any]:
        info, llm = service.llm.info, service.llm
        own = {
            "method": llm.method,
            "methods": [name for name in llm.methods() if name != "draft" or info.draft is not None],
            "draft": info.draft is not None,
            "device": info.device,
            "dtype": info.dtype,
            "version": __version__,
        }
        return {
            "id": service.settings.name, "object": "model", "created": made, "owned_by": "betoken",
            "max_model_len": service.context, "betoken": own,
        }  # fmt: skip

    @app.get("/v1/models", tags=["models"])
    async def models(key: Key = None) -> dict[str, Any]:
        """The model that is served."""
        return {"object": "list", "data": [model()]}

    @app.get("/v1/models/{name:path}", tags=["models"])
    async def one(name: str, key: Key = None) -> dict[str, Any]:
        """The same, by name."""
        service.check_model(name)
        return model()


def _tokens(app: FastAPI, service: Service) -> None:
    @app.post("/tokenize", tags=["tokens"])
    async def tokenize(body: TokenizeRequest, request: Request, key: Key = None) -> Tokenized:
        """A text, or a conversation, as the model reads it."""
        service.check_model(body.model)
        if (body.prompt is None) == (body.messages is None):
            raise PromptError("give either a prompt or messages")
        messages = None if body.messages is None else [plain(one) for one in body.messages]
        ids = await service.tokens(body.prompt, messages, body.add_special_tokens, request.state.size)
        return Tokenized(count=len(ids), max_model_len=service.context, tokens=ids)

    @app.post("/detokenize", tags=["tokens"])
    async def detokenize(body: DetokenizeRequest, key: Key = None) -> Detokenized:
        """Token ids as text."""
        service.check_model(body.model)
        return Detokenized(prompt=service.text(body.tokens))


def _about(app: FastAPI, service: Service) -> None:
    @app.get("/health", tags=["server"])
    async def health() -> Response:
        """200 while requests are answered; 503 once the engine has died, or the server is about to end."""
        worker = service.worker
        state = "ok" if worker.alive and not worker.draining else "draining" if worker.alive else "the engine has died"
        return Compact({"status": state}, 200 if state == "ok" else 503)

    app.get("/ping", tags=["server"], include_in_schema=False)(health)

    @app.get("/version", tags=["server"])
    async def version() -> dict[str, str]:
        return {"version": __version__}

    @app.get("/metrics", tags=["server"], response_class=Response)
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _page(app: FastAPI) -> None:
    folder = Path(str(resources.files("betoken.serve") / "page"))
    headers = {"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-cache"}

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(folder / "index.html", headers=headers)

    @app.get("/page/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        if name not in PAGE_FILES:
            raise HTTPException(404)
        return FileResponse(folder / name, headers=headers)


def _describe(app: FastAPI) -> None:
    """Errors of validation are 400 here, as OpenAI has it; the description says so."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        schema = made()
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
