"""`betoken replay`: what it prints, what it refuses, and that a real model made to say a recording changes no count."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_models import byte_tokenizer, save_pair, tiny_llama
from typer.testing import CliRunner

from betoken.bench.replay import Replay
from betoken.cli import app
from betoken.engine import Engine
from betoken.proposers.mix import Mix
from betoken.proposers.ngram import Ngram
from betoken.targets.replay import ReplayTarget
from betoken.trace import Conversation, Header, Segment, Trace, read, write

TRACE = Path(__file__).parent / "data" / "demo.trace.jsonl.gz"
COUNTERS = ["steps", "drafts", "draft_tokens", "accepted_tokens", "tokens_per_step"]


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["replay", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace within 264 tokens, of two turns."""
    turns = (
        Segment("context", (1, 2, 3, 4, 1, 2)),
        Segment("output", (3, 4, 1, 2, 3, 4, 9, 0)),
        Segment("context", (5, 1, 2)),
        Segment("output", (3, 4, 9, 9, 9, 9, 0)),
    )
    path = tmp_path_factory.mktemp("traces") / "small.jsonl"
    write(path, Trace(Header(vocab_size=264), tuple(Conversation(str(i), "ab"[i], turns) for i in range(2))))
    return path


def test_json_of_one_method_begins_with_the_total() -> None:
    code, out, _ = run(str(TRACE), "--method", "ngram", "--json")
    found = json.loads(out)
    assert code == 0
    assert list(found)[:2] == ["total", "categories"]
    assert list(found["total"])[:5] == COUNTERS
    assert [found["total"][name] for name in COUNTERS[:4]] == [202, 116, 520, 247]
    assert found["total"]["tokens_per_step"] == pytest.approx(449 / 202)
    assert list(found["categories"]) == ["prose", "quote", "code", "maths", "lists"]
    for name in COUNTERS[:4]:
        assert sum(entry[name] for entry in found["categories"].values()) == found["total"][name]


def test_several_methods_share_a_table() -> None:
    code, out, _ = run(str(TRACE), "--method", "ngram,mix:nodes=8", "--method", "plain", "--nodes", "16")
    assert code == 0
    assert all(
        word in out for word in ("ngram", "mix:nodes=8", "plain", "lists", "2.223", "10 conversations, 10 outputs")
    )
    found = json.loads(run(str(TRACE), "--method", "ngram,mix", "--nodes", "16", "--json")[1])["methods"]
    assert found["ngram"]["total"]["steps"] == 202
    assert found["mix"]["total"]["draft_tokens"] <= 16 * found["mix"]["total"]["steps"]


def test_a_budget_binds_methods_without_one() -> None:
    found = json.loads(run(str(TRACE), "--method", "ngram", "--nodes", "2", "--json")[1])
    assert found["total"]["draft_tokens"] <= 2 * found["total"]["drafts"]


def test_warm_is_better_on_what_was_said_before(small: Path) -> None:
    cold, warm = (
        json.loads(run(str(small), "--method", "mix", "--json", *more)[1])["total"]["steps"]
        for more in ([], ["--warm"])
    )
    assert warm < cold


def test_cold_conversations_know_nothing_of_each_other(small: Path) -> None:
    trace = read(small)
    twice = Replay("mix", Mix, ReplayTarget(264)).run(trace).categories
    assert twice["a"].steps == twice["b"].steps


@pytest.mark.parametrize("bare", [False, True])
def test_a_real_model_made_to_say_a_recording_changes_no_count(small: Path, tmp_path: Path, bare: bool) -> None:
    """Its own tokens, ends of sequence or lengths had a say; or random weights went unmentioned."""
    model = str(save_pair(tmp_path)[0])
    if bare:
        tiny_llama().config.save_pretrained(tmp_path / "bare")
        model = str(tmp_path / "bare")
    alone = json.loads(run(str(small), "--method", "ngram,mix", "--json")[1])["methods"]
    forced = json.loads(run(str(small), "--method", "ngram,mix,lookahead", "--model", model, "--json")[1])
    for name in alone:
        assert [forced["methods"][name]["total"][key] for key in COUNTERS] == [
            alone[name]["total"][key] for key in COUNTERS
        ]
        assert forced["methods"][name]["total"]["verify_s"] > 0
    assert forced["methods"]["plain"]["total"]["steps"] == 2 * (7 + 6)
    assert forced["methods"]["lookahead"]["total"]["steps"] <= 2 * (7 + 6)
    assert ("RANDOM weights" in forced["target"][0]) is bare
    code, out, _ = run(str(small), "--method", "ngram", "--model", model)
    assert code == 0
    assert "speed-up" in out and ("RANDOM" in out) is bare


