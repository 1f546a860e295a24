"""Errors as OpenAI's clients read them: `{"error": {"message", "type", "param", "code"}}`, with the status that goes with it."""

import json
from collections.abc import Mapping
from typing import Any

from betoken.errors import BetokenError, NoRoomError, ParameterError, PromptError

INVALID, AUTHENTICATION, NOT_FOUND = "invalid_request_error", "authentication_error", "not_found_error"
OVERLOADED, INTERNAL = "overloaded_error", "internal_server_error"
KINDS = {401: AUTHENTICATION, 404: NOT_FOUND, 429: OVERLOADED, 500: INTERNAL, 503: OVERLOADED}
# Ours where it is not OpenAI's name.
NAMES = {"include_stop_str": "include_stop_str_in_output"}


class APIError(Exception):
    """What a client is told, and how."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        kind = KINDS.get(self.status, INVALID)
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class ServerBusyError(APIError):
    """The queue is full (429), or the server is about to end (503)."""

    def __init__(self, message: str, status: int = 503) -> None:
        super().__init__(status, message, code="overloaded", headers={"Retry-After": "1"})


class EngineDiedError(APIError):
    """The engine's thread has ended because of an error; only a new start helps."""

    def __init__(self, why: BaseException) -> None:
        super().__init__(503, f"the engine has died ({type(why).__name__}); restart the server", code="engine_dead")


def _spelt(value: Any) -> str:
    """As JSON has it; texts that are JSON, or have quotes, as they are."""
    if isinstance(value, str) and '"' in value:
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return repr(value)


def readable(failure: BaseException) -> APIError:
    """Any error as one for a client. What is nobody's fault but ours says nothing of our insides."""
    if isinstance(failure, APIError):
        return failure
    if isinstance(failure, NoRoomError):
        return APIError(
            503, f"no memory for this request: {failure}", code="out_of_memory", headers={"Retry-After": "1"}
        )
    if isinstance(failure, ParameterError):
        name = NAMES.get(failure.name, failure.name)
        message = f"{name} is {_spelt(failure.value)}; expected {failure.expected}"
        return APIError(400, message, param=name, code="invalid_value")
    if isinstance(failure, PromptError):
        code = "context_length_exceeded" if "has room for" in str(failure) else "invalid_prompt"
        return APIError(400, str(failure), param="prompt", code=code)
    if isinstance(failure, BetokenError):
        return APIError(400, str(failure))
    return APIError(
        500, "internal error; the server's log says more, by this answer's X-Request-ID", code="internal_error"
    )
