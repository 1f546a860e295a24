"""Every command and every Python snippet of README and docs runs.

Blocks marked `sh` and `python` are executed, in order, in a folder that holds what the texts talk about: `my-model`, `my-draft`
(the embedded pair, or an untrained one where this copy has no weights) and `prompts.jsonl`. To be quick, `betoken` commands get a
few more options (fewer prompts, shorter answers); `make` targets are resolved but not run, since they run these tests.
"""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import served
from tiny_models import save_pair
from typer.testing import CliRunner

import betoken.demo
import betoken.proposers.base
from betoken import LLM, BetokenError, SamplingParams
from betoken.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
QUICK = {
    "generate": ["--max-tokens", "8"],
    "compare": ["--max-tokens", "8", "--per-group", "1", "--temperature", "1"],
    "explain": ["--max-tokens", "8", "--per-group", "1"],
    "audit": ["--max-tokens", "4", "--per-group", "1", "--batch-size", "2", "--samples", "0"],
    "record": ["--max-tokens", "8", "--per-group", "1"],
    "replay": [],
}
SERVER = "http://127.0.0.1:8000"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [body for name, body in BLOCK.findall(page.read_text(encoding="utf-8")) if name == language]


def named(language: str) -> list[Any]:
    return [pytest.param(page, id=page.name) for page in PAGES if blocks(page, language)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `target`, `draft` and `prompts.jsonl`."""
    try:
        return Path(betoken.demo.pair()[0]).parent
    except BetokenError:
        folder = tmp_path_factory.mktemp("untrained")
        save_pair(folder)
        (folder / "prompts.jsonl").write_text('{"group": "a", "prompt": "hi"}\n{"group": "b", "prompt": "ho"}\n')
        return folder


@pytest.fixture
def place(pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my-model").symlink_to(pair / "target")
    (tmp_path / "my-draft").symlink_to(pair / "draft")
    (tmp_path / "prompts.jsonl").write_text('{"group": "short", "prompt": "Once"}\n{"prompt": [5, 6, 7]}\n')
    monkeypatch.setattr(betoken.demo, "_root", lambda: pair)
    monkeypatch.setattr(betoken.proposers.base, "_METHODS", dict(betoken.proposers.base._METHODS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    """Where the texts say a server is: http://127.0.0.1:8000."""
    with served() as found:
        yield found.url


@pytest.mark.parametrize("page", named("python"))
def test_python_snippets_run(page: Path, place: Path, request: pytest.FixtureRequest) -> None:
    namespace: dict[str, Any] = {}
    for snippet in blocks(page, "python"):
        if SERVER in page.read_text(encoding="utf-8"):
            snippet = snippet.replace(SERVER, request.getfixturevalue("server_url"))
        exec(compile(snippet, page.name, "exec"), namespace)


@pytest.mark.parametrize("page", named("bash"))
def test_requests_are_answered(page: Path, server_url: str) -> None:
    """Lines of `curl`, at a server that runs."""
    for line in (line for block in blocks(page, "bash") for line in block.splitlines()):
        assert line.startswith("curl ") and SERVER in line
        asked = ["curl", "--fail", "--silent", "--max-time", "60", *shlex.split(line.replace(SERVER, server_url))[1:]]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and done.stdout, f"{line}: {done.stderr}"


@pytest.mark.parametrize("page", named("sh"))
def test_commands_run(page: Path, place: Path) -> None:
    for block in blocks(page, "sh"):
        for line in block.splitlines():
            run(line)


def run(line: str) -> None:
    words = shlex.split(line, comments=True)
    if words[:1] == ["make"]:
        subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, check=True, capture_output=True)
        return
    if words[:2] == ["git", "clone"]:
        return
    stdin = None
    if words[0] == "echo":
        at = words.index("|")
        stdin, words = " ".join(words[1:at]), words[at + 1 :]
    assert words[0] == "betoken", f"{line}: not a command this test knows"
    result = CliRunner().invoke(app, [*words[1:], *QUICK[words[1]]], input=stdin)
    assert result.exit_code == 0, f"{line}: {result.output}"


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_method_is_described() -> None:
    described = re.findall(r"^## `(\w+)`$", (ROOT / "docs" / "methods.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(LLM.methods()) <= set(described)


def test_every_sampling_parameter_is_described() -> None:
    text = (ROOT / "docs" / "sampling.md").read_text(encoding="utf-8")
    assert [name for name in SamplingParams.__dataclass_fields__ if f"`{name}`" not in text] == []


def test_no_page_names_a_machine() -> None:
    for page in PAGES:
        assert not re.search(r"/(home|work|tmp|Users)/", page.read_text(encoding="utf-8")), page.name
