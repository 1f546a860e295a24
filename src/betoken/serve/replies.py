"""From the engine's steps to what clients read: whole answers and chunks of streams, chat and legacy completions."""

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from betoken.engine import TARGET
from betoken.sampling import TokenLogprobs
from betoken.serve.asking import Asked
from betoken.serve.worker import Part
from betoken.stats import Stats, total
from betoken.stops import FinishReason
from betoken.text import Detokenizer

DONE = b"data: [DONE]\n\n"
ALIVE = b": still here\n\n"
REFERENCE = "reference"
# An output that had to end because nothing may follow is not whole, so it has not "stopped".
REASONS = {FinishReason.EOS: "stop", FinishReason.STOP: "stop"}


def reason_of(finished: FinishReason) -> str:
    """As OpenAI's API has it."""
    return REASONS.get(finished, "length")


def dumps(value: Any) -> bytes:
    """JSON, halves of characters as escapes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def sse(value: Any) -> bytes:
    return b"data: " + dumps(value) + b"\n\n"


@dataclass(slots=True)
class Choice:
    """What has come of one request of a call."""

    index: int
    tokenizer: Any
    coloured: bool
    text: str = ""
    tokens: int = 0
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    accepted: int = 0  # drafted from the prediction, and kept
    finished: FinishReason | None = None
    stop: str | int | None = None
    stats: Stats | None = None
    sources: list[dict[str, str]] = field(default_factory=list)
    latest: list[dict[str, str]] = field(default_factory=list)  # of the last step
    _stream: Detokenizer | None = None
    _held: str = ""

    def take(self, part: Part) -> None:
        event = part.event
        self.text += event.text
        self.tokens += len(event.tokens)
        self.logprobs += event.logprobs
        self.accepted += event.sources.count(REFERENCE)
        if part.finished is not None:
            self.finished, self.stop, self.stats = part.finished, event.stopped_by, part.stats
        if self.coloured:
            self.latest = self._coloured_text(event.text, event.tokens, event.sources)
            self.sources += self.latest

    def _coloured_text(self, text: str, tokens: Sequence[int], sources: Sequence[str]) -> list[dict[str, str]]:
        """One entry a token; their texts together are what is shown now. Text held back before counts to the next token."""
        self._stream = self._stream or Detokenizer(self.tokenizer)
        pieces = [self._stream.push(token) for token in tokens] or [""]
        pieces[0] = self._held + pieces[0]
        self._held = "".join(pieces)[len(text) :]
        entries = []
        for piece, source in zip(pieces, sources or (TARGET,), strict=True):
            entries.append({"text": text[: len(piece)], "source": source})
            text = text[len(piece) :]
        entries[-1]["text"] += text
        return entries

    @property
    def reason(self) -> str | None:
        return None if self.finished is None else reason_of(self.finished)


class Reply:
    """One answer on its way."""

    def __init__(self, asked: Asked, model: str, tokenizer: Any) -> None:
        self._asked, self._model, self._tokenizer = asked, model, tokenizer
        self._chat, body = asked.chat, asked.body
        self.id = ("chatcmpl-" if self._chat else "cmpl-") + uuid.uuid4().hex
        self._created = int(time.time())
        self._coloured = bool(body.return_token_sources)
        count = len(asked.asks) * asked.asks[0].params.n
        self.choices = [Choice(index, tokenizer, self._coloured) for index in range(count)]
        self._offsets = [0] * count
        options = body.stream_options
        self._wants_usage = bool(options and options.include_usage)
        self._counts = bool(options and options.continuous_usage_stats)

    # Streams

    def opening(self) -> bytes:
        """What a stream begins with: the role; of a completion with `echo` the prompt."""
        if self._chat:
            return b"".join(
                self._chunk(
                    [{"index": choice.index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]
                )
                for choice in self.choices
            )
        echoes = [(choice.index, self._echo(choice.index)) for choice in self.choices]
        return b"".join(self._chunk([self._piece(index, text, None)]) for index, text in echoes if text)

    def chunk(self, part: Part) -> bytes:
        """What a step adds to a stream: nothing where it shows nothing and ends nothing."""
        choice = self.choices[part.index]
        choice.take(part)
        text, event = part.event.text, part.event
        if not (text or event.logprobs or choice.finished or self._coloured):
            return b""
        piece = self._piece(part.index, text, choice.reason)
        if event.logprobs:
            piece["logprobs"] = self._logprobs(event.logprobs, part.index)
        if choice.finished:
            piece["stop_reason"] = choice.stop
        if self._coloured:
            piece["sources"] = choice.latest
            kept = sum(source != TARGET for source in event.sources)
            piece["step"] = {"draft_tokens": event.drafted, "accepted_tokens": kept}
        return self._chunk([piece])

    def closing(self) -> bytes:
        """The usage, where it is wanted, and the end."""
        usage = self._chunk([], usage=self.usage()) if self._wants_usage else b""
        return usage + DONE

    def _piece(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        if self._chat:
            delta = {"content": text} if text or reason is None else {}
            return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}

    def _chunk(self, choices: list[dict[str, Any]], usage: Any = None) -> bytes:
        chunk = {**self._head("chat.completion.chunk" if self._chat else "text_completion"), "choices": choices}
        if self._wants_usage or self._counts:
            chunk["usage"] = usage or (self.usage() if self._counts else None)
        return sse(chunk)

    # Whole answers

    def whole(self) -> dict[str, Any]:
        """The answer where nothing was streamed."""
        head = self._head("chat.completion" if self._chat else "text_completion")
        return {**head, "choices": [self._whole(choice) for choice in self.choices], "usage": self.usage()}

    def _whole(self, choice: Choice) -> dict[str, Any]:
        logprobs = self._logprobs(choice.logprobs, choice.index) if choice.logprobs else None
        found: dict[str, Any] = {"index": choice.index}
        if self._chat:
            found["message"] = {"role": "assistant", "content": choice.text, "refusal": None}
        else:
            found["text"] = self._echo(choice.index) + choice.text
        found |= {"logprobs": logprobs, "finish_reason": choice.reason, "stop_reason": choice.stop}
        if self._coloured:
            found["sources"] = choice.sources
        return found

    def _echo(self, index: int) -> str:
        if self._chat or not getattr(self._asked.body, "echo", False):
            return ""
        ask = self._asked.ask_of(index)
        return ask.prompt if ask.prompt is not None else str(self._tokenizer.decode(ask.ids))

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "system_fingerprint": None,
        }

    # What was counted

    def usage(self) -> dict[str, Any]:
        said = sum(choice.tokens for choice in self.choices)
        read = self._asked.prompt_tokens
        stats = total([choice.stats for choice in self.choices if choice.stats is not None])
        usage: dict[str, Any] = {
            "prompt_tokens": read,
            "completion_tokens": said,
            "total_tokens": read + said,
            "prompt_tokens_details": {"cached_tokens": stats.cached_tokens},
            "completion_tokens_details": self._predicted(),
        }
        if self._asked.body.return_speculation_stats:
            usage["speculation"] = _speculation(stats, self._asked.asks[0].params.seed)
        return usage

    def _predicted(self) -> dict[str, int]:
        """Tokens of the prediction that were in the answer, as drafted from it and kept; and those that were not."""
        accepted = rejected = 0
        for choice in self.choices:
            expected = len(self._asked.ask_of(choice.index).reference)
            accepted += choice.accepted
            rejected += max(0, expected - choice.accepted)
        return {"reasoning_tokens": 0, "accepted_prediction_tokens": accepted, "rejected_prediction_tokens": rejected}

    def _logprobs(self, tokens: Sequence[TokenLogprobs], index: int) -> dict[str, Any]:
        if self._chat:
            top = self._asked.ask_of(index).params.logprobs or 0
            return {"content": [self._of_chat(token, top) for token in tokens], "refusal": None}
        return self._of_completion(tokens, index)

    def _of_chat(self, token: TokenLogprobs, top: int) -> dict[str, Any]:
        best = [self._spelt(other, logprob) for other, logprob in token.top.items()][:top]
        return {**self._spelt(token.token_id, token.logprob), "top_logprobs": best}

    def _spelt(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._token(token)
        return {"token": text, "logprob": logprob, "bytes": [*text.encode("utf-8", "replace")]}

    def _of_completion(self, tokens: Sequence[TokenLogprobs], index: int) -> dict[str, Any]:
        texts = [self._token(token.token_id) for token in tokens]
        offsets = []
        for text in texts:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(text)
        tops = [{self._token(other): logprob for other, logprob in token.top.items()} for token in tokens]
        return {
            "tokens": texts,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": tops,
            "text_offset": offsets,
        }

    def _token(self, token: int) -> str:
        return str(self._tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _speculation(stats: Stats, seed: int | None) -> dict[str, Any]:
    names = ("steps", "emitted_tokens", "drafts", "draft_tokens", "accepted_tokens", "accepted_per_position",
             "acceptance_rate", "mean_acceptance_length", "tokens_per_step", "prefill_s", "draft_s", "verify_s", "host_s")  # fmt: skip
    return {
        "method": [one.words if one.max_nodes else one.method if one.enabled else "off" for one in stats.speculation],
        **{name: getattr(stats, name) for name in names},
        "seed": seed,
    }
