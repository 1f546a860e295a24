"""Other people's logs as traces: prompts with completions, chats, requests with responses. No torch at import.

What a log does not say is not invented: no end token after a completion, no sampling, no thinking that was not logged. The
noise of another program is unknown, so drafts are made as for greedy decoding.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from betoken.chats import Chats
from betoken.errors import TraceError
from betoken.textual import Texts
from betoken.tokenization import load_tokenizer
from betoken.trace import (
    CONTEXT,
    LARGEST_ID,
    OUTPUT,
    UNNAMED,
    Conversation,
    Header,
    Segment,
    Trace,
    lines,
    parse,
    read,
)

SAID = ("completion", "response", "output")
EXPECTED = (
    'a trace, or JSON lines of {"prompt": ..., "completion": ...}, {"messages": [...]}, or '
    '{"request": {"messages": [...]}, "response": {"choices": [...]}}'
)
Entry = Mapping[str, Any]


def read_any(path: Path, tokenizer: Any | None = None) -> Trace:
    """A trace, or a log as one; its first line says what it is.

    tokenizer: of the texts: a tokenizer of `transformers`, or a folder or hub name of one, loaded only where it is needed
    Raises TraceError, naming file and line; ModelNotFoundError where the tokenizer cannot be had.
    """
    first = next(lines(path), None)
    if first is None:
        raise TraceError(f"{path} is empty; expected {EXPECTED}")
    place = f"{path}:{first[0]}"
    kind = kind_of(parse(first[1], place, EXPECTED))
    if kind == "trace":
        return read(path)
    if kind is None:
        raise TraceError(f"{place}: no kind of log this program knows; expected {EXPECTED}")
    return _read_log(path, KINDS[kind], tokenizer)


def kind_of(entry: Entry) -> str | None:
    """ "trace", "completions", "chat" or "requests"; None for anything else."""
    if "format" in entry or "segments" in entry:
        return "trace"
    if "prompt" in entry and any(name in entry for name in SAID):
        return "completions"
    if "messages" in entry:
        return "chat"
    return "requests" if "request" in entry or "custom_id" in entry else None


@dataclass(slots=True)
class _Line:
    """One line of a log, and where it stands."""

    entry: Entry
    place: str
    number: int

    @property
    def id(self) -> str:
        return next(
            (str(self.entry[name]) for name in ("id", "custom_id") if self.entry.get(name)), f"line-{self.number}"
        )

    @property
    def category(self) -> str:
        return next((str(self.entry[name]) for name in ("category", "group") if self.entry.get(name)), UNNAMED)

    def conversation(self, name: str, *segments: Segment, sample: int = 0) -> Conversation:
        return Conversation(name, self.category, segments, sample=sample)


Reader = Callable[["_Line", "Lazy"], Iterator[Conversation]]


class Lazy:
    """The tokenizer, loaded at the first text."""

    def __init__(self, tokenizer: Any | None) -> None:
        self._given = tokenizer
        self._texts: Texts | None = None

    @property
    def known(self) -> bool:
        return self._given is not None

    def texts(self, place: str) -> Texts:
        """Raises TraceError where no tokenizer was given."""
        if self._given is None:
            raise TraceError(f"{place}: text, and texts need a tokenizer: give --tokenizer, a folder or a hub name")
        if self._texts is None:
            given = self._given
            self._texts = Texts(load_tokenizer(given) if isinstance(given, str | Path) else given)
        return self._texts

    @property
    def vocab_size(self) -> int | None:
        return None if self._texts is None else self._texts.vocab_size


def _read_log(path: Path, reader: Reader, tokenizer: Any | None) -> Trace:
    lazy = Lazy(tokenizer)
    conversations: list[Conversation] = []
    for number, line in lines(path):
        place = f"{path}:{number}"
        conversations += reader(_Line(parse(line, place, EXPECTED), place, number), lazy)
    if not any(conversation.outputs for conversation in conversations):
        raise TraceError(f"{path} is a log with no assistant turn; expected at least one answer of a model")
    return Trace(Header(vocab_size=lazy.vocab_size), tuple(conversations))


def _completions(line: _Line, lazy: Lazy) -> Iterator[Conversation]:
    said = next((name for name in SAID if name in line.entry), None)
    if "prompt" not in line.entry or said is None:
        raise TraceError(f'{line.place}: expected {{"prompt": ..., "completion": ...}}, as on the first line')
    yield line.conversation(line.id, *_pair(line.entry["prompt"], line.entry[said], line.place, lazy))


def _pair(prompt: Any, said: Any, place: str, lazy: Lazy) -> tuple[Segment, Segment]:
    """Context and output. Both texts, or both lists of token ids."""
    if isinstance(prompt, str) and isinstance(said, str):
        texts = lazy.texts(place)
        before = texts.encode(prompt, place, special=True)
        after = texts.continued(before, prompt, said, place, special=True)
        return Segment(CONTEXT, _something(before, place)), Segment(OUTPUT, after, said)
    size = lazy.texts(place).vocab_size if lazy.known else None
    return Segment(CONTEXT, _something(_ids(prompt, place, size), place)), Segment(OUTPUT, _ids(said, place, size))


def _something(tokens: tuple[int, ...], place: str) -> tuple[int, ...]:
    if not tokens:
        raise TraceError(f"{place}: the prompt is empty; expected at least one token to decode from")
    return tokens


def _ids(value: Any, place: str, size: int | None) -> tuple[int, ...]:
    limit = LARGEST_ID if size is None else size - 1
    if not isinstance(value, list):
        raise TraceError(f"{place}: {str(value)[:40]!r}; expected both as text, or both as lists of token ids")
    for token in value:
        if type(token) is not int or not 0 <= token <= limit:
            raise TraceError(f"{place}: token id {str(token)[:40]!r}; expected whole numbers from 0 to {limit}")
    return tuple(value)


def _chat(line: _Line, lazy: Lazy) -> Iterator[Conversation]:
    """Every assistant turn after the first other one is an output."""
    chats = Chats(lazy.texts(line.place), line.place, line.entry.get("tools"))
    for number, segments in enumerate(chats.conversations(line.entry.get("messages"))):
        yield line.conversation(line.id if not number else f"{line.id}/{number + 1}", *segments)


def _requests(line: _Line, lazy: Lazy) -> Iterator[Conversation]:
    """The response's choices are outputs; what the request holds is context, earlier answers too: they have lines of their
    own."""
    request, response = _body(line.entry.get("request")), _body(line.entry.get("response"))
    if not request:
        raise TraceError(
            f"{line.place}: no request; expected the messages that were answered beside the response (the batch API's "
            'output file lacks them: put each line of the input file into its answer as "request")'
        )
    choices = response.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise TraceError(f'{line.place}: choices are {str(choices)[:40]!r}; expected a list of {{"message": ...}}')
    for sample, choice in enumerate(choices):
        name = line.id if not sample else f"{line.id}#{sample + 1}"
        yield line.conversation(name, *_answered(request, choice, line.place, lazy), sample=sample)


def _answered(request: Entry, choice: Entry, place: str, lazy: Lazy) -> tuple[Segment, ...]:
    if "messages" not in request:
        return _pair(request.get("prompt"), choice.get("text"), place, lazy)
    messages, answer = request["messages"], choice.get("message")
    if not isinstance(messages, list) or not messages:
        raise TraceError(f"{place}: the request has no messages; expected a list of them")
    return Chats(lazy.texts(place), place, request.get("tools")).answer([*messages, answer])


def _body(value: Any) -> Entry:
    """What the batch API wraps once more; empty where a request failed."""
    inner = value.get("body", value) if isinstance(value, dict) else {}
    return inner if isinstance(inner, dict) else {}


KINDS: Mapping[str, Reader] = {"completions": _completions, "chat": _chat, "requests": _requests}
