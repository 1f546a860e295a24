"""Several methods in one tree: calibrated, within the budget, no worse than its members; and what nodes are kept."""

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import VOCAB, Scripted, Watched, check_identity, decode, expecting, request, toy, trees
from tiny_models import byte_tokenizer, near_copy, tiny_llama

from betoken import LLM, ParameterError, SamplingParams
from betoken.draft import Draft, chain
from betoken.policy import MARGIN, Calibration, judged, kept, values
from betoken.proposers.base import Needs, ObserveContext, Workshop, build
from betoken.proposers.merge import Merge
from betoken.targets.base import TargetInfo
from betoken.targets.toy import ToyTarget, markov

SHOP = Workshop(TargetInfo("toy", VOCAB))


def merged(of: Any, **options: Any) -> Any:
    return build("merge", Workshop(TargetInfo("toy", VOCAB), options={"of": of, **options}))


@settings(max_examples=15)
@pytest.mark.parametrize("of", ["ngram+recycling", "lookahead+recycling", "naive", "reference+ngram+recycling+naive"])
@given(batch=st.lists(expecting(), min_size=1, max_size=3), table=st.integers(0, 99))
def test_any_text_is_what_plain_decoding_gives(of: str, batch: Any, table: int) -> None:
    """With and without pinned nodes, scores and references; clipped by the engine too."""
    proposer = merged(of, nodes=7)
    check_identity(proposer, 7, batch, table, max_rows=2, max_nodes=9)
    assert not proposer._pending
    for member in proposer._members.values():
        for state in ("_used", "_read", "_followers", "_pending", "_indexes", "_states", "_seen"):
            assert not getattr(member, state, None), state


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_no_more_steps_than_the_better_member(temperature: float) -> None:
    """As many nodes for the merged tree as for its members: the right ones must be chosen. A warm start for all."""
    steps = {"ngram": 0, "recycling": 0, "ngram+recycling": 0}
    for of in steps:
        for table in range(6):
            proposer = Watched(merged(of, nodes=12), 12)
            batch = [
                request((0, n), max_tokens=150, ignore_eos=True, temperature=temperature, seed=n) for n in range(2)
            ]
            results = decode(batch, proposer, target=toy(table), max_rows=1)
            steps[of] += results[1].running.stats.steps
    assert steps["ngram+recycling"] <= min(steps["ngram"], steps["recycling"]) < 6 * 149 / 3


def test_members_see_the_tree_that_was_fed() -> None:
    """Recycling learns from nodes of others; lookahead finds its window, which is fed on top of the budget."""
    proposer = merged("lookahead+recycling", nodes=3)
    watched = Watched(proposer, 3)
    decode([request((0, 1, 2), max_tokens=40, ignore_eos=True)], watched)
    assert all(draft.pinned for draft in watched.drafts[:-8])
    assert max(len(draft) for draft in watched.drafts) > 6
    alone = Watched(build("lookahead", SHOP))
    pair = Watched(merged("lookahead", nodes=100))
    for one in (alone, pair):
        one.steps = decode([request((0, 1, 2), max_tokens=60, ignore_eos=True)], Unscored(one))[0].running.stats.steps
    assert alone.steps == pair.steps < 59


class Unscored(Scripted):
    """Watched, for methods whose drafts have no scores."""

    def __init__(self, watched: Watched) -> None:
        super().__init__(lambda _: Draft())
        self.needs, self.observe, self.begin = watched.needs, watched.proposer.observe, watched.proposer.begin
        self.propose, self.end = watched.proposer.propose, watched.proposer.end


class Reader(Scripted):
    """Pins a node, wants to read the `k` likeliest tokens, and checks what it is shown."""

    def __init__(self, k: int) -> None:
        super().__init__(lambda seq: Draft((k,), (-1,), pinned=frozenset({0})) if seq.room else Draft())
        self.needs, self.shown = Needs(top_ids=k), 0

    def observe(self, ctx: ObserveContext) -> None:
        seq, draft, top_ids = ctx.seqs[0], ctx.drafts[0], ctx.top_ids[0]
        assert top_ids.shape == ctx.top_logits[0].shape == (1 + len(draft), self.needs.top_ids)
        before = seq.tokens[: len(seq.tokens) - len(ctx.verdicts[0].tokens)]
        best = np.argsort(-markov(VOCAB)(before), kind="stable")
        assert top_ids[0].tolist() == best[: self.needs.top_ids].tolist()
        self.shown += 1


