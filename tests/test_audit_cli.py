"""`betoken audit` as users call it."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import save_pair
from typer.testing import CliRunner

from betoken import cli, judging, verify
from betoken.bench.audit import Audit
from betoken.cli import app
from betoken.draft import Draft


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("audit-cli")
    target, draft = save_pair(folder)
    prompts = folder / "prompts.txt"
    prompts.write_text("the cat the hat the cat\nanother cat\n")
    options = ["--batch-size", "1", "--max-tokens", "8", "--samples", "0", "--methods", "draft, naive"]
    return ["--model", str(target), "--draft", str(draft), "--prompts", str(prompts), *options]


def audit(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["audit", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def test_a_correct_build_ends_with_0(given: list[str]) -> None:
    code, out, error = audit(*given, "--samples", "100")
    assert (code, error) == (0, "")
    assert "30 answers: 30 identical, 0 near ties." in out and "No bug was found." in out
    assert "residual mode" in out and "sees from" in out


def test_json_is_all_of_standard_output(given: list[str], tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    code, out, _ = audit(*given, "--temperature", "0", "--json", "--output", str(file))
    found = json.loads(out)
    assert code == 0 and found == json.loads(file.read_text())
    assert list(found) == [
        "schema",
        "complete",
        "bugs",
        "environment",
        "settings",
        "rows",
        "findings",
        "residual",
        "failures",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_a_bug_ends_with_1_and_is_named(given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def walk(draft: Draft, emit: Any) -> verify.Verdict:
        """The first draft token is never verified."""

        def trusting(node: int) -> int | None:
            token: int | None = emit(node)
            return draft.tokens[0] if draft and node == -1 else token

        return verify.walk(draft, trusting)

    monkeypatch.setattr(judging, "walk", walk)
    code, out, _ = audit(*given, "--temperature", "0")
    assert code == 1
    assert "BUG       line-" in out and "was expected, margin" in out and "please report this" in out


def test_control_c_ends_with_130_and_what_was_found(given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real = Audit.run

    def run(self: Audit, tell: Any) -> Any:
        def interrupted(what: str) -> None:
            tell(what)
            if "draft" in what and "judging" not in what:
                raise KeyboardInterrupt

        return real(self, interrupted)

    monkeypatch.setattr(Audit, "run", run)
    code, out, error = audit(*given)
    assert code == 130 and "Traceback" not in error
    assert "3 answers: 3 identical" in out and "Interrupted" in out


def test_control_c_outside_a_command_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130


def test_a_name_with_half_a_character_is_printed(given: list[str], tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"id": "a\\ud800", "prompt": "hi"}')
    code, out, _ = audit(*given, "--prompts", str(path), "--samples", "100", "--methods", "naive")
    assert code == 0 and "a\\ud800" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--methods", "telepathy"], "one of plain"),
        (["--prompts", "nowhere.jsonl"], "cannot be read"),
        (["--temperature", "-1"], "temperature is -1.0"),
        (["--samples", "7"], "samples is 7"),
        (["--model", "./nowhere"], "does not exist"),
        (["--dtype", "int4"], "one of auto"),
        (["--output", "no/such/folder.json"], "cannot be written"),
    ],
)
def test_bad_input_ends_with_2_and_one_line(given: list[str], arguments: list[str], words: str) -> None:
    code, out, error = audit(*given, *arguments)
    assert (code, out) == (2, "") and error.startswith("error: ") and words in error
