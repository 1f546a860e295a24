"""Prompts, timed runs, near ties and reports; on small real models."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import byte_tokenizer, save_pair, tiny_llama

from betoken import ParameterError, PromptError, SamplingParams, demo
from betoken.bench.cells import Cell, Spread
from betoken.bench.compare import Bench, Setup, chosen, to_json, write
from betoken.bench.measure import Item, MethodRunner, Plan, batches
from betoken.bench.report import table, words
from betoken.bench.tie import Sameness, compare, first_difference, loops
from betoken.bench.workloads import first_of_each, read
from betoken.errors import BetokenError
from betoken.llm import LLM
from betoken.targets.hf import HFTarget

PLAN = Plan(max_tokens=12, seed=5)


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    folder = tmp_path_factory.mktemp("bench")
    target, draft = save_pair(folder)
    lines = [
        {"id": "one", "group": "words", "prompt": "the cat the hat"},
        {"id": "one", "group": "words", "messages": [{"role": "user", "content": "hello"}]},
        {"group": "ids", "prompt": [5, 6, 7]},
    ]
    prompts = folder / "prompts.jsonl"
    prompts.write_text("\n".join(map(json.dumps, lines)))
    return Setup(str(target), str(draft), ("transformers", "plain", "naive", "draft"), prompts, plan=PLAN)


def test_no_round_profits_from_the_one_before() -> None:
    """A method that remembers would have been measured on answers it had given already."""
    params = SamplingParams(max_tokens=30, ignore_eos=True)
    with LLM((tiny_llama(), byte_tokenizer()), method="plain") as llm:
        runner = MethodRunner(llm, "recycling")
        steps = [runner.run([(5, 6, 7)], params)[0].stats.steps for _ in range(3)]
        again = [llm.generate([5, 6, 7], params, method="recycling").stats.steps for _ in range(3)]
    assert max(steps) < 2 * min(steps)
    assert again[-1] < min(steps)


def write_prompts(folder: Path, text: str, name: str = "prompts.jsonl") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_embedded_prompts_have_several_of_every_group() -> None:
    workloads = read(demo.prompts())
    groups = [workload.group for workload in workloads]
    assert len(set(groups)) >= 4
    assert min(map(groups.count, groups)) >= 5
    assert len(first_of_each(workloads, 2)) == 2 * len(set(groups))


def test_plain_text_is_one_prompt_per_line(tmp_path: Path) -> None:
    found = read(write_prompts(tmp_path, "first\n\nsecond {x}\n", "prompts.txt"))
    assert [(workload.id, workload.prompt) for workload in found] == [("line-1", "first"), ("line-3", "second {x}")]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{broken", ":2: no JSON"),
        ('{"text": "x"}', ":2: expected"),
        ('{"prompt": "x", "messages": []}', ":2: expected"),
        ('{"prompt": ""}', ":2: the prompt is"),
        ('{"prompt": [1, "a"]}', ":2: the prompt is"),
        ('{"messages": [{"role": "user"}]}', ":2: messages must be"),
        ("[1, 2]", ":2: expected"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(PromptError, match=words):
        read(write_prompts(tmp_path, '{"prompt": "fine"}\n' + line))


def test_other_systems_files_are_read(tmp_path: Path) -> None:
    """A byte order mark, carriage returns, and line separators inside JSON strings."""
    path = tmp_path / "prompts.jsonl"
    path.write_bytes('\ufeff{"prompt": "a\u2028b"}\r\n{"prompt": "c"}\r\n'.encode())
    assert [workload.prompt for workload in read(path)] == ["a\u2028b", "c"]
    plain = tmp_path / "prompts.txt"
    plain.write_bytes("\ufeffone\r\ntwo\r\n".encode())
    assert [workload.prompt for workload in read(plain)] == ["one", "two"]


def test_a_file_without_prompts(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="has no prompts"):
        read(write_prompts(tmp_path, "\n \n"))
    with pytest.raises(PromptError, match="cannot be read"):
        read(tmp_path / "nowhere.jsonl")


def test_batches_hold_one_group() -> None:
    items = [Item(str(i), group, (1,)) for i, group in enumerate("aabab")]
    assert [[item.id for item in batch] for batch in batches(items, 2)] == [["0", "1"], ["3"], ["2", "4"]]


def test_the_first_difference() -> None:
    assert first_difference([1, 2], [1, 2]) is None
    assert first_difference([1, 2], [1, 3]) == 1
    assert first_difference([1, 2], [1]) == 1


@pytest.mark.parametrize(
    ("tokens", "looping"),
    [
        ([1, 2, 3] * 20, True),
        ([*range(100), *[7] * 60], True),
        (list(range(60)), False),
        (list(range(21)) * 5, False),
        ([1] * 20, False),
        ([*[1] * 59, 2], False),
    ],
)
def test_loops(tokens: list[int], looping: bool) -> None:
    assert loops(tokens) is looping


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=0.7, seed=9)])
def test_another_token_is_different_and_a_twin_is_a_near_tie(params: SamplingParams) -> None:
    model = tiny_llama()
    prompt, said = [5, 6, 7], ()
    with LLM((model, byte_tokenizer()), method="plain") as llm:
        said = llm.generate(prompt, params.replaced(max_tokens=8, ignore_eos=True)).token_ids
        wrong = (*said[:5], (said[5] + 1) % 264, *said[6:])
        found = compare(llm.target, prompt, params, said, wrong)
        assert (found.sameness, found.position) == (Sameness.DIFFERENT, 5)
        assert found.margin is not None and found.bound is not None and found.margin > found.bound
        assert found.tokens == (said[5], wrong[5])
        assert found.roundings == pytest.approx(found.margin / found.bound * 16)
        assert compare(llm.target, prompt, params, said, said).sameness is Sameness.IDENTICAL
        assert compare(llm.target, prompt, params, said, said[:4]).sameness is Sameness.DIFFERENT
    if params.greedy:
        twin = (said[5] + 1) % 264
        with torch.no_grad():
            model.lm_head.weight[twin] = model.lm_head.weight[said[5]]
        found = compare(HFTarget(model), prompt, params, said, (*said[:5], twin))
        assert (found.sameness, found.position) == (Sameness.NEAR_TIE, 5)


def test_a_comparison_from_beginning_to_end(setup: Setup) -> None:
    told: list[str] = []
    with Bench(setup) as bench:
        report = bench.run(told.append)
        assert len(told) == bench.calls
    assert report.complete and report.different == 0
    assert {(cell.temperature, cell.group) for cell in report.cells} == {
        (heat, group) for heat in (0.0, 1.0) for group in ("words", "ids", "all")
    }
    for cell in report.cells:
        assert cell.near_tie == 0 and cell.tokens > 0 and cell.tokens_per_s > 0
        checked = cell.identical == cell.prompts
        assert checked == (
            cell.method in ("naive", "draft") or (cell.method == "transformers" and cell.temperature == 0)
        )
    sizes = {
        name: cell.tokens
        for cell in report.cells
        for name in [cell.method]
        if (cell.temperature, cell.group) == (0, "all")
    }
    assert len(set(sizes.values())) == 1


def test_batches_and_rounds(setup: Setup) -> None:
    plan = Plan((0.0,), max_tokens=6, batch_size=2, rounds=2)
    with Bench(Setup(setup.model, None, ("transformers", "naive"), setup.prompts, plan=plan)) as bench:
        report = bench.run()
    assert {len(run.seconds) for run in report.runs} == {2}
    assert {len(run.items) for run in report.runs} == {1, 2}
    assert [cell.different for cell in report.cells] == [0] * len(report.cells)
    transformers = [cell for cell in report.cells if cell.method == "transformers"]
    assert all(cell.identical == cell.prompts for cell in transformers)


def test_an_interrupted_comparison_keeps_what_it_has(setup: Setup) -> None:
    count = 0

    def tell(_: str) -> None:
        nonlocal count
        count += 1
        if count == 8:
            raise KeyboardInterrupt

    with Bench(setup) as bench:
        report = bench.run(tell)
    assert not report.complete
    assert len(report.runs) == 3
    assert json.loads(to_json(report))["complete"] is False


def test_json_is_complete_and_stable(setup: Setup) -> None:
    with Bench(setup) as bench:
        found = json.loads(to_json(bench.run()))
    assert list(found) == ["schema", "complete", "environment", "settings", "cells", "outputs"]
    assert found["schema"] == "betoken.compare/1"
    assert len(found["outputs"]) == 2 * 4 * 3
    assert set(found["cells"][0]) == set(Cell.__dataclass_fields__)
    verdicts = [entry["against_plain"] for entry in found["outputs"] if entry["method"] == "draft"]
    assert [verdict["sameness"] for verdict in verdicts] == ["identical"] * 6
    assert {entry["id"] for entry in found["outputs"]} == {"one", "one#2", "line-3"}


def test_files_appear_all_at_once(tmp_path: Path) -> None:
    write(tmp_path / "out.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_methods_are_checked() -> None:
    assert chosen([], with_draft=False)[:2] == ["transformers", "plain"]
    assert "draft" not in chosen([], with_draft=False)
    assert "auto" in chosen([], with_draft=False)
    assert chosen(["naive", "naive"], with_draft=False) == ["plain", "naive"]
    with pytest.raises(ParameterError, match="one of plain"):
        chosen(["telepathy"], with_draft=False)
    with pytest.raises(BetokenError, match="--draft"):
        chosen(["draft"], with_draft=False)


def cell(**changes: Any) -> Cell:
    values: dict[str, Any] = {
        "temperature": 0.0, "group": "prose", "method": "ngram", "prompts": 4, "tokens": 400, "seconds": 2.0,
        "prefill_s": 0.1, "tokens_per_s": 200.0, "speedup": Spread(1.9, 2.0, 2.1), "mean_acceptance_length": 2.5,
        "acceptance_rate": 0.3, "tokens_per_step": 2.4, "step_cost": 1.2, "identical": 4, "near_tie": 0, "different": 0,
        "margin": None, "looping": 0.0,
    }  # fmt: skip
    return Cell(**{**values, **changes})


def rendered(cells: list[Cell]) -> str:
    from rich.console import Console

    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(table(cells))
    text = console.export_text()
    console.file.close()
    return text


def test_a_table_fits_in_80_columns() -> None:
    text = rendered([cell(method="transformers"), cell(method="lookahead", looping=1.0)])
    assert "4/4 identical" in text and "2.00x" in text and "1.90–2.10" in text and "100%" in text
    assert "…" not in text


def test_words_name_the_winner_the_losers_and_the_defect() -> None:
    said = words([cell(), cell(method="naive", speedup=Spread(0.8, 0.87, 0.9), tokens_per_step=1.1)])
    assert "prose: ngram, 2.00x (2.4 tokens a step, a step costs 1.2 plain ones)" in said
    assert "Slower than plain: naive (0.87x)" in said
    assert "All 8 outputs are identical" in said
    assert "nothing pays" in words([cell(speedup=Spread(1, 1, 1))])
    assert "noise" in words([cell(tokens_per_step=1.0)])
    assert "1 part from it at a near tie" in words([cell(identical=3, near_tie=1, margin=1e-6)])
    broken = [cell(identical=3, different=1, margin=3.0)]
    assert "1 of 4 outputs are DIFFERENT" in words(broken)
    assert "DIFFERENT" in rendered(broken)


def test_words_say_what_auto_does_beside_the_best() -> None:
    auto = cell(method="auto", speedup=Spread(1.8, 1.9, 2.0), tokens_per_s=190.0)
    said = words([cell(), auto, cell(group="all"), replace(auto, group="all")])
    assert "prose: ngram, 2.00x" in said and "auto, left to itself: 1.90x." in said
    assert "over all: auto chooses by itself and makes 0.95 of the tokens per second of ngram" in said
    assert "prose: auto, 2.50x" in words([cell(), replace(auto, speedup=Spread(2.4, 2.5, 2.6))])
    assert "over all" not in words([cell(), cell(group="all")])
