"""`mix` and `suffix`: what they draft, what they keep, and that text never changes by it."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import VOCAB, decode, toy

from betoken.draft import Draft
from betoken.engine import Engine, Request
from betoken.errors import ParameterError
from betoken.memory.beliefs import untaught
from betoken.params import SamplingParams
from betoken.proposers.base import ProposeContext, SeqView, Workshop, build
from betoken.proposers.mix import Mix
from betoken.proposers.reading import TAIL, ReadingProposer
from betoken.proposers.suffix import Suffix
from betoken.sampling import Sampler
from betoken.targets.base import TargetInfo

BOTH = pytest.mark.parametrize("make", [Mix, Suffix])
Make = Callable[..., ReadingProposer]


def view(
    tokens: list[int], *, seq_id: int = 0, prompt: int | None = None, room: int = 99, namespace: str = ""
) -> SeqView:
    sampler = Sampler(SamplingParams(), seed=0, vocab_size=100, prompt=tokens, eos_ids=())
    return SeqView(seq_id, tokens, len(tokens) if prompt is None else prompt, sampler, room, namespace=namespace)


def draft_of(proposer: ReadingProposer, tokens: list[int], **how: Any) -> Draft:
    """What a new sequence gets."""
    seq = view(tokens, **how)
    proposer.begin(seq)
    [draft] = proposer.propose(ProposeContext([seq]))
    proposer.end(seq.seq_id)
    return draft


def chains(draft: Draft) -> set[tuple[int, ...]]:
    return {tuple(draft.tokens[step] for step in draft.path_to(node)) for node in range(len(draft))}


@BOTH
def test_a_repeat_is_followed(make: Make) -> None:
    draft = draft_of(make(memory=False), [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3])
    assert (4, 5, 6) in chains(draft)
    assert draft.scores is not None
    assert all(0 < score <= 1 for score in draft.scores)


@BOTH
def test_the_most_frequent_continuation_comes_first(make: Make) -> None:
    draft = draft_of(make(memory=False), [5, 1, 7, 6, 1, 7, 8, 1, 9, 4, 1, 7, 3, 1])
    assert draft.scores is not None
    roots = {draft.tokens[node]: draft.scores[node] for node in range(len(draft)) if draft.parents[node] < 0}
    assert roots[7] > roots.get(9, 0)


@BOTH
def test_a_loop_is_followed_past_the_end_of_the_text(make: Make) -> None:
    """The match's continuation ended where the text ends."""
    draft = draft_of(make(memory=False, nodes=16), [1, 2, 3] * 12)
    assert (1, 2, 3, 1, 2, 3, 1, 2, 3) in chains(draft)


@BOTH
def test_earlier_sequences_are_remembered_without_their_first_prompt(make: Make) -> None:
    proposer = make()
    seq = view([50, 51, 52, 60, 61, 62, 63], prompt=3)
    proposer.begin(seq)
    proposer.propose(ProposeContext([seq]))
    proposer.end(0)
    assert (62, 63) in chains(draft_of(proposer, [8, 9, 60, 61], seq_id=1))
    assert 52 not in draft_of(proposer, [8, 9, 50, 51], seq_id=2).tokens
    assert 62 not in draft_of(proposer, [8, 9, 60, 61], seq_id=3, namespace="another").tokens


@BOTH
def test_what_came_since_the_last_draft_is_remembered_where_that_is_little(make: Make) -> None:
    """The last step's tokens are; a text that nothing was drafted for since long before is not read for it."""
    for more, remembered in ((5, 7), (TAIL, TAIL + 2), (TAIL + 1, 2)):
        proposer, tokens = make(), [1, 2, 3]
        proposer.begin(view(tokens))
        tokens += [4, 5]
        proposer.propose(ProposeContext([view(tokens, prompt=3)]))
        tokens += range(10, 10 + more)
        proposer.end(0)
        assert len(proposer.library) == remembered


@BOTH
def test_one_sequence_can_be_forgotten(make: Make) -> None:
    proposer = make()
    draft_of(proposer, [1, 60, 61, 62], prompt=1, seq_id=5)
    draft_of(proposer, [1, 70, 71, 72], prompt=1, seq_id=6)
    assert proposer.remove(5)
    assert not proposer.remove(5)
    assert 62 not in draft_of(proposer, [8, 60, 61], seq_id=7).tokens
    assert 72 in draft_of(proposer, [8, 70, 71], seq_id=8).tokens
    proposer.forget()
    assert len(proposer.library) == 0


@BOTH
def test_without_memory_nothing_is_remembered(make: Make) -> None:
    proposer = make(memory="off")
    draft_of(proposer, [60, 61, 62], prompt=1)
    assert 62 not in draft_of(proposer, [8, 60, 61], seq_id=1).tokens
    assert len(proposer.library) == 0


