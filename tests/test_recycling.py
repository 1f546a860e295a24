"""Token Recycling: it drafts what forward passes said, of the right namespace, best first, and never changes a text."""

import itertools
import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import VOCAB, Watched, check_identity, decode, expecting, request, toy, view

from betoken.draft import Draft, chain
from betoken.draws import gumbel_of, key_at
from betoken.engine import Engine, Request
from betoken.errors import ParameterError
from betoken.memory.chances import EULER, ODDS, OTHERS, PLACES, SHARES, STEPS
from betoken.memory.recycled import Rows, room_for
from betoken.memory.successors import (
    BELIEF,
    FADE,
    FIRST,
    FLOOR,
    KINDS,
    LESSON_FADE,
    LESSON_WEIGHT,
    LESSON_WORTH,
    LESSONS,
    NEW_PAIR,
    NEW_TOKEN,
    NO_LESSON,
    NOBODY,
    READ,
    READ_PAIR,
    SHARE_WEIGHT,
    SPREAD,
    STABLE,
    TAKEN,
    WEIGHT,
    untaught,
)
from betoken.noise import LIKELIEST, Draw, base, gumbel
from betoken.params import SamplingParams
from betoken.policy import values
from betoken.proposers.base import ObserveContext, ProposeContext, SeqView, Workshop, build
from betoken.proposers.recycling import NAMESPACES, Recycling
from betoken.targets.base import TargetInfo
from betoken.targets.toy import ToyTarget, markov
from betoken.verify import Verdict

GREEDY = SamplingParams(temperature=0.0)
BATCHES = st.lists(expecting(), min_size=1, max_size=3)


def successors_of(proposer: Recycling) -> Any:
    rows = proposer._used[0]._rows
    return rows[: 1 + rows[NOBODY, TAKEN], FIRST : FIRST + proposer._k]


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
    proposer.begin(view([1, 2], params=GREEDY))
    rows = {token: [(token + i) % 10 for i in (1, 2, 3, 4)] for token in range(10)}
    tokens = [1, 2]
    for _ in range(60):
        draft = drafted(proposer, view(tokens, params=GREEDY))
        reached = values(draft.parents, draft.scores or ())
        assert reached == sorted(reached, reverse=True)
        root = tokens[-1]
        tokens = [*tokens, (root + 3) % 10]
        top_ids = [rows[token] for token in (root, *draft.tokens)]
        watch(proposer, view(tokens, params=GREEDY), draft, Verdict((), (tokens[-1],)), top_ids)
    draft = drafted(proposer, view(tokens, params=GREEDY))
    assert draft.tokens[0] == (tokens[-1] + 3) % 10
    assert draft.scores is not None and draft.scores[0] > 0.8


SEED = 5
Behind = tuple[int, int]


def behind(far: int) -> float:
    """In nats. Of who was told without a word of how likely it is, the place is known, behind PLACES."""
    return 2 * math.log(far - PLACES + 1) if far >= PLACES else far / STEPS


