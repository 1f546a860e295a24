"""What an audit decodes and finds. Measures nothing, prints nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from betoken.bench.audit_cases import Case, Setup
from betoken.bench.audit_law import LawTest
from betoken.bench.cells import PLAIN
from betoken.bench.measure import Ids, Item
from betoken.bench.tie import Comparison, Sameness
from betoken.params import SamplingParams


@dataclass(frozen=True, slots=True)
class Answer:
    """What one method said to one prompt, and how many tokens it drafted and saw accepted on the way."""

    case: Case
    batch_size: int
    method: str
    item: Item
    params: SamplingParams
    token_ids: Ids
    drafted: int
    accepted: int

    @property
    def is_reference(self) -> bool:
        """Whether it is what the others are compared with."""
        return self.method == PLAIN and self.batch_size == 1

    @property
    def seed(self) -> int:
        return self.params.seed or 0


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer and its verdict. `texts` are the two tokens where it parts from what was expected."""

    answer: Answer
    found: Comparison
    texts: tuple[str, str] | None = None


@dataclass(slots=True)
class Draws:
    """Residual-mode outputs of one method after one prompt, and what came of their test.

    sampling: what the parameters add to the temperature, in a word
    """

    method: str
    item: Item
    sampling: str
    params: SamplingParams
    outputs: list[Ids] = field(default_factory=list)
    drafted: int = 0
    accepted: int = 0
    test: LawTest | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that could not be audited. `bug`: whether it should have been possible."""

    where: str
    what: str
    bug: bool = True


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it. `complete` is False where somebody interrupted the audit."""

    judged: list[Judged]
    laws: list[Draws]
    header: Mapping[str, Any]
    setup: Setup
    complete: bool
    failures: list[Failure] = field(default_factory=list)

    @property
    def bugs(self) -> int:
        """How many answers are wrong, how many laws, and what broke."""
        wrong = sum(one.found.sameness is Sameness.DIFFERENT for one in self.judged)
        laws = sum(law.test is not None and law.test.wrong for law in self.laws)
        return wrong + laws + sum(failure.bug for failure in self.failures)
