"""Recorded runs: what was fed and what was generated, as token ids, one conversation a line. No torch.

A trace is a text file of JSON lines, gzipped where its name ends in `.gz`. The first line says what the others are:

    {"format": "betoken-trace", "version": 1, "model": "...", "vocab_size": 4096, "eos_ids": [2]}

and every other line is a conversation:

    {"id": "7", "category": "chat", "segments": [["context", [5, 9]], ["output", [3, 1], "text"]], "seed": 0, "sampling": {}}

`model`, `vocab_size`, `eos_ids`, the texts, `seed` and `sampling` may be missing; so may the first line. `"sample": i` stands in
a conversation that was the (i+1)-th of several samples of its prompt, `"reference": [ids]` where one was given.
"""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from betoken.errors import BetokenError, TraceError
from betoken.files import replacing

FORMAT, VERSION = "betoken-trace", 1
CONTEXT, OUTPUT = "context", "output"
UNNAMED = "all"
LARGEST_ID = 2**31 - 1
EXPECTED = '{"id": ..., "category": ..., "segments": [["context", [ids]], ["output", [ids]], ...]}'


@dataclass(frozen=True, slots=True)
class Header:
    """What a trace says about itself; None where it does not."""

    model: str | None = None
    vocab_size: int | None = None
    eos_ids: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens that were fed ("context"), or generated ("output", the ending token included)."""

    kind: str
    tokens: tuple[int, ...]
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """One sequence: context and output segments in turns, in order.

    seed, sample: of the noise its tokens were chosen with; seed None where nobody knows
    sampling:     what else was asked for, by the names of `SamplingParams`
    reference:    what the output was expected to be, roughly
    """

    id: str
    category: str
    segments: tuple[Segment, ...]
    seed: int | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    sample: int = 0
    reference: tuple[int, ...] = ()

    @property
    def outputs(self) -> tuple[Segment, ...]:
        return tuple(segment for segment in self.segments if segment.kind == OUTPUT)


@dataclass(frozen=True, slots=True)
class Trace:
    """A whole file."""

    header: Header
    conversations: tuple[Conversation, ...]

    @property
    def vocab_size(self) -> int:
        """The header's, or one more than the largest id."""
        found = (max(s.tokens, default=0) for c in self.conversations for s in c.segments)
        return self.header.vocab_size or max(found, default=0) + 1

    @property
    def eos_ids(self) -> frozenset[int]:
        """The header's; else the token that most outputs end with, if there is one."""
        if self.header.eos_ids is not None:
            return frozenset(self.header.eos_ids)
        last = Counter(segment.tokens[-1] for c in self.conversations for segment in c.outputs if segment.tokens)
        return frozenset(token for token, times in last.items() if 2 * times > last.total())


def read(path: Path) -> Trace:
    """A trace, checked. Raises TraceError, naming file and line: not readable, cut off, of another version, no outputs,
    ids that are none or that the vocabulary lacks."""
    header, conversations = Header(), []
    first = True
    for number, line in lines(path):
        entry = parse(line, f"{path}:{number}")
        if first and "format" in entry:
            header = _header(entry, f"{path}:1")
        else:
            conversations.append(_conversation(entry, f"{path}:{number}", header.vocab_size))
        first = False
    if not any(conversation.outputs for conversation in conversations):
        raise TraceError(f"{path} has no outputs; expected at least one conversation, {EXPECTED}")
    return Trace(header, tuple(conversations))


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not empty, gzipped or not, one by one, each with its number from 1. Raises
    TraceError where it cannot be read to its end."""
    done = 0
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.open(raw, "rt", encoding="utf-8-sig") if packed else path.open(encoding="utf-8-sig") as file:
                for line in file:
                    done += 1
                    if line.strip():
                        yield done, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as failure:
        raise TraceError(
            f"{path} is cut off or damaged after line {done} ({failure}); copy or record it again, or keep what is "
            f"whole: gzip -dc {path} | head -n {done} > whole.jsonl"
        ) from failure
    except (OSError, UnicodeDecodeError) as failure:
        reason = getattr(failure, "strerror", None) or failure
        raise TraceError(f"{path} cannot be read: {reason}; expected JSON lines, gzipped or not") from failure


def parse(line: str, place: str, expected: str = EXPECTED) -> dict[str, Any]:
    """One line as a JSON object. Raises TraceError."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as failure:  # ValueError: no JSON, or a number of thousands of digits
        cut = "" if line.endswith("\n") else " (the line has no end: was the recording interrupted?)"
        raise TraceError(f"{place}: no JSON{cut}; expected {expected}") from failure
    if not isinstance(entry, dict):
        raise TraceError(f"{place}: {str(entry)[:40]!r}; expected {expected}")
    return entry