class Plain:
    """The same rows in a few plain words, slowly: of each place its owner, its kind and its successors, each with how far it was behind the
    first."""

    def __init__(self, vocab: int, pairs: int, k: int) -> None:
        self.vocab, self.pairs, self.k = vocab, pairs, k
        self.rows: dict[int, tuple[Any, int, list[Behind]]] = {}
        shares = [[SHARE_WEIGHT / (1 + math.exp(ODDS - place)), SHARE_WEIGHT] for place in range(SHARES)]
        places = [[WEIGHT * BELIEF / (rank + 1) ** 2, WEIGHT] for rank in range(k)]
        self.rates = [[[[*rate] for rate in shares * 2 + places] for _ in range(KINDS)] for _ in range(2)]
        # Of places, what was told and has not been needed yet, and what was known before.
        self.lessons: dict[int, tuple[int, list[int]]] = {}
        self.useful, self.told = [LESSON_WEIGHT * LESSON_WORTH] * LESSONS, [LESSON_WEIGHT] * LESSONS

    def places(self, before: int, token: int) -> list[tuple[int, Any]]:
        pair = (self.vocab + (before * SPREAD + token) % self.pairs, (before, token)) if self.pairs else None
        return [(token, token), pair] if pair else [(token, token)]

    def find(self, before: int, token: int) -> tuple[int, list[Behind]]:
        for place, owner in reversed(self.places(before, token)):
            known, kind, row = self.rows.get(place, (None, READ, []))
            if known == owner:
                return kind + (STABLE + 1 if place >= self.vocab else 0), row
        return READ, []

    def read(self, text: list[int], new: int) -> None:
        for at in range(max(len(text) - new, 1), len(text)):
            for place, owner in self.places(text[at - 2] if at > 1 else 0, text[at - 1])[: 2 if at > 1 else 1]:
                known, kind, row = self.rows.get(place, (None, READ, []))
                if known != owner:
                    row = []
                    self.lessons.pop(place, None)
                tokens = [other for other, _ in row]
                if tokens[:1] != [text[at]]:
                    tokens = [text[at], *(other for other in tokens if other != text[at])][: self.k]
                    kind, row = READ, [(other, PLACES + rank) for rank, other in enumerate(tokens)]
                self.rows[place] = owner, kind, row

    def place(self, before: int, token: int) -> int:
        """Of the row that `find` finds."""
        known = [place for place, owner in self.places(before, token) if self.rows.get(place, (None,))[0] == owner]
        return known[-1] if known else token

    def lesson(self, before: int, token: int) -> int:
        kind = self.find(before, token)[0]
        if self.place(before, token) >= self.vocab:
            return READ_PAIR if kind == STABLE + 1 else NO_LESSON
        return NEW_TOKEN if kind == READ else NEW_PAIR if self.pairs else NO_LESSON

    def worth(self, before: int, token: int) -> float:
        lesson = self.lesson(before, token)
        return 0.0 if lesson == NO_LESSON else self.useful[lesson - 1] / self.told[lesson - 1]

    def marks(self, row: list[Behind], draw: Draw, ahead: int) -> list[int]:
        """The mark of each successor, for the token so many after the one that is drawn next."""
        if not draw.temperature:
            said = [-behind(far) for _, far in row]
            rest = 0.0
        else:
            noise = gumbel(SEED, 0, draw.position + ahead, self.vocab)
            laws = [-behind(far) / draw.temperature for _, far in row]
            said = [law + noise[token] for law, (token, _) in zip(laws, row, strict=True)]
            rest = sum(math.exp(law) for law in laws) * OTHERS / (1 - OTHERS) * math.exp(EULER)
        whole = rest + sum(math.exp(one) for one in said)
        marks = []
        for place, one in enumerate(said):
            others = whole - math.exp(one)
            odds = one - math.log(others) if others > 1e-13 * whole else math.inf
            marks.append(math.floor(min(max(odds, -ODDS), ODDS) + 0.5) + ODDS)
            marks[-1] += 0 if place == said.index(max(said)) else SHARES
            if row[place][1] >= PLACES and not draw.temperature:
                marks[-1] = 2 * SHARES + row[place][1] - PLACES
        return marks

    def write(
        self, befores: list[int], tokens: list[int], top_ids: list[list[int]], logits: Any, accepted: set[int]
    ) -> None:
        earlier = dict(self.rows)
        pairs = [*zip(befores, tokens, strict=True)]
        lessons, known_before = (
            [self.lesson(*pair) for pair in pairs],
            [[other for other, _ in self.find(*pair)[1][:1]] for pair in pairs],
        )
        for at, (before, token, likeliest) in enumerate(zip(befores, tokens, top_ids, strict=True)):
            fars = [
                PLACES + rank if logits is None else int(min((logits[at][0] - one) * STEPS + 0.5, PLACES - 1))
                for rank, one in enumerate(likeliest if logits is None else logits[at])
            ]
            new = [*zip(likeliest, fars, strict=True)]
            for place, owner in self.places(before, token):
                known, kind, row = earlier.get(place, (None, READ, []))
                again = known == owner and [other for other, _ in row[:1]] == likeliest[:1]
                if place >= self.vocab and self.rows.get(place, (None,))[0] != owner:
                    self.lessons.pop(place, None)
                self.rows[place] = owner, min(kind + 1, STABLE) if again else 1, new
            if at not in accepted and (lesson := lessons[at]) != NO_LESSON:
                self.lessons[self.place(before, token)] = lesson, known_before[at]
                self.useful[lesson - 1] *= LESSON_FADE
                self.told[lesson - 1] = self.told[lesson - 1] * LESSON_FADE + 1

    def learn(self, text: list[int], draw: Draw) -> None:
        for ahead, (before, token, after) in enumerate(zip(text, text[1:], text[2:], strict=False)):
            kind, row = self.find(before, token)
            if row:
                rates = self.rates[draw.temperature > 0][kind]
                for (other, _), mark in zip(row, self.marks(row, draw, ahead), strict=True):
                    hits, trials = rates[mark]
                    rates[mark] = [hits * FADE + (other == after), trials * FADE + 1]
                place = self.place(before, token)
                lesson, before_it = self.lessons.pop(place, (NO_LESSON, []))
                if lesson != NO_LESSON and [after] != before_it:
                    self.useful[lesson - 1] += [other for other, _ in row].count(after)

    def grow(
        self, before: int, root: int, nodes: int, room: int, draw: Draw
    ) -> tuple[list[int], list[int], list[float]]:
        """Everything that could come next is looked through for the best; of equals the one that was there first."""
        tokens, parents, scores, reached, depths = [], [], [], [1.0], [0]
        waiting = list[tuple[float, int, int, list[tuple[float, int]]]]()  # value, parent, token, younger siblings

        def let(parent: int, family: list[tuple[float, int]]) -> None:
            if family:
                waiting.append((reached[parent + 1] * family[0][0], parent, family[0][1], family))

        def family(before: int, token: int, depth: int) -> list[tuple[float, int]]:
            kind, row = self.find(before, token)
            rates, marks = self.rates[draw.temperature > 0][kind], self.marks(row, draw, depth) if row else []
            rated = [(rates[mark], other) for (other, _), mark in zip(row, marks, strict=True)]
            return sorted(
                [(max(hits / trials, FLOOR), other) for (hits, trials), other in rated], key=lambda one: -one[0]
            )

        if room > 0:
            let(-1, family(before, root, 0))
        while waiting and len(tokens) < nodes:
            value, parent, token, siblings = waiting.pop(max(range(len(waiting)), key=lambda i: waiting[i][0]))
            tokens, parents, scores = [*tokens, token], [*parents, parent], [*scores, siblings[0][0]]
            reached, depths = [*reached, value], [*depths, depths[parent + 1] + 1]
            let(parent, siblings[1:])
            if depths[-1] < room:
                let(len(tokens) - 1, family(root if parent < 0 else tokens[parent], token, depths[-1]))
        return tokens, parents, scores


