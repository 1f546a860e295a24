"""From options to a server that listens, until a signal ends it."""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import uvicorn

from betoken.errors import BetokenError, ParameterError
from betoken.llm import LLM
from betoken.scheduler import Limits
from betoken.serve.app import create_app
from betoken.serve.heap import settle
from betoken.serve.service import Service

GIGABYTE = 1 << 30
# Of a GPU's free memory, and of a computer's, what keys and values may take; of that, what ended rows may keep.
GPU_SHARE, CPU_SHARE, KEPT_SHARE = 0.85, 0.25, 0.25
# Prompts are read beside decoding rows for as long as so many of their steps; a step's tokens, at most.
STALL, STEP_TOKENS = 2.0, 4096
# So long clients have to hear that the server ends.
GOODBYE_SECONDS = 2
# Python lets a thread run so long before another one's turn: the event loop must not wait for the engine's.
SWITCH_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class Place:
    """Where the server listens, and how."""

    host: str = "127.0.0.1"
    port: int = 8000
    keyfile: str | None = None
    certfile: str | None = None
    root_path: str = ""
    log_level: str = "info"
    drain_seconds: int = 30

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else host
        return f"{'https' if self.certfile else 'http'}://{host}:{self.port}{self.root_path}"


def planned(llm: LLM, rows: int, gigabytes: float | None) -> Limits:
    """What an engine around this model may do here. gigabytes: for keys and values; None: a share of what is free. Raises
    ParameterError for more than there is."""
    room = int(gigabytes * GIGABYTE) if gigabytes is not None else _free(llm)
    if gigabytes is not None and room > (there := _total(llm)):
        raise ParameterError("kv-memory", gigabytes, f"at most the {there / GIGABYTE:.1f} GiB that are there")
    kept = int(room * KEPT_SHARE)
    return Limits(rows=rows, stall=STALL, step_tokens=STEP_TOKENS, kv_bytes=room - kept, kept_bytes=kept)


def _total(llm: LLM) -> int:
    device = torch.device(llm.info.device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return _memory("MemTotal")


def _free(llm: LLM) -> int:
    device = torch.device(llm.info.device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * GPU_SHARE)
    return int(_memory("MemAvailable", 8 * GIGABYTE) * CPU_SHARE)


def _memory(which: str, unknown: int = 1 << 60) -> int:
    """Bytes of memory this computer has, or has for new things, as far as it says so."""
    with contextlib.suppress(OSError, ValueError, IndexError), Path("/proc/meminfo").open(encoding="ascii") as lines:
        for line in lines:
            if line.startswith(f"{which}:"):
                return int(line.split()[1]) * 1024
    return unknown


class Server(uvicorn.Server):
    """Ends with exit code 0 once it has drained; whoever still waits then, or at a second signal, is told so. Says when it listens."""

    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[], None], drain_seconds: int) -> None:
        super().__init__(config)
        self._service, self._ready, self._drain_seconds = service, ready, drain_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but for raising them again afterwards."""
        before = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        patience = asyncio.get_running_loop().call_later(self._drain_seconds, self._service.worker.abandon)
        await super().shutdown(sockets)
        patience.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.worker.draining = True
        if self.should_exit:
            self._service.worker.abandon()
            force = threading.Timer(GOODBYE_SECONDS, self._force)
            force.daemon = True
            force.start()
        self.should_exit = True

    def _force(self) -> None:
        """Of a client that takes nothing any more."""
        self.force_exit = True


def listen(place: Place) -> socket.socket:
    """A socket that is bound. Raises BetokenError where that cannot be."""
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((place.host, place.port))
    except (OSError, OverflowError) as failure:
        found.close()
        reason = getattr(failure, "strerror", None) or failure
        raise BetokenError(
            f"cannot listen on {place.host}, port {place.port}: {reason}; choose others with --host and --port"
        ) from failure
    return found


def serve(service: Service, place: Place, bound: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until a signal comes, then until what runs has ended, at most for the time to drain. Raises BetokenError."""
    sys.setswitchinterval(SWITCH_SECONDS)
    logging.getLogger("betoken").setLevel(place.log_level.upper())
    config = uvicorn.Config(
        create_app(service, root_path=place.root_path),
        log_level=place.log_level,
        access_log=place.log_level in ("debug", "trace"),
        ssl_keyfile=place.keyfile,
        ssl_certfile=place.certfile,
        timeout_graceful_shutdown=place.drain_seconds + GOODBYE_SECONDS,
        timeout_keep_alive=75,  # longer than proxies keep theirs
        server_header=False,
        log_config=LOGGING,
    )
    try:
        config.load()
    except OSError as failure:
        raise BetokenError(f"the TLS files cannot be used: {failure.strerror or failure}") from failure
    server = Server(config, service, ready, place.drain_seconds)
    settle()
    server.run([bound])


LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"}},
    "loggers": {
        "uvicorn": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        "betoken": {"handlers": ["stderr"], "propagate": False},
    },
}
