"""Do two servers say the same? Greedy answers of an endpoint against another's, judged by the log-probabilities they give.

Knows nothing of models: it sees texts, tokens as texts, and the few likeliest tokens at each place.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

import betoken
from betoken import demo
from betoken.bench.audit_server import Reply, Server
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
            return self.near_tie
        if self.dtype not in ROUNDINGS:
            raise ParameterError("dtype", self.dtype, "one of " + ", ".join(ROUNDINGS) + ", the servers' own")
        eps, roundings = ROUNDINGS[self.dtype]
        return eps * roundings * LOGIT_SIZE


@dataclass(frozen=True, slots=True)
class Finding:
    """One prompt. `unit` says what `position` counts; `said` are the two tokens or texts there, `against`'s first.

    margin: how far `against`'s or `endpoint`'s own log-probabilities hold the two apart, the larger; None where unknown
    stable: whether the endpoint gave the same answer twice
    """

    id: str
    sameness: Sameness
    stable: bool
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
    """Ask both servers, the endpoint twice. Ctrl-C ends it early, with what was found until then.

    Raises ParameterError, PromptError, ServerError.
    """
    bound, findings = setup.bound, list[Finding]()
    with _server(setup, setup.endpoint) as server, _server(setup, setup.against) as other, suppress(KeyboardInterrupt):
        for prompt in prompts:
            expected = other.complete(prompt, setup.max_tokens)
            said, again = (server.complete(prompt, setup.max_tokens) for _ in range(2))
            findings.append(judge(prompt.id, expected, said, again, bound))
            tell(prompt.id)
        return Report(findings, setup, complete=True)
    return Report(findings, setup, complete=False)


def _server(setup: Setup, url: str) -> Server:
    return Server(url, model=setup.model, key=setup.key, timeout=setup.timeout, chat=setup.chat)


def judge(name: str, expected: Reply, said: Reply, again: Reply, bound: float) -> Finding:
    """The verdict on one prompt; a difference says nothing where the endpoint differs from itself."""
    stable = said.text == again.text
    if expected.text == said.text:
        return Finding(name, Sameness.IDENTICAL, stable)
    by_token = expected.tokens is not None and said.tokens is not None
    one, other = (reply.tokens if by_token and reply.tokens else reply.text for reply in (expected, said))
    place = first_difference(one, other)
    if place is None:  # the same tokens, which this server writes otherwise
        by_token, place = False, first_difference(expected.text, said.text) or 0
        one, other = expected.text, said.text
    width = 1 if by_token else 20
    pair = ["".join(text[place : place + width]) or "(end)" for text in (one, other)]
    margin, exact = _margin(expected, said, place) if by_token else (None, False)
    sameness, why = _verdict(margin, exact, bound, stable, by_token)
    unit = "token" if by_token else "character"
    return Finding(name, sameness, stable, place, unit, (pair[0], pair[1]), margin, why)


def _verdict(margin: float | None, exact: bool, bound: float, stable: bool, by_token: bool) -> tuple[Sameness, str]:
    if not stable:
        return Sameness.UNDECIDED, "the endpoint does not repeat itself"
    if margin is not None and margin > bound:
        return Sameness.BUG, ""
    if margin is not None and exact:
        return Sameness.NEAR_TIE, ""
    why = (
        "the tokens are not among the likeliest ones given"
        if by_token and margin is not None
        else "no log-probabilities"
    )
    return Sameness.UNDECIDED, why


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
    return json.dumps(
        {
            "schema": SCHEMA,
            "betoken": betoken.__version__,
            "complete": report.complete,
            "settings": {**setup, "bound": report.setup.bound},
            "counts": {kind.value: report.count(kind) for kind in Sameness},
            "unstable": sum(not one.stable for one in report.findings),
            "findings": [asdict(one) for one in report.findings],
        },
        indent=2,
    )


def words(report: Report) -> list[str]:
    """One line per difference, and the verdict."""
    lines = [_line(one) for one in report.findings if one.sameness is not Sameness.IDENTICAL]
    unstable = sum(not one.stable for one in report.findings)
    counts = ", ".join(f"{report.count(kind)} {kind}" for kind in Sameness)
    lines.append(
        f"{len(report.findings)} prompts: {counts}. A near tie: up to {report.setup.bound:.2g} in log-probability."
    )
    if unstable:
        lines.append(
            f"The endpoint answered {unstable} of them otherwise when asked again: its output varies by itself."
        )
    return lines


def _line(one: Finding) -> str:
    said: Mapping[int, str] = dict(enumerate(one.said or ("", "")))
    margin = "" if one.margin is None else f", margin {one.margin:.2g}"
    why = f" ({one.why})" if one.why else ""
    return f"{one.sameness:9}  {one.id}: {one.unit} {one.position}, {said[1]!r} where {said[0]!r} was expected{margin}{why}"