def drawn(temperature: float, position: int = 0) -> Draw:
    return Draw(temperature, np.uint64(base(SEED, 0)), position)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    vocab=st.integers(2, 12),
    pairs=st.sampled_from((0, 1, 7, 500)),
    k=st.integers(1, 6),
    nodes=st.sampled_from((1, 5, 40)),
)
def test_rows_and_trees_are_what_plain_words_say(seed: int, vocab: int, pairs: int, k: int, nodes: int) -> None:
    dice, k = random.Random(seed), min(k, vocab)
    rows, rates, plain = Rows(vocab, pairs, k), untaught(k), Plain(vocab, pairs, k)
    if dice.randrange(2):  # marks as good as each other
        for heat, kind, mark in itertools.product(range(2), range(KINDS), range(2 * SHARES + k)):
            plain.rates[heat][kind][mark][0] = rates[heat, kind, mark, 0] = dice.choice((0.0, 1.0, 4.0))
    text = [dice.randrange(vocab) for _ in range(8)]
    rows.read(text, 6)
    plain.read(text, 6)
    for _ in range(12):
        before, root, room = dice.randrange(vocab), dice.randrange(vocab), dice.choice((0, 1, 3, 99))
        tree, draw = room_for(nodes), dice.choice((LIKELIEST, drawn(0.3), drawn(1.0, dice.randrange(99))))
        size = rows.grow(rates, tree, before, root, room, 0.0, draw)
        tokens, parents, scores, lessons = [array[:size] for array in tree[:4]]
        expected = plain.grow(before, root, nodes, room, draw)
        assert (list(tokens), list(parents)) == expected[:2]
        assert scores == pytest.approx(expected[2], rel=1e-12)
        draft = Draft(tuple(tokens.tolist()), tuple(parents.tolist()))
        worth = [
            plain.worth(root if parent < 0 else tokens[parent], token)
            for parent, token in zip(parents, tokens, strict=True)
        ]
        inner = [value if depth < room else 0.0 for value, depth in zip(worth, draft.depths, strict=True)]
        assert lessons == pytest.approx(inner, rel=1e-12)
        text = [before, root, *(dice.randrange(vocab) for _ in range(4))]
        plain.learn(text, draw)
        top_ids = [dice.sample(range(vocab), k) for _ in range(1 + len(tokens))]
        # Some targets do not say how likely these were.
        spread, told = dice.choice((0.1, 2.0, 30.0)), dice.randrange(3)
        logits = [sorted([dice.gauss(0, spread) for _ in range(k)], reverse=True) for _ in top_ids] if told else None
        above = [root if parent < 0 else tokens[parent] for parent in parents]
        path = draft.path_to(dice.randrange(-1, len(tokens)))
        if dice.randrange(2):  # at once, or one after the other
            rows.take_in(rates, text, draft, path, np.array(top_ids), logits and np.array(logits), draw)
        else:
            rows.learn(rates, text, draw)
            rows.write(rates, before, root, draft, path, np.array(top_ids), logits and np.array(logits))
        plain.write([before, *above], [root, *tokens], top_ids, logits, {0, *(node + 1 for node in path)})
        new = dice.randrange(4)
        rows.read(text, new)
        plain.read(text, new)


