"""Prompts to measure on: JSON lines with groups, or plain text, one prompt per line. Knows nothing of models."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from betoken.errors import PromptError

UNNAMED = "prompts"
EXPECTED = 'expected {"prompt": "text" or [token ids]} or {"messages": [{"role": ..., "content": ...}]}'


@dataclass(frozen=True, slots=True)
class Workload:
    """One prompt: text, token ids, or a conversation; and the kind of text it stands for."""

    id: str
    group: str
    prompt: str | tuple[int, ...] = ""
    messages: tuple[Mapping[str, Any], ...] = ()


def read(path: Path) -> list[Workload]:
    """The prompts of a file. Raises PromptError, naming file and line, for what is no prompt, and for an empty file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as failure:
        reason = getattr(failure, "strerror", None) or failure
        raise PromptError(f"{path} cannot be read: {reason}; expected a text file of prompts") from failure
    # Not splitlines(): JSON strings may hold the other characters that end lines.
    rows = enumerate((line.removesuffix("\r") for line in text.split("\n")), 1)
    lines = [(number, line) for number, line in rows if line.strip()]
    if not lines:
        raise PromptError(f"{path} has no prompts; expected one per line, as JSON or as plain text")
    as_json = path.suffix in (".jsonl", ".json") or lines[0][1].lstrip().startswith("{")
    if not as_json:
        return [Workload(f"line-{number}", UNNAMED, line) for number, line in lines]
    return _distinct([_parsed(line, f"{path}:{number}", f"line-{number}") for number, line in lines])


def _distinct(workloads: Sequence[Workload]) -> list[Workload]:
    """The second prompt of a name becomes name#2."""
    seen: Counter[str] = Counter()
    named = []
    for workload in workloads:
        seen[workload.id] += 1
        again = seen[workload.id]
        named.append(workload if again == 1 else replace(workload, id=f"{workload.id}#{again}"))
    return named


def first_of_each(workloads: Sequence[Workload], limit: int | None) -> list[Workload]:
    """At most `limit` prompts of every group, the groups kept together in the order they first appear."""
    groups: dict[str, list[Workload]] = {}
    for workload in workloads:
        groups.setdefault(workload.group, []).append(workload)
    return [workload for group in groups.values() for workload in group[:limit]]


def _parsed(line: str, place: str, name: str) -> Workload:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as failure:
        raise PromptError(f"{place}: no JSON ({failure.msg} at column {failure.colno}); {EXPECTED}") from failure
    if not isinstance(entry, dict) or ("prompt" in entry) == ("messages" in entry):
        raise PromptError(f"{place}: {EXPECTED}, one of the two")
    group, given = str(entry.get("group", UNNAMED)), str(entry.get("id", name))
    if "messages" in entry:
        return Workload(given, group, messages=_messages(entry["messages"], place))
    return Workload(given, group, _prompt(entry["prompt"], place))


def _prompt(value: Any, place: str) -> str | tuple[int, ...]:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list) and value and all(type(token) is int and token >= 0 for token in value):
        return tuple(value)
    raise PromptError(f"{place}: the prompt is {str(value)[:40]!r}; expected text or a list of token ids, not empty")


def _messages(value: Any, place: str) -> tuple[Mapping[str, Any], ...]:
    good = isinstance(value, list) and value
    if not good or not all(isinstance(message, dict) and {"role", "content"} <= message.keys() for message in value):
        raise PromptError(f'{place}: messages must be a list of {{"role": ..., "content": ...}}')
    return tuple(value)
