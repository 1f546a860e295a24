"""Drafting from a text that is expected to come back: in step again after every kind of edit, and never a changed text."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Watched, check_identity, decode, expecting, spoken, view
from tiny_models import byte_tokenizer, tiny_llama

from betoken import LLM, ParameterError, SamplingParams
from betoken.draft import EMPTY, ROOT
from betoken.engine import Request
from betoken.proposers.base import ObserveContext, ProposeContext, SeqView, Workshop, build
from betoken.proposers.reference import Reference
from betoken.targets.base import TargetInfo
from betoken.verify import Verdict

VOCAB = 200
TEXT = tuple(range(1, 101))


def steps(said: tuple[int, ...], reference: tuple[int, ...], nodes: int = 16) -> int:
    """How many steps a target takes that says these tokens."""
    params = SamplingParams(max_tokens=len(said), ignore_eos=True)
    proposer = Watched(Reference(nodes=nodes), nodes)
    (result,) = decode([Request((0,), params, reference=reference)], proposer, target=spoken(said, VOCAB))
    assert tuple(result.tokens) == said
    assert not proposer.proposer._followers and not proposer.proposer._pending
    return int(result.running.stats.steps)


@settings(max_examples=40)
@given(batch=st.lists(expecting(), min_size=1, max_size=3), table=st.integers(0, 99))
def test_any_text_is_what_plain_decoding_gives(batch: Any, table: int) -> None:
    check_identity(Reference(nodes=6, min_value=0), 6, batch, table, max_rows=2, max_nodes=5)


def test_an_unchanged_text_takes_as_few_steps_as_there_can_be() -> None:
    """100 tokens: 1 from the prefill, then 17 a step."""
    assert steps(TEXT, TEXT) == 6
    assert steps(TEXT, ()) == 99


@pytest.mark.parametrize(
    ("name", "said", "expected"),
    [
        ("one replaced", (*TEXT[:40], 150, *TEXT[41:]), 7),
        ("three replaced", (*TEXT[:40], 150, 151, 152, *TEXT[43:]), 9),
        ("one put in", (*TEXT[:40], 150, *TEXT[40:]), 8),
        ("three put in", (*TEXT[:40], 150, 151, 152, *TEXT[40:]), 10),
        ("one left out", (*TEXT[:40], *TEXT[41:]), 7),
        ("many left out", (*TEXT[:20], *TEXT[60:]), 6),
        ("a preamble", (150, 151, *TEXT), 8),
        ("a block moved back", (*TEXT[:30], *TEXT[60:80], *TEXT[30:60], *TEXT[80:]), 10),
        ("more after its end", (*TEXT, 150, 151, 152), 8),
    ],
)
def test_in_step_again_after(name: str, said: tuple[int, ...], expected: int) -> None:
    """The place was lost for good after an edit, or found again only after several tokens."""
    assert steps(said, TEXT) == expected, name


def test_out_of_step_two_places_are_drafted_from() -> None:
    """After `3 -> 150` the reference may go on with 4 (one replaced), after `3 -> 5` also with 6 (left out)."""
    proposer = Reference(nodes=30, min_value=0)
    for said, expected in (([0, 1, 2, 150], {4}), ([0, 1, 2, 5], {4, 6})):
        proposer.begin(view(said, reference=TEXT))
        (draft,) = proposer.propose(ProposeContext([view(said, reference=TEXT)]))
        assert {token for token, parent in zip(draft.tokens, draft.parents, strict=True) if parent == ROOT} == expected


def test_scores_follow_what_happens() -> None:
    """In step, yet the next token never comes: the score must say so after a while. It recovers, though nothing was drafted."""
    proposer = Reference(min_value=0)
    for seq_id in range(200):
        seq = view([0, 1], seq_id=seq_id, reference=TEXT)
        proposer.begin(seq)
        (draft,) = proposer.propose(ProposeContext([seq]))
        proposer.observe(ObserveContext([seq], [draft], [Verdict((), (199,))]))
    assert draft.scores is not None and draft.scores[0] < 0.1
    proposer._min_value = 0.5
    for seq_id, drafted in ((0, False), *((n, None) for n in range(1, 200)), (200, True)):
        seq = view([0, 1], seq_id=seq_id, reference=TEXT)
        proposer.begin(seq)
        (draft,) = proposer.propose(ProposeContext([seq]))
        assert drafted in (None, bool(draft))
        proposer.observe(ObserveContext([seq], [draft], [Verdict((), (2, 199))]))


def test_places_that_look_alike_are_taken_in_order() -> None:
    """A repeated line: after an edit the nearest occurrence ahead is the one, not the first."""
    line = (7, 8, 9)
    reference = (1, *line, 2, *line, 3, *line, 4, *line, 5, 6)
    said = (*reference[:8], 150, *reference[9:])
    assert steps(said, reference) == 2


def test_a_useless_reference_is_hardly_drafted_from() -> None:
    """Rates learn that this text does not come: the trees must get small."""
    proposer = Reference()
    watched = Watched(proposer, 32)
    said = tuple(1 + 7 * i % 90 for i in range(150))
    params = SamplingParams(max_tokens=len(said), ignore_eos=True)
    for _ in range(2):
        decode([Request((0,), params, reference=TEXT)], watched, target=spoken(said, VOCAB))
    sizes = [len(draft) for draft in watched.drafts]
    assert sum(sizes[:5]) / 5 > 2 * sum(sizes[-50:]) / 50


def test_without_a_reference_nothing_is_drafted() -> None:
    proposer = Reference()
    proposer.begin(view([1, 2]))
    assert proposer.propose(ProposeContext([view([1, 2])])) == [EMPTY]
    assert not proposer._followers


def test_a_later_turn_starts_at_the_beginning_again() -> None:
    """More context came, then an output of its own: neither the context nor the first output is followed."""

    def at(tokens: list[int], prompt_length: int) -> SeqView:
        return view(tokens, prompt_length=prompt_length, reference=TEXT)

    proposer = Reference(nodes=2)
    proposer.begin(at([0, 1], 1))
    for tokens, prompt_length, expected in (
        ([0, 1], 1, (2, 3)),
        ([0, 1, 2, 3], 1, (4, 5)),
        ([0, 1, 2, 3, 50, 51, 52, 1], 7, (2, 3)),
    ):
        seq = at(tokens, prompt_length)
        (draft,) = proposer.propose(ProposeContext([seq]))
        assert draft.tokens == expected
        proposer.observe(ObserveContext([seq], [draft], [Verdict((), (199,))]))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"nodes": 0}, "a whole number from 1"), ({"nodes": 1.5}, "a whole number from 1"), ({"min_value": 1}, "below 1")],
)
def test_bad_options_name_themselves(options: dict[str, Any], words: str) -> None:
    (name,) = options
    with pytest.raises(ParameterError, match=f"^{name} is .*{words}"):
        build("reference", Workshop(TargetInfo("toy", 8), options=options))


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM((tiny_llama(), byte_tokenizer()), method="reference") as made:
        yield made


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("method", ["reference", "merge"])
def test_text_in_text_out(llm: LLM, method: str, temperature: float) -> None:
    """A real model: the same text with any reference, fewer steps with the right one; single, batched and streamed."""
    params = SamplingParams(max_tokens=40, ignore_eos=True, temperature=temperature, seed=3)
    plain = llm.generate(["the cat", "a"], params, method="plain")
    ids = plain[0].token_ids
    edited = [*ids[:20], 9, *ids[20:]]
    with_it = llm.generate("the cat", params, method=method, reference=edited)
    both = llm.generate(["the cat", "a"], params, method=method, reference=[edited, None])
    assert with_it.token_ids == both[0].token_ids == ids
    assert both[1].token_ids == plain[1].token_ids
    assert with_it.stats.steps < 8
    assert "".join(llm.stream("the cat", params, method=method, reference=edited)) == plain[0].text
    assert llm.chat([{"role": "user", "content": "hi"}], params, method=method, reference="hi there").text


def test_a_reference_may_be_text(llm: LLM) -> None:
    """It is taken as it would stand inside an answer: no special tokens around it."""
    assert llm._encoder.reference_ids("the") == tuple(byte_tokenizer().encode("the", add_special_tokens=False))


@pytest.mark.parametrize(
    ("prompts", "reference"),
    [
        ("a", 5),
        ("a", [1.5]),
        ("a", [-1]),
        ("a", [True]),
        ("a", ["b"]),
        (["a", "b"], "c"),
        (["a", "b"], ["c"]),
        (["a"], [5]),
    ],
)
def test_what_is_no_reference(llm: LLM, prompts: Any, reference: Any) -> None:
    with pytest.raises(ParameterError, match=r"^reference is"):
        llm.generate(prompts, reference=reference)


def test_a_namespace_is_a_string(llm: LLM) -> None:
    with pytest.raises(ParameterError, match=r"^namespace is 5; expected a string"):
        llm.generate("a", namespace=5)  # type: ignore[call-overload]
