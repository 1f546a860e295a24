"""What all parts share: settings, prompts, forecasts and what came of them. No stopwatch in here."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rich.console import Console

from betoken import LLM, SamplingParams, demo
from betoken.bench.workloads import first_of_each, read

Ids = tuple[int, ...]
PLAIN, AUTO = "plain", "auto"


@dataclass(frozen=True)
class Settings:
    """What was asked for.

    rounds: fresh ones, that count; sweeps: earlier ones, in which the best fixed setting is looked for
    seed:   of everything drawn; a round at a temperature above 0 has the seed `seed + round`
    quick:  a smoke test: few settings, small models, nothing that is worth believing
    """

    rounds: int = 9
    sweeps: int = 2
    per_group: int | None = None
    max_tokens: int = 128
    seed: int = 0
    dtype: str = "auto"
    quick: bool = False

    def params(self, temperature: float = 0.0, *, ignore_eos: bool = False) -> SamplingParams:
        return SamplingParams(
            temperature=temperature, max_tokens=self.max_tokens, seed=self.seed, ignore_eos=ignore_eos
        )


@dataclass(frozen=True)
class Forecast:
    """What `auto` expected of one run of one contest, in tokens a second, and what came of it."""

    label: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        return abs(self.predicted / self.measured - 1)


class Bench:
    """The embedded pair and its prompts, loaded when first asked for; what goes wrong on the way, and what was predicted.

    forecasts: one for each contest; of_rounds: one for each round of each
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.console = Console(stderr=True)
        self.differences: list[dict[str, Any]] = []
        self.forecasts: list[Forecast] = []
        self.of_rounds: list[Forecast] = []

    @cached_property
    def llm(self) -> LLM:
        target, draft = demo.pair()
        return LLM(target, draft, dtype=self.settings.dtype)

    @cached_property
    def groups(self) -> dict[str, list[Ids]]:
        """The embedded prompts as token ids, by group."""
        found: dict[str, list[Ids]] = {}
        for one in first_of_each(read(demo.prompts()), self.settings.per_group):
            ids = self.llm.chat_prompt(one.messages) if one.messages else self.llm.token_ids(one.prompt)
            found.setdefault(one.group, []).append(tuple(ids))
        return found

    def mixed(self, most: int | None = None) -> list[Ids]:
        """Prompts of all groups in one fixed, drawn order."""
        prompts = [ids for group in self.groups.values() for ids in group]
        random.Random(self.settings.seed).shuffle(prompts)
        return prompts[:most]

    def few(self, each: int) -> list[Ids]:
        """So many prompts of every group."""
        return [ids for group in self.groups.values() for ids in group[:each]]

    @cached_property
    def words(self) -> list[int]:
        """Tokens that are a whole word with the space before it."""
        texts = ((token, self.llm.tokenizer.decode([token])) for token in range(self.llm.target.info.vocab_size))
        return [token for token, text in texts if text.startswith(" ") and text[1:].isalpha() and len(text) > 3]

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False)
