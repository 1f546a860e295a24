"""What an OpenAI-compatible server answers, taken apart. Knows nothing of connections."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from betoken.errors import BetokenError


class ServerError(BetokenError):
    """A server that cannot be audited: what it answered, and what to do."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A completion. `tokens` and `tops` (their texts -> finite log-probability, one dict a token) where the server tells."""

    text: str
    tokens: tuple[str, ...] | None = None
    tops: tuple[Mapping[str, float], ...] | None = None

    def starts(self, where: int) -> list[int] | None:
        """Where in the text each token begins, and where the last one ends; None where they do not spell the text, up
        to and with the character at `where`. Tokens after the text (an end that the server names) may follow.
        """
        if self.tokens is None or not "".join(self.tokens).startswith(self.text[: where + 1]):
            return None
        places = [0]
        for token in self.tokens:
            places.append(places[-1] + len(token))
        return places


def reply_of(found: Mapping[str, Any], where: str) -> Reply:
    """A completion out of a server's JSON. Raises ServerError."""
    try:
        choice = found["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        tokens, tops = _logprobs(choice.get("logprobs"))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError) as failure:
        reason = f"{type(failure).__name__}: {failure}"[:100]
        raise ServerError(
            f"{where} answered JSON that is no completion ({reason}); expected choices with a "
            "text, as the OpenAI API gives them"
        ) from None
    if text is not None and not isinstance(text, str):
        raise ServerError(f"{where} answered a completion whose text is {repr(text)[:60]}; expected a string")
    return Reply(text or "", tokens, tops)


def _logprobs(found: Any) -> tuple[tuple[str, ...] | None, tuple[Mapping[str, float], ...] | None]:
    """The tokens, and the likeliest ones at each, in both shapes that servers use."""
    if not found:
        return None, None
    if content := found.get("content"):
        tops = [_finite((one["token"], one["logprob"]) for one in entry.get("top_logprobs") or ()) for entry in content]
        return tuple(str(entry["token"]) for entry in content), tuple(tops) if any(tops) else None
    tokens, listed = found.get("tokens"), found.get("top_logprobs")
    tops = [_finite((entry or {}).items()) for entry in listed or ()]
    fits = tokens is not None and len(tops) == len(tokens) and any(tops)
    return None if tokens is None else tuple(map(str, tokens)), tuple(tops) if fits else None


def _finite(pairs: Iterable[tuple[Any, Any]]) -> dict[str, float]:
    """Nothing follows from a log-probability that is infinite or no number: as if it had not been given."""
    numbers = {str(token): float(value) for token, value in pairs if value is not None}
    return {token: value for token, value in numbers.items() if math.isfinite(value)}
