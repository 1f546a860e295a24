"""Measured times on the disk: believed only where everything fits, measured again otherwise, said once, never a crash."""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import byte_tokenizer, tiny_llama

from betoken import LLM, SamplingParams, curves
from betoken.curves import SCHEMA, conditions, curve_of, folder
from betoken.targets.base import Feed
from betoken.targets.hf import HFTarget

TEXT = tuple(range(5, 60))


class Counting(HFTarget):
    """Counts forward passes."""

    forwards = 0

    def score(self, feeds: Any) -> Any:
        self.forwards += 1
        return super().score(feeds)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BETOKEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def target() -> Counting:
    return Counting(tiny_llama(hidden=16, layers=1))


@pytest.fixture(scope="module")
def written(target: Counting, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Name and text of a good file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BETOKEN_CACHE", str(tmp_path_factory.mktemp("good")))
        curve_of(target, TEXT, max_rows=1)
        path = only_file(folder())
        return path.name, path.read_text()


def curve(target: Counting, *, max_rows: int = 1, **more: Any) -> tuple[dict[Any, float], int]:
    """The points of a target's curve, and how many forward passes it took to get them."""
    before = target.forwards
    points = curve_of(target, TEXT, max_rows=max_rows, **more)[0].points
    return points, target.forwards - before


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_what_was_measured_once_is_read_the_next_time(cache: Path, target: Counting) -> None:
    """By another object with the same model, too; and nothing is measured then, and nothing left lying about."""
    first, forwards = curve(target)
    assert forwards > 100 and len(first) > 10 and (1, 1, 192) in first
    second, forwards = curve(target)
    assert (second, forwards) == (first, 0)
    other = Counting(tiny_llama(seed=5, hidden=16, layers=1))
    before = other.forwards
    assert curve_of(other, TEXT, max_rows=1)[0].points == first and other.forwards == before, "weights change no time"
    assert only_file(cache).read_text().startswith("{") and not target._rows


def test_again_measures_and_keeps_what_it_measured(cache: Path, target: Counting) -> None:
    first, _ = curve(target)
    again, forwards = curve(target, again=True)
    assert forwards > 100 and again != first
    assert curve(target) == (again, 0)


def test_more_rows_than_were_measured_are_measured(
    cache: Path, target: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    """Said to nobody: nothing is wrong. Fewer rows are no reason to measure."""
    _, _ = curve(target, max_rows=1)
    more, forwards = curve(target, max_rows=2)
    assert forwards > 100 and max(rows for rows, _, _ in more) == 2
    assert curve(target, max_rows=1) == (more, 0)
    assert not warned(caplog)


OTHERS: dict[str, Callable[[], HFTarget]] = {
    "another shape": lambda: HFTarget(tiny_llama(hidden=32, layers=1)),
    "more layers": lambda: HFTarget(tiny_llama(hidden=16, layers=2)),
    "another dtype": lambda: HFTarget(tiny_llama(hidden=16, layers=1).to(torch.float64)),
    "another vocabulary": lambda: HFTarget(tiny_llama(hidden=16, layers=1, vocab=77)),
    "unpacked": lambda: HFTarget(tiny_llama(hidden=16, layers=1), pack=False),
    "reproducible": lambda: HFTarget(tiny_llama(hidden=16, layers=1), reproducible=True),
    "a smaller context": lambda: HFTarget(tiny_llama(hidden=16, layers=1), max_context=100),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_model_that_takes_other_times_has_other_conditions(what: str, target: Counting) -> None:
    assert conditions(OTHERS[what]()) != conditions(target)


def test_threads_versions_and_the_machine_are_conditions(target: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under each of them a file of its own; the same again, the same file."""
    found = [json.dumps(conditions(target), sort_keys=True)]
    assert json.dumps(conditions(target), sort_keys=True) == found[0]
    for where, name, value in (
        (torch, "get_num_threads", lambda: 93), (torch, "__version__", "0.0"), (curves.transformers, "__version__", "0.0"),
        (curves.betoken, "__version__", "9"), (curves.os, "cpu_count", lambda: 93),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(where, name, value)
            found.append(json.dumps(conditions(target), sort_keys=True))
    assert len({*found}) == 6


def entry(change: Callable[[dict[str, Any]], object]) -> Callable[[str], str]:
    """A file's text with its content changed."""

    def changed(text: str) -> str:
        content = json.loads(text)
        change(content)
        return json.dumps(content)

    return changed


def points_of(*points: Any) -> Callable[[str], str]:
    """A file whose points are these, after a good one."""
    return entry(lambda content: content.update(points=[[1, 1, 192, 0.001], *points]))


BROKEN: dict[str, Callable[[str], str | bytes]] = {
    "nothing": lambda text: "",
    "half of it": lambda text: text[: len(text) // 2],
    "no JSON": lambda text: "the cat",
    "no UTF-8": lambda text: b"\xff\xfe\x00" + text.encode(),
    "zeros": lambda text: b"\0" * len(text),
    "something behind it": lambda text: text + "}",
    "a list": lambda text: "[1, 2, 3]",
    "a number": lambda text: "17",
    "null": lambda text: "null",
    "nested too deeply": lambda text: "[" * 200_000 + "]" * 200_000,
    "a key nested too deeply": lambda text: '{"schema": ' + '{"a":' * 100_000 + "1" + "}" * 100_000 + "}",
    "another schema": entry(lambda content: content.update(schema="betoken.curve/0")),
    "no schema": entry(lambda content: content.pop("schema")),
    "no points": entry(lambda content: content.pop("points")),
    "an empty list of points": entry(lambda content: content.update(points=[])),
    "points by name": entry(lambda content: content.update(points={"1": 2})),
    "points that are a number": entry(lambda content: content.update(points=17)),
    "no conditions": entry(lambda content: content.pop("conditions")),
    "another machine": entry(lambda content: content["conditions"].update(device="cpu: a faster one, 64 cores")),
    "other versions": entry(lambda content: content["conditions"]["versions"].update(torch="0.0")),
    "rows that are a word": entry(lambda content: content.update(max_rows="many")),
    "rows that are null": entry(lambda content: content.update(max_rows=None)),
    "rows that are no number": entry(lambda content: content.update(max_rows=math.nan)),
    "a NaN": points_of([1, 2, 192, math.nan]),
    "an infinity": points_of([1, 2, 192, math.inf]),
    "a time of nothing": points_of([1, 2, 192, 0.0]),
    "a negative time": points_of([1, 2, 192, -0.001]),
    "a time of 10 ** 300 s": points_of([1, 2, 192, 1e300]),
    "a time too small for a number": points_of([1, 2, 192, 5e-324]),
    "a whole number for a time": points_of([1, 2, 192, 10**400]),
    "a word for a time": points_of([1, 2, 192, "short"]),
    "null for a time": points_of([1, 2, 192, None]),
    "a list for a time": points_of([1, 2, 192, [0.1]]),
    "a negative width": points_of([1, -2, 192, 0.001]),
    "a width of 0": points_of([1, 0, 192, 0.001]),
    "half a row": points_of([1.5, 2, 192, 0.001]),
    "10 ** 30 rows": points_of([10**30, 1, 192, 0.001]),
    "10 ** 30 wide": points_of([1, 10**30, 192, 0.001]),
    "three numbers": points_of([1, 2, 192]),
    "five numbers": points_of([1, 2, 192, 0.1, 0.1]),
    "a string for a point": points_of("abcd"),
}


@pytest.mark.parametrize("way", BROKEN)
def test_a_file_that_cannot_be_believed_is_measured_again_and_said_once(
    way: str, cache: Path, target: Counting, written: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """It is replaced, so that the next run has nothing to say."""
    name, text = written
    broken = BROKEN[way](text)
    cache.mkdir()
    path = cache / name
    path.write_bytes(broken if isinstance(broken, bytes) else broken.encode())
    again, forwards = curve(target)
    assert forwards > 100 and [[*point] for point in again] == [point[:3] for point in json.loads(text)["points"]]
    assert len(warned(caplog)) == 1 and str(path) in warned(caplog)[0] and len(warned(caplog)[0]) < 600
    assert json.loads(path.read_text())["schema"] == SCHEMA
    assert curve(target) == (again, 0) and len(warned(caplog)) == 1
    assert only_file(cache) == path, "a rough file was left behind"


def test_a_folder_in_the_place_of_the_file_is_left_alone(
    cache: Path, target: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is read, nothing is kept; what it is called is said, and the run goes on."""
    curve(target)
    path = only_file(cache)
    path.unlink()
    (path / "precious").mkdir(parents=True)
    assert curve(target)[1] > 100
    assert 1 <= len(warned(caplog)) <= 2 and (path / "precious").is_dir()


def test_a_file_in_the_place_of_the_folder_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where folders above it should be made."""
    (tmp_path / "file").write_text("precious")
    for place in ("file", "file/below"):
        monkeypatch.setenv("BETOKEN_CACHE", str(tmp_path / place))
        caplog.clear()
        assert curve(target)[1] > 100
        assert 1 <= len(warned(caplog)) <= 2
    assert (tmp_path / "file").read_text() == "precious"


def test_where_nothing_can_be_written_the_curve_is_measured_and_said_once(
    monkeypatch: pytest.MonkeyPatch, target: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    """/proc takes no files, from root neither."""
    monkeypatch.setenv("BETOKEN_CACHE", "/proc/betoken")
    points, forwards = curve(target)
    assert forwards > 100 and points
    assert len(warned(caplog)) == 1 and "cannot be kept" in warned(caplog)[0]


def test_a_file_that_cannot_be_read_is_measured_again_and_said_once(
    cache: Path, target: Counting, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions do not stop root, so reading is made to fail."""
    curve(target)
    path, read = only_file(cache), Path.read_text

    def refused(self: Path, *args: Any, **kwargs: Any) -> str:
        if self == path:
            raise PermissionError(13, "Permission denied")
        return read(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refused)
        assert curve(target)[1] > 100
    assert len(warned(caplog)) == 1
    assert curve(target)[1] == 0


def test_a_measurement_that_breaks_off_leaves_the_old_file_whole(
    cache: Path, target: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted while it is measured, or while it is written: never half a file, and no scratch rows in the model."""
    first, _ = curve(target)
    before = only_file(cache).read_bytes()

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    for place, name in ((HFTarget, "score"), (Path, "replace")):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(place, name, interrupted)
            curve(target, again=True)
        assert only_file(cache).read_bytes() == before and not target._rows
    assert curve(target) == (first, 0)


def test_betoken_cache_names_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BETOKEN_CACHE", str(tmp_path / "own"))
    assert folder() == tmp_path / "own"
    monkeypatch.delenv("BETOKEN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    assert folder() == tmp_path / "users" / "betoken"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder() == tmp_path / ".cache" / "betoken"


def test_an_llm_reads_its_curve_once_and_measures_where_it_is_told_to(
    cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not at all where no method asks for it."""
    counted = []
    monkeypatch.setattr(
        curves, "measure", lambda *args, measure=curves.measure, **more: counted.append(1) or measure(*args, **more)
    )
    source, params = (tiny_llama(hidden=16, layers=1), byte_tokenizer()), SamplingParams(max_tokens=5)
    with LLM(source, method="ngram", max_rows=1) as llm:
        llm.generate("the cat", params)
        assert not counted and not cache.exists()
        llm.generate("the cat", params, method="auto")
        llm.generate("the cat", params, method="auto", options={"nodes": 5})
        assert len(counted) == 1
    with LLM(source, method="auto", max_rows=1) as llm:
        assert llm.curve().measured and len(counted) == 1
        before = llm.target._rows
    with LLM(source, method="auto", max_rows=1, recalibrate=True) as llm:
        llm.curve()
        assert len(counted) == 2 and not before
    only_file(cache).write_text("{")
    with LLM(source, method="auto", max_rows=1) as llm:
        assert llm.generate("the cat", params).token_ids == llm.generate("the cat", params, method="plain").token_ids
    assert len(counted) == 3 and len(warned(caplog)) == 1


def test_scratch_rows_are_no_requests(target: Counting) -> None:
    """A curve measured while a row is in use would move it, or be moved by it."""
    target.score([Feed(0, (5, 6, 7))])
    target.commit(0, ())
    try:
        assert curves.measure(target, TEXT, max_rows=2, limit_s=0.1)
        assert target._rows.keys() == {0} and target.length(0) == 3
    finally:
        target.release(0)