def test_members_see_as_many_tokens_as_they_asked_for() -> None:
    """And what a member only reads is no draft token: nobody says how likely it is, and nothing is learnt from it."""
    readers = {"two": Reader(2), "four": Reader(4)}
    proposer = Merge({**readers, "ngram": Scripted(lambda seq: chain([0][: seq.room]))}, nodes=1)
    assert proposer.needs.top_ids == 4
    watched = Watched(proposer, 1)
    decode([request((0, 1), max_tokens=30, ignore_eos=True)], watched)
    assert min(reader.shown for reader in readers.values()) > 5
    first = watched.drafts[0]
    assert sorted(zip(first.tokens, first.scores or (), strict=True)) == [(0, 0.5), (2, MARGIN), (4, MARGIN)]
    assert {source for source, *_ in proposer._calibration._cells} == {"ngram", "all: ngram"}


def test_a_wrong_member_loses_its_place() -> None:
    """One member swears by nonsense, the other is right but modest: the budget must end up with the second."""
    target = ToyTarget(markov(VOCAB, order=1), VOCAB)
    successor = {token: int(target._logits_of([token]).argmax()) for token in range(VOCAB)}

    def liar(seq: Any) -> Draft:
        if not seq.room:
            return Draft()
        wrong = [token for token in range(VOCAB) if token != successor[seq.tokens[-1]]]
        return Draft(tuple(wrong[:3]), (-1, -1, -1), (0.95, 0.9, 0.9))

    def modest(seq: Any) -> Draft:
        return chain([successor[seq.tokens[-1]]], scores=[0.2]) if seq.room else Draft()

    proposer = Merge({"liar": Scripted(liar), "modest": Scripted(modest)}, nodes=1)
    watched = Watched(proposer, 1)
    asked = request((0, 1), max_tokens=100, ignore_eos=True)
    (result,) = decode([asked], watched, target=target)
    # The first node is a lie until both are known; then every step gains a token.
    assert result.running.stats.accepted_tokens > 30
    assert watched.drafts[0].scores == (0.95,)
    assert watched.drafts[-2].scores is not None and watched.drafts[-2].scores[0] > 0.8


@pytest.mark.parametrize(("claimed", "true"), [(0.9, 0.3), (0.2, 0.7), (0.999, 0.5), (0.5, 0.02), (1.0, 1.0)])
def test_calibration_finds_the_true_rate(claimed: float, true: float) -> None:
    dice, calibration = random.Random(1), Calibration()
    assert calibration.value("a", claimed, 2) == pytest.approx(min(claimed, 0.999))
    for _ in range(2000):
        calibration.learn("a", claimed, 2, dice.random() < true)
    assert calibration.value("a", claimed, 2) == pytest.approx(true, abs=0.06)
    assert (
        calibration.value("b", claimed, 2) == calibration.value("a", claimed, 9) == pytest.approx(min(claimed, 0.999))
    )


def test_calibration_keeps_the_order_inside_a_bin() -> None:
    calibration = Calibration()
    for _ in range(100):
        calibration.learn("a", 0.5, 1, False)
    low, high = (calibration.value("a", score, 1) for score in (0.45, 0.55))
    assert low < high < 0.1


