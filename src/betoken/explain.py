"""Why `auto` did what it did: its ledger and the verify curve as figures, as a page a person reads, and what would help. No torch.

Measures nothing: what is compared with plain decoding comes from `bench.explain`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from textwrap import fill
from typing import Any

from betoken.policy.cost import Curve
from betoken.policy.ledger import Ledger, Note
from betoken.targets.base import TargetInfo

WIDTHS = (1, 2, 4, 8, 16, 32, 64)
COLUMNS = 64  # of the picture of the budget
BARS = "▁▂▃▄▅▆▇█"
# From here on: a pass over eight tokens is dear; a step gains something; a step gains so much that little is missing.
DEAR, GAINS, PLENTY = 2.0, 1.1, 3.0
# In batches: so many steps with drafts left out are often. Fewer remembered tokens than these are as good as none.
OFTEN, FEW = 0.3, 20_000


@dataclass(frozen=True, slots=True)
class Width:
    """What a pass takes that feeds so many tokens a row, in seconds, and in passes of one token."""

    width: int
    seconds: float
    relative: float


@dataclass(frozen=True, slots=True)
class Drafter:
    """What one drafter was worth.

    asked:        in which share of the steps (of each row)
    worth:        tokens it was expected to add each time, beyond those who were asked before it
    price_s:      seconds each time
    price_tokens: what would have been said in that time at the rate of this run
    """

    name: str
    asked: float
    worth: float
    price_s: float
    price_tokens: float


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens per second of `auto` and of plain decoding on one kind of prompt, prefill included."""

    group: str
    plain: float
    auto: float


@dataclass(frozen=True, slots=True)
class Against:
    """`auto` and plain decoding on the same prompts, in turns, in one process."""

    rates: tuple[Rates, ...]
    outputs: int
    identical: int
    near_tie: int
    different: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """What happened since the model was loaded (or since `LLM.forget`). `text` is the page.

    kept:        the curve was read from disk, not measured now
    rows, context: of a usual pass; `curve` is for these
    budget:      nodes fed a step, from the first step to the last, so many steps averaged as make `COLUMNS` figures
    held_back:   share of steps that left nodes out because a wider pass would not have paid
    predicted, measured: tokens per second of the steps, before and after the fact, all rows together
    by_curve:    what plain steps would have made, by the curve
    remembered:  tokens of earlier answers that drafts may come from
    against:     the comparison with plain decoding, where one was made
    """

    model: str
    experts: int
    active_experts: int
    can_branch: bool
    has_draft: bool
    remembered: int
    kept: bool
    rows: int
    context: int
    curve: tuple[Width, ...]
    steps: int
    tokens_per_step: float
    nodes: float
    held_back: float
    budget: tuple[float, ...]
    drafters: tuple[Drafter, ...]
    predicted: float
    measured: float
    by_curve: float
    against: Against | None = None
    advice: tuple[str, ...] = ()

    def text(self) -> str:
        """The page, 80 columns wide."""
        parts = [
            _title(self),
            _curve(self),
            _drafters(self),
            _budget(self),
            _speed(self),
            _against(self),
            _advice(self),
        ]
        return "\n\n".join(part for part in parts if part)


def explained(auto: Any, curve: Curve, kept: bool, info: TargetInfo, model: str, *, with_draft: bool) -> Explanation:
    """The figures of a run.

    auto: the method `auto` as it drafted; kept: whether the curve was read from disk
    """
    ledger: Ledger = auto.ledger
    remembered = 0 if auto.library is None else len(auto.library)
    notes = [*ledger.notes]
    rows = int(median(note.rows for note in notes)) if notes else 1
    context = notes[-1].context if notes else 192
    rate = _per(ledger.emitted, ledger.measured_s)
    found = Explanation(
        model,
        info.experts,
        info.active_experts,
        info.can_branch,
        with_draft,
        remembered,
        kept,
        rows,
        context,
        _widths(curve, rows, context),
        ledger.steps,
        _per(ledger.emitted, ledger.rows),
        _per(sum(note.nodes for note in notes), len(notes)),
        _per(ledger.held_back, ledger.steps),
        _averaged(notes),
        tuple(_worth(ledger, name, rate) for name in ledger.names),
        _per(ledger.expected, ledger.predicted_s),
        rate,
        _per(ledger.rows, ledger.plain_s),
    )
    return advised(found)