def test_a_draft_model_drafts_for_a_recording(small: Path, tmp_path: Path) -> None:
    _, draft = save_pair(tmp_path)
    code, out, _ = run(str(small), "--method", "draft:k=2", "--draft", str(draft), "--json")
    assert code == 0
    assert json.loads(out)["total"]["drafts"] > 0


def test_a_log_of_text_needs_its_tokenizer(tmp_path: Path) -> None:
    log, folder = tmp_path / "log.jsonl", tmp_path / "tokenizer"
    log.write_text('{"prompt": "the cat the ", "completion": "hat the cat the hat"}\n')
    byte_tokenizer().save_pretrained(folder)
    code, _, error = run(str(log))
    assert code == 2 and "tokenizer" in error
    code, out, _ = run(str(log), "--tokenizer", str(folder), "--method", "mix", "--json")
    assert code == 0 and json.loads(out)["total"]["emitted_tokens"] > 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "nothing"], ["method", "nothing", "ngram"]),
        (["--method", "lookahead"], ["lookahead", "logits", "--model"]),
        (["--method", "draft"], ["--draft"]),
        (["--method", "mix:nodes=0"], ["nodes"]),
        (["--method", ",,"], ["method"]),
        (["--method", "mix:bogus=3"], ["bogus", "capacity"]),
        (["--method", "mix:nodes=3:nodes=4"], ["nodes=4"]),
        (["--method", "plain:k=1"], ["plain"]),
        (["--method", "mix", "--preset", "vllm"], ["preset", "ngram"]),
        (["--method", "ngram", "--preset", "other"], ["preset", "spec-bench"]),
        (["--model", "./no-such-model"], ["no-such-model"]),
    ],
)
def test_wishes_that_cannot_be_are_refused(options: list[str], words: list[str]) -> None:
    code, out, error = run(str(TRACE), *options)
    assert code == 2 and out == ""
    assert error.startswith("error: ") and all(word in error for word in words), error


def test_ids_beyond_the_model_are_named(tmp_path: Path) -> None:
    model = str(save_pair(tmp_path)[0])
    code, _, error = run(str(TRACE), "--model", model, "--method", "ngram")
    assert code == 2 and "knows 0 to" in error


def test_names_are_no_markup(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    one = Conversation("[/i]", "[/nope]", (Segment("context", (1,)), Segment("output", (2, 3))))
    write(path, Trace(Header(), (one, Conversation("2", "[bold]", one.segments))))
    code, out, _ = run(str(path), "--method", "ngram")
    assert code == 0 and "[/nope]" in out and "[bold]" in out


def test_presets_go_to_methods_that_have_them() -> None:
    found = json.loads(run(str(TRACE), "--method", "ngram,mix", "--preset", "vllm", "--json")[1])["methods"]
    assert found["ngram"]["total"]["draft_tokens"] == 223


def test_a_missing_file_is_named() -> None:
    code, _, error = run("nowhere.jsonl")
    assert code == 2 and "nowhere.jsonl" in error


def test_an_interrupted_replay_shows_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    many = tuple(
        Conversation(str(i), "a", (Segment("context", (i,)), Segment("output", tuple(range(400))))) for i in range(3000)
    )
    write(path, Trace(Header(), many))
    command = [sys.executable, "-m", "betoken", "replay", str(path), "--method", "ngram"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(6)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "INTERRUPTED after" in out and "Traceback" not in error


def test_counters_of_an_output_start_anew_after_more_context(small: Path) -> None:
    """The second turn's steps were added to the first's, or its drafts saw the recording's end."""
    target = ReplayTarget(264)
    replay = Replay("ngram", Ngram, target)
    replay.add(read(small).conversations[0])
    assert replay.tally.total.emitted_tokens == 7 + 6
    assert isinstance(replay._engine, Engine) and not replay._engine._kept and not target._rows
