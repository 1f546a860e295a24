"""`betoken serve`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console
from rich.text import Text

from betoken.cli.common import Device, DraftModel, Dtype, Recalibrate, busy, load_model, readable_errors
from betoken.errors import BetokenError, ParameterError

if TYPE_CHECKING:
    from betoken.llm import LLM
    from betoken.scheduler import Limits

KEYS = "BETOKEN_API_KEYS"
DEMO = "betoken-demo"
LOADED = ("method", "dtype", "device", "max_context", "recalibrate", "max_rows")
LEVELS = ("critical", "error", "warning", "info", "debug")


def serve(
    where: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="The same as --model.", show_default=False)
    ] = None,
    model: Annotated[str | None, typer.Option(help="Folder or hub name; default: the embedded model.")] = None,
    draft: DraftModel = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: one that is free.")] = 8000,
    method: Annotated[str | None, typer.Option(help="Who drafts where a request names nobody; default: auto.")] = None,
    served_model_name: Annotated[str | None, typer.Option(help="What clients call the model.")] = None,
    max_rows: Annotated[int, typer.Option(help="Requests decoded at once; the others wait.")] = 32,
    max_context: Annotated[
        int | None, typer.Option("--max-context", "--max-model-len", help="A smaller context than the model's own.")
    ] = None,
    chat_template: Annotated[
        Path | None, typer.Option(help="A file with a chat template (Jinja), for a model that has none or another.")
    ] = None,
    max_queue: Annotated[int, typer.Option(help="Requests that wait, at most.")] = 256,
    kv_memory: Annotated[float | None, typer.Option(help="GiB for keys and values; default: by what is free.")] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(help=f"A key clients must send; repeatable. Also from {KEYS}, with commas between."),
    ] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option(help="TLS: the private key.")] = None,
    ssl_certfile: Annotated[Path | None, typer.Option(help="TLS: the certificate.")] = None,
    max_body: Annotated[int, typer.Option(help="Bytes of a request, at most.")] = 4 << 20,
    max_n: Annotated[int, typer.Option(help="Samples of a request, at most.")] = 16,
    max_stops: Annotated[int, typer.Option(help="Stop strings of a request, at most.")] = 16,
    share_index: Annotated[
        bool,
        typer.Option(
            "--share-index/--no-share-index",
            help="One memory for all keys: more is drafted right, but how soon an answer comes can tell what others asked.",
        ),
    ] = False,
    allowed_origins: Annotated[
        list[str] | None,
        typer.Option(
            help="Pages of this origin may ask from a browser, such as https://chat.example.org; * for all; repeatable."
        ),
    ] = None,
    root_path: Annotated[str, typer.Option(help="Where a proxy has put the server, such as /llm.")] = "",
    log_level: Annotated[str, typer.Option(help=", ".join(LEVELS) + ".")] = "info",
    drain_seconds: Annotated[int, typer.Option(help="After SIGTERM, how long running requests may take to end.")] = 30,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Serve the page at /.")] = True,
    dtype: Dtype = "auto",
    device: Device = "auto",
    recalibrate: Recalibrate = False,
) -> None:
    """Serve a model over HTTP, as OpenAI's clients expect it."""
    given = {**locals(), "allowed_origins": tuple(allowed_origins or ())}
    with readable_errors():
        if where is not None and model is not None:
            raise BetokenError(f"two models: {where} and --model {model}; give one")
        given["model"] = model or where
        _check(given)
        _serve(given)


