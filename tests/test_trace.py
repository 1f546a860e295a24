"""Trace files: what is written is read again, and what is no trace is refused by file and line."""

import gzip
import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from betoken.cli.common import readable_errors
from betoken.errors import TraceError
from betoken.trace import CONTEXT, OUTPUT, Conversation, Header, Segment, Trace, Writer, read, write

TEXT = st.text(st.characters(exclude_categories=()), max_size=8)  # lone surrogates too
IDS = st.lists(st.integers(0, 99), max_size=6).map(tuple)
JSON = st.dictionaries(TEXT, st.one_of(st.booleans(), st.integers(-5, 5), TEXT, st.lists(st.floats(0, 9))), max_size=3)
GOOD = '{"id": "a", "segments": [["context", [1, 2]], ["output", [3], "x"]]}\n'
HEADER = '{"format": "betoken-trace", "version": 1, "vocab_size": 10}\n'


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    first = Segment(CONTEXT, draw(IDS.filter(len)), draw(st.none() | TEXT))
    rest = st.builds(Segment, st.sampled_from((CONTEXT, OUTPUT)), IDS, st.none() | TEXT)
    segments = (first, *draw(st.lists(rest, max_size=4)), Segment(OUTPUT, draw(IDS)))
    seed = draw(st.none() | st.integers(0, 2**63 - 1))
    return Conversation(draw(TEXT), draw(TEXT.filter(len)), segments, seed, draw(JSON), draw(st.integers(0, 3)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.builds(Header, st.none() | TEXT, st.none() | st.integers(100, 10**6)),
    told=st.lists(conversations(), min_size=1, max_size=4),
    name=st.sampled_from(("t.jsonl", "t.jsonl.gz")),
)
def test_what_is_written_is_read(tmp_path: Path, header: Header, told: list[Conversation], name: str) -> None:
    """Half characters, line ends inside texts, empty segments, seeds beyond 2**53."""
    trace = Trace(header, tuple(told))
    write(tmp_path / name, trace)
    assert read(tmp_path / name) == trace
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".tmp"] == []


def as_json(**fields: Any) -> str:
    return json.dumps({"id": "a", "segments": [["context", [1]], ["output", [2]]], **fields}) + "\n"


def said(*tokens: Any) -> str:
    return as_json(segments=[["context", [1]], ["output", list(tokens)]])


