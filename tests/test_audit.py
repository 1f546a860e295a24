"""The audit calls no bug on a correct build, and finds bugs planted in the real code once the probe at load has passed."""

import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from tiny_models import save_pair

from betoken import engine, judging, verify
from betoken.bench.audit import Audit
from betoken.bench.audit_cases import TREE, Setup, chosen
from betoken.bench.audit_found import Report
from betoken.bench.audit_reference import Reference
from betoken.bench.audit_report import Row, findings, law_table, rows, table, to_json, words
from betoken.bench.tie import Sameness
from betoken.draft import Draft
from betoken.errors import BetokenError, ParameterError
from betoken.sampling import Sampler
from betoken.targets import hf, layout
from betoken.targets.base import Feed, Scores, TargetInfo
from betoken.targets.layout import Layout, RowState
from betoken.verify import Verdict

PROMPTS = [[5, 6, 7, 5, 6, 7, 5, 6], [20, 21, 22, 23], [40, 41, 40, 41, 40], [100, 90, 80, 70, 60, 50]]
Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    folder = tmp_path_factory.mktemp("audit")
    target, draft = save_pair(folder)
    prompts = folder / "prompts.jsonl"
    prompts.write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in PROMPTS))
    return Setup(
        str(target),
        str(draft),
        prompts=prompts,
        max_tokens=16,
        batch_sizes=(1, 3),
        temperatures=(0.0, 1.0),
        samples=100,
    )


def with_(setup: Setup, **changes: Any) -> Setup:
    return Setup(**{**{name: getattr(setup, name) for name in Setup.__dataclass_fields__}, **changes})


def audit(setup: Setup, plant: Plant = lambda _: None) -> Report:
    with Audit(setup) as made, pytest.MonkeyPatch.context() as patch:
        plant(patch)
        return made.run()


@pytest.fixture(scope="module")
def clean(setup: Setup) -> Report:
    return audit(setup)


def test_a_correct_build_has_no_bug(clean: Report, setup: Setup) -> None:
    assert clean.complete and clean.bugs == 0
    lines = rows(clean.judged)
    methods = chosen((), with_draft=True)
    assert TREE in methods and {"draft", "ngram", "lookahead", "naive"} <= {*methods}
    assert [line.method for line in lines] == methods * 2 * 5
    assert {line.sampling for line in lines} == {
        "greedy",
        "temperature 1",
        "temperature 1, penalties",
        "temperature 1, rewards",
        "temperature 1, constraints",
    }
    assert {(line.method, line.batch_size) for line in lines if line.against == "transformers"} == {("plain", 1)}
    assert all(line.drafted > 0 for line in lines if line.method in ("draft", TREE, "reference", "merge"))
    assert any(line.accepted < line.drafted for line in lines if line.method == "reference")
    assert all(line.prompts == len(PROMPTS) == line.identical + line.near_tie for line in lines)
    assert len(clean.laws) == 3 * len({*methods} - {"plain", "auto"})
    assert all(law.test is not None and law.test.cells > 3 and law.test.detectable for law in clean.laws)


def test_every_prompt_has_its_own_seed(clean: Report) -> None:
    seeds = {(one.answer.item.id, one.answer.seed) for one in clean.judged}
    assert sorted(seed for _, seed in seeds) == [0, 1, 2, 3]


def mask_off_by_one(patch: pytest.MonkeyPatch) -> None:
    """The ancestor mask is written one slot too early."""

    def branch(allowed_QS: np.ndarray, row: RowState, feed: Feed) -> None:
        first = len(feed.tokens)
        last = first + len(feed.draft) - feed.start
        allowed_QS[first:last, row.base :] = False
        allowed_QS[first:last, row.base - 1 : row.used - 1] = feed.draft.ancestors()[feed.start :]

    patch.setattr(layout, "_branch", branch)


def stale_penalty(patch: pytest.MonkeyPatch) -> None:
    """Penalties at every node of a draft look at the committed tokens only."""

    def exact(sampler: Sampler, scores: Scores, index: int, draft: Draft) -> Verdict:
        before = Counter(sampler._counts)

        def emit(node: int) -> int | None:
            now, sampler._counts = sampler._counts, before
            token = scores.emit(index, node, sampler)
            sampler._counts = now
            if token is not None:
                sampler.push(token)
            return token

        return verify.walk(draft, emit)

    patch.setattr(engine, "exactly", exact)


def never_verified(patch: pytest.MonkeyPatch) -> None:
    """The last token of a draft is taken where its parent was accepted, without asking the target."""

    def walk(draft: Draft, emit: Callable[[int], int | None]) -> Verdict:
        last = len(draft) - 1

        def trusting(node: int) -> int | None:
            token = emit(node)
            return draft.tokens[last] if draft and draft.parents[last] == node else token

        return verify.walk(draft, trusting)

    patch.setattr(judging, "walk", walk)


