"""The page about auto: its figures are the ledger's and the curve's, its advice follows from them, and it says so in good time."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers
from architectures import tiny
from test_cli import PROMPT, run
from tiny_models import byte_tokenizer, near_copy, save_pair, tiny_llama
from transformers import LlamaConfig

from betoken import LLM, BetokenError, SamplingParams
from betoken.explain import WIDTHS, Against, Explanation, Rates, advised, explained
from betoken.policy.cost import Table
from betoken.policy.ledger import Account, Ledger, Note
from betoken.targets.base import TargetInfo
from betoken.targets.capability import describe, experts_of

FLAT = Table({1: 0.01, 64: 0.012})
STEEP = Table({1: 0.01, 64: 0.64})


class Ran:
    """What an explanation reads of auto: 200 steps of two members, one of them asked in every second row."""

    def __init__(
        self, *, rows: int = 1, emitted: int = 2, steps: int = 200, most: int = 4, library: Any = None
    ) -> None:
        self.ledger, self.library = Ledger(["mix", "draft"]), library
        self.ledger.accounts = {"mix": Account(rows * steps, rows * steps * 0.5, 0.02), "draft": Account()}
        for step in range(steps):
            nodes = 4 if step < steps // 2 else 0
            self.ledger.note(
                Note(rows, 100, nodes, most if nodes else 0, (rows, 0), emitted * 1.1, emitted, 0.02, 0.02, 0.01)
            )


def explanation(ran: Ran, curve: Table = FLAT, *, with_draft: bool = True, **info: Any) -> Explanation:
    return advised(explained(ran, curve, False, TargetInfo("toy", 9, **info), "toy", with_draft=with_draft))


def test_figures_are_the_ledgers() -> None:
    found = explanation(Ran())
    assert [one.width for one in found.curve] == list(WIDTHS)
    assert found.curve[0].seconds == 0.01 and found.curve[-1].relative == pytest.approx(1.2)
    assert (found.steps, found.tokens_per_step, found.nodes) == (200, 2, 2)
    assert (found.measured, found.predicted, found.by_curve) == pytest.approx((100, 110, 100))
    mix, draft = found.drafters
    assert (mix.asked, mix.worth, draft.asked) == (1, 0.5, 0)
    assert (mix.price_s, mix.price_tokens) == pytest.approx((1e-4, 1e-2))
    assert len(found.budget) == 50 and set(found.budget) == {0, 4}


def test_a_page_fits_in_80_columns_and_has_all_of_it() -> None:
    rates = (Rates("prose", 100, 150), Rates("all", 100, 150))
    found = advised(
        explanation(Ran(rows=4), STEEP, with_draft=False, experts=8, active_experts=2), Against(rates, 5, 5, 0, 0)
    )
    text = found.text()
    assert max(map(len, text.splitlines())) <= 80
    for words in (
        "toy, a mixture of 8 experts, 2 a token", "measured now; 4 rows, 100 tokens", "64.00", "mix             100%   0.50 tokens",
        "draft          never", "█·", "in 0% of the steps", "110.0 tokens per second predicted", "100.0 measured, 10% off",
        "1.50x", "All 5 outputs are identical", "The experts are why",
    ):  # fmt: skip
        assert words in text, words
    assert "9 outputs" not in text
    near = replace(found, against=Against(rates, 5, 3, 1, 1)).text()
    assert "3 of 5 outputs are identical" in near and "1 part from it at a near tie" in near and "DIFFERENT" in near


@pytest.mark.parametrize(
    ("found", "starts"),
    [
        (explanation(Ran(), STEEP, experts=8, active_experts=2), "The experts are why"),
        (explanation(Ran(), STEEP), "Spare compute"),
        (explanation(Ran(rows=4, emitted=8, most=9)), "A smaller batch: with 4 rows"),
        (explanation(Ran(), with_draft=False), "A draft model: none was given"),
        (explanation(Ran()), "A warm index: 0 tokens"),
        (explanation(Ran(emitted=1)), "A step gains 1.00 tokens: nobody here foresees"),
        (explanation(Ran(), can_branch=False), "Another model"),
        (explanation(Ran(emitted=9)), "Nothing that shows here"),
        (explanation(Ran(library=range(30_000))), "Nothing that shows here"),
    ],
)
def test_advice_follows_from_the_figures(found: Explanation, starts: str) -> None:
    assert any(line.startswith(starts) for line in found.advice), found.advice


def test_a_draft_model_that_costs_more_than_it_adds() -> None:
    ran = Ran()
    ran.ledger.accounts["draft"] = Account(20, 10.0, 0.4)
    assert any(line.startswith("A smaller draft model") for line in explanation(ran).advice)
    ran.ledger.accounts["draft"] = Account(20, 50.0, 0.4)
    assert not any(line.startswith("A smaller draft model") for line in explanation(ran).advice)


def test_before_the_first_step() -> None:
    found = explanation(Ran(steps=0))
    assert "No step was taken yet" in found.text() and found.advice == () and found.budget == ()


@pytest.mark.parametrize(("name", "found"), [("mixtral", (4, 2)), ("qwen3_moe", (4, 2)), ("llama", (0, 0))])
def test_experts_are_read_from_the_configuration(name: str, found: tuple[int, int]) -> None:
    info = describe(tiny(name), None)
    assert (info.experts, info.active_experts) == found


def test_other_names_of_experts() -> None:
    deepseek = transformers.DeepseekV3Config(n_routed_experts=16, num_experts_per_tok=4)
    assert experts_of(deepseek) == (16, 4)
    one = LlamaConfig()
    one.num_local_experts, one.num_experts_per_tok = 1, 1
    assert experts_of(one) == (0, 0)


SHORT = SamplingParams(max_tokens=24, ignore_eos=True)


def test_an_llm_explains_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BETOKEN_CACHE", str(tmp_path))
    for kept in (False, True):
        with LLM((tiny_llama(), byte_tokenizer()), near_copy(tiny_llama())) as llm:
            assert "No step was taken yet" in llm.explain().text()
            said = llm.generate([PROMPT, "a"], SHORT)
            found = llm.explain()
            assert (found.kept, found.has_draft, found.experts) == (kept, True, 0)
            assert found.steps > 0 and found.measured > 0 and found.predicted > 0
            assert 1 <= found.tokens_per_step <= max(result.stats.tokens_per_step or 0 for result in said)
            assert [one.name for one in found.drafters] == ["reference", "mix", "recycling", "draft"]
            llm.generate(PROMPT, SHORT, speculation={"enabled": False})
            assert llm.explain().steps == found.steps


def test_an_llm_without_auto_says_so() -> None:
    with (
        LLM((tiny_llama(), byte_tokenizer()), method="naive") as llm,
        pytest.raises(BetokenError, match="auto has not been used"),
    ):
        llm.explain()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    target, draft = save_pair(tmp_path_factory.mktemp("explained"))
    return ["--model", str(target), "--draft", str(draft), "--max-tokens", "12"]


def test_explain_prints_a_page(pair: list[str], tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text(
        '{"group": "a", "prompt": "the cat"}\n{"group": "b", "prompt": "the hat"}\n'
    )
    code, out, error = run("explain", *pair, "--prompts", str(tmp_path / "prompts.jsonl"), "--temperature", "1")
    assert (code, error.strip()) == (0, "")
    for words in (
        "what auto did, and why",
        "What a pass takes",
        "recycling",
        "Against plain",
        "All 2 outputs are identical",
    ):
        assert words in out, words
    code, out, _ = run("explain", PROMPT, *pair, "--json", "--batch-size", "2")
    found = json.loads(out)
    assert (code, found["schema"], found["against"]["outputs"]) == (0, "betoken.explain/1", 1)
    assert found["against"]["rates"][0]["group"] == "prompt"
    assert {*found} == {"schema", *Explanation.__dataclass_fields__}


def test_generate_explains_on_standard_error(pair: list[str]) -> None:
    plain = run("generate", PROMPT, *pair, "--method", "plain")[1]
    code, out, error = run("generate", PROMPT, *pair, "--explain")
    assert (code, out) == (0, plain)
    assert "What a pass takes" in error and "Against plain" not in error
    assert "never" not in run("generate", PROMPT, *pair, "--explain", "-n", "2")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", "x", "--explain", "--method", "naive"], "the method auto"),
        (["generate", "x", "--explain", "--acceptance", "residual"], "the method auto"),
        (["explain", "x", "--prompts", "y"], "either one prompt, or a file"),
        (["explain", "--prompts", "nowhere.jsonl"], "cannot be read"),
        (["explain", ""], "prompt is empty"),
        (["explain", "x", "--temperature", "-1"], "temperature is -1.0"),
    ],
)
def test_errors_are_one_line(pair: list[str], arguments: list[str], words: str) -> None:
    code, out, error = run(*arguments, *pair)
    assert (code, out) == (2, "") and words in error and error.count("\n") == 1
