"""Do two servers say the same? Greedy answers of an endpoint against another's, judged by the log-probabilities they give.

Knows nothing of models: it sees texts, tokens as texts, and the few likeliest tokens at each place.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

import betoken
from betoken import demo
from betoken.bench.audit_json import dumped
from betoken.bench.audit_reply import Reply
from betoken.bench.audit_server import Server, shown
from betoken.bench.tie import first_difference
from betoken.bench.workloads import Workload, first_of_each, read
from betoken.errors import ParameterError

SCHEMA = "betoken.audit-endpoints/1"
# A log-probability is off by some roundings of the logits behind it, whose size no server tells: 16 is usual.
LOGIT_SIZE = 16.0
ROUNDINGS = {"bfloat16": (2.0**-7, 4), "float16": (2.0**-10, 4), "float32": (2.0**-23, 16)}
UNDECIDED_STATUS = 3


class Sameness(StrEnum):
    """What a comparison of two servers' answers may find."""

    IDENTICAL = "identical"
    NEAR_TIE = "near tie"
    UNDECIDED = "undecided"
    BUG = "bug"


@dataclass(frozen=True, slots=True)
class Setup:
    """What is compared: `endpoint`'s answers with those of `against`.

    dtype:    what the servers compute in; gives the bound of a near tie where `near_tie` is None
    near_tie: the largest difference of log-probabilities called a near tie
    """

    endpoint: str
    against: str
    model: str | None = None
    key: str | None = None
    prompts: Path | None = None
    limit: int | None = None
    max_tokens: int = 64
    chat: bool = False
    dtype: str = "bfloat16"
    near_tie: float | None = None
    timeout: float = 60.0

    @property
    def bound(self) -> float:
        """In units of log-probability. Raises ParameterError."""
        if self.near_tie is not None:
            if not 0 <= self.near_tie < math.inf:
                raise ParameterError("near_tie", self.near_tie, "a finite number of at least 0")
            return self.near_tie
        if self.dtype not in ROUNDINGS:
            raise ParameterError("dtype", self.dtype, "one of " + ", ".join(ROUNDINGS) + ", the servers' own")
        eps, roundings = ROUNDINGS[self.dtype]
        return eps * roundings * LOGIT_SIZE


@dataclass(frozen=True, slots=True)
class Finding:
    """One prompt. `unit` says what `position` counts; `said` are the two tokens or texts there, `against`'s first.

    margin: how far `against`'s or `endpoint`'s own log-probabilities hold the two apart, the larger; None where unknown
    stable, against_stable: whether the endpoint, and `against`, gave the same answer twice
    """

    id: str
    sameness: Sameness
    stable: bool
    against_stable: bool
    position: int | None = None
    unit: str = "token"
    said: tuple[str, str] | None = None
    margin: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it. `complete` is False where somebody interrupted the audit."""

    findings: list[Finding]
    setup: Setup
    complete: bool

    def count(self, kind: Sameness) -> int:
        return sum(one.sameness is kind for one in self.findings)

    @property
    def status(self) -> int:
        """The exit status: 1 with a bug, 3 without one where something is undecided, else 0."""
        if self.count(Sameness.BUG):
            return 1
        return UNDECIDED_STATUS if self.count(Sameness.UNDECIDED) else 0


def workloads(setup: Setup) -> list[Workload]:
    """The prompts. Raises PromptError."""
    return first_of_each(read(setup.prompts or demo.prompts()), setup.limit)


def run(setup: Setup, prompts: Sequence[Workload], tell: Callable[[str], None] = lambda _: None) -> Report:
    """Ask both servers twice. Ctrl-C ends it early, with what was found until then.

    Raises ParameterError, PromptError, ServerError.
    """
    bound, findings = setup.bound, list[Finding]()
    with _server(setup, setup.endpoint) as server, _server(setup, setup.against) as other, suppress(KeyboardInterrupt):
        for prompt in prompts:
            answers = [asked.complete(prompt, setup.max_tokens) for asked in (other, server, other, server)]
            findings.append(judge(prompt.id, answers[::2], answers[1::2], bound))
            tell(prompt.id)
        return Report(findings, setup, complete=True)
    return Report(findings, setup, complete=False)


def _server(setup: Setup, url: str) -> Server:
    return Server(url, model=setup.model, key=setup.key, timeout=setup.timeout, chat=setup.chat)


def judge(name: str, expected: Sequence[Reply], said: Sequence[Reply], bound: float) -> Finding:
    """The verdict on one prompt, which both were asked twice; what differs from itself says nothing by a difference."""
    one, other = expected[0], said[0]
    stable, against_stable = (answers[0].text == answers[-1].text for answers in (said, expected))
    where = first_difference(one.text, other.text)
    if where is None:
        return Finding(name, Sameness.IDENTICAL, stable, against_stable)
    place = _token_at(one, other, where)
    if place is None:
        pair = [reply.text[where : where + 20] or "(end)" for reply in (one, other)]
    else:
        pair = ["".join((reply.tokens or ())[place : place + 1]) or "(end)" for reply in (one, other)]
    margin, exact = (None, False) if place is None else _margin(one, other, place)
    spelt = one.tokens is not None and other.tokens is not None
    sameness, why = _verdict(margin, exact, bound, _unstable(stable, against_stable), place is None and spelt)
    unit, position = ("character", where) if place is None else ("token", place)
    return Finding(name, sameness, stable, against_stable, position, unit, (pair[0], pair[1]), margin, why)


def _token_at(one: Reply, other: Reply, where: int) -> int | None:
    """The token that holds the first character that differs, where both servers came to it by the same tokens.

    Servers may cut one text into different tokens; then their tokens, and what they hold likely, are not of one kind.
    """
    starts, its_starts = one.starts(where), other.starts(where)
    if starts is None or its_starts is None:
        return None
    place, its = bisect_right(starts, where) - 1, bisect_right(its_starts, where) - 1
    same = place == its and (one.tokens or ())[:place] == (other.tokens or ())[:place]
    return place if same else None


def _unstable(stable: bool, against_stable: bool) -> str:
    if stable and against_stable:
        return ""
    who = "the server it is compared with" if stable else "the endpoint" if against_stable else "neither server"
    return f"{who} repeats itself" if who.startswith("neither") else f"{who} does not repeat itself"


def _verdict(margin: float | None, exact: bool, bound: float, unstable: str, cut: bool) -> tuple[Sameness, str]:
    """cut: there are tokens, which do not fit each other."""
    if unstable:
        return Sameness.UNDECIDED, unstable
    if margin is not None and margin > bound:
        return Sameness.BUG, ""
    if margin is not None and exact:
        return Sameness.NEAR_TIE, ""
    if cut:
        return Sameness.UNDECIDED, "the servers cut the text into different tokens"
    known = "the tokens are not among the likeliest ones given"
    return Sameness.UNDECIDED, "no log-probabilities" if margin is None else known


def _margin(expected: Reply, said: Reply, place: int) -> tuple[float | None, bool]:
    """The larger of both servers' margins at the first difference, and whether either was given exactly."""
    views = [_view(expected, said, place), _view(said, expected, place)]
    known = [view for view in views if view is not None]
    if not known:
        return None, False
    return max(margin for margin, _ in known), any(exact for _, exact in known)


