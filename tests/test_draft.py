"""Trees: what they derive, and how they are cut and merged."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import trees

from betoken.draft import EMPTY, ROOT, Draft, chain, clip, merge, select


def spelled(draft: Draft, node: int) -> tuple[int, ...]:
    """The tokens from the root down to a node."""
    above = draft.parents[node]
    return (() if above == ROOT else spelled(draft, above)) + (draft.tokens[node],)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"tokens": (1, 2), "parents": (-1,)}, "one parent per token"),
        ({"tokens": (1,), "parents": (0,)}, "node 0's parent"),
        ({"tokens": (1, 2), "parents": (-1, 1)}, "node 1's parent"),
        ({"tokens": (1,), "parents": (-2,)}, "node 0's parent"),
        ({"tokens": (1, 1), "parents": (-1, -1)}, "siblings"),
        ({"tokens": (1,), "parents": (-1,), "scores": (0.5, 0.5)}, "one score per token"),
        ({"tokens": (1,), "parents": (-1,), "probs": np.ones((2, 3))}, "one law per token"),
    ],
)
def test_malformed_trees_are_refused(fields: dict, says: str) -> None:
    """A malformed tree reached the mask builder and failed there, or silently shadowed a sibling."""
    with pytest.raises(ValueError, match=says):
        Draft(**fields)


@given(trees())
def test_depths_paths_and_ancestors_agree(draft: Draft) -> None:
    """Depth, path and mask were derived by three pieces of code that disagreed on where the root is."""
    mask = draft.ancestors()
    for node in range(len(draft)):
        path = draft.path_to(node)
        assert [draft.tokens[step] for step in path] == list(spelled(draft, node))
        assert draft.depths[node] == len(path) == mask[node].sum()
        assert set(np.flatnonzero(mask[node])) == set(path)
        assert draft.is_path(path)
    assert draft.path_to(ROOT) == ()
    assert draft.depth == max(draft.depths, default=0)


def checked(draft: Draft) -> Draft:
    """The same draft, made with all checks."""
    return Draft(draft.tokens, draft.parents, draft.scores, draft.probs, draft.pinned)


@given(trees())
def test_a_trusted_draft_is_the_draft(draft: Draft) -> None:
    """What was not checked was not there either."""
    trusted = Draft.trusted(draft.tokens, draft.parents, draft.scores, draft.probs, draft.pinned)
    assert trusted == draft
    assert (trusted.children, trusted.depths, trusted.is_chain) == (draft.children, draft.depths, draft.is_chain)


@given(trees(), trees(), st.data())
def test_what_is_cut_and_merged_without_checks_passes_them(draft: Draft, other: Draft, data: st.DataObject) -> None:
    """A kept node twice, or a merged one, made a tree with equal siblings."""
    leaf = data.draw(st.integers(-1, len(draft) - 1))
    path = draft.path_to(leaf)
    kept = select(draft, (*path, *path))
    assert checked(kept) == kept and len(kept) == len(path)
    merged, _ = merge([draft, other, draft])
    assert checked(merged) == merged


def test_is_path_wants_the_root_first_and_no_gap() -> None:
    """A path that began below the root, or jumped over a node, was committed."""
    draft = Draft((1, 2, 3), (-1, 0, 0))
    assert draft.is_path(())
    assert draft.is_path((0, 2))
    assert not draft.is_path((1,))
    assert not draft.is_path((0, 1, 2))


@given(trees())
def test_a_chain_is_a_tree_without_branches(draft: Draft) -> None:
    """Block verification was used on a tree whose first nodes looked like a chain."""
    straight = len({draft.depths[node] for node in range(len(draft))}) == len(draft)
    assert draft.is_chain == (straight and list(draft.depths) == list(range(1, len(draft) + 1)))
    assert chain(draft.tokens).is_chain
    assert not Draft((1, 2), (-1, -1)).is_chain


def test_nothing_is_a_draft() -> None:
    """The empty draft was taken for a missing one."""
    assert not EMPTY
    assert EMPTY.is_chain
    assert EMPTY.depth == 0
    assert EMPTY.ancestors().shape == (0, 0)


def test_pinned_nodes_are_no_draft_tokens() -> None:
    """Lookahead's window was counted as rejected draft tokens."""
    assert Draft((1, 2, 3), (-1, 0, -1), pinned=frozenset({2})).num_draft_tokens == 2