def _header(entry: Mapping[str, Any], place: str) -> Header:
    if entry["format"] != FORMAT or entry.get("version") != VERSION:
        raise TraceError(
            f"{place}: format {entry['format']!r}, version {entry.get('version')!r}; "
            f"this program reads {FORMAT!r}, version {VERSION}"
        )
    size = entry.get("vocab_size")
    if size is not None and (type(size) is not int or not 1 <= size <= LARGEST_ID + 1):
        raise TraceError(f"{place}: vocab_size is {str(size)[:40]}; expected 1 to {LARGEST_ID + 1}, or none")
    model, ends = entry.get("model"), entry.get("eos_ids")
    return Header(None if model is None else str(model), size, None if ends is None else _ids(ends, place, size))


def _conversation(entry: Mapping[str, Any], place: str, vocab_size: int | None) -> Conversation:
    segments = entry.get("segments")
    if not isinstance(segments, list) or not segments:
        raise TraceError(f"{place}: no segments; expected {EXPECTED}")
    read = tuple(_segment(segment, place, vocab_size) for segment in segments)
    if read[0].kind == OUTPUT:
        raise TraceError(f"{place}: the first segment is an output; expected what it was generated from before it")
    if not read[0].tokens:
        raise TraceError(f"{place}: the first segment is empty; expected at least one token to decode from")
    name, category = str(entry.get("id", place)), str(entry.get("category") or UNNAMED)
    reference = _ids(entry.get("reference", []), place, vocab_size)
    return Conversation(name, category, read, *_chosen_with(entry, place), reference)


def _chosen_with(entry: Mapping[str, Any], place: str) -> tuple[int | None, dict[str, Any], int]:
    """Seed, sampling and sample."""
    seed, sampling, sample = entry.get("seed"), entry.get("sampling"), entry.get("sample", 0)
    for name, value in (("seed", 0 if seed is None else seed), ("sample", sample)):
        if type(value) is not int or value < 0:
            raise TraceError(f"{place}: {name} is {str(value)[:40]!r}; expected a whole number of at least 0, or none")
    if sampling is not None and not isinstance(sampling, dict):
        raise TraceError(f"{place}: sampling is {str(sampling)[:40]!r}; expected an object, or none")
    return seed, sampling or {}, sample


def _segment(value: Any, place: str, vocab_size: int | None) -> Segment:
    if not isinstance(value, list) or len(value) not in (2, 3) or value[0] not in (CONTEXT, OUTPUT):
        raise TraceError(f'{place}: segment {str(value)[:40]!r}; expected ["context" or "output", [ids]]')
    kind, tokens, *text = value
    if text and not isinstance(text[0], str):
        raise TraceError(f"{place}: text {str(text[0])[:40]!r}; expected text, or nothing")
    return Segment(kind, _ids(tokens, place, vocab_size), text[0] if text else None)


def _ids(tokens: Any, place: str, vocab_size: int | None) -> tuple[int, ...]:
    if not isinstance(tokens, list):
        raise TraceError(f"{place}: tokens {str(tokens)[:40]!r}; expected a list of token ids")
    limit = LARGEST_ID if vocab_size is None else vocab_size - 1
    for token in tokens:
        if type(token) is not int or not 0 <= token <= limit:
            raise TraceError(f"{place}: token id {str(token)[:40]!r}; expected whole numbers from 0 to {limit}")
    return tuple(tokens)


