"""When an output ends: checked token by token, inside an accepted run too. No torch; text comes through a protocol.

Proposers know nothing of this: they may draft past an end, and what they drafted there is dropped.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Protocol

from betoken.params import SamplingParams


class FinishReason(StrEnum):
    """Why an output ended: an end-of-sequence or stop id, a stop string (or a grammar that allows nothing more), max_tokens, the end of the context, the end of
    a recording; "abort" where the target had nothing more to say."""

    EOS = "eos"
    STOP = "stop"
    LENGTH = "length"
    CONTEXT = "context"
    END = "end"
    ABORT = "abort"


class TextStream(Protocol):
    """Incremental detokenising: whole characters only."""

    def push(self, token: int) -> str:
        """The text this token completes; empty while a character is unfinished."""

    def flush(self) -> str:
        """What is left at the end, unfinished characters replaced."""


class Stops:
    """The stop conditions of one request, and the text that may be shown so far.

    Text that could be the beginning of a stop string is held back until it is clear.
    """

    def __init__(
        self,
        params: SamplingParams,
        *,
        eos_ids: Iterable[int],
        room: int,
        text: TextStream | None = None,
        ends: int | None = None,
    ) -> None:
        self._params = params
        self._eos = frozenset() if params.ignore_eos else frozenset(eos_ids)
        self._limit = min(room, params.max_tokens or room)
        self._limit_reason = FinishReason.CONTEXT if room < (params.max_tokens or room + 1) else FinishReason.LENGTH
        self._stream, self._ends = text, ends
        self._held = ""
        self.count = 0
        self.reason: FinishReason | None = None
        self.stop: str | int | None = None

    @property
    def room(self) -> int:
        """How many more tokens the output can take."""
        return self._limit - self.count

    def push(self, token: int) -> bool:
        """Take one token; True where the output ends with it. An ending token id is not shown as text."""
        self.count += 1
        if self.count >= self._params.min_tokens:
            self._check_ids(token)
        if self.reason is None or self._params.include_stop_str:
            self._show(token)
        if self.reason is None and self.count >= self._limit:
            self.reason = self._limit_reason
        if self.reason is None and self.count == self._ends:
            self.reason = FinishReason.END
        return self.reason is not None

    def _check_ids(self, token: int) -> None:
        if token in self._params.stop_token_ids:
            self.reason, self.stop = FinishReason.STOP, token
        elif token in self._eos:
            self.reason = FinishReason.EOS

    def _show(self, token: int) -> None:
        if self._stream is None:
            return
        before = len(self._held)
        self._held += self._stream.push(token)
        if self._params.stop and self.count >= self._params.min_tokens and self.reason is None:
            self._search(before)

    def _search(self, before: int) -> None:
        """End at the first stop string that ends past `before`, in the last token's text: one that min_tokens let pass
        must not come back because a step of several tokens still holds its text."""
        places = [
            (self._held.find(stop, max(0, before - len(stop) + 1)), -len(stop), stop) for stop in self._params.stop
        ]
        found = [place for place in places if place[0] >= 0]
        if not found:
            return
        at, _, stop = min(found)
        self._held = self._held[: at + (len(stop) if self._params.include_stop_str else 0)]
        self.reason, self.stop = FinishReason.STOP, stop

    def take_text(self) -> str:
        """The text that is certain by now; everything once the output has ended."""
        if self.reason is not None:
            if self._stream is not None and not isinstance(self.stop, str):
                self._held += self._stream.flush()
            text, self._held = self._held, ""
            return text
        certain = len(self._held) - self._undecided()
        text, self._held = self._held[:certain], self._held[certain:]
        return text

    def _undecided(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) for stop in self._params.stop), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._params.stop):
                return length
        return 0