def advised(found: Explanation, against: Against | None = None) -> Explanation:
    """With the comparison, and with what would help."""
    return replace(found, against=against, advice=tuple(what_would_help(found)))


def _per(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _widths(curve: Curve, rows: int, context: int) -> tuple[Width, ...]:
    seconds = curve.seconds(rows, context, WIDTHS[-1] - 1)
    return tuple(
        Width(width, float(seconds[width - 1]), _per(float(seconds[width - 1]), float(seconds[0]))) for width in WIDTHS
    )


def _worth(ledger: Ledger, name: str, rate: float) -> Drafter:
    account = ledger.accounts[name]
    price = _per(account.seconds, account.asked)
    return Drafter(name, _per(account.asked, ledger.rows), _per(account.worth, account.asked), price, price * rate)


def _averaged(notes: Sequence[Note]) -> tuple[float, ...]:
    size = max(-(-len(notes) // COLUMNS), 1)
    pieces = (notes[start : start + size] for start in range(0, len(notes), size))
    return tuple(sum(note.nodes for note in piece) / len(piece) for piece in pieces)


def what_would_help(found: Explanation) -> list[str]:
    """Advice, the most important first; each from a figure that is on the page."""
    if not found.steps:
        return []
    said = [*_of_the_model(found), *_of_the_drafters(found)]
    if found.tokens_per_step < GAINS:
        said.append(
            f"A step gains {found.tokens_per_step:.2f} tokens: nobody here foresees this text, and plain decoding, which is what "
            "auto falls back on, is right for it."
        )
    return said or ["Nothing that shows here: drafts are found, and they pay."]


def _of_the_model(found: Explanation) -> list[str]:
    said = []
    dear = next(width.relative for width in found.curve if width.width == 8) >= DEAR
    if dear and found.experts:
        said.append(
            f"The experts are why drafts are short: every token of a pass asks {found.active_experts} of {found.experts}, other tokens "
            "other ones, so more weights are read the more tokens are fed. A larger batch shares them; a longer draft does not."
        )
    if found.rows > 1 and found.held_back >= OFTEN:
        said.append(
            f"A smaller batch: with {found.rows} rows at once a node in each takes longer than it is worth in {found.held_back:.0%} "
            "of the steps. (Together the rows may still say more per second than fewer would.)"
        )
    elif dear and not found.experts:
        said.append(
            "Spare compute: every further token of a pass takes time here, so only likely ones are fed. On a faster device, or "
            "with more threads, more of them pay."
        )
    if not found.can_branch:
        said.append(
            "Another model, if you have the choice: this one takes chains only, so of every tree one path is fed."
        )
    return said


def _of_the_drafters(found: Explanation) -> list[str]:
    said = []
    draft = next((one for one in found.drafters if one.name == "draft"), None)
    if not found.has_draft and found.tokens_per_step < PLENTY:
        said.append("A draft model: none was given. It foresees text that nobody has written before.")
    if found.has_draft and draft is not None and draft.asked and draft.worth < draft.price_tokens:
        said.append(
            f"A smaller draft model, or one that agrees more often: asking this one adds {draft.worth:.2f} tokens and takes the time "
            f"of {draft.price_tokens:.2f}, so it is asked in {draft.asked:.0%} of the steps."
        )
    if found.remembered < FEW and found.tokens_per_step < PLENTY:
        said.append(
            f"A warm index: {found.remembered} tokens of earlier answers are remembered. If your texts resemble each other, keep them "
            '(LLM.memory().save) and load them (method="auto:load=FILE").'
        )
    return said


def _title(found: Explanation) -> str:
    kind = f", a mixture of {found.experts} experts, {found.active_experts} a token" if found.experts else ""
    return f"{found.model}{kind}: what auto did, and why"


def _curve(found: Explanation) -> str:
    where = "read from disk" if found.kept else "measured now"
    rows = "1 row" if found.rows == 1 else f"{found.rows} rows"
    table = [
        ("tokens fed a row", [str(one.width) for one in found.curve]),
        ("milliseconds", [_short(1e3 * one.seconds) for one in found.curve]),
        ("times one token", [f"{one.relative:.2f}" for one in found.curve]),
    ]
    lines = [f"What a pass takes ({where}; {rows}, {found.context} tokens of context)"]
    return "\n".join([*lines, *(f"  {name:<17}" + "".join(f"{cell:>8}" for cell in cells) for name, cells in table)])


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _drafters(found: Explanation) -> str:
    if not found.drafters or not found.steps:
        return ""
    lines = ["What each drafter was worth", f"  {'':<12}{'asked':>8}{'adds':>14}{'takes':>11}{'which is':>14}"]
    for one in found.drafters:
        if not one.asked:
            lines.append(f"  {one.name:<12}{'never':>8}")
            continue
        adds, which = f"{one.worth:.2f} tokens", f"{one.price_tokens:.2f} tokens"
        lines.append(f"  {one.name:<12}{one.asked:>8.0%}{adds:>14}{1e3 * one.price_s:>8.2f} ms{which:>14}")
    return "\n".join([*lines, "  (asked: in so many of the steps; adds: as expected then; takes: each time)"])


def _budget(found: Explanation) -> str:
    if not found.budget:
        return ""
    most = max(found.budget)
    bars = "".join(_bar(value, most) for value in found.budget)
    size = -(-found.steps // len(found.budget))
    each = "a step" if size == 1 else f"{size} steps"
    return (
        f"Nodes fed, first step to last (a column is {each}, the highest {most:.0f} nodes)\n  {bars}\n"
        f"  {found.nodes:.1f} on average; in {found.held_back:.0%} of the steps there were more, which did not pay"
    )


def _bar(value: float, most: float) -> str:
    """A dot where nothing was fed."""
    return BARS[min(int(value / most * len(BARS)), len(BARS) - 1)] if value > 0 else "·"


def _speed(found: Explanation) -> str:
    if not found.steps:
        return "No step was taken yet: let it decode something first."
    off = abs(found.predicted / found.measured - 1) if found.measured else 0.0
    gain = _per(found.measured, found.by_curve)
    return (
        f"Speed: {found.steps} steps of {found.tokens_per_step:.2f} tokens a row\n"
        f"  {found.predicted:8.1f} tokens per second predicted\n"
        f"  {found.measured:8.1f} measured, {off:.0%} off\n"
        f"  {found.by_curve:8.1f} plain steps would have made, by the curve: {gain:.2f}x"
    )


def _against(found: Explanation) -> str:
    if found.against is None:
        return ""
    lines = [
        "Against plain decoding, in turns, prefill included (tokens per second)",
        f"  {'':<20}{'plain':>10}{'auto':>10}",
    ]
    lines += [
        f"  {one.group[:20]:<20}{one.plain:>10.1f}{one.auto:>10.1f}{_per(one.auto, one.plain):>9.2f}x"
        for one in found.against.rates
    ]
    return "\n".join([*lines, f"  {_same(found.against)}"])


def _same(against: Against) -> str:
    if against.identical == against.outputs:
        return f"All {against.outputs} outputs are identical to plain decoding's, token for token."
    said = f"{against.identical} of {against.outputs} outputs are identical to plain decoding's"
    if against.near_tie:
        said += f", {against.near_tie} part from it at a near tie"
    if against.different:
        said += f", {against.different} are DIFFERENT, which is a defect: please report it"
    return said + "."


def _advice(found: Explanation) -> str:
    return "\n".join(["What would help", *map(_item, found.advice)]) if found.advice else ""


def _item(line: str) -> str:
    return fill(line, 80, initial_indent="  - ", subsequent_indent="    ", break_long_words=False)