def test_no_token_writes_outside_of_the_rows() -> None:
    """Compiled code asks nobody; and a model's output may be wider than its vocabulary."""
    rows, rates, tree = Rows(4, 8, 2), untaught(2), room_for(3)
    for act in (
        lambda: rows.read([1, 4], 1),
        lambda: rows.learn(rates, [-1, 0, 0]),
        lambda: rows.write(rates, 0, 4, Draft(), (), np.zeros((1, 2))),
        lambda: rows.write(rates, 0, 0, chain([9]), (), np.zeros((2, 2))),
        lambda: rows.write(rates, 0, 0, chain([1]), (1,), np.zeros((2, 2))),
        lambda: rows.grow(rates, tree, 0, 4, 1),
    ):
        with pytest.raises(IndexError):
            act()
    rows.write(rates, 0, 1, Draft(), (), np.array([[7, 2]]))
    assert rows.grow(rates, tree, 0, 1, 1) == 1 and tree.tokens[0] == 2
    with pytest.raises(ValueError, match=r"\(2, 2\).*\(1, 2\)"):
        rows.write(rates, 0, 1, Draft(), (), np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"\(1, 1\).*\(1, 2\)"):
        rows.write(rates, 0, 1, Draft(), (), np.zeros((1, 2)), np.zeros((1, 1)))


def test_who_was_held_likelier_is_drafted_first_and_further() -> None:
    """Of two rows of one kind, both unproven, the one whose first successor was nearly certain."""
    rows, rates, tree = Rows(8, 64, 2), untaught(2), room_for(4)
    for token, gap in ((1, 5.0), (2, 0.1)):
        rows.write(rates, 0, token, Draft(), (), np.array([[token + 2, 7]]), np.array([[gap, 0.0]]))
    rows.write(rates, 5, 0, Draft(), (), np.array([[1, 2]]), np.array([[1.0, 0.0]]))
    assert rows.grow(rates, tree, 5, 0, 9) == 4
    assert (tree.tokens.tolist(), tree.parents.tolist()) == ([1, 3, 2, 4], [-1, 0, -1, 2])
    assert tree.scores[1] > 0.98
    assert 0.4 < tree.scores[3] < 0.6