@BOTH
@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 20), st.integers(0, 9))
def test_drafts_are_within_their_limits(make: Make, tokens: list[int], nodes: int, room: int) -> None:
    draft = draft_of(make((3,), nodes=nodes), tokens, room=room)
    assert len(draft) <= nodes
    assert draft.depth <= room
    ended = [node for node in range(len(draft)) if draft.tokens[node] == 3]
    assert not any(parent in ended for parent in draft.parents), "nothing follows an end of sequence"
    values: list[float] = []
    for parent, score in zip(draft.parents, draft.scores or (), strict=True):
        values.append(score * (values[parent] if parent >= 0 else 1.0))
    assert values == sorted(values, reverse=True), "the likeliest paths come first"


@BOTH
@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=90), st.integers(1, 20))
def test_a_smaller_draft_is_the_beginning_of_a_larger_one(make: Make, tokens: list[int], nodes: int) -> None:
    """What waits in a short queue fell out of it too soon, or equals changed places."""
    small, large = (draft_of(make(nodes=size, memory=False), tokens) for size in (nodes, 60))
    assert (small.tokens, small.parents, small.scores) == (
        large.tokens[:nodes],
        large.parents[:nodes],
        (large.scores or ())[:nodes],
    )


def test_many_possible_tokens_are_each_drafted_once() -> None:
    """A token that two contexts speak for, not found again among many, became two siblings."""
    tokens = [token for last in range(120) for token in (5000 + last % 3, 7, 256 * ((37 * last) % 50) + last % 2)]
    draft = draft_of(Mix(nodes=60, memory=False), [*tokens, 5000, 7])
    assert len(draft) == 60


@BOTH
@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=60), st.data())
def test_it_does_not_matter_how_a_text_came(make: Make, tokens: list[int], data: st.DataObject) -> None:
    """Read at once or in pieces of context, the same draft."""
    at_once, in_pieces = make(nodes=8), make(nodes=8)
    for proposer in (at_once, in_pieces):
        draft_of(proposer, [1, 2, 1, 3, 1, 2, 2], prompt=1, seq_id=7)
    whole = draft_of(at_once, tokens)
    growing = list(tokens[:1])
    in_pieces.begin(view(growing))
    while len(growing) < len(tokens):
        growing += tokens[len(growing) : len(growing) + data.draw(st.integers(1, 9))]
        [piece] = in_pieces.propose(ProposeContext([view(growing)]))
    if len(tokens) > 1:
        assert (piece.tokens, piece.parents) == (whole.tokens, whole.parents)


@BOTH
@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9), min_size=1, max_size=4),
    st.sampled_from((0.0, 1.0)),
)
def test_the_text_is_plain_decodings(make: Make, prompts: list[list[int]], temperature: float) -> None:
    params = SamplingParams(max_tokens=40, temperature=temperature, seed=3)
    asked = [Request(tuple(prompt), params) for prompt in prompts]
    assert [one.said for one in decode(asked, make(), target=toy(1))] == [
        one.said for one in decode(asked, None, target=toy(1))
    ]


@BOTH
def test_nothing_is_left_of_a_sequence(make: Make) -> None:
    proposer = make(memory=False)
    engine = Engine(toy(0), proposer)
    for _ in range(5):
        engine.add(Request((1, 2, 3), SamplingParams(max_tokens=20)))
    aborted = engine.add(Request((1, 2), SamplingParams(max_tokens=500)))
    engine.step()
    engine.abort(aborted)
    engine.run(lambda _: None)
    assert not proposer._reader._readings


def test_it_learns_whom_to_believe() -> None:
    """A sequence in which single tokens predict and long matches deceive: the doubts must move apart."""
    proposer = Mix(nodes=8)
    before = untaught()[0]
    tokens = [1, *([5, 6] * 100)]
    seq = view(tokens, prompt=1)
    proposer.begin(seq)
    proposer.propose(ProposeContext([seq]))
    proposer.end(0)
    chances = [draft_of(one, [2, 5, 6, 5], seq_id=1) for one in (proposer, Mix(nodes=8, memory=False))]
    taught, first = (dict(zip(draft.tokens, draft.scores or (), strict=True))[6] for draft in chances)
    assert taught > max(0.9, first), "what was right is believed more"
    moved = proposer.library.shelf("").weights()[0] - before
    assert moved.min() < -0.5
    assert proposer.library.shelf("other").learnt is None


@pytest.mark.parametrize("method", ["mix", "suffix"])
@pytest.mark.parametrize(
    "option", [{"nodes": 0}, {"nodes": True}, {"nodes": 1e9}, {"floor": 1}, {"memory": "maybe"}, {"capacity": -1}]
)
def test_bad_options_are_named(method: str, option: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=next(iter(option))):
        build(method, Workshop(TargetInfo("toy", 8), options=option))
