"""What an audit found, as a table, in words and as JSON. Measures nothing."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from betoken.bench.audit import ALPHA, LAW_LENGTH, Draws, Judged, Report
from betoken.bench.audit_law import POWER
from betoken.bench.tie import Sameness

SCHEMA = "betoken.audit/1"
VERDICTS = {Sameness.IDENTICAL: "identical", Sameness.NEAR_TIE: "near tie", Sameness.DIFFERENT: "BUG"}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: the answers of one method in one way of sampling and one batch size, and the verdicts.

    against: what they were compared with: plain decoding in batches of one, or transformers' own forward
    """

    sampling: str
    batch_size: int
    method: str
    against: str
    prompts: int
    identical: int
    near_tie: int
    bug: int


def rows(judged: Sequence[Judged]) -> list[Row]:
    """The table's lines, in the order of the audit."""
    sections: dict[tuple[str, int, str], list[Judged]] = {}
    for one in judged:
        key = (one.answer.case.name, one.answer.batch_size, one.answer.method)
        sections.setdefault(key, []).append(one)
    return [_row(section) for section in sections.values()]


def _row(section: Sequence[Judged]) -> Row:
    answer = section[0].answer
    counts = [sum(one.found.sameness is kind for one in section) for kind in VERDICTS]
    against = "transformers" if answer.is_reference else "plain"
    return Row(answer.case.name, answer.batch_size, answer.method, against, len(section), *counts)


def table(lines: Sequence[Row]) -> RenderableType:
    """One line per method and batch size; a section per way of sampling. 80 columns wide."""
    made = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("", "batch\nsize", "against", "prompts", "identical", "near tie", "BUG"):
        made.add_column(name, no_wrap=True, justify="left" if name in ("", "against") else "right")
    for sampling in dict.fromkeys(line.sampling for line in lines):
        made.add_row(Text(sampling, style="bold"))
        for line in (line for line in lines if line.sampling == sampling):
            sizes = (str(line.batch_size), line.against, str(line.prompts))
            made.add_row(f"  {line.method}", *sizes, *_counts(line.identical, line.near_tie, line.bug))
        made.add_row()
    return made


def _counts(identical: int, near_tie: int, bug: int) -> tuple[Text, ...]:
    return (
        Text(str(identical)),
        Text(str(near_tie) if near_tie else "–", style="yellow" if near_tie else "dim"),
        Text(str(bug) if bug else "–", style="bold red" if bug else "dim"),
    )


def law_table(laws: Sequence[Draws]) -> RenderableType:
    """One line per test of residual mode."""
    made = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column("residual mode", no_wrap=True)
    made.add_column("prompt")
    for name in ("samples", "cells", "chi-square", "p", "sees from"):
        made.add_column(name, justify="right", no_wrap=True)
    for one in laws:
        made.add_row(f"  {one.method}", Text(one.item.id), *_law(one))
    return made


def _law(one: Draws) -> tuple[Text, ...]:
    test = one.test
    if test is None:
        return ()
    return (
        Text(str(test.samples)),
        Text(str(test.cells)),
        Text(f"{test.statistic:.1f}"),
        Text(f"{test.p_value:.2g}" + (" BUG" if test.wrong else ""), style="bold red" if test.wrong else ""),
        Text("–" if test.detectable is None else f"TV {test.detectable:.2f}"),
    )


def findings(judged: Sequence[Judged]) -> list[Text]:
    """One line per near tie and bug: where, which two tokens, how far apart."""
    return [_finding(one) for one in judged if one.found.sameness is not Sameness.IDENTICAL]


def _finding(one: Judged) -> Text:
    answer, found = one.answer, one.found
    line = Text(f"{VERDICTS[found.sameness]:8}", style="bold red" if found.sameness is Sameness.DIFFERENT else "yellow")
    line.append(f"  {answer.item.id}, {answer.method}, {answer.case.name}, batch size {answer.batch_size}", style="")
    line.append(f": token {found.position}")
    if found.tokens is not None and one.texts is not None:
        expected, said = (_named(token, text) for token, text in zip(found.tokens, one.texts, strict=True))
        line.append(f", {said} where {expected} was expected" if found.tokens != (None, None) else ", ended too early")
    if found.margin is not None:
        line.append(f", margin {found.margin:.2g} = {found.roundings:.1f} roundings")
    return line


def _named(token: int | None, text: str) -> str:
    return "the end" if token is None else f"{text!r} ({token})"


def words(report: Report) -> str:
    """The verdict in a few sentences."""
    judged, bugs = report.judged, report.bugs
    if not judged and not report.laws:
        return "Nothing was judged."
    near = sum(one.found.sameness is Sameness.NEAR_TIE for one in judged)
    lines = [f"{len(judged)} answers: {len(judged) - near - _wrong(judged)} identical, {near} near ties."]
    if report.laws:
        lines.append(
            f"Residual mode: the first {LAW_LENGTH} tokens together against the exact law. A law that is off by the "
            f"total-variation distance under “sees from”, or more, is found with probability {POWER:g}; a right one is "
            f"called wrong with probability {ALPHA:g}, over all {len(report.laws)} tests together."
        )
    lines.append(f"{bugs} BUG{'S' * (bugs > 1)}: please report this." if bugs else "No bug was found.")
    return "\n".join(lines)


def _wrong(judged: Sequence[Judged]) -> int:
    return sum(one.found.sameness is Sameness.DIFFERENT for one in judged)


def heading(report: Report) -> str:
    """What was audited, and how."""
    header, setup = report.header, report.setup
    model = header["model"]
    draft = f", draft model {model['draft']}" if model["draft"] else ""
    lines = [
        f"{model['model']}{draft}, {model['dtype']} on {model['device']}",
        f"{header['prompts']} prompts, at most {setup.max_tokens} tokens each, seed {setup.seed}",
    ]
    return "\n".join([*lines, *model["notes"], ""])


def to_json(report: Report) -> str:
    """The whole report as JSON, `schema` first; names as in `Setup`, `Row`, `LawTest`."""
    settings = {key: value for key, value in asdict(report.setup).items() if key not in ("model", "draft", "prompts")}
    return json.dumps(
        {
            "schema": SCHEMA,
            "complete": report.complete,
            "bugs": report.bugs,
            "environment": dict(report.header),
            "settings": settings,
            "rows": [asdict(row) for row in rows(report.judged)],
            "findings": [_entry(one) for one in report.judged if one.found.sameness is not Sameness.IDENTICAL],
            "residual": [_law_entry(one) for one in report.laws],
        },
        indent=2,
    )


def _entry(one: Judged) -> dict[str, Any]:
    answer, found = one.answer, one.found
    return {
        "verdict": VERDICTS[found.sameness].lower(),
        "sampling": answer.case.name,
        "batch_size": answer.batch_size,
        "method": answer.method,
        "id": answer.item.id,
        "seed": answer.seed,
        "position": found.position,
        "tokens": found.tokens,
        "texts": one.texts,
        "margin": found.margin,
        "bound": found.bound,
        "roundings": found.roundings,
        "prompt_token_ids": answer.item.ids,
        "token_ids": answer.token_ids,
    }


def _law_entry(one: Draws) -> dict[str, Any]:
    return {"method": one.method, "id": one.item.id, **({} if one.test is None else asdict(one.test))}
