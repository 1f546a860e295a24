"""An OpenAI-compatible server as the audit sees it: one greedy completion at a time, and errors that say what to do."""

import json
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx2 as httpx

from betoken.bench.audit_reply import Reply, ServerError, reply_of
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
LONGEST_ANSWER = 64 * 2**20  # bytes
LONGEST_WAIT = 86_400.0  # seconds
Answer = tuple[int, Mapping[str, str], bytes]  # status, headers, body


class Server:
    """One server. Close it, or use it in a `with` statement.

    url:     where the API's paths begin, e.g. http://localhost:8000/v1; without any path, /v1 is meant
    model:   None: the first one the server lists
    key:     sent as a bearer token
    timeout: seconds that one answer may take, from the question to its last byte
    chat:    chat completions instead of text completions
    Raises ParameterError; every call ServerError.
    """

    def __init__(self, url: str, *, model: str | None, key: str | None, timeout: float, chat: bool) -> None:
        self._base = _base(url)
        self.url = shown(self._base)
        self._chat = chat
        self._timeout = _seconds(timeout)
        self._key = checked_key(key)
        self._client = _client(self._key, timeout)
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
            if answer[0] not in REFUSES_A_FIELD:
                return reply_of(self._read(answer, path), self.url + path)
            # A refusal of the prompt looks the same: the next answer tells which it was.
        reply = reply_of(self._json("POST", path, body), self.url + path)
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

    def _ask(self, verb: str, path: str, data: bytes | None) -> Answer:
        """One question, and at most `LONGEST_ANSWER` bytes of answer."""
        headers = {"Content-Type": "application/json"} if data is not None else {}
        with self._client.stream(verb, self._base + path, content=data, headers=headers) as answer:
            parts, size = [], 0
            for part in answer.iter_bytes():
                parts.append(part)
                size += len(part)
                if size > LONGEST_ANSWER:
                    raise ServerError(f"{self.url}{path} answered more than {LONGEST_ANSWER >> 20} MB; ask for less")
            return answer.status_code, answer.headers, b"".join(parts)

    def _send(self, verb: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        data = None if body is None else _encoded(body)
        try:
            return _within(self._timeout, lambda: self._ask(verb, path, data))
        except (httpx.TimeoutException, queue.Empty):
            raise ServerError(
                f"{self.url}{path} gave no answer within {self._timeout:g} seconds; wait longer with --timeout, or ask "
                "for fewer tokens with --max-tokens"
            ) from None
        except httpx.ConnectError as failure:
            raise ServerError(
                f"{self.url} cannot be reached ({self._hidden(str(failure))}); is the server running, and at this address?"
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as failure:
            reason = self._hidden(str(failure)) or type(failure).__name__
            raise ServerError(f"{self.url}{path} broke off its answer ({reason}); look at the server's log") from None

    def _read(self, answer: Answer, path: str) -> Mapping[str, Any]:
        status, headers, data = answer
        where, text = self.url + path, data.decode(errors="replace")
        if status in range(300, 400):
            target = shown(self._hidden(headers.get("location", "nowhere")))
            raise ServerError(f"{where} answered HTTP {status} and points to {target}; give the address it moved to")
        if status != 200:
            advice = ADVICE.get(status, "look at the server's log")
            raise ServerError(f"{where} answered HTTP {status}{self._reason(text)}; {advice}")
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            kind = headers.get("content-type", "no content type").partition(";")[0]
            raise ServerError(
                f"{where} answered {kind} that is no JSON ({self._start(text)}); is it an OpenAI-compatible server?"
            ) from None
        if not isinstance(found, dict):
            raise ServerError(f"{where} answered {self._start(text)}; expected a JSON object")
        return found

    def _hidden(self, text: str) -> str:
        """Without the key, which a server may send back."""
        return text.replace(self._key, "…") if self._key else text

    def _start(self, text: str) -> str:
        line = " ".join(self._hidden(text[:10_000]).split())
        return repr(line[:60] + "…" * (len(line) > 60)) if line else "nothing"

    def _reason(self, text: str) -> str:
        """The server's own words, where it has some: the shapes of OpenAI, vLLM, TGI and FastAPI."""
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return f" ({self._start(text)})" if text.strip() else ""
        error = found.get("error", found.get("detail", found.get("message"))) if isinstance(found, dict) else found
        message = error.get("message", error) if isinstance(error, dict) else error
        return f" ({self._start(str(message))})"


def shown(url: str) -> str:
    """An address as it may be printed: without a user's name and password, and without a query."""
    return re.sub(r"(^|//)[^/?#]*@", r"\1", url.partition("?")[0].partition("#")[0])


def checked_key(key: str | None) -> str | None:
    """A key that fits in a header, without the blanks around it. Raises BetokenError, which does not show it."""
    key = (key or "").strip()
    if any(not "!" <= letter <= "~" for letter in key):
        raise BetokenError(
            "the API key has a blank, a control character or a letter outside ASCII in it; expected what --api-key or "
            "OPENAI_API_KEY usually hold"
        )
    return key or None


def _seconds(timeout: float) -> float:
    if not 0 < timeout <= LONGEST_WAIT:
        raise ParameterError("timeout", timeout, f"seconds, at most {LONGEST_WAIT:g}")
    return timeout


def _client(key: str | None, timeout: float) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        return httpx.Client(headers=headers, timeout=timeout)
    except (ValueError, OSError, ImportError, httpx.InvalidURL) as failure:
        raise ServerError(
            f"connections cannot be set up ({type(failure).__name__}: {shown(str(failure))}); look at HTTP_PROXY, "
            "HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE and SSL_CERT_DIR in the environment"
        ) from None


def _encoded(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise PromptError("a prompt or the model's name has half a character in it (a lone surrogate)") from None
    except (ValueError, RecursionError) as failure:
        raise PromptError(f"a prompt cannot be written as JSON ({failure})") from None


def _within(seconds: float, call: Callable[[], Answer]) -> Answer:
    """What a call returns or raises. Raises queue.Empty where that takes longer.

    In a thread, which is given up then: a server that sends a byte now and then keeps every wait for a byte short.
    """
    done: queue.Queue[Answer | BaseException] = queue.Queue()

    def work() -> None:
        try:
            done.put(call())
        except BaseException as failure:
            done.put(failure)

    end = time.monotonic() + seconds
    threading.Thread(target=work, daemon=True).start()
    found = done.get(timeout=max(end - time.monotonic(), 0.0))
    if isinstance(found, BaseException):
        raise found
    return found


def _base(url: str) -> str:
    try:
        parsed = urlsplit(url.strip())
        good = parsed.scheme in ("http", "https") and bool(parsed.hostname) and (parsed.port or 1) > 0
        good = good and url.isprintable() and not set("?#") & set(url)
        (parsed.hostname or "").encode("idna")
    except ValueError:
        good = False
    if not good:
        wanted = "an address such as http://localhost:8000/v1, without a query"
        raise ParameterError("url", shown(url), wanted)
    base = url.strip().rstrip("/").removesuffix("/completions").removesuffix("/chat")
    return base if parsed.path.strip("/") else base + "/v1"
