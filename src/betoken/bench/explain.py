"""`auto` and plain decoding on the same prompts in turns, and then `auto`'s own account of it."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

from betoken.bench.cells import ALL, PLAIN, Cell
from betoken.bench.compare import Bench, Report, Setup
from betoken.bench.measure import WARM_UP_TOKENS
from betoken.bench.workloads import Workload
from betoken.explain import Against, Explanation, Rates, advised
from betoken.methods import AUTO

SCHEMA = "betoken.explain/1"


@dataclass(slots=True)
class Explainer:
    """A loaded model and its prompts. Close it, or use it in a `with` statement.

    setup:  its methods are not looked at; its plan has one temperature
    prompt: this one, and none of `setup.prompts`
    """

    setup: Setup
    prompt: str | None = None
    _bench: Bench = field(init=False)

    def __post_init__(self) -> None:
        workloads = None if self.prompt is None else [Workload("prompt", "prompt", self.prompt)]
        self._bench = Bench(replace(self.setup, methods=(AUTO, PLAIN)), workloads)

    def __enter__(self) -> "Explainer":
        return self

    def __exit__(self, *_: object) -> None:
        self._bench.close()

    @property
    def calls(self) -> int:
        """How many steps `run` will tell about."""
        return self._bench.calls

    def run(self, tell: Callable[[str], None] = lambda _: None) -> tuple[Explanation, bool]:
        """Measure and explain; whether nobody interrupted it."""
        llm, plan = self._bench.llm, self.setup.plan
        # What compiles and loads at its first use is no part of the account.
        short = plan.params(plan.temperatures[0]).replaced(max_tokens=min(WARM_UP_TOKENS, plan.max_tokens))
        llm.generate(self._bench.items[0].ids, short, method=AUTO)
        llm.forget()
        report = self._bench.run(tell)
        return advised(self._named(llm.explain()), against(report)), report.complete

    def _named(self, found: Explanation) -> Explanation:
        """The embedded model goes by its name, not by where it lies."""
        return replace(found, model="embedded target") if self.setup.model is None else found


def against(report: Report) -> Against | None:
    """The figures of both, kind by kind; None where nothing was measured of both."""
    cells = {(cell.group, cell.method): cell for cell in report.cells}
    groups = [group for group in dict.fromkeys(cell.group for cell in report.cells) if (group, AUTO) in cells]
    rates = [_rates(cells, group) for group in groups if (group, PLAIN) in cells]
    own = [cells[group, AUTO] for group in groups if group != ALL]
    if not rates:
        return None
    identical, near, different = (
        sum(getattr(cell, kind) for cell in own) for kind in ("identical", "near_tie", "different")
    )
    return Against(tuple(rates), identical + near + different, identical, near, different)


def _rates(cells: dict[tuple[str, str], Cell], group: str) -> Rates:
    return Rates(group, cells[group, PLAIN].tokens_per_s, cells[group, AUTO].tokens_per_s)


def to_json(found: Explanation) -> str:
    """All figures as JSON, `schema` first; names as in `Explanation`."""
    return json.dumps({"schema": SCHEMA, **asdict(found)}, indent=2)