def _check(given: dict[str, object]) -> None:
    if given["log_level"] not in LEVELS:
        raise ParameterError("log-level", given["log_level"], "one of " + ", ".join(LEVELS))
    if bool(given["ssl_keyfile"]) != bool(given["ssl_certfile"]):
        raise BetokenError("TLS needs both --ssl-keyfile and --ssl-certfile")
    for name in ("ssl_keyfile", "ssl_certfile", "chat_template"):
        file = given[name]
        if isinstance(file, Path) and not file.is_file():
            raise ParameterError(name.replace("_", "-"), str(file), "a file")
    memory, rows = given["kv_memory"], given["max_rows"]
    if isinstance(memory, float) and not 0 < memory < 1e6:
        raise ParameterError("kv-memory", memory, "GiB, above 0")
    if isinstance(rows, int) and rows < 1:
        raise ParameterError("max-rows", rows, "a whole number of at least 1")
    drain = given["drain_seconds"]
    if isinstance(drain, int) and drain < 0:
        raise ParameterError("drain-seconds", drain, "a whole number of at least 0")


def _serve(given: dict[str, object]) -> None:
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as failure:
        raise BetokenError(f"serving needs the package {failure.name!r}: pip install 'betoken[serve]'") from failure
    from betoken.serve.running import Place, listen, planned
    from betoken.serve.running import serve as run
    from betoken.serve.service import Service
    from betoken.serve.settings import Settings

    found = {name: value for name, value in given.items() if name in Settings.__dataclass_fields__}
    settings = Settings(name=_name(given), keys=_keys(given), **found)  # type: ignore[arg-type]
    places = {name: value for name, value in given.items() if name in Place.__dataclass_fields__}
    files = {name: given[f"ssl_{name}"] and str(given[f"ssl_{name}"]) for name in ("keyfile", "certfile")}
    place = Place(**places, **files)  # type: ignore[arg-type]
    rows, memory = cast(int, given["max_rows"]), cast(float | None, given["kv_memory"])
    with listen(place) as bound:
        if place.port == 0:
            place = Place(**{**places, **files, "port": bound.getsockname()[1]})
        Console(stderr=True).print(f"loading {settings.name}", highlight=False, markup=False)
        with busy("loading"):
            service = Service(lambda: _load(given), settings, lambda llm: planned(llm, rows, memory))
        with service.llm as llm:
            run(
                service,
                place,
                bound,
                lambda: _greet(llm, service.limits, place.url, settings.name, bool(settings.keys)),
            )


def _load(given: dict[str, object]) -> "LLM":
    llm = load_model(given, LOADED)
    file, most = given["chat_template"], given["max_context"]
    if isinstance(file, Path):
        llm.tokenizer.chat_template = _read(file)
    own = llm.target.info.context
    if isinstance(most, int) and own is not None and own < most:
        llm.close()
        raise ParameterError("max-context", most, f"at most the model's own, {own}")
    return llm


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as failure:
        raise BetokenError(f"{file} cannot be read: {getattr(failure, 'strerror', None) or failure}") from failure


def _name(given: dict[str, object]) -> str:
    return str(given["served_model_name"] or given["model"] or DEMO)


def _keys(given: dict[str, object]) -> tuple[str, ...]:
    said = given["api_key"]
    keys = [*said] if isinstance(said, list) else []
    return (*keys, *(key.strip() for key in os.environ.get(KEYS, "").split(",") if key.strip()))


def _greet(llm: "LLM", limits: "Limits", url: str, name: str, guarded: bool) -> None:
    """What runs, and where."""
    info = llm.info
    drafts = f", draft model {info.draft if name != DEMO else 'embedded'}" if info.draft else ""
    room, kept = (limits.kv_bytes or 0) / 2**30, limits.kept_bytes / 2**30
    tokens = (limits.kv_bytes or 0) // max(1, llm.target.kv_needed(1, 1))
    lines = [
        f"Betoken serves {name} at {url}",
        f"  {info.parameters / 1e6:,.0f} M parameters, {info.dtype} on {info.device}; method {llm.method}{drafts}",
        f"  keys and values: {room:.1f} GiB for {limits.rows} rows ({tokens:,} tokens), {kept:.1f} GiB to keep ended ones",
        f"  {'a key is needed' if guarded else 'no key is needed'}; race plain against speculative decoding at {url}/",
    ]
    Console(stderr=True, soft_wrap=True, highlight=False).print(Text("\n".join(lines)))
