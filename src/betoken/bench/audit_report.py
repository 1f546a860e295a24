"""What an audit found, as a table, in words and as JSON. Measures nothing."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from betoken.bench.audit import ALPHA, LAW_LENGTH
from betoken.bench.audit_found import Draws, Judged, Report
from betoken.bench.audit_json import dumped
from betoken.bench.audit_law import POWER
from betoken.bench.cells import PLAIN
from betoken.bench.tie import Sameness

SCHEMA = "betoken.audit/1"
TRANSFORMERS = "transformers"
VERDICTS = {Sameness.IDENTICAL: "identical", Sameness.NEAR_TIE: "near tie", Sameness.DIFFERENT: "BUG"}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: the answers of one method in one way of sampling and one batch size, and the verdicts.

    against: what they were compared with: plain decoding in batches of one, or transformers' own forward
    drafted, accepted: how many tokens, of all answers together; where nothing was drafted, nothing but plain decoding
             was audited
    """

    sampling: str
    batch_size: int
    method: str
    against: str
    prompts: int
    identical: int
    near_tie: int
    bug: int
    drafted: int
    accepted: int


def rows(judged: Sequence[Judged]) -> list[Row]:
    """The table's lines, in the order of the audit."""
    sections: dict[tuple[str, int, str], list[Judged]] = {}
    for one in judged:
        key = (one.answer.case.name, one.answer.batch_size, one.answer.method)
        sections.setdefault(key, []).append(one)
    return [_row(section) for section in sections.values()]


def _row(section: Sequence[Judged]) -> Row:
    answers, first = [one.answer for one in section], section[0].answer
    counts = Counter(one.found.sameness for one in section)
    return Row(
        first.case.name,
        first.batch_size,
        first.method,
        TRANSFORMERS if first.is_reference else PLAIN,
        len(section),
        counts[Sameness.IDENTICAL],
        counts[Sameness.NEAR_TIE],
        counts[Sameness.DIFFERENT],
        sum(answer.drafted for answer in answers),
        sum(answer.accepted for answer in answers),
    )


def table(lines: Sequence[Row]) -> RenderableType:
    """One line per method and batch size; a section per way of sampling. 80 columns wide."""
    made = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("", "batch\nsize", "identical", "near tie", "BUG", "accepted/\ndrafted"):
        made.add_column(name, no_wrap=True, justify="right" if name else "left")
    for sampling in dict.fromkeys(line.sampling for line in lines):
        made.add_row(Text(sampling, style="bold"))
        for line in (line for line in lines if line.sampling == sampling):
            against = f" against {TRANSFORMERS}" if line.against == TRANSFORMERS else ""
            counts = _counts(line.identical, line.near_tie, line.bug)
            made.add_row(f"  {line.method}{against}", str(line.batch_size), *counts, _drafted(line))
        made.add_row()
    return made


def _counts(identical: int, near_tie: int, bug: int) -> tuple[Text, ...]:
    return (
        Text(str(identical)),
        Text(str(near_tie) if near_tie else "–", style="yellow" if near_tie else "dim"),
        Text(str(bug) if bug else "–", style="bold red" if bug else "dim"),
    )


def _drafted(line: Row) -> Text:
    if line.method == PLAIN:
        return Text("–", style="dim")
    return Text(f"{line.accepted}/{line.drafted}") if line.drafted else Text("nothing drafted", style="yellow")


def law_table(laws: Sequence[Draws]) -> RenderableType:
    """One line per test of residual mode."""
    made = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column("residual mode", no_wrap=True)
    made.add_column("prompt")
    for name in ("samples", "cells", "p", "sees from"):
        made.add_column(name, justify="right", no_wrap=True)
    for one in laws:
        made.add_row(f"  {one.method}", Text(f"{one.item.id}, {one.sampling}"), *_law(one))
    return made


def _law(one: Draws) -> tuple[Text, ...]:
    test = one.test
    if test is None:
        return ()
    return (
        Text(str(test.samples)),
        Text(str(test.cells)),
        Text(f"{test.p_value:.2g}" + (" BUG" if test.wrong else ""), style="bold red" if test.wrong else ""),
        Text("one cell", style="yellow") if test.detectable is None else Text(f"TV {test.detectable:.2f}"),
    )


def findings(judged: Sequence[Judged]) -> list[Text]:
    """One line per near tie and bug: where, which two tokens, how far apart."""
    return [_finding(one) for one in judged if one.found.sameness is not Sameness.IDENTICAL]


def failures(report: Report) -> list[Text]:
    """One line for everything that broke, or was refused."""
    return [
        Text.assemble(("BUG     ", "bold red") if one.bug else ("left out", "yellow"), f"  {one.where}: {one.what}")
        for one in report.failures
    ]


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
    if not judged and not report.laws and not report.failures:
        return "Nothing was judged."
    near = sum(one.found.sameness is Sameness.NEAR_TIE for one in judged)
    lines = [f"{len(judged)} answers: {len(judged) - near - _wrong(judged)} identical, {near} near ties."]
    lines += _undrafted(report)
    if report.laws:
        lines.append(
            f"Residual mode: the first {LAW_LENGTH} tokens together against the exact law. A law that is off by the "
            f"total-variation distance under “sees from”, or more, is found with probability {POWER:g}; a right one is "
            f"called wrong with a probability of about {ALPHA:g}, over all {len(report.laws)} tests together."
        )
    lines += [f"Note: {note}." for note in report.header["notes"]]
    lines.append(f"{bugs} BUG{'S' * (bugs > 1)}: please report this." if bugs else "No bug was found.")
    return "\n".join(lines)


def _undrafted(report: Report) -> list[str]:
    """Which methods drafted nothing at all."""
    drafted = Counter[str]()
    for judged in report.judged:
        drafted[judged.answer.method] += judged.answer.drafted
    for law in report.laws:
        drafted[law.method] += law.drafted
    idle = [method for method, count in drafted.items() if not count and method != PLAIN]
    return [f"Nothing was drafted by {', '.join(idle)}: nothing was audited there."] if idle else []


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
    warnings = [f"Note: {note}." for note in header["notes"]]
    return "\n".join([*lines, *model["notes"], *warnings, ""])


def to_json(report: Report) -> str:
    """The whole report as JSON, `schema` first; names as in `Setup`, `Row`, `LawTest`."""
    settings = {key: value for key, value in asdict(report.setup).items() if key not in ("model", "draft", "prompts")}
    return dumped(
        {
            "schema": SCHEMA,
            "complete": report.complete,
            "bugs": report.bugs,
            "environment": dict(report.header),
            "settings": settings,
            "rows": [asdict(row) for row in rows(report.judged)],
            "findings": [_entry(one) for one in report.judged if one.found.sameness is not Sameness.IDENTICAL],
            "residual": [_law_entry(one) for one in report.laws],
            "failures": [asdict(one) for one in report.failures],
        }
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
    drafted = {"drafted": one.drafted, "accepted": one.accepted}
    named = {"method": one.method, "id": one.item.id, "sampling": one.sampling}
    return {**named, **drafted, **({} if one.test is None else asdict(one.test))}