def write(path: Path, trace: Trace) -> None:
    """Write a whole trace, all at once. Raises TraceError."""
    try:
        with replacing(path) as rough:
            rough.unlink()
            with Writer(rough, trace.header, packed=path.suffix == ".gz") as writer:
                for conversation in trace.conversations:
                    writer.add(conversation)
    except BetokenError as failure:
        reason = getattr(failure.__cause__, "strerror", None)
        raise TraceError(f"{path} cannot be written: {reason}" if reason else str(failure)) from failure


class Writer:
    """A trace written conversation by conversation. Each is in the file when `add` returns; where one cannot be written
    (a full disk) or is interrupted, the file keeps those before it, whole.

    path:   must not exist yet
    packed: gzip, by default where the name ends in `.gz`
    Raises TraceError, here and from `add`.
    """

    def __init__(self, path: Path, header: Header, *, packed: bool | None = None) -> None:
        self._path, self._packed = path, path.suffix == ".gz" if packed is None else packed
        self.written = 0
        refuse_existing(path)
        try:
            self._file: FileIO = path.open("xb", buffering=0)
        except OSError as failure:
            raise TraceError(f"{path} cannot be written: {failure.strerror}") from failure
        facts = {"model": header.model, "vocab_size": header.vocab_size, "eos_ids": header.eos_ids}
        known = {name: value for name, value in facts.items() if value is not None}
        try:
            self._put({"format": FORMAT, "version": VERSION, **known})
        except TraceError:
            self.close()
            path.unlink(missing_ok=True)
            raise

    def add(self, conversation: Conversation) -> None:
        """Append one conversation."""
        self._put(_spelt(conversation))
        self.written += 1

    def _put(self, entry: Mapping[str, Any]) -> None:
        data = _line(entry)
        whole = self._file.tell()
        try:
            # Every line is a gzip member of its own, so that what stands before a cut is whole.
            rest = memoryview(gzip.compress(data) if self._packed else data)
            while rest:
                rest = rest[self._file.write(rest) :]
        except BaseException as failure:
            self._file.truncate(whole)
            self._file.seek(whole)
            if not isinstance(failure, OSError):
                raise
            kept = f"it holds the {self.written} conversations recorded before" if self.written else "it holds nothing"
            raise TraceError(f"{self._path} cannot be written: {failure.strerror}; {kept}") from failure

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def refuse_existing(path: Path) -> None:
    """Raises TraceError where a recording would overwrite something, or has no folder to lie in."""
    try:
        exists = path.exists() or path.is_symlink()
    except OSError as failure:
        raise TraceError(f"{str(path)[:80]} cannot be written: {failure.strerror}") from failure
    if exists:
        raise TraceError(f"{path} exists already; give another name, or remove it")
    if not path.parent.is_dir():
        raise TraceError(f"{path} cannot be written: {path.parent} is no folder")


def _spelt(conversation: Conversation) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": conversation.id, "category": conversation.category}
    entry["segments"] = [
        [segment.kind, list(segment.tokens), *([] if segment.text is None else [segment.text])]
        for segment in conversation.segments
    ]
    if conversation.seed is not None:
        entry["seed"] = conversation.seed
    if conversation.sample:
        entry["sample"] = conversation.sample
    if conversation.sampling:
        entry["sampling"] = dict(conversation.sampling)
    if conversation.reference:
        entry["reference"] = list(conversation.reference)
    return entry


def _line(entry: Mapping[str, Any]) -> bytes:
    """A line of JSON. Half characters (lone surrogates) are no UTF-8, so where there are some, all is escaped."""
    text = json.dumps(entry, ensure_ascii=False, separators=(",", ":"))
    try:
        return (text + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(entry, separators=(",", ":")) + "\n").encode()
