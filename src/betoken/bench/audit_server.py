"""An OpenAI-compatible server as the audit sees it: one greedy completion at a time, and errors that say what to do."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx2 as httpx

from betoken.bench.workloads import Workload
from betoken.errors import BetokenError, ParameterError, PromptError

TOP = 5  # the most that OpenAI's completions give
ADVICE = {
    401: "it refuses the key; give one with --api-key or in OPENAI_API_KEY",
    403: "it refuses the key; give one with --api-key or in OPENAI_API_KEY",
    404: "it knows no such path or model; the address should end where /completions begins (…/v1), the model is "
    "--endpoint-model, and a server of chats alone wants --chat",
    429: "it is overloaded, or limits requests; try again later",
    503: "it is not ready; try again later",
}
REFUSES_A_FIELD = (400, 422, 501)


class ServerError(BetokenError):
    """A server that cannot be audited: what it answered, and what to do."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A completion. `tokens` and `tops` (their texts -> log-probability, one dict a token) where the server tells."""

    text: str
    tokens: tuple[str, ...] | None = None
    tops: tuple[Mapping[str, float], ...] | None = None


class Server:
    """One server. Close it, or use it in a `with` statement.

    url:     where the API's paths begin, e.g. http://localhost:8000/v1; without any path, /v1 is meant
    model:   None: the first one the server lists
    key:     sent as a bearer token
    timeout: seconds that one answer may take
    chat:    chat completions instead of text completions
    Raises ParameterError; every call ServerError.
    """

    def __init__(self, url: str, *, model: str | None, key: str | None, timeout: float, chat: bool) -> None:
        self.url = _base(url)
        self._chat = chat
        self._timeout = timeout
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(headers=headers, timeout=timeout)
        self._model = model
        self._with_logprobs = True

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def model(self) -> str:
        """The model asked for."""
        if self._model is None:
            listed = self._json("GET", "/models").get("data")
            first = listed[0] if isinstance(listed, list) and listed else None
            if not isinstance(first, Mapping) or "id" not in first:
                raise ServerError(f"{self.url}/models lists no model; name one with --endpoint-model")
            self._model = str(first["id"])
        return self._model

    def complete(self, workload: Workload, max_tokens: int) -> Reply:
        """The server's greedy answer. Raises PromptError for a prompt this kind of completion does not take."""
        path = "/chat/completions" if self._chat else "/completions"
        asked = self._asked(workload)
        body = {"model": self.model, **asked, "max_tokens": max_tokens, "temperature": 0}
        if self._with_logprobs:
            extra = {"logprobs": True, "top_logprobs": TOP} if self._chat else {"logprobs": TOP}
            answer = self._send("POST", path, {**body, **extra})
            if answer.status_code not in REFUSES_A_FIELD:
                return _reply(self._read(answer, path), self.url + path)
            # A refusal of the prompt looks the same: the next answer tells which it was.
        reply = _reply(self._json("POST", path, body), self.url + path)
        self._with_logprobs = False
        return reply

    def _asked(self, workload: Workload) -> dict[str, Any]:
        if not self._chat:
            if workload.messages:
                raise PromptError(f"prompt {workload.id} is a conversation; --chat asks for chat completions")
            return {"prompt": workload.prompt if isinstance(workload.prompt, str) else [*workload.prompt]}
        if not workload.messages and not isinstance(workload.prompt, str):
            raise PromptError(
                f"prompt {workload.id} is a list of token ids; chat completions take text, so leave out --chat"
            )
        return {"messages": [*workload.messages] or [{"role": "user", "content": workload.prompt}]}

    def _json(self, verb: str, path: str, body: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        return self._read(self._send(verb, path, body), path)

    def _send(self, verb: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        try:
            return self._client.request(verb, self.url + path, json=body)
        except httpx.TimeoutException:
            raise ServerError(
                f"{self.url}{path} gave no answer within {self._timeout:g} seconds; wait longer with --timeout, or ask "
                "for fewer tokens with --max-tokens"
            ) from None
        except httpx.ConnectError as failure:
            raise ServerError(
                f"{self.url} cannot be reached ({failure}); is the server running, and at this address?"
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as failure:
            reason = str(failure) or type(failure).__name__
            raise ServerError(f"{self.url}{path} broke off its answer ({reason}); look at the server's log") from None

    def _read(self, answer: httpx.Response, path: str) -> Mapping[str, Any]:
        where = self.url + path
        if answer.status_code != 200:
            advice = ADVICE.get(answer.status_code, "look at the server's log")
            raise ServerError(f"{where} answered HTTP {answer.status_code}{_reason(answer)}; {advice}")
        try:
            found = answer.json()
        except ValueError:
            kind = answer.headers.get("content-type", "no content type").partition(";")[0]
            raise ServerError(
                f"{where} answered {kind} that is no JSON ({_start(answer.text)}); is it an OpenAI-compatible server?"
            ) from None
        if not isinstance(found, dict):
            raise ServerError(f"{where} answered {_start(answer.text)}; expected a JSON object")
        return found


def _base(url: str) -> str:
    try:
        parsed = urlsplit(url.strip())
        good = parsed.scheme in ("http", "https") and bool(parsed.hostname) and (parsed.port or 1) > 0
    except ValueError:
        good = False
    if not good:
        raise ParameterError("url", url, "an address such as http://localhost:8000/v1")
    base = url.strip().rstrip("/").removesuffix("/completions").removesuffix("/chat")
    return base if parsed.path.strip("/") else base + "/v1"


def _start(text: str) -> str:
    line = " ".join(text.split())
    return repr(line[:60] + "…" * (len(line) > 60)) if line else "nothing"


def _reason(answer: httpx.Response) -> str:
    """The server's own words, where it has some: the shapes of OpenAI, vLLM, TGI and FastAPI."""
    try:
        found = answer.json()
    except ValueError:
        return f" ({_start(answer.text)})" if answer.text.strip() else ""
    error = found.get("error", found.get("detail", found.get("message"))) if isinstance(found, dict) else found
    message = error.get("message", error) if isinstance(error, dict) else error
    return f" ({_start(str(message))})"


def _reply(found: Mapping[str, Any], where: str) -> Reply:
    try:
        choice = found["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        tokens, tops = _logprobs(choice.get("logprobs"))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as failure:
        raise ServerError(
            f"{where} answered JSON that is no completion ({type(failure).__name__}: {failure}); expected choices with a "
            "text, as the OpenAI API gives them"
        ) from None
    if text is not None and not isinstance(text, str):
        raise ServerError(f"{where} answered a completion whose text is {text!r}; expected a string")
    return Reply(text or "", tokens, tops)


def _logprobs(found: Any) -> tuple[tuple[str, ...] | None, tuple[Mapping[str, float], ...] | None]:
    """The tokens, and the likeliest ones at each, in both shapes that servers use."""
    if not found:
        return None, None
    if content := found.get("content"):
        tops = [{one["token"]: float(one["logprob"]) for one in entry.get("top_logprobs") or ()} for entry in content]
        return tuple(str(entry["token"]) for entry in content), tuple(tops) if any(tops) else None
    tokens, listed = found.get("tokens"), found.get("top_logprobs")
    tops = [{str(token): float(value) for token, value in (entry or {}).items()} for entry in listed or ()]
    fits = tokens is not None and len(tops) == len(tokens) and any(tops)
    return None if tokens is None else tuple(map(str, tokens)), tuple(tops) if fits else None
