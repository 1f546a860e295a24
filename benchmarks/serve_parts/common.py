"""What all parts share: settings, prompts, one counter of tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from tokenizers import Tokenizer

from betoken import demo
from betoken.bench.workloads import Workload, read
from serve_parts.load import Ask, Reply
from serve_parts.sides import Betoken, Side

CLIENTS = (1, 8, 32)
REQUESTS = {1: 10, 8: 32, 32: 64}
QUICK_REQUESTS = {1: 3, 8: 8, 32: 32}
WARM_UP_TOKENS = 16


@dataclass(frozen=True)
class Settings:
    """What was asked for.

    pairs:    of second turns; requests: short ones, for memory; idle_s: how long nobody asks before memory is read
    quick:    a smoke test: nothing that is worth believing
    """

    rounds: int = 9
    max_tokens: int = 128
    pairs: int = 9
    requests: int = 10_000
    idle_s: float = 15.0
    seed: int = 0
    quick: bool = False


def many(clients: int) -> str:
    return "1 client" if clients == 1 else f"{clients} clients"


class Bench:
    """The embedded prompts, the counter, and what goes wrong on the way."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.console = Console(stderr=True)
        self.differences: list[dict[str, Any]] = []
        self.repeated = self.disturbed = 0
        self.open = ExitStack()
        self._shared: Betoken | None = None
        self.servers: dict[str, dict[str, Any]] = {}

    def betoken(self) -> AbstractContextManager[Betoken]:
        """A server of its own for each part; where it has to be quick one for all, until `open` is closed."""
        if not self.settings.quick:
            return Betoken()
        if self._shared is None:
            self._shared = self.open.enter_context(Betoken())
        return nullcontext(self._shared)

    @cached_property
    def model(self) -> Path:
        """The target's folder."""
        return Path(demo.pair()[0])

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_file(str(self.model / "tokenizer.json"))

    @cached_property
    def prompts(self) -> list[Workload]:
        """The embedded ones, in a drawn order; groups take turns, so that any few of them are mixed."""
        groups: dict[str, list[Workload]] = {}
        for prompt in read(demo.prompts()):
            groups.setdefault(prompt.group, []).append(prompt)
        places: list[tuple[int, str, Workload]] = []
        for name, members in groups.items():
            random.Random(f"{self.settings.seed} {name}").shuffle(members)
            places += ((place, name, member) for place, member in enumerate(members))
        return [prompt for _, _, prompt in sorted(places, key=lambda one: one[:2])]

    def keep(self, server: Side, **more: Any) -> None:
        """For the record: how a server was started, and what it says of itself."""
        self.servers[server.name] = {"command": server.command[1:], **more}

    def count(self, text: str) -> int:
        """Its tokens: the same text is the same number, whoever said it."""
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def tokens(self, replies: Sequence[Reply]) -> int:
        return sum(self.count(reply.text) for reply in replies)

    def asks(self, side: Side, clients: int, salt: str, max_tokens: int | None = None, **extra: Any) -> list[Ask]:
        """A round's requests. A prompt that comes a second time has another salt: its first answer is no help."""
        number = (QUICK_REQUESTS if self.settings.quick else REQUESTS)[clients]
        chosen = self.prompts[: min(number, max(CLIENTS))]
        most = max_tokens or self.settings.max_tokens
        return [
            side.ask(chosen[place % len(chosen)], most, f"{salt} {place // len(chosen)}", **extra)
            for place in range(number)
        ]

    def long_text(self, tokens: int, salt: str) -> str:
        """Sentences of the embedded prompts in an order drawn for this salt, cut to so many tokens."""
        drawn, sentences = random.Random(f"{self.settings.seed} {salt}"), self._sentences
        text = ""
        while self.count(text) < tokens:
            text += " ".join(drawn.sample(sentences, len(sentences))) + " "
        return str(self.tokenizer.decode(self.tokenizer.encode(text, add_special_tokens=False).ids[:tokens]))

    @cached_property
    def _sentences(self) -> list[str]:
        texts = (one.prompt or " ".join(message["content"] for message in one.messages) for one in self.prompts)
        return [part for text in texts for part in str(text).split(". ") if part]

    @cached_property
    def words(self) -> list[str]:
        """Whole words of one token, with the space before."""
        texts = (self.tokenizer.decode([token]) for token in range(self.tokenizer.get_vocab_size()))
        return [text for text in texts if text.startswith(" ") and text[1:].isalpha() and len(text) > 3]

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False)