def _view(mine: Reply, theirs: Reply, place: int) -> tuple[float, bool] | None:
    """How far above the other's token a server holds its own; where that is not listed, at least so far, and False."""
    if mine.tokens is None or mine.tops is None or theirs.tokens is None or place >= len(mine.tokens):
        return None
    top, own = mine.tops[place], mine.tokens[place]
    other = theirs.tokens[place] if place < len(theirs.tokens) else None
    rest = [value for token, value in top.items() if token != own]
    if own not in top or not rest:
        return None
    if other is not None and other in top:
        return abs(top[own] - top[other]), True
    # An end has no text to look for: it may be the second likeliest, listed under a name of the server's.
    return top[own] - (max(rest) if other is None else min(rest)), False


def to_json(report: Report) -> str:
    """The report as JSON, `schema` first. The key stays out."""
    setup = {key: value for key, value in asdict(report.setup).items() if key not in ("key", "prompts", "near_tie")}
    setup |= {name: shown(setup[name]) for name in ("endpoint", "against")}
    return dumped(
        {
            "schema": SCHEMA,
            "betoken": betoken.__version__,
            "complete": report.complete,
            "settings": {**setup, "bound": report.setup.bound},
            "counts": {kind.value: report.count(kind) for kind in Sameness},
            "unstable": sum(not one.stable for one in report.findings),
            "against_unstable": sum(not one.against_stable for one in report.findings),
            "findings": [asdict(one) for one in report.findings],
        }
    )


def words(report: Report) -> list[str]:
    """One line per difference, and the verdict."""
    lines = [_line(one) for one in report.findings if one.sameness is not Sameness.IDENTICAL]
    counts = ", ".join(f"{report.count(kind)} {kind}" for kind in Sameness)
    lines.append(
        f"{len(report.findings)} prompts: {counts}. A near tie: up to {report.setup.bound:.2g} in log-probability."
    )
    for who, unstable in (
        ("endpoint", sum(not one.stable for one in report.findings)),
        ("server it is compared with", sum(not one.against_stable for one in report.findings)),
    ):
        if unstable:
            lines.append(
                f"The {who} answered {unstable} of them otherwise when asked again: its output varies by itself."
            )
    return lines


def _line(one: Finding) -> str:
    said: Mapping[int, str] = dict(enumerate(one.said or ("", "")))
    margin = "" if one.margin is None else f", margin {one.margin:.2g}"
    why = f" ({one.why})" if one.why else ""
    return f"{one.sameness:9}  {one.id}: {one.unit} {one.position}, {said[1]!r} where {said[0]!r} was expected{margin}{why}"
