"""The acceptance code's output law, enumerated with fractions and compared with the target's by `==`.

Drafts are drawn by the same dice, so what is compared is the joint law of drafting, acceptance and replacement. One step is
followed by plain decoding to LENGTH tokens: if that is exact for every context, so is any number of steps.
"""

import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from exact import Chance, Dice, law_of, mean_of

from betoken.draft import EMPTY, ROOT, Draft, chain, clip, select
from betoken.verify import Verdict, _recursive, residual, walk

V, LENGTH = 3, 3
Context = tuple[int, ...]
Model = Callable[[Context], np.ndarray]
Drafter = Callable[[Dice, Context], Draft]
SEEDS = range(4)


def model(seed: int, who: str) -> Model:
    """A random table of fractions; one entry in five is 0."""

    def law(context: Context) -> np.ndarray:
        dice = random.Random(f"{who} {seed} {context}")
        weights = [dice.choice((0, 1, 2, 3, 7)) for _ in range(V)]
        weights[dice.randrange(V)] += 1
        return np.array([Fraction(weight, sum(weights)) for weight in weights], dtype=object)

    return law


def target_law(p: Model, length: int = LENGTH) -> dict[Context, Fraction]:
    return law_of(lambda dice: plainly(dice, p, (), length))


def plainly(dice: Dice, p: Model, tokens: Context, length: int) -> Context:
    while len(tokens) < length:
        tokens += (dice.pick(p(tokens)),)
    return tokens[:length]


def judged(dice: Dice, p: Model, draft: Draft, context: Context = ()) -> Verdict:
    """One call of the code under test."""
    chances = [Chance(dice) for _ in draft.tokens]
    spelled = lambda node: tuple(draft.tokens[step] for step in draft.path_to(node))  # noqa: E731
    law_at = lambda node: p(context + spelled(node))  # noqa: E731
    return sound(draft, residual(draft, law_at, chances.__getitem__, lambda law, _: dice.pick(law)))


def sound(draft: Draft, verdict: Verdict) -> Verdict:
    """Accepted nodes lie on a path, their tokens are kept, and one more."""
    assert draft.is_path(verdict.path)
    assert verdict.tokens[:-1] == tuple(draft.tokens[node] for node in verdict.path)
    return verdict


def one_step(dice: Dice, p: Model, drafter: Drafter) -> Context:
    return plainly(dice, p, judged(dice, p, drafter(dice, ())).tokens, LENGTH)


def without(law: np.ndarray, taken: Sequence[int]) -> np.ndarray | None:
    """A law with some tokens taken out, normalised again; None where nothing is left."""
    rest = law.copy()
    rest[list(taken)] = Fraction(0)
    return rest / rest.sum() if rest.sum() else None


def drawn(dice: Dice, context: Context, q: Model, widths: Sequence[int], put: int = 0) -> Draft:
    """A tree drawn level by level: `widths[d]` siblings without replacement below every node of depth d. Of each family the
    first `put` are not drawn but put there: the most likely ones."""
    tokens, parents, rows = list[int](), list[int](), list[np.ndarray]()
    level: list[tuple[int, Context]] = [(ROOT, context)]
    for width in widths:
        below = []
        for node, above in level:
            taken: list[int] = []
            while len(taken) < width and (law := without(q(above), taken)) is not None:
                token = max(range(V), key=law.__getitem__) if len(taken) < put else dice.pick(law)
                row = law if len(taken) >= put else np.array([Fraction(t == token) for t in range(V)], dtype=object)
                below.append((len(tokens), (*above, token)))
                tokens, parents, rows, taken = [*tokens, token], [*parents, node], [*rows, row], [*taken, token]
        level = below
    return Draft(tuple(tokens), tuple(parents), probs=np.array(rows, dtype=object).reshape(len(rows), V))


def random_tree(seed: int) -> Draft:
    """A tree of point masses."""
    dice = random.Random(seed)
    nodes = dict.fromkeys((dice.randrange(ROOT, node), dice.randrange(V)) for node in range(6))
    order = list(nodes)
    return select(
        Draft(tuple(t for _, t in order), tuple(min(p, i - 1) for i, (p, _) in enumerate(order))), range(len(order))
    )