def rejected_kv_kept(patch: pytest.MonkeyPatch) -> None:
    """The keys and values of an accepted path stay where the tree had them; the first nodes' are kept in their place."""
    real = RowState.settle

    def settle(self: RowState, path: list[int]) -> list[int]:
        real(self, path)
        return []

    patch.setattr(RowState, "settle", settle)


def length_too_large(patch: pytest.MonkeyPatch) -> None:
    """After a rejection the cache keeps the first rejected node, and the root is fed behind it."""
    real = RowState.settle

    def settle(self: RowState, path: list[int]) -> list[int]:
        rejected = len(path) < len(self.draft)
        moved = real(self, path)
        self.length += rejected
        return moved

    patch.setattr(RowState, "settle", settle)
    patch.setattr(engine.Engine, "_unseen", lambda self, seq: tuple(seq.tokens[-1:]))


PLANTED = [
    (mask_off_by_one, (TREE, "lookahead"), (0.0,)),
    (stale_penalty, ("draft",), (1.0,)),
    (never_verified, ("draft", "naive"), (0.0, 1.0)),
    (rejected_kv_kept, (TREE,), (0.0,)),
    (length_too_large, ("ngram", "naive"), (0.0,)),
]


@pytest.mark.parametrize(("plant", "methods", "temperatures"), PLANTED, ids=[plant.__name__ for plant, *_ in PLANTED])
def test_a_planted_bug_is_found(
    setup: Setup, plant: Plant, methods: tuple[str, ...], temperatures: tuple[float, ...]
) -> None:
    changed = with_(setup, methods=methods, temperatures=temperatures, samples=0)
    lines = rows(audit(changed, plant).judged)
    assert {line.method for line in lines if line.bug} == {*methods}
    wrong = {line.sampling for line in lines if line.bug}
    assert plant is not stale_penalty or wrong <= {"temperature 1, penalties", "temperature 1, rewards"}
    assert all(line.bug == 0 for line in lines if line.method == "plain")


def sees_the_next_token(patch: pytest.MonkeyPatch) -> None:
    """A causal mask that is one slot too wide, for prompts and drafts alike."""

    def causal(starts: list[int], width: int, slots: int) -> np.ndarray:
        own_BQ = np.array(starts)[:, None] + np.arange(width)
        return np.asarray(np.arange(slots) <= own_BQ[:, :, None] + 1)

    patch.setattr(layout, "_causal", causal)


def positions_too_large(patch: pytest.MonkeyPatch) -> None:
    """Everything after the prompt stands one position further on than it should, drafted or not."""
    real = layout.lay_out

    def lay_out(states: Any, feeds: Any, **options: Any) -> Layout:
        made = real(states, feeds, **options)
        for b, start in enumerate(made.starts):
            made.positions_BQ[b] += start > 0
        return made

    patch.setattr(hf, "lay_out", lay_out)


@pytest.mark.parametrize("plant", [sees_the_next_token, positions_too_large])
def test_a_bug_that_plain_decoding_shares_is_found(setup: Setup, plant: Plant) -> None:
    """Speculation says what plain decoding says, and both are wrong: only transformers' own forward tells."""
    lines = rows(audit(with_(setup, methods=("plain", "naive"), temperatures=(0.0,), samples=0), plant).judged)
    assert next(line.bug for line in lines if line.against == "transformers") > 0


def test_an_output_that_does_not_end_where_it_should_is_a_bug(setup: Setup, clean: Report) -> None:
    said = next(one.answer for one in clean.judged if one.answer.is_reference and one.answer.params.greedy)
    prompt, output = said.item.ids, said.token_ids
    assert len(set(output)) > 3 and len(output) == setup.max_tokens
    info = TargetInfo("tiny", 264, frozenset([0]))
    reference = Reference(str(setup.model), info, dtype="float32", device="cpu")
    assert reference.check(prompt, said.params, output).sameness is Sameness.IDENTICAL
    assert reference.check(prompt, said.params, output[:-1]).sameness is Sameness.DIFFERENT
    assert reference.check(prompt, said.params.replaced(max_tokens=5), output).position == 5
    reference.info = replace(info, eos_ids=frozenset(output[3:4]))
    end = output.index(output[3]) + 1
    assert reference.check(prompt, said.params, output).position == end
    assert reference.check(prompt, said.params, output[:end]).sameness is Sameness.IDENTICAL
    assert reference.check(prompt, said.params.replaced(ignore_eos=True), output).sameness is Sameness.IDENTICAL
    reference.info = replace(info, context=len(prompt) + 4)
    assert reference.check(prompt, said.params, output[:4]).sameness is Sameness.IDENTICAL