def test_the_noise_known_here_is_what_tokens_are_drawn_with() -> None:
    for position in (0, 1, 2**20):
        noise = gumbel(SEED, 0, position, 300)
        key = key_at(np.uint64(base(SEED, 0)), position)
        assert [gumbel_of(key, token) for token in range(300)] == pytest.approx(noise.tolist(), rel=1e-12, abs=1e-12)


def test_where_the_law_is_known_so_are_the_draws() -> None:
    """A table that looks back one token and leaves much open: what was seen once is all there is to know, but for the noise, and that is
    known, too."""
    law = markov(VOCAB, order=1, sharpness=1.5)
    steps = []
    for seed in range(4):
        target, proposer = ToyTarget(law, VOCAB), Recycling(VOCAB, nodes=12, k=VOCAB, pairs=0)
        for _ in range(2):
            (result,) = decode(
                [request((3,), max_tokens=201, ignore_eos=True, temperature=1.0, seed=seed)],
                Watched(proposer, 12),
                target=target,
            )
        proposer_rates = proposer._rates[1, :KINDS, : 2 * SHARES]
        trials, hits = proposer_rates[..., 1].sum(0), proposer_rates[..., 0].sum(0)
        surest = np.nonzero(trials[ODDS + 1 : SHARES] > 20)[0] + ODDS + 1
        assert all(hits[surest] > 0.6 * trials[surest])
        steps.append(result.running.stats.steps)
    assert max(steps) < 60, steps


@pytest.mark.parametrize("residual", [False, True])
def test_of_tokens_held_equally_likely_the_one_that_will_be_drawn_comes_first(residual: bool) -> None:
    """Where the target draws with other noise, the first."""
    proposer = Recycling(10, nodes=1, k=4, pairs=0)
    found = []
    for seed in range(8):
        seq = view([1, 2], params=SamplingParams(temperature=1.0), seed=seed)
        proposer.begin(seq)
        even = np.zeros((1, 4)), np.array([[4, 5, 6, 7]])
        after = view([1, 2, 3], params=SamplingParams(temperature=1.0), seed=seed)
        (first,) = proposer.propose(ProposeContext([seq], residual))
        proposer.observe(ObserveContext([after], [Draft()], [Verdict((), (3,))], [even[1]], top_logits=[even[0]]))
        again = view([1, 2], params=SamplingParams(temperature=1.0), seed=seed)
        (draft,) = proposer.propose(ProposeContext([again], residual))
        noise = gumbel(seed, 0, again.sampler.position, 10)
        found.append(draft.tokens == (4 + int(np.argmax(noise[4:8])),))
        assert residual or found[-1], (seed, draft, first)
    assert all(found) != residual


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


def test_rows_are_taken_as_they_are_needed() -> None:
    """One for each token that something follows, and for each pair; no more however often they come."""
    rows = Rows(100, 50, 4)
    for _ in range(3):
        rows.read([7, 8, 9, 7, 8, 9, 7], 7)
    assert rows._rows[NOBODY, TAKEN] == 3 + 3
    many = Rows(10, 1, 2)
    many.read([*range(10)] * 3, 30)
    assert many._rows[NOBODY, TAKEN] == 10 + 1 and (many._rows[NOBODY, FIRST : FIRST + 2] == -1).all()


def test_forgetting_reaches_sequences_that_are_underway() -> None:
    """What was remembered before `forget` was still drafted for those that had begun."""
    engine = Engine(toy(1), build("recycling", Workshop(toy(1).info)))
    engine.add(Request((0, 1, 2), SamplingParams(max_tokens=500, ignore_eos=True)))
    for _ in range(10):
        engine.step()
    proposer = engine.proposer
    before = successors_of(proposer).copy()
    proposer.forget()
    assert (before >= 0).any() and (successors_of(proposer) == -1).all()
    engine.run(lambda _: None)
    assert not proposer._used and not proposer._namespaces
