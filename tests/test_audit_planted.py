"""More bugs planted in the real code, and what the audit says where something breaks or was not audited."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_audit import PROMPTS, audit, shown, with_
from tiny_models import save_pair

from betoken import demo, engine
from betoken.bench.audit import NO_TREES
from betoken.bench.audit_cases import Setup, chosen, constraints, reference_of, repetitive
from betoken.bench.audit_report import failures, heading, rows, table, to_json, words
from betoken.bench.measure import Item
from betoken.bench.tie import Sameness, chooser, judge
from betoken.draft import Draft
from betoken.errors import ParameterError
from betoken.params import SEED_LIMIT, SamplingParams
from betoken.proposers.naive import Naive
from betoken.sampling import Sampler
from betoken.targets import hf
from betoken.targets.base import Scores, TargetInfo
from betoken.verify import Verdict, walk


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    folder = tmp_path_factory.mktemp("planted")
    target, draft = save_pair(folder, off_by=0.1)
    prompts = folder / "prompts.jsonl"
    prompts.write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in PROMPTS[:2]))
    return Setup(
        str(target), str(draft), ("naive",), prompts, max_tokens=16, batch_sizes=(1,), temperatures=(0.0,), samples=0
    )


def loosened(name: str, value: Any) -> Any:
    """At every drafted position one parameter is forgotten."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        def exact(sampler: Sampler, scores: Scores, index: int, draft: Draft) -> Verdict:
            def emit(node: int) -> int | None:
                kept = getattr(sampler, name)
                setattr(sampler, name, kept if node < 0 else value)
                token = scores.emit(index, node, sampler)
                setattr(sampler, name, kept)
                if token is not None:
                    sampler.push(token)
                return token

            return walk(draft, emit)

        patch.setattr(engine, "exactly", exact)

    return plant


NO_BIAS = (np.array([], dtype=np.int64), np.array([], dtype=np.float64))


@pytest.mark.parametrize(("name", "value"), [("_bias", NO_BIAS), ("_mask", None)])
@pytest.mark.parametrize("method", ["reference", "draft"])
def test_a_constraint_that_drafted_positions_forget_is_a_bug(setup: Setup, name: str, value: Any, method: str) -> None:
    lines = rows(audit(with_(setup, methods=(method,)), loosened(name, value)).judged)
    assert {line.sampling for line in lines if line.bug} == {"greedy, constraints"}


def test_constraints_do_not_make_a_correct_build_wrong(setup: Setup) -> None:
    report = audit(with_(setup, methods=("reference", "draft"), temperatures=(1.0,)))
    assert report.bugs == 0 and not report.failures
    line = next(one for one in rows(report.judged) if one.sampling.endswith("constraints") and one.method == "draft")
    assert line.drafted > 0


