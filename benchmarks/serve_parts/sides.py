"""The two servers, and how each is asked the same."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

from betoken.bench.workloads import Workload
from serve_parts.load import Ask, load
from serve_parts.process import Server, ServerFailedError

PYTHON = (sys.executable, "-P")
TRY_TOKENS = 4
SETTLE_S = 10.0
# Of the settings tried on two cores its fastest; by default its cache takes most of a computer's memory and its batches are slower.
BATCHING = ("--continuous-batching", "--cb-block-size", "64", "--cb-num-blocks", "256", "--cb-max-batch-tokens", "512")
BUSY = ("num_requests_running", "num_requests_waiting")
_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{.*\})? (\S+)$", re.MULTILINE)


class Side(Server):
    """A server and the model that it serves."""

    def __init__(self, command: Sequence[str], model: str) -> None:
        super().__init__(command)
        self.model = model

    def ask(self, prompt: Workload | str, max_tokens: int, salt: str, **extra: Any) -> Ask:
        """Greedy and streamed. Text as it is goes to /v1/completions, a conversation to /v1/chat/completions."""
        body = {"model": self.model, "max_tokens": max_tokens, "temperature": 0, "stream": True, **self.more(salt)}
        if isinstance(prompt, Workload) and prompt.messages:
            return Ask.of("/v1/chat/completions", {**body, "messages": [*prompt.messages], **extra})
        text = prompt if isinstance(prompt, str) else prompt.prompt
        return Ask.of("/v1/completions", {**body, "prompt": text, **extra})

    def more(self, salt: str) -> dict[str, Any]:
        """Fields only this side knows."""
        return {}


class Betoken(Side):
    """`betoken serve` on the embedded pair, as it comes."""

    name = "betoken"

    def __init__(self, *options: str) -> None:
        super().__init__([*PYTHON, "-m", "betoken", "serve", *options], "")
        self.about: dict[str, Any] = {}

    def ready(self) -> None:
        entry = json.loads(self.get("/v1/models"))["data"][0]
        self.model, self.about = entry["id"], entry["betoken"]

    def more(self, salt: str) -> dict[str, Any]:
        """What one salt remembers no other salt can see."""
        return {"cache_salt": salt, "stream_options": {"include_usage": True}}

    def metrics(self) -> dict[str, float]:
        return read_metrics(self.get("/metrics"))

    def settled(self) -> dict[str, float]:
        """Metrics once nothing runs or waits. Raises ServerFailedError where something stays."""
        until = time.monotonic() + SETTLE_S
        while True:
            found = self.metrics()
            if not any(found[name] for name in BUSY):
                return found
            if time.monotonic() > until:
                raise ServerFailedError(
                    f"{ {name: found[name] for name in BUSY} } after {SETTLE_S:.0f} s without a request"
                )
            time.sleep(0.1)


def read_metrics(text: str) -> dict[str, float]:
    """By name, without `betoken:`; labels are summed over."""
    found: dict[str, float] = {}
    for name, value in _SAMPLE.findall(text):
        short = name.removeprefix("betoken:")
        found[short] = found.get(short, 0.0) + float(value)
    return found


class Transformers(Side):
    """`transformers serve` on the target's folder, in the same dtype."""

    def __init__(self, model: str, dtype: str, *, batching: bool) -> None:
        self.name = "transformers-batching" if batching else "transformers"
        options = ["--device", "cpu", "--dtype", dtype, "--log-level", "warning"]
        command = [*PYTHON, "-m", "transformers.cli.transformers", "serve", model, *options]
        super().__init__([*command, *(BATCHING if batching else ())], model)

    def ready(self) -> None:
        """Where something is missing, the first request says so."""
        exchanges = load(self.url, [self.ask("Once upon a time", TRY_TOKENS, "")], 1)
        if not exchanges.replies()[0].text:
            raise ServerFailedError(f"{self.name} answered nothing")
