"""Recordings of live runs: what they hold, that their replay counts what the live run counted, and `betoken record`."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import VOCAB, Letters, endings, laws_of_sampling, misbehaving, toy
from tiny_models import byte_tokenizer, near_copy, save_pair, tiny_llama
from typer.testing import CliRunner

from betoken import LLM, SamplingParams
from betoken.bench.replay import Replay, replay_one
from betoken.cli import app
from betoken.engine import Engine, Request
from betoken.errors import BetokenError, ParameterError, TraceError
from betoken.methods import spelt
from betoken.outputs import Output
from betoken.proposers.base import Workshop, build
from betoken.recording import conversation, spoken_name
from betoken.stats import Stats, total
from betoken.targets.base import Target, TargetInfo
from betoken.targets.replay import ReplayTarget
from betoken.targets.toy import markov
from betoken.trace import CONTEXT, OUTPUT, Conversation, Header, Segment, Trace, read

MODEL_FREE = (
    "plain", "naive", "naive:k=5", "ngram", "ngram:n_min=2:n_max=2", "ngram:preset=spec-bench",
    "mix:nodes=7", "suffix:nodes=7", "reference", "merge:of=ngram+suffix+reference:nodes=9",
)  # fmt: skip
PROMPTS = ["the cat the hat the ", "an", "the the the the "]


def counts(stats: Stats) -> tuple[Any, ...]:
    """Everything but seconds."""
    return (
        stats.steps, stats.emitted_tokens, stats.drafts, stats.draft_tokens, stats.accepted_tokens,
        tuple(stats.accepted_per_position),
    )  # fmt: skip


def replayed(trace: Trace, make: Callable[[], Any]) -> Stats:
    return Replay("", make, ReplayTarget(trace.vocab_size, trace.eos_ids)).run(trace).total


def maker(method: str, draft: Target | None = None) -> Callable[[], Any]:
    name, options = spelt(method)
    info = TargetInfo("", VOCAB) if draft is None else draft.info
    return lambda: build(name, Workshop(info, draft, options))


# An order of 2 over six tokens, so texts repeat and drafts are accepted; ends by length, context, EOS, stop ids and strings.


@pytest.mark.parametrize("method", [*MODEL_FREE, "oracle", "oracle tree"])
@settings(max_examples=40)
@given(
    law=laws_of_sampling(), ends=endings(), table=st.integers(0, 99), context=st.sampled_from((None, 14)),
    prompt=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9).map(tuple), sample=st.integers(0, 2),
)  # fmt: skip
def test_a_replay_counts_what_the_live_run_counted(
    method: str, law: Any, ends: Any, table: int, context: int | None, prompt: Any, sample: int
) -> None:
    """Drafts near the limit were deeper; an end inside a draft took a step more; the noise of a sample was another's.

    The oracle drafts with the target's own noise, so any difference in what the sampler knows shows.
    """
    if method.startswith("oracle"):
        ends = {**ends, "min_tokens": 0}  # which a recording cannot know of: the ids it keeps away are the model's
        make: Any = lambda: misbehaving(method, table, markov(VOCAB, seed=table))  # noqa: E731
    else:
        make = maker(method)
    params = SamplingParams(**law, **ends)
    engine = Engine(toy(table, context=context), make())
    reference = tuple(table * step % VOCAB for step in range(12))
    running = engine.running(engine.add(Request(prompt, params, sample, Letters(), reference=reference)))
    engine.run(lambda event: None)
    said = running.tokens[len(prompt) :]
    output = Output(sample, "", tuple(said), running.stops.reason, None, None, running.stats)  # type: ignore[arg-type]
    limit = running.stops.room + running.stops.count
    one = replace(conversation("a", "all", prompt, output, params, limit), reference=reference)
    assert counts(replayed(Trace(Header(vocab_size=VOCAB), (one,)), make)) == counts(running.stats)


@pytest.mark.parametrize("method", [*MODEL_FREE, "oracle tree"])
@settings(max_examples=25)
@given(
    turns=st.lists(st.lists(st.integers(0, VOCAB - 1), max_size=5), min_size=2, max_size=4),
    most=st.integers(1, 15), temperature=st.sampled_from((0.0, 1.0)), table=st.integers(0, 99),
)  # fmt: skip
def test_a_conversation_counts_turn_by_turn(
    method: str, turns: list[list[int]], most: int, temperature: float, table: int
) -> None:
    """Several turns on one live sequence: the method's memory, the noise or the limit of a later turn was another."""
    oracle = lambda: misbehaving(method, table, markov(VOCAB, seed=table))  # noqa: E731
    make: Any = oracle if method.startswith("oracle") else maker(method)
    params = SamplingParams(temperature=temperature, max_tokens=most, seed=table)
    engine = Engine(toy(table), make())
    seq_id = engine.add(Request((0, *turns[0]), params, keep=True))
    segments, live, said = [Segment(CONTEXT, (0, *turns[0]))], list[Stats](), [0, *turns[0]]
    for number, context in enumerate(turns):
        if number:
            engine.extend(seq_id, context)
            segments.append(Segment(CONTEXT, tuple(context)))
            said += context
        running = engine.running(seq_id)
        engine.run(lambda event: None)
        segments.append(Segment(OUTPUT, tuple(running.tokens[len(said) :])))
        live.append(running.stats)
        said = [*running.tokens]
    one = Conversation("a", "all", tuple(segments), table, {"temperature": temperature, "max_tokens": most})
    target = ReplayTarget(VOCAB)
    again = list(replay_one(Engine(target, make()), target, one))
    assert [counts(stats) for stats in again] == [counts(stats) for stats in live]


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM((tiny_llama(), byte_tokenizer()), near_copy(tiny_llama()), max_context=90) as made:
        yield made


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("method", ["naive", "ngram", "draft", "mix:memory=off", "suffix:memory=off"])
def test_a_live_models_recording_agrees(llm: LLM, tmp_path: Path, method: str, temperature: float) -> None:
    """Through the file: samples, a batch of ragged rows, ends of sequence (made likely), a stop string, the context's end."""
    wide = SamplingParams(temperature=temperature, max_tokens=None, n=2, logit_bias={0: 4.0}, seed=11)
    many = [
        wide.replaced(ignore_eos=True, logit_bias={}),
        wide.replaced(max_tokens=20, ignore_eos=True, top_k=5),
        wide.replaced(stop=("e",), top_p=0.9),
    ]
    with llm.record(tmp_path / "t.jsonl.gz") as recording:
        results = llm.generate(PROMPTS, many, method=method, reference=[" the cat the hat", "", "hat"])
    trace = read(tmp_path / "t.jsonl.gz")
    assert recording.written == len(trace.conversations) == 6
    told = {(one.segments[0].tokens, one.sample): one for one in trace.conversations}
    for result in results:
        for output in result.outputs:
            one = told[result.prompt_token_ids, output.index]
            assert (one.outputs[0].tokens, one.outputs[0].text) == (output.token_ids, output.text)
            assert (one.seed, one.sampling["temperature"]) == (11, temperature)
            alone = replayed(Trace(trace.header, (one,)), maker(method, llm._draft))
            assert counts(alone) == counts(output.stats)
    live = total([result.stats for result in results])
    assert live.draft_tokens > 0 and (live.accepted_tokens > 0 or method != "draft")