BAD: dict[str, tuple[str | bytes, int, str]] = {
    "empty file": ("", 0, "no outputs"),
    "header alone": (HEADER, 0, "no outputs"),
    "context alone": (HEADER + as_json(segments=[["context", [1]]]), 0, "no outputs"),
    "a later version": ('{"format": "betoken-trace", "version": 2}\n', 1, "version 2"),
    "another format": ('{"format": "other", "version": 1}\n', 1, "format 'other'"),
    "vocabulary too large": (
        '{"format": "betoken-trace", "version": 1, "vocab_size": 1099511627776}\n',
        1,
        "vocab_size",
    ),
    "an end too large": (
        '{"format": "betoken-trace", "version": 1, "eos_ids": [1180591620717411303424]}\n',
        1,
        "token id",
    ),
    "vocabulary true": ('{"format": "betoken-trace", "version": 1, "vocab_size": true}\n', 1, "vocab_size is True"),
    "id beyond the vocabulary": (HEADER + GOOD + said(10), 3, "token id '10'; expected whole numbers from 0 to 9"),
    "negative id": (said(-1), 1, "token id '-1'"),
    "huge id": (said(2**31), 1, "token id"),
    "digits without end": ('{"segments": [["context", [' + "9" * 5000 + "]]]}\n", 1, "no JSON"),
    "true": (said(True), 1, "token id 'True'"),
    "float": (said(2.0), 1, "token id '2.0'"),
    "text as ids": (as_json(segments=[["context", "abc"]]), 1, "tokens 'abc'"),
    "output first": (as_json(segments=[["output", [1]]]), 1, "first segment is an output"),
    "empty first": (as_json(segments=[["context", []], ["output", [1]]]), 1, "first segment is empty"),
    "no segments": (GOOD + '\n\n{"id": "b"}\n', 4, "no segments"),
    "segment of another kind": (as_json(segments=[["context", [1]], ["answer", [1]]]), 1, "segment"),
    "text that is none": (as_json(segments=[["context", [1], 5]]), 1, "text '5'"),
    "seed": (as_json(seed=-1), 1, "seed is '-1'"),
    "sample": (as_json(sample=True), 1, "sample is 'True'"),
    "sampling": (as_json(sampling=[1]), 1, "sampling is '[1]'"),
    "a list": ("[1, 2]\n", 1, "'[1, 2]'"),
    "plain text": ("hello\n", 1, "no JSON;"),
    "no end": (GOOD + GOOD[:30], 2, "was the recording interrupted?"),
    "deep": ('{"segments": ' + "[" * 100_000, 1, "no JSON"),
    "junk": (bytes(range(128, 256)) * 8, 0, "cannot be read"),
    "huge line": ('{"segments": [["context", [' + "1," * 500_000 + '"x"]]]}\n', 1, "token id 'x'"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_named_by_line(tmp_path: Path, kind: str, packed: bool, capsys: Any) -> None:
    """Anything but TraceError is a traceback to the user."""
    content, line, words = BAD[kind]
    data = content.encode() if isinstance(content, str) else content
    path = tmp_path / "t.jsonl"
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(TraceError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}: " if line else f"{path} ") and words in message
    assert len(message) < 400 + len(str(path))
    with pytest.raises(typer.Exit) as ended, readable_errors():
        read(path)
    assert ended.value.exit_code == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("place", ["", "nowhere.jsonl"])
def test_no_file(tmp_path: Path, place: str) -> None:
    with pytest.raises(TraceError, match="cannot be read"):
        read(tmp_path / place)


def test_other_systems_line_ends(tmp_path: Path) -> None:
    """A byte order mark, CRLF, empty lines, no line end after the last line."""
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + (HEADER + "\n" + GOOD + GOOD).replace("\n", "\r\n").encode().rstrip())
    trace = read(path)
    assert (trace.header.vocab_size, len(trace.conversations)) == (10, 2)


def inflated(data: bytes) -> bytes:
    """What `gzip -dc` prints of a cut file."""
    out = b""
    while data:
        member = zlib.decompressobj(wbits=31)
        try:
            out += member.decompress(data)
        except zlib.error:
            break
        data = member.unused_data
    return out


def test_a_cut_file_never_loses_lines_silently(tmp_path: Path) -> None:
    """Every cut is an error, or falls between two lines (which nobody can tell from a shorter recording)."""
    path = tmp_path / "t.jsonl.gz"
    told = [Conversation(str(n), "all", (Segment(CONTEXT, (1,)), Segment(OUTPUT, (n,)))) for n in range(3)]
    ends = []
    with Writer(path, Header(vocab_size=10)) as writer:
        header = path.stat().st_size
        for one in told:
            writer.add(one)
            ends.append(path.stat().st_size)
    data = path.read_bytes()
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        if cut in ends:
            assert read(path).conversations == tuple(told[: ends.index(cut) + 1])
            continue
        with pytest.raises(TraceError) as caught:
            read(path)
        whole = inflated(data[:cut]).count(b"\n")
        assert whole >= sum(end < cut for end in ends)
        message = str(caught.value)
        assert (f"after line {whole} " in message and f"head -n {whole}" in message) or cut in (0, 1, header)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("mine")
    with pytest.raises(TraceError, match="exists already"):
        Writer(path, Header())
    assert path.read_text() == "mine"
    with pytest.raises(TraceError, match="is no folder"):
        Writer(tmp_path / "no" / "t.jsonl", Header())


FULL_DISK = """
import resource, sys
from pathlib import Path
from betoken.errors import TraceError
from betoken.trace import *
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    with Writer(Path(sys.argv[1]), Header(vocab_size=300)) as writer:
        for number in range(100):
            ids = tuple((number * 7 + i * i) % 251 for i in range(40))
            writer.add(Conversation(str(number), "all", (Segment(CONTEXT, (1,)), Segment(OUTPUT, ids))))
except TraceError as error:
    print(writer.written if "writer" in globals() else None)
    print(error)
"""


@pytest.mark.parametrize("limit", [30, 1000, 1501])
@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
def test_a_full_disk_keeps_what_was_recorded(tmp_path: Path, limit: int, name: str) -> None:
    """A half-written last line made the whole file unreadable."""
    path = tmp_path / name
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path, str(limit)], capture_output=True, text=True, check=True
    )
    written, message = done.stdout.splitlines()
    assert f"{path} cannot be written" in message
    if limit == 30:
        assert (written, path.exists()) == ("None", False)
        return
    assert int(written) > 0 and f"holds the {written} conversations" in message
    assert [one.id for one in read(path).conversations] == [str(n) for n in range(int(written))]