@given(tree=trees(), data=st.data(), nodes=st.integers(0, 12), least=st.sampled_from((0.0, 0.2)))
def test_the_likeliest_nodes_are_kept(tree: Draft, data: Any, nodes: int, least: float) -> None:
    """A node without its parent, a better node dropped for a worse one, a pinned one lost."""
    share = st.floats(0.01, 1.0)
    scores = data.draw(st.lists(share, min_size=len(tree), max_size=len(tree)))
    pinned = frozenset(data.draw(st.sets(st.integers(0, 30)))) & frozenset(range(len(tree)))
    tree = Draft(tree.tokens, tree.parents, pinned=pinned)
    result = kept(tree, scores, nodes, least)
    reached = dict(zip(paths(tree), values(tree.parents, scores), strict=True))
    free = sorted((value for node, value in enumerate(reached.values()) if node not in pinned), reverse=True)
    free = [value for value in free if value >= least][:nodes]
    pins = {paths(result)[node] for node in result.pinned}
    assert sorted((reached[path] for path in set(paths(result)) - pins), reverse=True) == free
    assert {paths(tree)[step] for node in pinned for step in tree.path_to(node)} <= set(paths(result))
    assert {paths(tree)[node] for node in pinned} <= pins
    assert [reached[path] for path in paths(result)] == sorted((reached[path] for path in paths(result)), reverse=True)


def paths(draft: Draft) -> list[tuple[int, ...]]:
    """Each node as the tokens that lead to it."""
    return [tuple(draft.tokens[step] for step in draft.path_to(node)) for node in range(len(draft))]


def test_what_the_targets_tokens_say_of_a_tree() -> None:
    tree = Draft((1, 2, 3, 4, 5, 6), (-1, -1, 0, 0, 2, 1))
    assert judged(tree, (1, 3, 9)) == [(0, True), (1, False), (2, True), (3, False), (4, False)]
    assert judged(tree, (1, 3)) == [(0, True), (1, False), (2, True), (3, False)]
    assert judged(tree, (9,)) == [(0, False), (1, False)]
    assert judged(tree, ()) == []


@pytest.mark.parametrize("of", ["plain", "merge", "ngram+ngram", "x", "", "ngram+", 5, {}, ["ngram"]])
def test_what_cannot_be_merged(of: Any) -> None:
    with pytest.raises(ParameterError, match=r"^of is .*different methods"):
        merged(of)


@pytest.mark.parametrize("nodes", [0, -1, 1.5, True, 10**6])
def test_nodes_are_counted_in_whole_numbers(nodes: Any) -> None:
    with pytest.raises(ParameterError, match=r"^nodes is .*a whole number from 1"):
        merged("ngram", nodes=nodes)


def test_members_take_options() -> None:
    proposer = merged({"ngram": {"k": 3}, "recycling": None})
    assert proposer._members["ngram"]._rule.k == 3
    with pytest.raises(ParameterError, match=r"^k is"):
        merged({"ngram": {"k": 0}})


def test_a_draft_model_may_be_a_member() -> None:
    """Its cache follows the text also where another member's node was accepted; residual acceptance refuses it."""
    model, method = tiny_llama(), "merge:of=draft+ngram:nodes=6"
    with LLM((model, byte_tokenizer()), near_copy(model)) as llm:
        for temperature in (0.0, 1.0):
            params = SamplingParams(max_tokens=40, ignore_eos=True, temperature=temperature, seed=2)
            plain = llm.generate(["the cat", "a"], params, method="plain")
            both = llm.generate(["the cat", "a"], params, method=method)
            assert [one.token_ids for one in both] == [one.token_ids for one in plain]
            alone = llm.generate("the cat", params, method="draft")
            assert both[0].stats.steps <= alone.stats.steps
    with (
        LLM((model, byte_tokenizer()), near_copy(model), acceptance="residual") as llm,
        pytest.raises(ParameterError, match="of is 'draft'; expected methods that draw no tokens"),
    ):
        llm.generate("the cat", SamplingParams(max_tokens=9, temperature=1.0), method=method)
    with pytest.raises(ParameterError, match="draft is None"):
        merged("draft+ngram")


def test_what_is_remembered_can_be_reached_before_anything_is() -> None:
    """An empty memory is one, too: to load into, or after forgetting."""
    for proposer in (merged("ngram+mix"), build("auto", SHOP)):
        assert proposer.library is not None and len(proposer.library) == 0
    assert merged("ngram").library is None