@pytest.mark.parametrize("method", ["mix", "suffix"])
def test_a_warm_replay_remembers_what_the_live_run_did(llm: LLM, tmp_path: Path, method: str) -> None:
    params = SamplingParams(max_tokens=30, ignore_eos=True)
    llm.forget()
    with llm.record(tmp_path / "t.jsonl"):
        results = [llm.generate(prompt, params, method=method) for prompt in (*PROMPTS, *PROMPTS)]
    trace = read(tmp_path / "t.jsonl")
    target = ReplayTarget(trace.vocab_size, trace.eos_ids)
    make = lambda: build(method, Workshop(target.info))  # noqa: E731
    warm = Replay(method, make, target, warm=True).run(trace).total
    assert counts(warm) == counts(total([result.stats for result in results]))
    assert warm.steps < Replay(method, make, target).run(trace).total.steps


def test_streams_are_recorded_when_they_end(llm: LLM, tmp_path: Path) -> None:
    """A stream that is closed early said no whole answer."""
    params = SamplingParams(max_tokens=8, ignore_eos=True)
    with llm.record(str(tmp_path / "t.jsonl"), category="short") as recording:
        text = "".join(llm.stream("an", params))
        left = llm.steps("an", params, method="plain")  # no draft may say the rest of it in the first step
        next(left)
        left.close()
        recording.category = "other"
        llm.generate([5, 6], params)
    llm.generate("an", params)
    first, second = read(tmp_path / "t.jsonl").conversations
    assert (first.outputs[0].text, first.category, second.category) == (text, "short", "other")
    assert first.sampling == {"temperature": 0.0, "ignore_eos": True, "max_tokens": 8}
    assert read(tmp_path / "t.jsonl").header == Header("LlamaForCausalLM", len(byte_tokenizer()), (0,))