def accepts_too_much(patch: pytest.MonkeyPatch) -> None:
    """What replaces a rejected token is drawn from the target's law, not from what is left of it."""
    patch.setattr(verify, "_left_over", lambda law, drawn_from, reach=1: law)


def test_a_wrong_law_is_found(setup: Setup, tmp_path: Path) -> None:
    """With a draft model that agrees half of the time: one that never or always does hides what replaces its tokens."""
    save_pair(tmp_path, off_by=0.1)
    (tmp_path / "prompt.jsonl").write_text(json.dumps({"prompt": PROMPTS[0]}))
    changed = with_(
        setup,
        draft=str(tmp_path / "draft"),
        prompts=tmp_path / "prompt.jsonl",
        methods=("draft:worth=0",),
        samples=400,
        max_tokens=2,
        batch_sizes=(1,),
    )
    assert audit(changed).bugs == 0
    report = audit(changed, accepts_too_much)
    assert {law.sampling for law in report.laws} == {"rewards", "constraints"}
    assert report.bugs >= 1 and all(law.drafted > law.accepted > 0 for law in report.laws)
    assert "BUG" in shown(law_table(report.laws))


def test_greedy_alone_has_no_law_to_test(setup: Setup) -> None:
    report = audit(with_(setup, methods=("naive",), temperatures=(0.0,), batch_sizes=(1,)))
    assert report.laws == [] and report.bugs == 0
    assert {line.sampling for line in rows(report.judged)} == {
        "greedy",
        "greedy, penalties",
        "greedy, rewards",
        "greedy, constraints",
    }


def test_an_interrupted_audit_judges_what_it_has(setup: Setup) -> None:
    told = 0

    def tell(_: str) -> None:
        nonlocal told
        told += 1
        if told == 12:
            raise KeyboardInterrupt

    with Audit(with_(setup, methods=("naive",))) as made:
        report = made.run(tell)
    assert not report.complete
    assert len(report.judged) == 12 and report.laws == []
    assert json.loads(to_json(report))["complete"] is False


def test_progress_ends_at_its_total(setup: Setup) -> None:
    told: list[str] = []
    with Audit(with_(setup, methods=("naive",), temperatures=(1.0,))) as made:
        calls = made.calls
        made.run(told.append)
    assert len(told) == calls


def shown(*parts: Any) -> str:
    console = Console(width=80, file=io.StringIO(), record=True)
    for part in parts:
        console.print(part)
    return console.export_text()


def test_the_report_fits_in_80_columns(clean: Report) -> None:
    text = shown(table(rows(clean.judged)), law_table(clean.laws), words(clean))
    assert "transformers" in text and TREE in text and "No bug was found." in text and "…" not in text
    answers = len(clean.judged)
    assert f"{answers} answers: {answers} identical, 0 near ties." in " ".join(text.split())


def test_a_bug_is_named_with_its_place_and_its_tokens(setup: Setup) -> None:
    changed = with_(setup, methods=("naive",), temperatures=(0.0,), samples=0, batch_sizes=(1,))
    report = audit(changed, never_verified)
    (line, *_) = findings(report.judged)
    assert line.plain.startswith("BUG       line-") and "naive, greedy, batch size 1: token " in line.plain
    assert " was expected, margin " in line.plain and "roundings" in line.plain
    found = json.loads(to_json(report))
    assert found["schema"] == "betoken.audit/1" and found["bugs"] == report.bugs > 0
    assert set(found["rows"][0]) == set(Row.__dataclass_fields__)
    entry = found["findings"][0]
    assert entry["verdict"] == "bug" and entry["margin"] > entry["bound"] and len(entry["texts"]) == 2
    assert entry["token_ids"][entry["position"]] == entry["tokens"][1] != entry["tokens"][0]
    assert f"{report.bugs} BUG" in words(report)


def test_settings_are_checked(setup: Setup, tmp_path: Path) -> None:
    for changes, words_ in (
        ({"methods": ("telepathy",)}, "one of plain"),
        ({"batch_sizes": (0,)}, "batch_size is 0"),
        ({"samples": 3}, "samples is 3"),
        ({"temperatures": (-1.0,)}, "temperature is -1"),
    ):
        with pytest.raises(ParameterError, match=words_):
            Audit(with_(setup, **changes))
    with pytest.raises(BetokenError, match="--draft"):
        Audit(with_(setup, draft=None, methods=("draft",)))
