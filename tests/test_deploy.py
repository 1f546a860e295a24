"""What lies in `deploy/`, as far as it can be checked without an engine: that files parse, name each other rightly, ask the server
only for options it has and metrics it exposes; and that docs/serve.md lists the same ones. Where there is a `docker compose`, it reads
the Compose files, too."""

import json
import re
import shlex
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from betoken.cli import app

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
GRAFANA = DEPLOY / "grafana"
SERVE = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
METRIC = re.compile(r"betoken:\w+")


def parsed(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def names() -> frozenset[str]:
    """The metrics that the server exposes."""
    from betoken.serve.metrics import NAMES

    return NAMES


@pytest.fixture(scope="module")
def options() -> set[str]:
    """What `betoken serve` takes."""
    commands: Any = typer.main.get_command(app)
    return {name for each in commands.commands["serve"].params for name in (*each.opts, *each.secondary_opts)}


@pytest.fixture(scope="module")
def compose() -> Any:
    return parsed(DEPLOY / "compose.yaml")


@pytest.fixture(scope="module")
def dashboard() -> Any:
    return json.loads((GRAFANA / "betoken.json").read_text(encoding="utf-8"))


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's, comments left out and lines joined."""
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if line.strip() and not line.lstrip().startswith("#"))
    found = []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        word, rest = line.split(maxsplit=1)
        found.append((word, rest))
    return found


def one(word: str) -> str:
    (found,) = [rest for name, rest in instructions() if name == word]
    return found


def table(heading: str, pattern: str) -> set[str]:
    """What the rows of a section of docs/serve.md say about, by their first cells."""
    section = SERVE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(pattern, cell)}


def test_every_file_parses() -> None:
    files = [path for path in DEPLOY.rglob("*") if path.suffix in (".yaml", ".yml")]
    assert len(files) == 5
    assert all(isinstance(parsed(path), dict) for path in files)


# The image


def test_the_image_runs_as_nobody_in_particular_and_ends_on_sigterm() -> None:
    words = [word for word, _ in instructions()]
    assert words[:2] == ["ARG", "FROM"]
    assert one("USER") == "10001:10001"
    assert words.index("USER") > max(at for at, word in enumerate(words) if word == "RUN")
    assert one("STOPSIGNAL") == "SIGTERM"


def test_the_image_starts_the_server_without_a_shell(options: set[str]) -> None:
    command = json.loads(one("ENTRYPOINT"))
    assert command[:2] == ["betoken", "serve"]
    assert {word for word in command if word.startswith("--")} <= options
    assert command[command.index("--host") + 1] == "0.0.0.0"
    assert command[command.index("--port") + 1] == one("EXPOSE")


def test_the_image_asks_for_its_health_itself() -> None:
    _, _, command = one("HEALTHCHECK").partition("CMD ")
    python, flag, code = json.loads(command)
    assert (python, flag) == ("python", "-c")
    compile(code, "HEALTHCHECK", "exec")
    assert f"http://127.0.0.1:{one('EXPOSE')}/health" in code


def test_the_image_names_no_index_and_no_secret() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"https?://[^/'\s]+", text) == [f"http://127.0.0.1:{one('EXPOSE')}"]
    assert 'ARG TORCH_INDEX=""\n' in text
    assert not re.search(r"KEY|TOKEN|PASSWORD|SECRET", text)


def test_what_the_image_copies_is_there_and_in_its_context() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    copied = {word for name, rest in instructions() if name == "COPY" for word in rest.split()[:-1]}
    assert copied == kept
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert any(fnmatch("__pycache__", line.removeprefix("**/")) for line in ignored if line.startswith("**/"))


# Compose


def test_compose_starts_the_server_with_options_it_has(compose: Any, options: set[str]) -> None:
    server = compose["services"]["server"]
    given = shlex.split(re.sub(r"\$\{.*?\}", "", server["command"]))
    assert {word for word in given if word.startswith("--")} <= options
    assert int(server["stop_grace_period"][:-1]) > int(given[given.index("--drain-seconds") + 1])


