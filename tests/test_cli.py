"""The program as users call it."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import byte_tokenizer, save_pair, tiny_llama
from typer.testing import CliRunner

from betoken import LLM, SamplingParams
from betoken.cli import app, common

PROMPT = "the cat the hat the "


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    target, draft = save_pair(tmp_path_factory.mktemp("cli"))
    return ["--model", str(target), "--draft", str(draft)]


@pytest.fixture(scope="module")
def plain() -> str:
    params = SamplingParams(max_tokens=20, ignore_eos=True, temperature=1.0, seed=4)
    with LLM((tiny_llama(), byte_tokenizer()), method="plain") as llm:
        return llm.generate(PROMPT, params).text


SAMPLED = ["--max-tokens", "20", "--ignore-eos", "--temperature", "1", "--seed", "4"]


def run(*arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments), input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("method", ["draft", "naive", "plain"])
def test_generate_prints_the_text_and_nothing_else(pair: list[str], plain: str, method: str) -> None:
    assert run("generate", PROMPT, *pair, *SAMPLED, "--method", method) == (0, plain + "\n", "")


def test_generate_reads_standard_input(pair: list[str], plain: str) -> None:
    assert run("generate", "-", *pair, *SAMPLED, stdin=PROMPT) == (0, plain + "\n", "")
    code, _, error = run("generate", "-", *pair, stdin="")
    assert (code, "error: the prompt is empty" in error) == (2, True)


def test_a_reference_comes_from_a_file(pair: list[str], plain: str, tmp_path: Path) -> None:
    file = tmp_path / "known.txt"
    file.write_text(plain, encoding="utf-8")
    more = ["--method", "reference", "--reference", str(file)]
    assert run("generate", PROMPT, *pair, *SAMPLED, *more) == (0, plain + "\n", "")
    code, _, error = run("generate", PROMPT, *pair, *more[:-1], str(tmp_path / "nowhere"))
    assert (code, "expected a text file (No such file" in error) == (2, True)


def test_show_ends_with_the_figures(pair: list[str], plain: str) -> None:
    code, out, _ = run("generate", PROMPT, *pair, *SAMPLED, "--show")
    assert code == 0
    assert out.startswith(plain)
    assert (
        "proposed by auto" in out and "20 tokens" in out and "draft tokens accepted" in out and "ended by length" in out
    )


def test_every_sampling_parameter_has_an_option(pair: list[str]) -> None:
    options = [
        "--min-tokens",
        "2",
        "--top-k",
        "5",
        "--top-p",
        "0.9",
        "--min-p",
        "0.01",
        "--repetition-penalty",
        "1.1",
        "--presence-penalty",
        "0.1",
        "--frequency-penalty",
        "0.1",
        "--logit-bias",
        "9=-3",
        "--bad-word",
        "xyz",
        "--stop",
        "zzz",
        "--stop-token-id",
        "7",
        "--include-stop-str",
        "-n",
        "2",
        "--logprobs",
        "1",
        "--temperature",
        "1",
        "--max-tokens",
        "5",
    ]
    allowed = [word for token in range(2, 260) for word in ("--allowed-token-id", str(token))]
    code, out, _ = run("generate", PROMPT, *pair, *options, *allowed)
    assert code == 0
    assert "[0]" in out and "[1]" in out and "rank" in out
    names = {name.replace("_", "-") for name in SamplingParams.__dataclass_fields__} - {"n"}
    wanted = {name if name not in ("bad-words", "allowed-token-ids", "stop-token-ids") else name[:-1] for name in names}
    _, usage, _ = run("generate", "--help")
    assert [name for name in wanted if name[:20] not in usage] == []


def test_chat_uses_the_template(pair: list[str]) -> None:
    with LLM((tiny_llama(), byte_tokenizer()), method="plain") as llm:
        answer = llm.chat([{"role": "user", "content": "hi"}], SamplingParams(max_tokens=8)).text
    assert run("generate", "hi", "--chat", *pair, "--max-tokens", "8")[1] == answer + "\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", "x", "--model", "./nowhere"], "does not exist"),
        (["generate", "x", "--top-p", "3"], "top_p is 3.0"),
        (["generate", "x", "--show", "-n", "2"], "one sample"),
        (["generate", "x", "--method", "telepathy"], "one of plain"),
        (["generate", "x", "--logit-bias", "a"], "ID=VALUE"),
        (["generate", "x", "--dtype", "int4"], "one of auto"),
        (["compare", "--methods", "telepathy"], "one of plain"),
        (["compare", "--prompts", "nowhere.jsonl"], "cannot be read"),
        (["compare", "--temperature", "-1"], "temperature is -1.0"),
    ],
)
def test_errors_are_one_red_line(pair: list[str], arguments: list[str], words: str) -> None:
    given = arguments if "--model" in arguments else [*arguments, *pair]
    code, out, error = run(*given)
    assert (code, out) == (2, "")
    assert error.startswith("error: ") and words in error
    assert error.count("\n") == 1


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.txt"
    path.write_text("the cat\nthe hat\n")
    return str(path)


COMPARE = ["--max-tokens", "8", "--methods", "plain,naive,draft"]


def test_compare_prints_a_table_and_words(pair: list[str], prompts: str) -> None:
    code, out, error = run("compare", *pair, "--prompts", prompts, *COMPARE)
    assert (code, error.strip()) == (0, "")
    assert out.count("2/2 identical") == 4
    assert "Temperature 1:" in out
    assert "All 8 outputs are identical to plain decoding's" in " ".join(out.split())


def test_compare_json_is_all_of_standard_output(pair: list[str], prompts: str, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    code, out, _ = run(
        "compare", *pair, "--prompts", prompts, *COMPARE, "--temperature", "0", "--json", "--output", str(file)
    )
    assert code == 0
    assert json.loads(out) == json.loads(file.read_text())
    code, _, error = run(
        "compare", *pair, "--prompts", prompts, *COMPARE, "--output", str(tmp_path / "no" / "out.json")
    )
    assert (code, "cannot be written" in error) == (2, True)


def test_control_c_stops_cleanly(pair: list[str]) -> None:
    command = [sys.executable, "-m", "betoken", "generate", PROMPT, *pair, "--ignore-eos", "--max-tokens", "480"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in error


@pytest.mark.parametrize(
    ("written", "fits"),
    [
        ("choice=yes|no", "yes|no"),
        ("regex=[ab]{3}", "[ab]{3}"),
        ('json_schema={"enum": [1, 2]}', "[12]"),
        ("lark=@FILE", "x+"),
    ],
)
def test_an_answer_may_have_to_have_a_form(pair: list[str], tmp_path: Path, written: str, fits: str) -> None:
    (tmp_path / "grammar.lark").write_text('start: "x"+')
    written = written.replace("FILE", str(tmp_path / "grammar.lark"))
    code, out, error = run("generate", PROMPT, *pair, "--max-tokens", "20", "--grammar", written)
    assert code == 0 and re.fullmatch(fits, out.strip()), (out, error)


@pytest.mark.parametrize(
    "written", ["nonsense", "regex=", "regex=(", "json_schema={", "lark=@nowhere", "json_object=1"]
)
def test_a_form_that_cannot_be(pair: list[str], written: str) -> None:
    code, _, error = run("generate", PROMPT, *pair, "--grammar", written)
    assert code == 2 and "Traceback" not in error


def test_where_nobody_watches_progress_is_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a log of CI nothing was said for minutes."""
    monkeypatch.setattr(common, "LINE_SECONDS", 0.0)
    with common.progress(2) as tell:
        tell("one")
        tell("two")
    assert capsys.readouterr().err == "1/2 one\n2/2 two\n"