def test_a_model_goes_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub name keeps its owner; a folder does not tell where it lies."""
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    assert [spoken_name(model) for model in (".", str(tmp_path / "mine"), "owner/mine")] == [
        "mine",
        "mine",
        "owner/mine",
    ]


def test_a_recording_of_nothing_leaves_no_file(llm: LLM, tmp_path: Path) -> None:
    """It would be in the way of the next attempt."""
    path = tmp_path / "t.jsonl"
    with pytest.raises(ParameterError), llm.record(path):
        llm.generate("an", method="telepathy")
    assert not path.exists()
    path.write_text("mine")
    with pytest.raises(TraceError, match="exists already"), llm.record(path):
        pass
    assert path.read_text() == "mine"
    closed = LLM((tiny_llama(), byte_tokenizer()))
    closed.close()
    with pytest.raises(BetokenError, match="closed"), closed.record(tmp_path / "u.jsonl"):
        pass


def test_a_full_disk_ends_the_call_and_keeps_the_answers(llm: LLM, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    params = SamplingParams(max_tokens=20, ignore_eos=True)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(TraceError, match="it holds the 2 conversations"), llm.record(path):
        llm.generate(["an", "the"], params)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 50, hard))
            llm.generate("an", params)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert len(read(path).conversations) == 2
    assert len(llm.generate("an", params).token_ids) == 20


# The command.


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    target, draft = save_pair(tmp_path_factory.mktemp("record"))
    return ["--model", str(target), "--draft", str(draft)]


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["record", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        '{"group": "a", "prompt": "the cat"}\n{"group": "b", "prompt": [5, 6, 7], "id": "x"}\n'
        '{"group": "a", "messages": [{"role": "user", "content": "hi"}]}\n{"group": "b", "prompt": "an"}\n'
    )
    return str(path)


def test_record_and_read(pair: list[str], prompts: str, tmp_path: Path) -> None:
    """In batches or one by one, by any method: the same file."""
    out = tmp_path / "runs.jsonl.gz"
    options = ["--prompts", prompts, "--max-tokens", "9", "--temperature", "1", "--seed", "5"]
    code, said, error = run(str(out), *pair, *options)
    assert (code, error.strip()) == (0, "")
    assert said.endswith(f"Try: betoken replay {out}\n") and "4 answers" in said
    trace = read(out)
    assert trace.header == Header("target", len(byte_tokenizer()), (0,))
    assert [(one.id, one.category) for one in trace.conversations] == [
        ("line-1", "a"), ("line-3", "a"), ("x", "b"), ("line-4", "b"),
    ]  # fmt: skip
    assert {one.seed for one in trace.conversations} == {5}
    other = tmp_path / "other.jsonl"
    run(str(other), *pair, *options, "--method", "ngram", "--batch-size", "3")
    assert read(other) == trace
    few = tmp_path / "few.jsonl"
    run(str(few), *pair, *options, "--per-group", "1")
    assert [one.id for one in read(few).conversations] == ["line-1", "x"]
    before = out.read_bytes()
    code, said, error = run(str(out), *pair, *options)
    assert (code, said, "exists already" in error, out.read_bytes()) == (2, "", True, before)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no/runs.jsonl"], "no is no folder"),
        (["runs.jsonl", "--method", "telepathy"], "one of plain"),
        (["runs.jsonl", "--prompts", "nowhere.txt"], "cannot be read"),
        (["runs.jsonl", "--temperature", "-1"], "temperature is -1.0"),
        (["runs.jsonl", "--dtype", "int4"], "one of auto"),
    ],
)
def test_errors_leave_no_file(
    pair: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, error = run(*arguments, *pair)
    assert (code, out, error.count("\n")) == (2, "", 1) and error.startswith("error: ") and words in error
    assert not Path("runs.jsonl").exists()


def test_control_c_keeps_what_was_recorded(pair: list[str], tmp_path: Path) -> None:
    out, prompts = tmp_path / "runs.jsonl.gz", tmp_path / "prompts.txt"
    prompts.write_text("the cat\n" * 500)
    options = ["--prompts", str(prompts), "--max-tokens", "100"]
    command = [sys.executable, "-m", "betoken", "record", str(out), *pair, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        end = time.monotonic() + 60
        while (not out.exists() or out.stat().st_size < 400) and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        said, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in error
    held = len(read(out).conversations)
    assert 0 < held < 500 and f"holds {held} of 500 answers" in said.decode()