def stopping(dice: Dice, context: Context, q: Model) -> Draft:
    """A chain that is drawn no further after token 0: whether a node is there depends on those before it."""
    tokens, rows = list[int](), list[np.ndarray]()
    while len(tokens) < 3 and 0 not in tokens:
        rows.append(q((*context, *tokens)))
        tokens.append(dice.pick(rows[-1]))
    return chain(tokens, probs=np.array(rows, dtype=object))


DRAWN = {
    "chain of 1": {"widths": (1,)},
    "chain of 2": {"widths": (1, 1)},
    "chain of 3": {"widths": (1, 1, 1)},
    "2 siblings": {"widths": (2,)},
    "all siblings": {"widths": (3,)},
    "2, then 1": {"widths": (2, 1)},
    "1, then 2": {"widths": (1, 2)},
    "2, then 2": {"widths": (2, 2)},
    "1 put, 1 drawn": {"widths": (2, 1), "put": 1},
    "a put chain": {"widths": (1, 1), "put": 1},
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", DRAWN)
def test_drawn_drafts_leave_the_law_alone(shape: str, seed: int) -> None:
    """Any slip in the ratio, the residual, the order of siblings or the block's weights: the output law is off by it."""
    p, q = model(seed, "p"), model(seed, "q")
    assert law_of(lambda dice: one_step(dice, p, partial(drawn, q=q, **DRAWN[shape]))) == target_law(p)


@pytest.mark.parametrize("seed", range(20))
def test_point_masses_leave_the_law_alone(seed: int) -> None:
    """A rejected point mass stayed in the law its sibling was judged by."""
    p = model(seed, "p")
    assert law_of(lambda dice: one_step(dice, p, lambda *_: random_tree(seed))) == target_law(p)


@pytest.mark.parametrize("seed", range(20))
def test_walking_is_exact_and_accepts_a_family_with_its_probability(seed: int) -> None:
    """The walk kept a token that the target did not emit, or missed a child that it did (Leviathan et al. 2023, 2.3)."""
    p, draft = model(seed, "p"), random_tree(seed)

    def run(dice: Dice) -> tuple[Context, Verdict]:
        spelled = lambda node: tuple(draft.tokens[step] for step in draft.path_to(node))  # noqa: E731
        verdict = sound(draft, walk(draft, lambda node: dice.pick(p(spelled(node)))))
        return plainly(dice, p, verdict.tokens, LENGTH), verdict

    assert law_of(lambda dice: run(dice)[0]) == target_law(p)
    roots = [token for token, parent in zip(draft.tokens, draft.parents, strict=True) if parent == ROOT]
    assert mean_of(lambda dice: bool(run(dice)[1].path)) == sum(p(())[roots])
    assert mean_of(lambda dice: bool(judged(dice, p, draft).path)) == sum(p(())[roots])


@pytest.mark.parametrize("seed", SEEDS)
def test_several_steps_with_fresh_draws(seed: int) -> None:
    """A step that is exact alone left something behind for the next: two and more steps of drawn chains."""
    p, q = model(seed, "p"), model(seed, "q")

    def run(dice: Dice) -> Context:
        tokens: Context = ()
        while len(tokens) < LENGTH:
            tokens += judged(dice, p, drawn(dice, tokens, q, (1, 1)), tokens).tokens
        return tokens[:LENGTH]

    assert law_of(run) == target_law(p)


@pytest.mark.parametrize("seed", SEEDS)
def test_dropping_by_place_or_depth_is_harmless(seed: int) -> None:
    """The engine's clip (context nearly full, node budget) biased a drawn tree."""
    p, q = model(seed, "p"), model(seed, "q")
    for limits in ({"max_depth": 1}, {"max_depth": 9, "max_nodes": 3}, {"max_depth": 9, "max_nodes": 1}):
        cut = lambda dice, context, limits=limits: clip(drawn(dice, context, q, (2, 1)), vocab_size=V, **limits)  # noqa: E731
        assert law_of(lambda dice: one_step(dice, p, cut)) == target_law(p)  # noqa: B023


@pytest.mark.parametrize("seed", SEEDS)
def test_a_chain_may_end_by_what_was_drawn_before(seed: int) -> None:
    """Drafting stops after an end of sequence: that depends on values, but on those of earlier nodes only."""
    p, q = model(seed, "p"), model(seed, "q")
    assert law_of(lambda dice: one_step(dice, p, partial(stopping, q=q))) == target_law(p)


def constant(*weights: int) -> Model:
    law = np.array([Fraction(weight, sum(weights)) for weight in weights], dtype=object)
    return lambda _: law


def test_the_example_of_the_block_verification_paper() -> None:
    """Block verification fell back to token by token (stopped at the first failure): 10/9 accepted tokens for its 11/9
    (Sun et al. 2024, section 1)."""
    p, q = constant(1, 2, 0), constant(2, 1, 0)
    block = mean_of(lambda dice: len(judged(dice, p, drawn(dice, (), q, (1, 1))).path))

    def by_token(dice: Dice) -> int:
        draft = drawn(dice, (), q, (1, 1))
        chances = [Chance(dice) for _ in draft.tokens]
        return len(_recursive(draft, lambda _: p(()), chances.__getitem__)[0])

    assert (mean_of(by_token), block) == (Fraction(10, 9), Fraction(11, 9))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_block_accepts_no_less_than_token_by_token(seed: int) -> None:
    """An acceptance that is exact but needlessly low (h_i with the wrong residual mass)."""
    p, q = model(seed, "p"), model(seed, "q")

    def by_token(dice: Dice) -> int:
        draft = drawn(dice, (), q, (1, 1))
        chances = [Chance(dice) for _ in draft.tokens]
        return len(_recursive(draft, lambda node: p(tuple(draft.tokens[: node + 1])), chances.__getitem__)[0])

    assert mean_of(lambda dice: len(judged(dice, p, drawn(dice, (), q, (1, 1))).path)) >= mean_of(by_token)


def test_a_perfect_draft_is_always_accepted() -> None:
    """p = q was rejected now and then, by `<=` for `<` or a residual of nothing."""
    p = model(3, "p")
    for widths in ((1,), (1, 1), (1, 1, 1), (2, 2)):
        assert mean_of(lambda dice: len(judged(dice, p, drawn(dice, (), p, widths)).path)) == len(widths)  # noqa: B023


# Negative controls: what must not be done, done, must be seen by the checker.


def dropping_a_value(dice: Dice, context: Context, q: Model) -> Draft:
    draft = drawn(dice, context, q, (1, 1))
    return select(draft, [node for node in range(len(draft)) if 2 not in draft.tokens[: node + 1]])


def with_the_first_siblings_law(dice: Dice, context: Context, q: Model) -> Draft:
    draft = drawn(dice, context, q, (2,))
    return Draft(draft.tokens, draft.parents, probs=np.array([draft.probs[0]] * len(draft), dtype=object))


def out_of_order(dice: Dice, context: Context, q: Model) -> Draft:
    draft = drawn(dice, context, q, (2,))
    law = q(context)
    rows = [law, without(law, draft.tokens[1:])]
    return Draft(draft.tokens[::-1], draft.parents, probs=np.array(rows, dtype=object))


def passed_off_as_point_masses(dice: Dice, context: Context, q: Model) -> Draft:
    """Not wrong: given what was drawn, a point mass is what it is."""
    draft = drawn(dice, context, q, (2, 1))
    return Draft(draft.tokens, draft.parents)


@pytest.mark.parametrize("wrong", [dropping_a_value, with_the_first_siblings_law, out_of_order])
def test_the_checker_sees_a_biased_draft(wrong: Callable[..., Draft]) -> None:
    """A checker that passes everything: these drafts break the contract of `Draft.probs` and must show."""
    p, q = constant(1, 2, 4), constant(5, 1, 1)
    assert law_of(lambda dice: one_step(dice, p, partial(wrong, q=q))) != target_law(p)


@pytest.mark.parametrize("seed", SEEDS)
def test_forgetting_the_law_costs_acceptance_only(seed: int) -> None:
    """A shared-noise drafter has no law to tell; its drafts are judged as point masses, which must be exact."""
    p, q = model(seed, "p"), model(seed, "q")
    assert law_of(lambda dice: one_step(dice, p, partial(passed_off_as_point_masses, q=q))) == target_law(p)


def test_draws_must_not_be_used_twice() -> None:
    """Why a draft's noise is keyed by the step and not by the output position: a position is drafted again after a
    rejection, and a block's rejection depends on the tokens after it. A drafter that remembers its draws is biased."""
    p, q = constant(1, 2, 4), constant(3, 2, 2)

    def run(dice: Dice) -> Context:
        tokens, memory = (), {}
        while len(tokens) < LENGTH:
            draft = [memory.setdefault(place, None) for place in (len(tokens), len(tokens) + 1)]
            for place, token in enumerate(draft, len(tokens)):
                memory[place] = dice.pick(q(())) if token is None else token
            chosen = [memory[len(tokens)], memory[len(tokens) + 1]]
            tokens += judged(dice, p, chain(chosen, probs=np.array([q(())] * 2, dtype=object)), tokens).tokens
        return tokens[:LENGTH]

    assert law_of(run) != target_law(p)


# Floats.


def test_a_node_its_law_cannot_have_drawn_is_refused() -> None:
    """`r * 0 < p` accepts anything: a drafter with the wrong rows would have written the text."""
    with pytest.raises(ValueError, match="node 0 carries token 1"):
        judged(Dice([]), constant(1, 1, 1), chain([1], probs=np.array([[1.0, 0.0, 0.0]])))


@pytest.mark.parametrize("widths", [(1,), (1, 1), (2, 1)])
def test_nothing_left_over_falls_back_to_the_law(widths: tuple[int, ...]) -> None:
    """p = q but for rounding, rejected by a chance next to 1: an all-zero residual became NaN, and NaN's argmax token 0."""
    p = np.array([0.0, 0.3, 0.7])
    draft = drawn(Dice([]), (), lambda _: p, widths)
    draft = Draft(draft.tokens, draft.parents, probs=np.nextafter(draft.probs.astype(float), 2))
    seen: list[np.ndarray] = []
    residual(draft, lambda _: p, lambda _: 1 - 2.0**-53, lambda law, _: seen.append(law) or 0)
    assert np.isfinite(seen[0]).all()
    assert seen[0].sum() == pytest.approx(1)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_floats_decide_as_fractions_do(dtype: type) -> None:
    """A float path of its own (a dtype narrowed by the drafter's float32 rows, an int division) judged otherwise."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        p, q, chances = rng.dirichlet(np.ones(V), 4), rng.dirichlet(np.ones(V), 3).astype(dtype), rng.random(3)
        tokens = [int(rng.choice(V, p=row / row.sum())) for row in q.astype(float)]
        finals: list[np.ndarray] = []
        note = lambda law, _: finals.append(law) or 0  # noqa: E731, B023
        exactly = np.vectorize(Fraction, otypes=[object])
        ours = residual(chain(tokens, probs=q), lambda node: p[node + 1], lambda node: chances[node], note)  # noqa: B023
        theirs = residual(
            chain(tokens, probs=exactly(q.astype(float))),
            lambda node: exactly(p[node + 1]),  # noqa: B023
            lambda node: Fraction(chances[node]),  # noqa: B023
            note,
        )
        assert ours == theirs
        np.testing.assert_allclose(finals[0], finals[1].astype(float), atol=1e-6)


def test_an_empty_draft_takes_one_token_from_the_law() -> None:
    """Nothing drafted, nothing decoded."""
    p = model(1, "p")
    assert law_of(lambda dice: judged(dice, p, EMPTY).tokens) == {(t,): w for t, w in enumerate(p(())) if w}
