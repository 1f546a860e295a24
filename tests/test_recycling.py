"""Token Recycling: it drafts what forward passes said, of the right namespace, best first, and never changes a text."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import VOCAB, Watched, check_identity, decode, expecting, request, toy, view

from betoken.draft import Draft
from betoken.engine import Engine, Request
from betoken.errors import ParameterError
from betoken.params import SamplingParams
from betoken.policy import values
from betoken.proposers.base import ObserveContext, ProposeContext, SeqView, Workshop, build
from betoken.proposers.recycling import NAMESPACES, Recycling
from betoken.targets.base import TargetInfo
from betoken.targets.toy import ToyTarget, markov
from betoken.verify import Verdict

BATCHES = st.lists(expecting(), min_size=1, max_size=3)


def drafted(proposer: Recycling, seq: SeqView) -> Draft:
    (draft,) = proposer.propose(ProposeContext([seq]))
    return draft


def watch(proposer: Recycling, seq: SeqView, draft: Draft, verdict: Verdict, top_ids: Any) -> None:
    proposer.observe(ObserveContext([seq], [draft], [verdict], [np.array(top_ids)]))


@settings(max_examples=30)
@given(batch=BATCHES, table=st.integers(0, 99), pairs=st.sampled_from((0, 3, 999)), k=st.sampled_from((1, 3, 50)))
def test_any_text_is_what_plain_decoding_gives(batch: Any, table: int, pairs: int, k: int) -> None:
    """Rows that are full, empty, shared by pairs, as wide as the vocabulary; and warm ones."""
    proposer = Recycling(VOCAB, nodes=7, pairs=pairs, k=k)
    check_identity(proposer, 7, batch, table, max_rows=2, max_nodes=5)
    assert not proposer._used and not proposer._read


@pytest.mark.parametrize("pairs", [0, 64])
def test_a_text_seen_before_takes_few_steps(pairs: int) -> None:
    """Greedy on a table that looks back one token: when all is known, a step gains as many tokens as the tree is deep."""
    target, proposer = ToyTarget(markov(VOCAB, order=1), VOCAB), Recycling(VOCAB, nodes=40, pairs=pairs)
    steps = []
    for _ in range(3):
        (result,) = decode([request((3,), max_tokens=41, ignore_eos=True)], Watched(proposer, 40), target=target)
        steps.append(result.running.stats.steps)
    assert steps[0] < 20
    assert steps[-1] <= 3


def test_rejected_nodes_teach_too_and_the_last_word_counts() -> None:
    """Only accepted nodes were looked at, or an old row won."""
    proposer = Recycling(10, nodes=2, k=2, pairs=0)
    proposer.begin(view([1, 2]))
    assert drafted(proposer, view([1, 2])) == Draft((), (), ())
    watch(proposer, view([1, 2, 6]), Draft((5,), (-1,)), Verdict((), (6,)), [[6, 7], [8, 9]])
    assert drafted(proposer, view([1, 2, 6, 5])).tokens == (8, 9)
    watch(proposer, view([1, 2, 6, 5, 3]), Draft((5, 5), (-1, 0)), Verdict((), (3,)), [[3, 1], [1, 2], [4, 3]])
    assert drafted(proposer, view([1, 2, 6, 5, 3, 5])).tokens == (4, 3)


def test_a_pair_is_known_better_than_its_last_token() -> None:
    proposer = Recycling(10, nodes=1, k=2)
    proposer.begin(view([1, 2]))
    watch(proposer, view([1, 2, 6]), Draft(), Verdict((), (6,)), [[6, 7]])
    watch(proposer, view([1, 2, 6, 3, 2, 4]), Draft(), Verdict((), (4,)), [[4, 7]])
    assert drafted(proposer, view([3, 2])).tokens == (4,)
    assert drafted(proposer, view([1, 2])).tokens == (6,)
    assert drafted(proposer, view([9, 2])).tokens == (4,)


def test_context_is_read_when_it_comes() -> None:
    """What the prompt shows is drafted in the first step, what a later turn adds in the next."""
    proposer = Recycling(20, nodes=3)
    tokens = [1, 2, 3, 4, 1, 2]
    proposer.begin(view(tokens))
    assert drafted(proposer, view(tokens)).tokens == (3, 4, 1)
    tokens += [7, 8, 9, 7, 8]
    assert drafted(proposer, view(tokens)).tokens == (9, 7, 8)
    assert drafted(proposer, view(tokens, room=1)).tokens == (9,)


def test_no_namespace_sees_another() -> None:
    proposer = Recycling(20)
    proposer.begin(view([1, 2, 3, 1, 2], namespace="a"))
    assert drafted(proposer, view([1, 2, 3, 1, 2]))
    for namespace, knows in (("b", False), ("", False), ("a", True)):
        proposer.begin(view([5, 1, 2], seq_id=1, namespace=namespace))
        assert bool(drafted(proposer, view([5, 1, 2], seq_id=1))) == knows


def test_old_namespaces_are_forgotten() -> None:
    """A server's memory would grow with every user; the ones that come back must stay."""
    proposer = Recycling(20)
    for n in range(2 * NAMESPACES):
        for namespace in ("regular", str(n)):
            proposer.begin(view([1, 2], namespace=namespace))
    assert len(proposer._memories) == NAMESPACES
    assert {"regular", str(2 * NAMESPACES - 1)} <= proposer._memories.keys()


def test_the_tree_is_grown_best_first() -> None:
    """Nodes in the order of their value, and what keeps being right comes first: here the third successor."""
    proposer = Recycling(10, nodes=20, k=4, pairs=0)
    proposer.begin(view([1, 2]))
    rows = {token: [(token + i) % 10 for i in (1, 2, 3, 4)] for token in range(10)}
    tokens = [1, 2]
    for _ in range(60):
        draft = drafted(proposer, view(tokens))
        reached = values(draft.parents, draft.scores or ())
        assert reached == sorted(reached, reverse=True)
        root = tokens[-1]
        tokens = [*tokens, (root + 3) % 10]
        top_ids = [rows[token] for token in (root, *draft.tokens)]
        watch(proposer, view(tokens), draft, Verdict((), (tokens[-1],)), top_ids)
    draft = drafted(proposer, view(tokens))
    assert draft.tokens[0] == (tokens[-1] + 3) % 10
    assert draft.scores is not None and draft.scores[0] > 0.8


@pytest.mark.parametrize(
    "options",
    [
        {"nodes": 0},
        {"nodes": 2.5},
        {"nodes": True},
        {"nodes": 5000},
        {"k": 0},
        {"k": 65},
        {"pairs": -1},
        {"pairs": "x"},
    ],
)
def test_bad_options_name_themselves(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ParameterError, match=f"^{name} is .*a whole number from"):
        build("recycling", Workshop(TargetInfo("toy", 8), options=options))


def test_forgetting_reaches_sequences_that_are_underway() -> None:
    """What was remembered before `forget` was still drafted for those that had begun."""
    engine = Engine(toy(1), build("recycling", Workshop(toy(1).info)))
    engine.add(Request((0, 1, 2), SamplingParams(max_tokens=500, ignore_eos=True)))
    for _ in range(10):
        engine.step()
    proposer = engine.proposer
    before = proposer._used[0]._successors.copy()
    proposer.forget()
    assert (before >= 0).any() and (proposer._used[0]._successors == -1).all()
    engine.run(lambda _: None)
    assert not proposer._used and not proposer._namespaces
