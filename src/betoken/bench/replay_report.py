"""What replays found, as tables and as JSON. Measures nothing."""

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from betoken.bench.replay import Tally
from betoken.bench.replay_setup import PLAIN, Replays
from betoken.stats import Stats

POSITIONS = 8


def report(replays: Replays, *, warm: bool) -> RenderableType:
    """All tables, with a heading."""
    tallies = replays.tallies
    parts: list[RenderableType] = [Text(heading(replays, warm=warm)), _totals(tallies)]
    if replays.real:
        parts += [Text("\nwith real forward passes, the prefill left out", style="bold"), _speeds(tallies)]
    if len(tallies[0].categories) > 1:
        parts += [Text("\nmean tokens per step, by category", style="bold"), _by_category(tallies)]
    drafting = [tally for tally in tallies if tally.total.drafts]
    if drafting:
        parts += [Text("\nshare of drafts accepted up to position …", style="bold"), _by_position(drafting)]
    return Group(*parts)


def heading(replays: Replays, *, warm: bool) -> str:
    """What was replayed, and how."""
    trace = replays.trace
    outputs = [segment for c in trace.conversations for segment in c.outputs if segment.tokens]
    tokens = sum(len(segment.tokens) for segment in outputs)
    memory = "warm: earlier conversations are remembered" if warm else "cold: each conversation on its own"
    cut = "" if replays.done == len(trace.conversations) else f"; INTERRUPTED after {replays.done} conversations"
    lines = [
        f"{len(trace.conversations)} conversations, {len(outputs)} outputs, {tokens} output tokens; {memory}{cut}",
        "an output's first token comes from the prefill and is no step",
        *replays.facts,
    ]
    return "\n".join([*lines, ""])


def _totals(tallies: Sequence[Tally]) -> Table:
    made = _table(
        "", "tokens\n/step", "steps", "drafts", "draft\ntokens", "accepted", "nodes\n/step", "µs drafting\n/step"
    )
    for tally in tallies:
        total = tally.total
        row: list[str | Text] = [
            Text(tally.method),
            _ratio(total.emitted_tokens, total.steps, ".3f"),
            str(total.steps),
            str(total.drafts),
        ]
        row += [str(total.draft_tokens), str(total.accepted_tokens), _ratio(total.draft_tokens, total.steps, ".1f")]
        made.add_row(*row, _ratio(1e6 * total.draft_s, total.steps, ".0f"))
    return made


def _speeds(tallies: Sequence[Tally]) -> Table:
    made = _table("", "ms/step", "of them\ndrafting", "tok/s", "speed-up")
    plain = next((tally.total for tally in tallies if tally.method == PLAIN), Stats())
    for tally in tallies:
        total = tally.total
        row: list[str | Text] = [Text(tally.method), _ratio(1e3 * _seconds(total), total.steps, ".2f")]
        row += [_ratio(1e3 * total.draft_s, total.steps, ".2f"), f"{_speed(total):.1f}"]
        made.add_row(*row, _ratio(_speed(total), _speed(plain), ".2f") + "x" * bool(plain.steps))
    return made


def _seconds(stats: Stats) -> float:
    return stats.draft_s + stats.verify_s + stats.host_s


def _speed(stats: Stats) -> float:
    """Tokens per second of decoding, the prefill left out."""
    return stats.emitted_tokens / _seconds(stats) if stats.steps else 0.0


def _by_category(tallies: Sequence[Tally]) -> Table:
    made = _table("", *(tally.method for tally in tallies))
    for category in tallies[0].categories:
        found = [tally.categories.get(category, Stats()) for tally in tallies]
        made.add_row(Text(category), *(_ratio(stats.emitted_tokens, stats.steps, ".3f") for stats in found))
    return made


def _by_position(tallies: Sequence[Tally]) -> Table:
    made = _table("", *(str(place) for place in range(1, POSITIONS + 1)))
    for tally in tallies:
        shares = tally.total.acceptance_per_position[:POSITIONS]
        made.add_row(Text(tally.method), *(f"{share:.2f}" for share in shares))
    return made


def _table(*names: str) -> Table:
    made = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for place, name in enumerate(names):
        made.add_column(Text(name), justify="right" if place else "left", no_wrap=not place, overflow="fold")
    return made


def _ratio(value: float, by: float, form: str) -> str:
    return format(value / by, form) if by else "–"


def to_json(replays: Replays, *, warm: bool) -> str:
    """One method: `{"total": {...}, "categories": {...}, ...}`; several: `{"methods": {name: the same, ...}, ...}`."""
    found = {tally.method: _entry(tally) for tally in replays.tallies}
    settings = {
        "warm": warm,
        "conversations": replays.done,
        "complete": replays.done == len(replays.trace.conversations),
        "target": list(replays.facts),
        "seconds": replays.seconds,
    }
    if len(found) == 1:
        ((method, entry),) = found.items()
        return json.dumps({**entry, "method": method, **settings}, indent=2)
    return json.dumps({"methods": found, **settings}, indent=2)


def _entry(tally: Tally) -> dict[str, Any]:
    return {
        "total": _counters(tally.total),
        "categories": {category: _counters(stats) for category, stats in tally.categories.items()},
    }


def _counters(stats: Stats) -> dict[str, Any]:
    return {
        "steps": stats.steps,
        "drafts": stats.drafts,
        "draft_tokens": stats.draft_tokens,
        "accepted_tokens": stats.accepted_tokens,
        "tokens_per_step": stats.tokens_per_step,
        "emitted_tokens": stats.emitted_tokens,
        "acceptance_rate": stats.acceptance_rate,
        "mean_acceptance_length": stats.mean_acceptance_length,
        "accepted_per_position": stats.accepted_per_position,
        "draft_s": stats.draft_s,
        "verify_s": stats.verify_s,
        "host_s": stats.host_s,
    }