def test_a_stale_penalty_in_residual_mode_is_found(setup: Setup) -> None:
    """Drafted tokens do not count before they are committed."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        def stale(sampler: Sampler, scores: Scores, index: int, draft: Draft) -> Verdict:
            real = sampler.probabilities
            with pytest.MonkeyPatch.context() as inner:
                inner.setattr(Sampler, "probabilities", lambda self, logits, ahead=(): real(logits))
                return honest(sampler, scores, index, draft)

        honest = engine.residually
        patch.setattr(engine, "residually", stale)

    changed = with_(setup, methods=("mix", "reference"), temperatures=(1.0,), samples=200, max_tokens=2)
    laws = audit(changed, plant).laws
    assert all(any(law.test.wrong for law in laws if law.method == method and law.test) for method in changed.methods)


def without_trees(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(hf, "probe", lambda target, info: replace(info, can_branch=False))


def test_it_says_so_where_trees_were_not_audited(setup: Setup) -> None:
    with pytest.MonkeyPatch.context() as patch:
        without_trees(patch)
        report = audit(setup)
    assert report.header["can_branch"] is False and report.bugs == 0
    assert NO_TREES in heading(report) and NO_TREES in words(report)
    assert json.loads(to_json(report))["environment"]["notes"] == [NO_TREES]


def test_the_embedded_pair_is_known_to_take_trees(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    without_trees(monkeypatch)
    monkeypatch.setattr(demo, "pair", lambda: (setup.model, setup.draft))
    report = audit(with_(setup, model=None, draft=None))
    assert report.bugs == 1 and NO_TREES in " ".join(shown(*failures(report)).split())
    assert "1 BUG" in words(report)


def test_an_exception_is_a_finding_and_loses_nothing(setup: Setup) -> None:
    def plant(patch: pytest.MonkeyPatch) -> None:
        def propose(self: Naive, ctx: Any) -> list[Draft]:
            raise IndexError("out of slots")

        patch.setattr(Naive, "propose", propose)

    report = audit(with_(setup, methods=("naive", "draft"), temperatures=(1.0,), samples=100), plant)
    assert report.complete and {line.method for line in rows(report.judged)} == {"plain", "draft"}
    assert report.bugs == len(report.failures) == 4 + 3
    assert "IndexError: out of slots" in shown(*failures(report)) and report.laws
    assert json.loads(to_json(report))["failures"][0]["what"] == "IndexError: out of slots"


def test_what_residual_mode_refuses_is_no_bug(setup: Setup) -> None:
    changed = with_(setup, methods=("merge:of=draft+naive",), temperatures=(1.0,), samples=100, max_tokens=4)
    report = audit(changed)
    assert report.bugs == 0 and report.laws == [] and len(report.failures) == 3
    assert "left out" in shown(*failures(report))


def test_a_method_that_drafted_nothing_is_marked(setup: Setup, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": [9]}')
    report = audit(with_(setup, methods=("ngram",), prompts=path, max_tokens=2))
    assert "nothing drafted" in shown(table(rows(report.judged)))
    assert "Nothing was drafted by ngram" in words(report)


def test_plain_has_no_options() -> None:
    with pytest.raises(ParameterError, match="it has no options"):
        chosen(["plain:k=1"], with_draft=True)


def test_seeds_start_again_at_their_end(setup: Setup) -> None:
    report = audit(with_(setup, seed=SEED_LIMIT - 1, temperatures=(1.0,), samples=100))
    assert {one.answer.seed for one in report.judged} == {SEED_LIMIT - 1, 0} and report.bugs == 0


def test_json_has_no_infinite_numbers(setup: Setup) -> None:
    """A forbidden token lies infinitely far below the best one."""
    report = audit(with_(setup, methods=("draft",)), loosened("_mask", None))
    found = json.loads(to_json(report), parse_constant=pytest.fail)
    assert any(one["margin"] is None for one in found["findings"])


def test_law_prompts_come_from_several_groups_and_repeat_themselves() -> None:
    items = [
        Item("a1", "a", (1, 2, 3)),
        Item("a2", "a", (1, 1, 1)),
        Item("b1", "b", (1, 2, 1)),
        Item("b2", "b", (1, 2, 3)),
    ]
    assert [item.id for item in repetitive(items, 3, 2)] == ["a2", "b1"]
    assert [item.id for item in repetitive(items[:2], 3, 2)] == ["a2", "a1"]


def test_a_reference_differs_here_and_there() -> None:
    assert reference_of((5, 5, 9, 5, 5, 5, 5, 5), 10) == (5, 5, 0, 5, 5, 5, 5, 5)


def test_constraints_leave_something_to_say() -> None:
    made = constraints(SamplingParams(max_tokens=8), (), TargetInfo("tiny", 12, frozenset([3])))
    assert made.min_tokens == 4 and 3 in (made.allowed_token_ids or ()) and 8 not in (made.allowed_token_ids or ())


def test_rounding_at_the_edge_of_a_filter_is_a_near_tie() -> None:
    """Which of two tokens is the last one that top-k keeps is decided by less than a rounding."""
    info = TargetInfo("tiny", 4, frozenset())
    params = SamplingParams(temperature=1.0, top_k=2, seed=3)
    logits_V = np.array([4.0, 1.0 + 1e-7, 1.0, -3.0])
    sampler = chooser(info, (), params, ())
    sampler.noise.at = lambda _: np.array([0.0, 9.0, 9.1, 0.0])  # type: ignore[method-assign]
    assert judge(logits_V, sampler, (1, 2), torch.float32).sameness is Sameness.NEAR_TIE
    assert judge(logits_V, sampler, (1, 3), torch.float32).sameness is Sameness.DIFFERENT