def test_compose_opens_ports_to_this_machine_only(compose: Any) -> None:
    for name, service in compose["services"].items():
        assert all(re.match(r"127\.0\.0\.1:|\$\{\w+:-127\.0\.0\.1\}:", port) for port in service["ports"]), name


def test_compose_holds_no_secret(compose: Any) -> None:
    environment = compose["services"]["server"]["environment"]
    assert environment == {"BETOKEN_API_KEYS": "${BETOKEN_API_KEYS:-}", "HF_TOKEN": None, "OMP_NUM_THREADS": None}
    assert ".env" in (DEPLOY / ".gitignore").read_text().split()


def test_what_compose_mounts_is_there(compose: Any) -> None:
    for name, service in compose["services"].items():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in compose["volumes"], name
    build = compose["services"]["server"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
    assert set(build["args"]) <= {rest.split("=")[0] for name, rest in instructions() if name == "ARG"}


def test_the_gpu_file_adds_to_a_service_that_is_there(compose: Any) -> None:
    added = parsed(DEPLOY / "compose.gpu.yaml")["services"]
    assert set(added) <= set(compose["services"])
    (device,) = added["server"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_prometheus_scrapes_the_server_and_grafana_asks_prometheus(compose: Any) -> None:
    (job,) = parsed(DEPLOY / "prometheus.yml")["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"server:{one('EXPOSE')}"]}]
    (source,) = parsed(GRAFANA / "provisioning" / "datasources" / "prometheus.yaml")["datasources"]
    assert source["type"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"
    assert {"server", "prometheus"} <= set(compose["services"])


def test_grafana_finds_the_dashboard(compose: Any) -> None:
    (provider,) = parsed(GRAFANA / "provisioning" / "dashboards" / "betoken.yaml")["providers"]
    mounted = [volume.split(":")[1] for volume in compose["services"]["grafana"]["volumes"]]
    place = f"{provider['options']['path']}/betoken.json"
    assert place in mounted
    assert compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == place


@pytest.mark.parametrize("files", [("compose.yaml",), ("compose.yaml", "compose.gpu.yaml")], ids=["cpu", "gpu"])
def test_docker_compose_understands_it(files: tuple[str, ...]) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        pytest.skip("there is no docker compose here")
    named = [word for file in files for word in ("-f", str(DEPLOY / file))]
    result = subprocess.run([docker, "compose", *named, "config", "--quiet"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


# The dashboard


def test_the_dashboard_asks_for_metrics_the_server_exposes(dashboard: Any, names: frozenset[str]) -> None:
    asked = set(METRIC.findall(json.dumps(dashboard)))
    series = {name + end for name in names for end in ("", "_bucket", "_sum", "_count")}
    assert len(asked) > 20
    assert asked <= series
    assert {name for name in names if not any(each.startswith(name) for each in asked)} == set()


def test_the_dashboard_lets_its_user_choose_source_and_model(dashboard: Any) -> None:
    source, model = dashboard["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert model["datasource"] == chosen
    assert [panel["title"] for panel in panels if panel["datasource"] != chosen] == []
    for panel in panels:
        assert panel["description"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"] == chosen
            metrics = len(METRIC.findall(target["expr"]))
            assert target["expr"].count('{model_name=~"$model"}') == metrics > 0, panel["title"]


def test_the_dashboard_is_one_grafana_can_lay_out(dashboard: Any) -> None:
    panels = dashboard["panels"]
    assert dashboard["schemaVersion"] >= 39
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


# The page about it


def test_every_option_is_described(options: set[str]) -> None:
    assert table("Options", r"--[a-z-]+") == {name for name in options if name.startswith("--")} - {"--help"}


def test_every_metric_is_described(names: frozenset[str]) -> None:
    assert table("Metrics", METRIC.pattern) == names
