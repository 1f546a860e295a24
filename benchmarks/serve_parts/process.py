"""A server in a process of its own: started on a free port, watched through /proc, ended whatever happens."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

HOST = "127.0.0.1"
START_S, STOP_S = 240.0, 20.0
LOG_LINES = 20
PARENT_DEATH_SIGNAL = 1
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class ServerFailedError(Exception):
    """A server that did not start, or said something that it should not."""


@dataclass(frozen=True)
class Footprint:
    """What a server's processes hold."""

    rss: int
    files: int
    threads: int


class Server:
    """Leaving the `with` block ends it; its log is kept, and its end printed, where an exception leaves it."""

    name = "server"
    running: ClassVar[list[Server]] = []

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self.port = _free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.command = [*command, "--host", HOST, "--port", str(self.port)]
        self._env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", **(env or {})}
        self._folder = Path(tempfile.mkdtemp(prefix="serve-benchmark-"))
        self.log = self._folder / f"{self.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(
                    self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._env, preexec_fn=_die_along
                )
            self.running.append(self)
            self._wait()
            self.ready()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def ready(self) -> None:
        """For servers that want to know more about themselves, or to be tried."""

    def __exit__(self, kind: Any, failure: Any, trace: Any) -> None:
        if self in self.running:
            self.running.remove(self)
        self._stop()
        if kind is None or issubclass(kind, (KeyboardInterrupt, SystemExit)):
            shutil.rmtree(self._folder, ignore_errors=True)
        else:
            self.say_end()

    def say_end(self) -> None:
        """Of its log."""
        print(f"--- the end of {self.log}:", self.tail(), "---", sep="\n", file=sys.stderr)

    def tail(self, lines: int = LOG_LINES) -> str:
        """The last lines it wrote."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def footprint(self) -> Footprint:
        """Of the process and of those it started."""
        held = [_held(pid) for pid in _family(self.pid)]
        return Footprint(*(sum(values) for values in zip(*held, strict=True)))

    def cpu_seconds(self) -> float:
        """Used so far."""
        fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in _family(self.pid))
        return sum(int(field[11]) + int(field[12]) for field in fields) * TICK_S

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=30) as reply:
            return str(reply.read().decode())

    def _wait(self) -> None:
        """Until it says that it is well."""
        assert self._process is not None
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise ServerFailedError(f"{self.name} ended with {self._process.returncode} before it was ready")
            with contextlib.suppress(OSError):
                self.get("/health")
                return
            time.sleep(0.2)
        raise ServerFailedError(f"{self.name} was not ready within {START_S:.0f} s")

    def _stop(self) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        family = _family(process.pid)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            for pid in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _die_along() -> None:
    """Linux ends a server whose benchmark was killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _family(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            for children in Path(f"/proc/{one}/task").glob("*/children"):
                found += map(int, children.read_text().split())
    return found


def _held(pid: int) -> tuple[int, int, int]:
    folder = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) * 1024, len([*(folder / "fd").iterdir()]), int(status["Threads"])
