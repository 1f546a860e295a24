"""The figures as a table, and in plain words. Measures nothing."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from betoken.bench.cells import ALL, PLAIN, Cell
from betoken.bench.measure import Plan, heat

PAYS, LOSES = 1.05, 0.95
WORTH_A_REASON = 1.15  # tokens per step
AUTO = "auto"
WHY = {
    AUTO: "it asks, at each step, whoever pays there",
    "ngram": "the text repeats its prompt or itself, and prompt lookup copies",
    "suffix": "the text repeats at length its prompt, itself or an earlier answer",
    "mix": "what was said so far, here and in earlier answers, foretells it",
    "lookahead": "the text falls into short patterns, which lookahead collects on the way",
    "recycling": "the target was right about these tokens before",
    "reference": "the answer follows its reference",
    "merge": "together the methods foresee more than each alone",
    "draft": "the draft model often says what the target says",
    "naive": "the same tokens keep following one another",
}


def table(cells: Sequence[Cell]) -> RenderableType:
    """One line per cell; a section per temperature and group. 80 columns wide where nothing went wrong."""
    made = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    made.add_column("", no_wrap=True)
    for name in ("tok/s", "speed-up", "quartiles", "accept.\nlength", "accept.\nrate"):
        made.add_column(name, justify="right", no_wrap=True)
    made.add_column("same text\nas plain", min_width=15)
    made.add_column("loops", justify="right", no_wrap=True)
    for title, section in _sections(cells):
        made.add_row(Text(title, style="bold"))
        for cell in section:
            made.add_row(*_row(cell))
        made.add_row()
    return made


def _sections(cells: Sequence[Cell]) -> Iterator[tuple[str, list[Cell]]]:
    for key in dict.fromkeys((cell.temperature, cell.group) for cell in cells):
        temperature, group = key
        title = f"{group}, T = {temperature:g}" if temperature else f"{group}, greedy"
        yield title, [cell for cell in cells if (cell.temperature, cell.group) == key]


def _row(cell: Cell) -> tuple[Text, ...]:
    spread = cell.speedup
    return (
        Text("  " + cell.method),
        Text(f"{cell.tokens_per_s:.1f}"),
        Text("–") if spread is None else Text(f"{spread.median:.2f}x", style=_colour(spread.median)),
        Text("" if spread is None or spread.q1 == spread.q3 else f"{spread.q1:.2f}–{spread.q3:.2f}", style="dim"),
        Text(_or_dash(cell.mean_acceptance_length, ".2f")),
        Text(_or_dash(cell.acceptance_rate, ".0%")),
        _sameness(cell),
        Text(f"{cell.looping:.0%}" if cell.looping else "–"),
    )


def _colour(speedup: float) -> str:
    return "green" if speedup >= PAYS else "red" if speedup < LOSES else ""


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _sameness(cell: Cell) -> Text:
    if cell.method == PLAIN:
        return Text("(it is)", style="dim")
    checked = cell.identical + cell.near_tie + cell.different  # fewer than all where it was interrupted
    if not checked:
        return Text("–", style="dim")
    text = Text(f"{cell.identical}/{checked} identical")
    if cell.near_tie:
        text.append(f"\n{cell.near_tie} near tie{'s' * (cell.near_tie > 1)}\n  up to {cell.margin:.1g}", style="yellow")
    if cell.different:
        text.append(f"\n{cell.different} DIFFERENT", style="bold red")
    return text


def words(cells: Sequence[Cell]) -> str:
    """Which method for which kind of prompt, and why; from the figures only."""
    lines = []
    for temperature in dict.fromkeys(cell.temperature for cell in cells):
        rivals = [cell for cell in cells if cell.temperature == temperature and _drafts(cell)]
        if rivals:
            lines.append(f"{heat(temperature).capitalize()}:")
        groups = dict.fromkeys(cell.group for cell in rivals)
        lines += [f"  {group}: {_verdict([cell for cell in rivals if cell.group == group])}" for group in groups]
        lines += _advice([cell for cell in cells if cell.temperature == temperature and cell.group == ALL])
    return "\n".join([*lines, _same(cells)])


def _advice(over_all: Sequence[Cell]) -> list[str]:
    """For whoever does not want to choose: `auto` beside the best that one choice could do, where there are groups to choose for."""
    drafting = [cell for cell in over_all if cell.method not in (PLAIN, "transformers") and cell.speedup is not None]
    auto = next((cell for cell in drafting if cell.method == AUTO), None)
    singles = [cell for cell in drafting if cell is not auto]
    if auto is None or not singles:
        return []
    best = max(singles, key=lambda cell: cell.tokens_per_s)
    share = auto.tokens_per_s / best.tokens_per_s
    return [
        f"  over all: auto chooses by itself and makes {share:.2f} of the tokens per second of {best.method}, the best single method."
    ]


def _drafts(cell: Cell) -> bool:
    return cell.group != ALL and cell.method != PLAIN and cell.speedup is not None and cell.tokens_per_step is not None


def _verdict(rivals: Sequence[Cell]) -> str:
    """One kind of prompt: the best method, and those that lose."""
    ordered = sorted(rivals, key=_speedup, reverse=True)
    best = ordered[0]
    gained = (best.tokens_per_step or 0) >= WORTH_A_REASON
    if _speedup(best) < PAYS:
        said = f"nothing pays; the best is {best.method}, {_equation(best)}."
    elif not gained:
        said = f"nothing pays; {best.method}, {_equation(best)}, accepts too little to explain it: that is noise."
    else:
        why = WHY.get(best.method.partition(":")[0])
        said = f"{best.method}, {_equation(best)}{': ' + why if why else ''}."
    auto = next((cell for cell in ordered[1:] if cell.method == AUTO), None)
    if auto is not None:
        said += f" auto, left to itself: {_speedup(auto):.2f}x."
    losing = [cell for cell in ordered[1:] if _speedup(cell) < LOSES]
    if losing:
        said += " Slower than plain: " + ", ".join(f"{cell.method} ({_speedup(cell):.2f}x)" for cell in losing) + "."
    return said


def _speedup(cell: Cell) -> float:
    return cell.speedup.median if cell.speedup else 0.0


def _equation(cell: Cell) -> str:
    """Where a speed-up comes from: tokens of a step against what the step costs."""
    gain = f"{_speedup(cell):.2f}x ({cell.tokens_per_step:.1f} tokens a step"
    return f"{gain})" if cell.step_cost is None else f"{gain}, a step costs {cell.step_cost:.1f} plain ones)"


def _same(cells: Sequence[Cell]) -> str:
    own = [cell for cell in cells if cell.group != ALL and cell.method not in (PLAIN, "transformers")]
    identical, near, different = (
        sum(getattr(cell, name) for cell in own) for name in ("identical", "near_tie", "different")
    )
    checked = identical + near + different
    if not checked:
        return "Nothing was compared with plain decoding."
    if different:
        return (
            f"{different} of {checked} outputs are DIFFERENT from plain decoding: this is a defect, please report it."
        )
    if near:
        return (
            f"Of {checked} outputs {identical} are identical to plain decoding's, {near} part from it at a near tie, "
            "where two tokens are closer than the rounding of the forward pass."
        )
    return f"All {checked} outputs are identical to plain decoding's, token for token."


def heading(header: Mapping[str, Any], plan: Plan) -> str:
    """What was measured, on what, and how."""
    model = header["model"]
    lines = [
        f"{model['model']}, {_millions(model['parameters'])} parameters, {model['dtype']} on {header['machine']}",
        f"{header['prompts']} prompts of {header['prompt_tokens'] / header['prompts']:.0f} tokens on average, at most "
        f"{plan.max_tokens} tokens each, batch size {plan.batch_size}, {plan.rounds} round{'s' * (plan.rounds > 1)}, "
        f"seed {plan.seed}; times include the prefill",
    ]
    if model["draft"]:
        lines.insert(1, f"draft model: {model['draft']}, {_millions(model['draft_parameters'])} parameters")
    return "\n".join([*lines, *model["notes"], ""])


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count < 1e7 else f"{count / 1e6:.0f} M"