def fed(draft: Draft, vocab_size: int, max_depth: int) -> set[tuple[int, ...]]:
    """What clipping may keep, by definition."""
    paths = (spelled(draft, node) for node in range(len(draft)))
    return {path for path in paths if len(path) <= max_depth and all(0 <= token < vocab_size for token in path)}


@given(trees(low=-2, high=8), st.integers(0, 6))
@example(Draft((1, 2), (-1, -1)), 1)
@example(Draft((1, 9, 2, 3), (-1, 0, 1, 0)), 2)
def test_clip_keeps_all_that_can_be_fed_and_nothing_else(draft: Draft, max_depth: int) -> None:
    """A token past the vocabulary indexed the embedding out of range; a child of a dropped node moved up to the root."""
    clipped = clip(draft, vocab_size=6, max_depth=max_depth)
    assert {spelled(clipped, node) for node in range(len(clipped))} == fed(draft, 6, max_depth)
    assert (clipped is draft) == (len(clipped) == len(draft))


@given(trees(), st.integers(0, 10))
def test_clip_by_size_keeps_the_first_nodes(draft: Draft, max_nodes: int) -> None:
    """One node too many was fed; or nodes were dropped by anything but their place, which biases a drawn draft."""
    clipped = clip(draft, vocab_size=6, max_depth=99, max_nodes=max_nodes)
    assert clipped.tokens == draft.tokens[:max_nodes]
    assert clipped.parents == draft.parents[:max_nodes]


def test_select_takes_everything_along() -> None:
    """Scores, laws or pins of a pruned tree belonged to other nodes."""
    draft = Draft((1, 2, 3, 4), (-1, -1, 1, 2), (0.1, 0.2, 0.3, 0.4), np.arange(8).reshape(4, 2), frozenset({0, 3}))
    kept = select(draft, (3, 1, 2))
    assert (kept.tokens, kept.parents, kept.scores) == ((2, 3, 4), (-1, 0, 1), (0.2, 0.3, 0.4))
    assert kept.probs.tolist() == [[2, 3], [4, 5], [6, 7]]
    assert kept.pinned == {2}


@given(st.lists(trees(), max_size=4))
def test_merged_trees_hold_each_tree_once(drafts: list[Draft]) -> None:
    """Equal paths of two drafters were fed twice, or a drafter looked for its outputs at another's node."""
    merged, places = merge(drafts)
    for draft, place in zip(drafts, places, strict=True):
        assert [spelled(merged, node) for node in place] == [spelled(draft, node) for node in range(len(draft))]
    wanted = {spelled(draft, node) for draft in drafts for node in range(len(draft))}
    assert len(merged) == len(wanted)


def test_merge_keeps_the_best_score_and_unpins_what_someone_proposed() -> None:
    """A window node that another drafter proposes was kept out of the statistics; the worse of two scores won."""
    window = Draft((1, 2), (-1, 0), (0.0, 0.0), pinned=frozenset({0, 1}))
    merged, _ = merge([window, chain([1], [0.6]), chain([1], [0.4])])
    assert merged.pinned == {1}
    assert merged.scores == (0.6, 0.0)
    assert merge([chain([1], [0.6]), chain([2])])[0].scores is None


def test_drawn_drafts_are_not_merged() -> None:
    """Merging by value made the law a draft was drawn from unknown, and the residual rule biased."""
    with pytest.raises(ValueError, match="cannot be merged"):
        merge([chain([1]), chain([1], probs=np.ones((1, 2)))])
