"""The second turn of a chat whose history has 2,000 tokens: its first text against the same request to a server that has never seen
the conversation (a salt of its own). Which of the two comes first changes from pair to pair."""

from __future__ import annotations

from statistics import median
from typing import Any

from figures import Found, held
from rich.progress import track

from betoken.bench.workloads import Workload
from serve_parts.common import Bench
from serve_parts.contest import new_salt
from serve_parts.load import Reply, load
from serve_parts.quiet import quietly
from serve_parts.sides import Betoken

HISTORY, ANSWER_TOKENS, TURN_TOKENS = 2000, 64, 16
BOUND = 0.2


def run(bench: Bench) -> Found:
    with bench.betoken() as server:
        _pair(bench, server, 0)
        numbers = track(range(bench.settings.pairs), "second turns", console=bench.console, transient=True)
        pairs = [quietly(bench, lambda number=number: _pair(bench, server, number)) for number in numbers]  # type: ignore[misc]
    ratios = [warm.first / cold.first for warm, cold in pairs]
    more = {
        "warm, ms": 1000 * median(warm.first for warm, _ in pairs),
        "cold, ms": 1000 * median(cold.first for _, cold in pairs),
        "kept tokens": round(median(_kept(warm) for warm, _ in pairs)),
        "kept, cold": round(median(_kept(cold) for _, cold in pairs)),
        "prompt tokens": round(median(warm.usage["prompt_tokens"] for warm, _ in pairs)),
        "pairs": len(pairs),
    }
    data = [
        {"warm_s": warm.first, "cold_s": cold.first, "kept": _kept(warm), "same": warm.text == cold.text}
        for warm, cold in pairs
    ]
    return Found([held("first text of a second turn, warm/cold", ratios, BOUND, most=True, **more)], data)


def _pair(bench: Bench, server: Betoken, number: int) -> tuple[Reply, Reply]:
    """The second turn, warm and cold."""
    known, unknown = new_salt(), new_salt()
    opening = [_said("user", bench.long_text(HISTORY - ANSWER_TOKENS, known))]
    answer = _asked(server, opening, known, ANSWER_TOKENS).text
    second = [*opening, _said("assistant", answer), _said("user", "Tell me more about that.")]
    salts = (known, unknown) if number % 2 else (unknown, known)
    found = {salt: _asked(server, second, salt, TURN_TOKENS) for salt in salts}
    return found[known], found[unknown]


def _said(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def _asked(server: Betoken, messages: list[dict[str, Any]], salt: str, max_tokens: int) -> Reply:
    chat = Workload("turn", "turns", messages=tuple(messages))
    return load(server.url, [server.ask(chat, max_tokens, salt)], 1).replies()[0]


def _kept(reply: Reply) -> int:
    """Prompt tokens that did not have to be read again."""
    return int((reply.usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
