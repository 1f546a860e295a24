"""What `auto` decides by: claims against a plain reference, times against known ones, and decisions in worlds whose times are known."""

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import VOCAB, decode, foretold, request, trees
from tiny_models import tiny_llama

from betoken.addresses import places
from betoken.draft import EMPTY, Draft, chain
from betoken.engine import Engine
from betoken.policy import judged, pays
from betoken.policy import mixing as compiled
from betoken.policy.calls import widest as widest_of
from betoken.policy.claims import Batch, Claims, Records
from betoken.policy.cost import NOW, STALE, UNKNOWN, Costs, Measured, Point, Table
from betoken.policy.measuring import measure
from betoken.policy.mixing import AGREED, CONSTELLATIONS, LARGEST, MOST, OWN_DEPTHS, widest
from betoken.policy.pays import HOPE, SITUATIONS, answered, delivered, expected, situation, standing, trust
from betoken.policy.views import SOME, unpriced
from betoken.proposers.auto.deciding import EXPLORE, Auto
from betoken.proposers.auto.exploring import TRIAL
from betoken.proposers.auto.levels import Known as Levels
from betoken.proposers.auto.members import FAR, Row
from betoken.proposers.auto.prices import Prices
from betoken.proposers.base import BaseProposer, Needs, ProposeContext, SeqView
from betoken.proposers.draft_model import DraftModel
from betoken.targets.base import Feed
from betoken.targets.hf import HFTarget
from betoken.targets.toy import ToyTarget, markov

Path = tuple[int, ...]


# Claims, against the same in plain Python.

COSTLESS = np.zeros(50)
NOBODY = Batch(0)  # whoever wants to know what came of it


def log_odds(score: float) -> float:
    """Of a score; of one that is none, of an even chance."""
    if math.isnan(score):
        return 0.0
    if not 0 < score < 1:
        return LARGEST if score >= 1 else -LARGEST
    return min(max(math.log(score / (1 - score)), -LARGEST), LARGEST)


def chance(odds: float) -> float:
    return 1 / (1 + math.exp(-min(max(odds, -LARGEST), LARGEST)))


def depth_class(depth: int) -> int:
    """1, 2, 3 to 4, 5 to 8, ..., more than 64."""
    return min((depth - 1).bit_length(), compiled.DEPTHS - 1)


def paths(draft: Draft) -> list[Path]:
    """Each node as the tokens that lead to it."""
    return [tuple(draft.tokens[step] for step in draft.path_to(node)) for node in range(len(draft))]


@dataclass
class Plainly:
    """Trees laid over each other: who claims which path, with what score."""

    claimed: dict[Path, dict[int, float]]
    asked: list[int]
    records: Records
    own: Any
    before: int

    @staticmethod
    def of(drafts: Sequence[tuple[int, Draft]], room: int, records: Records, own: Any, before: int) -> "Plainly":
        claimed: dict[Path, dict[int, float]] = {}
        for member, draft in drafts:
            for node, path in enumerate(paths(draft)):
                if path in claimed or (len(claimed) < room and (len(path) == 1 or path[:-1] in claimed)):
                    score = math.nan if draft.scores is None else draft.scores[node]
                    claimed.setdefault(path, {})[member] = log_odds(score)
        return Plainly(claimed, [member for member, _ in drafts], records, own, before)

    def constellation(self, path: Path) -> int:
        return sum(3**member * (2 if member in self.claimed[path] else 1) for member in self.asked)

    def value(self, path: Path) -> float:
        who, depth = self.claimed[path], depth_class(len(path))
        weights = self.records.mixer[self.constellation(path), :, 0]
        odds = weights[MOST + depth] + self.records.after[self.before, min(who), depth, 0]
        for member, score in who.items():
            whole = np.arange(compiled.BINS) - compiled.BINS // 2
            odds += weights[member] * (score + np.interp(score, whole, self.records.meant[member, :, compiled.SHIFT]))
        return chance(odds + self.own[min(who), min(depth, OWN_DEPTHS - 1), 0])

    def reach(self) -> dict[Path, float]:
        value = {path: self.value(path) for path in self.claimed}
        return {path: math.prod(value[path[:end]] for end in range(1, len(path) + 1)) for path in value}


ANY_SCORE = st.one_of(st.floats(0.01, 0.99), st.floats(), st.sampled_from((0.0, 1.0, 0.5, -1.0, 2.0)))


@st.composite
def scored(draw: st.DrawFn) -> Draft:
    """A tree with scores, some of which are none."""
    tree = draw(trees(max_nodes=14))
    if draw(st.integers(0, 4)) == 0:
        return tree
    return Draft(tree.tokens, tree.parents, tuple(draw(ANY_SCORE) for _ in tree.tokens))


@st.composite
def laid(draw: st.DrawFn) -> tuple[Claims, Plainly, Any]:
    """Some members' trees in the compiled form and in the plain one, under weights of any kind."""
    order = draw(st.lists(st.integers(0, MOST - 1), min_size=1, max_size=MOST, unique=True))
    drafts = [(member, draw(scored())) for member in order]
    room, records = draw(st.sampled_from((3, 9, 200))), Records()
    claims = Claims(records, room)
    if draw(st.booleans()):
        noise = np.random.default_rng(draw(st.integers(0, 99)))
        records.mixer[:CONSTELLATIONS, :, 0] += noise.normal(0, 1, records.mixer[:CONSTELLATIONS, :, 0].shape)
        records.meant[:, :, compiled.SHIFT] = noise.normal(0, 1, records.meant.shape[:2])
        records.after[..., 0] = noise.normal(0, 1, records.after.shape[:3])
        claims.own[:, :OWN_DEPTHS, 0] = noise.normal(0, 1, (MOST, OWN_DEPTHS))
    costs = np.arange(draw(st.sampled_from((1, 5, 300)))) * draw(st.sampled_from((0.0, 0.05, 0.5)))
    before = draw(st.integers(0, compiled.BEFORE - 1))
    for _ in range(2):  # of an earlier step nothing may be left
        claims.clear(before)
        added = 0.0
        for member, draft in drafts:
            added = claims.add(member, draft, costs)
    plain = Plainly.of(drafts, room, records, claims.own, before)
    sums = itertools.accumulate(sorted(plain.reach().values(), reverse=True), initial=0.0)
    assert added == pytest.approx(max(most - cost for most, cost in zip(sums, costs, strict=False)))
    return claims, plain, records.mixer


def nodes_of(claims: Claims) -> dict[Path, int]:
    """The nodes of a tree of claims by the tokens that lead to them."""
    found: dict[Path, int] = {}
    for node in range(claims.size):
        path, at = [], node
        while at != -1:
            path.append(int(claims._mine.ints[at, compiled.TOKEN]))
            at = int(claims._mine.ints[at, compiled.PARENT])
        found[tuple(reversed(path))] = node
    return found


@given(both=laid())
def test_trees_lie_over_each_other(both: tuple[Claims, Plainly, Any]) -> None:
    """The same paths, claimed by the same members, worth the same; those that find no room are left out with what hangs on them."""
    claims, plain, _ = both
    nodes, reach = nodes_of(claims), plain.reach()
    assert [*nodes] == [*plain.claimed]
    for path, node in nodes.items():
        bits = sum(1 << member for member in plain.claimed[path])
        assert claims._mine.ints[node, compiled.CLAIMED] == bits and claims._mine.ints[node, compiled.DEPTH] == len(
            path
        )
        assert claims._mine.floats[node, compiled.VALUE] == pytest.approx(plain.value(path))
        assert claims._mine.floats[node, compiled.REACH] == pytest.approx(reach[path])


@given(both=laid(), before=st.floats(0, 3))
def test_the_likeliest_nodes_are_kept_parents_first(both: tuple[Claims, Plainly, Any], before: float) -> None:
    """And how many tokens they are expected to bring comes on top of what other rows bring."""
    claims, plain, _ = both
    reach = plain.reach()
    likeliest = sorted(reach.values(), reverse=True)
    batch = Batch(11)
    gained, brings = batch.gained, batch.brings
    gained[:] = before
    claims.gain(batch.places, 9, 0.5)
    assert gained == pytest.approx([before + sum(likeliest[: min(count, 9)]) for count in range(12)])
    assert brings == pytest.approx((gained - before) / 2)
    for count in (0, 1, 2, 5, 1000):
        draft = claims.best(count)
        Draft(draft.tokens, draft.parents, draft.scores)  # a tree: parents stand before their children, siblings differ
        assert [reach[path] for path in paths(draft)] == pytest.approx(likeliest[:count])
        assert draft.scores is None or [*draft.scores] == pytest.approx([plain.value(path) for path in paths(draft)])


@given(
    gains=st.lists(st.floats(0, 1), max_size=12), steps=st.lists(st.floats(0, 2), min_size=12, max_size=12),
    rows=st.integers(1, 16), asking=st.floats(0, 3),
)  # fmt: skip
def test_a_draft_is_as_wide_as_makes_the_most_tokens_per_second(
    gains: list[float], steps: list[float], rows: int, asking: float
) -> None:
    """And no wider where that makes as many. Where asking has cost so much that plain passes make more than any draft now can, a node has
    to bring what such a pass would in the time."""
    gained = np.array([0.0, *itertools.accumulate(sorted(gains, reverse=True))])
    seconds = np.array([1.0, *(1 + more for more in itertools.accumulate(steps))])[: len(gained)]
    rates = (rows + gained) / (seconds + asking)
    nodes = widest(gained, seconds, rows, asking, 1e9, 1.0)
    if rates.max() >= rows:
        assert rates[nodes] == pytest.approx(rates.max())
    else:
        beyond = gained - rows * (seconds - 1)
        assert beyond[nodes] == pytest.approx(beyond.max())


def test_a_draft_that_was_dear_is_no_reason_to_feed_nodes_that_do_not_pay() -> None:
    """Nine times in ten right, and each as dear as a pass: plain passes bring more, however long the draft took."""
    gained, seconds = np.array([0.0, 0.9, 1.8]), np.array([1.0, 2.0, 3.0])
    assert widest(gained, seconds, 1, 0.7, 0.5, 0.97) == 0


def test_time_is_worth_what_it_usually_brings() -> None:
    """Where a second usually brings 3 tokens, a node that brings 0.2 in 0.1 seconds is left out; where it brings 1, it is fed."""
    gained, seconds = np.array([0.0, 0.2]), np.array([1.0, 1.1])
    assert widest(gained, seconds, 1, 0.0, 3.0, 0.0) == 0
    assert widest(gained, seconds, 1, 0.0, 1.0, 0.0) == 1


def test_what_feeding_a_node_teaches_counts_where_it_is_not_accepted() -> None:
    """Of two members one learns; two nodes are claimed by both, and the tokens they may bring later are no tokens of this step."""
    claims = Claims(Records(), 9)
    # Of arrays that have room for more.
    tokens, parents, scores = np.array([1, 2, 3, 9]), np.array([-1, 0, -1, 7]), np.array([0.5, 0.9, 0.1, 0.1])
    claims.add(0, Draft((1, 2), (-1, 0), (0.5, 0.9)), COSTLESS)
    lessons = np.array([0.2, 0.0, 0.4, 9.0])
    claims.lay(1, 3, places((tokens, parents, scores, lessons)), COSTLESS)
    batch = Batch(3)
    claims.gain(batch.places, 3)
    reach, brings = np.diff(batch.gained), batch.brings
    assert claims.best(3).tokens == (1, 2, 3) and (reach < [0.7, 0.7, 0.2]).all() and (reach > 0).all()
    assert np.diff(brings) == pytest.approx(reach + (1 - reach) * [0.2, 0.0, 0.4])
    with pytest.raises(ValueError, match="no tree"):
        claims.lay(2, 3, places((tokens, parents, scores, np.zeros(2))), COSTLESS)


@given(both=laid(), rate=st.floats(0, 3), asking=st.floats(0, 2), own=st.integers(1, 12), most=st.integers(0, 11))
def test_alone_it_is_chosen_as_in_a_batch_of_one(
    both: tuple[Claims, Plainly, Any], rate: float, asking: float, own: int, most: int
) -> None:
    """In one call instead of three."""
    claims, batch = both[0], Batch(11)
    batch.takes(1 + 0.1 * np.arange(12))
    most = min(most, claims.size)
    batch.gained[:] = 7.0
    claims._mine.tokens[:] = -1  # nothing was picked before
    chosen = claims.choose(batch.places, own, 1.0, asking, rate, 0.5, most)
    draft = claims.picked(min(chosen[0], own))
    claims.gain(batch.places, own, fresh=True)
    assert widest_of(batch.places, 1.0, asking, rate, 0.5, most) == chosen
    assert claims.best(min(chosen[0], own)) == draft


def test_credit_goes_to_whoever_was_asked_first() -> None:
    """Of nodes that were fed: how many tokens were expected of each member, and how many came; by the situation it was asked in."""
    for fed, emitted, right in (
        (3, (1, 2, 3, 7), (2, 1)),
        (2, (1, 7), (1, 0)),
        (2, (1, 2, 3, 7), (2, 0)),
        (0, (1, 2, 3, 7), (0, 0)),
    ):
        records = Records()
        claims = Claims(records, 20)
        claims.clear(0)
        claims.add(1, chain([1, 2], [0.9, 0.8]), COSTLESS)
        later = situation(claims.added)
        claims.add(0, chain([1, 2, 3], [0.9, 0.8, 0.5]), COSTLESS)
        draft, batch = claims.best(3), Batch(3)
        assert draft.tokens == (1, 2, 3) and draft.scores is not None
        reach = [math.prod(draft.scores[: end + 1]) for end in range(3)]
        claims.learn(emitted, batch.places, fed)
        assert [*batch.came[:2]] == [right[1], right[0]]
        hoped = (sum(reach[: min(fed, 2)]), sum(reach[2:fed]))
        for known in (records.answers, claims.answers):
            assert known[1, 0, pays.EXPECTED :][:2] == pytest.approx([hoped[0], right[0]])
            assert known[0, later, pays.EXPECTED :][:2] == pytest.approx([hoped[1], right[1]])


def test_what_came_is_believed_before_what_was_expected() -> None:
    """A member whose nodes never come loses its worth within a dozen answers; who keeps its promises keeps it."""
    bad, good, others, nobody = (pays.no_answers(1)[0, 3] for _ in range(4))
    for _ in range(12):
        delivered(bad, 1.0, 0.0, pays.OWN_TRUST_FADE)
        delivered(good, 1.0, 1.0, pays.OWN_TRUST_FADE)
        delivered(others, 1.0, 0.0, pays.TRUST_FADE)
    assert trust(others, bad) < 0.1 < 0.95 < trust(good, good) and trust(nobody, nobody) == 1
    assert trust(others, nobody) < 0.25  # by what others have seen


@given(both=laid(), emitted=st.lists(st.integers(0, VOCAB - 1), max_size=6))
def test_a_node_is_a_trial_where_the_target_emitted_its_parent(
    both: tuple[Claims, Plainly, Any], emitted: list[int]
) -> None:
    """Fed or not; each trial counts once for each of its members, and for its constellation at its depth."""
    claims, plain, mixer = both
    whole = Draft.trusted(*tree_of([*plain.claimed]))
    trials = [([*plain.claimed][node], hit) for node, hit in judged(whole, emitted)]
    before = mixer[:CONSTELLATIONS, MOST:, 1].copy()
    assert claims.learn(emitted, NOBODY.places) == sum(hit for _, hit in trials)
    expected = np.zeros_like(before)
    for path, _ in trials:
        expected[plain.constellation(path), depth_class(len(path))] += 1
    assert (mixer[:CONSTELLATIONS, MOST:, 1] - before == expected).all()
    for member in range(MOST):
        count = sum(member in plain.claimed[path] for path, _ in trials)
        faded = sum(compiled.RATE_FADE**age for age in range(count))
        assert mixer[CONSTELLATIONS + member, 0, 1] == pytest.approx(faded) == claims.own[member, OWN_DEPTHS, 1]


def tree_of(known: Sequence[Path]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    place = {(): -1, **{path: node for node, path in enumerate(known)}}
    return tuple(path[-1] for path in known), tuple(place[path[:-1]] for path in known)


def trained(claims: Claims, share: float, trials: int, score: float = 0.5, seed: int = 1) -> None:
    """One member claims one token a step with this score; it is right in this share of them."""
    dice = random.Random(seed)
    for _ in range(trials):
        claims.clear()
        claims.add(0, chain([1], [score]), COSTLESS)
        claims.learn([1 if dice.random() < share else 2, 3], NOBODY.places)


def test_a_score_counts_for_its_neighbours_so_that_what_scores_mean_has_no_steps() -> None:
    """One between two whole log-odds is a trial of both, as near as it is; what it means lies on the line between theirs."""
    records = Records()
    claims = Claims(records, 10)
    score = chance(0.75)
    trained(claims, 0.3, 1, score)
    trials = records.meant[0, :, compiled.TRIALS]
    assert {place - compiled.BINS // 2: trials[place] for place in np.flatnonzero(trials)} == pytest.approx(
        {0: 0.25, 1: 0.75}
    )
    trained(claims, 0.3, 200, score)
    near = [claims.chances(0, chance(odds), 1)[0] for odds in (0.499, 0.501, 0.7, 0.999, 1.001)]
    assert near == sorted(near)
    assert near[1] - near[0] < 0.001
    assert near[4] - near[3] < 0.001


@pytest.mark.parametrize("score", [0.5, 0.9, 0.1, math.nan, 1.0, 0.0])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.2])
def test_what_a_score_means_is_learnt(score: float, share: float) -> None:
    """Whatever a member says of itself: in the request that shows it, and for the next one. On the average of a few runs, for
    the constants of a request follow its last few dozen trials."""
    here, others = [], []
    for seed in range(5):
        records = Records()
        claims = Claims(records, 10)
        trained(claims, share, 400, score, seed)
        here.append(claims.chances(0, score, 1)[0])
        others.append(Claims(records, 10).chances(0, score, 1)[0])
    assert np.mean(here) == pytest.approx(share, abs=0.05)
    assert np.mean(others) == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("score", [0.5, 0.99])
def test_who_is_never_right_is_not_believed(score: float) -> None:
    records = Records()
    claims = Claims(records, 10)
    trained(claims, 0.0, 900, score)
    assert claims.chances(0, score, 1)[0] < 0.05 and Claims(records, 10).chances(0, score, 1)[0] < 0.05
    assert claims.chances(0, 0.5, 1)[1] < 0.05
    claims.clear()
    claims.add(0, chain([1], [score]), COSTLESS)
    assert claims.best(1).scores is not None and claims.best(1).scores[0] < 0.05


def test_a_request_is_adapted_to_within_a_few_dozen_steps() -> None:
    """A member that was right for everybody so far is never right here; what is believed of all moves less."""
    records = Records()
    trained(Claims(records, 10), 0.95, 500)
    assert Claims(records, 10).chances(0, 0.5, 1)[0] > 0.85
    here = Claims(records, 10)
    trained(here, 0.0, 80)
    assert here.chances(0, 0.5, 1)[0] < 0.2 < Claims(records, 10).chances(0, 0.5, 1)[0]


def test_what_several_claim_is_believed_more() -> None:
    """Until it turns out that those who agree are wrong together."""
    records = Records()
    claims = Claims(records, 10)

    def together() -> float:
        claims.clear()
        claims.add(0, chain([1], [0.6]), COSTLESS)
        return claims.add(1, chain([1], [0.6]), COSTLESS)

    alone = claims.chances(0, 0.6, 1)[0]
    assert together() == pytest.approx(chance(log_odds(0.6) + AGREED)) and together() > alone
    for _ in range(300):
        together()
        claims.learn([2], NOBODY.places)
    assert together() < 0.1


# Costs.


def test_a_table_goes_through_its_points_and_on_as_it_went() -> None:
    table = Table({1: 1.0, 3: 2.0, 5: 2.0, 9: 6.0})
    assert table.seconds(1, 7, 10).tolist() == [1.0, 1.5, 2.0, 2.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    assert table.seconds(2, 7, 2).tolist() == [1.5, 2.0, 3.0], "rows and nodes cost alike"
    table.learn(1, 1, 1, 100.0)
    assert table.seconds(1, 7, 0).tolist() == [1.0] and table.pace == 1.0


GRID: dict[Point, float] = {
    (1, 1, 192): 1.0, (1, 4, 192): 1.3, (1, 16, 192): 2.5, (1, 64, 192): 9.0,
    (1, 1, 768): 2.0, (1, 16, 768): 5.0,
    (4, 1, 192): 1.6, (4, 16, 192): 8.0, (2, 1, 192): 1.2, (2, 16, 192): 4.0,
}  # fmt: skip


def test_a_curve_goes_through_what_was_measured() -> None:
    curve = Measured(GRID)
    for (rows, width, context), seconds in GRID.items():
        assert curve.seconds(rows, context, 63)[width - 1] == pytest.approx(seconds), (rows, width, context)


def test_between_points_it_goes_straight() -> None:
    """Along widths, along rows, along contexts; behind the last rows as if the most measured ones were wider."""
    curve = Measured(GRID)
    one, two, four = (curve.seconds(rows, 192, 15) for rows in (1, 2, 4))
    assert one[9] == pytest.approx(1.3 + (2.5 - 1.3) * 6 / 12)
    assert curve.seconds(3, 192, 15) == pytest.approx((two + four) / 2)
    assert curve.seconds(8, 192, 7) == pytest.approx(curve.seconds(4, 192, 15)[1::2])
    longer = curve.seconds(1, 300, 0)[0]
    assert longer == pytest.approx(1.0 + (384 - 192) / (768 - 192)), "in the middle between 256 and 512"


def points_at(contexts: st.SearchStrategy[int]) -> st.SearchStrategy[dict[Point, float]]:
    """Any times at all, for some widths of some rows."""
    keys = st.tuples(st.sampled_from((1, 1, 2, 4, 20)), st.integers(1, 128), contexts)
    return st.dictionaries(keys, st.floats(1e-6, 1e3), min_size=1, max_size=20)


@given(points=points_at(st.integers(1, 2000)), rows=st.integers(1, 64), context=st.integers(1, 10**6),
       nodes=st.integers(0, 200))  # fmt: skip
def test_whatever_was_measured_passes_take_some_time(
    points: dict[Point, float], rows: int, context: int, nodes: int
) -> None:
    """A slope between contexts, or behind the last width, may lead below nothing."""
    seconds = Measured(points).seconds(rows, context, nodes)
    assert seconds.shape == (nodes + 1,) and np.isfinite(seconds).all() and (seconds > 0).all()


@given(points=points_at(st.just(192)), rows=st.integers(1, 64))
def test_a_wider_pass_takes_no_less(points: dict[Point, float], rows: int) -> None:
    """Noise may have made it the quicker one when it was measured."""
    seconds = Measured(points).seconds(rows, 192, 150)
    assert (np.diff(seconds) >= -1e-9 * seconds[:-1]).all()


def passes(
    curve: Measured, takes: Callable[[int], float], count: int, widths: Sequence[int] = (1, 8, 16, 24, 48)
) -> None:
    """So many passes of one row, their widths in turns."""
    for _, width in zip(range(count), itertools.cycle(widths), strict=False):
        curve.learn(1, width, 192, takes(width))


LINE: dict[Point, float] = {(1, 1, 192): 0.010, (1, 64, 192): 0.0163}


def line(width: int) -> float:
    return 0.010 + 0.0001 * (width - 1)


def shape(curve: Measured) -> Any:
    """The curve without how fast the machine is just now: over that of a plain pass."""
    seconds = curve.seconds(1, 192, 63)
    return seconds / seconds[0]


@pytest.mark.parametrize("width", [8, 16, 17, 24, 40, 48])
def test_a_width_that_takes_longer_than_measured_is_believed_to(width: int) -> None:
    """At that width, whichever it is; the others stay where they are."""
    curve = Measured(LINE)
    before = shape(curve)
    others = [1, 4, 32, 64]
    passes(curve, lambda other: line(other) * (1.3 if other == width else 1), 300, [*others, width])
    after = shape(curve) / before
    assert 1.2 < after[width - 1] < 1.35
    assert after[[other - 1 for other in others]] == pytest.approx(1, abs=0.05)
    assert curve.pace == pytest.approx(1, abs=0.05)


def test_a_neighbour_moves_the_pace_and_not_the_shape() -> None:
    """Two hundred passes at a fifth of the speed, all widths alike: decisions before, during and after are the same."""
    curve, dice = Measured(LINE), random.Random(1)
    noisy = lambda slow: lambda width: line(width) * slow * dice.uniform(0.95, 1.05)  # noqa: E731
    passes(curve, noisy(1), 200)
    before = shape(curve)
    assert curve.pace == pytest.approx(1, abs=0.05)
    for count in range(40):
        passes(curve, noisy(5), 5)
        assert shape(curve) == pytest.approx(before, rel=0.05), f"after {5 * (count + 1)} slow passes"
    assert curve.pace == pytest.approx(5, rel=0.05)
    for _ in range(20):
        passes(curve, noisy(1), 5)
        assert shape(curve) == pytest.approx(before, rel=0.05)
    assert curve.pace == pytest.approx(1, abs=0.05)


def test_a_neighbour_while_only_one_width_is_fed_moves_no_width() -> None:
    """As long as the policy stays with one width there is nothing to compare with: it is the machine that is slow."""
    curve = Measured(LINE)
    passes(curve, line, 200)
    before = shape(curve)
    passes(curve, lambda width: 5 * line(width), 200, [16])
    assert shape(curve) == pytest.approx(before, rel=0.05) and curve.pace == pytest.approx(5, rel=0.05)


@pytest.mark.parametrize("outlier", [1e-3, 1e3])
def test_single_odd_passes_do_nothing(outlier: float) -> None:
    """One in twenty takes a thousand times as long, or no time."""
    curve, turn = Measured(LINE), itertools.count()
    passes(curve, line, 100)
    before, pace = shape(curve), curve.pace
    passes(curve, lambda width: line(width) * (outlier if next(turn) % 20 == 7 else 1), 400)
    assert shape(curve) == pytest.approx(before, rel=0.02) and curve.pace == pytest.approx(pace, rel=0.02)


@pytest.mark.parametrize("nonsense", [0.0, -1.0, -math.inf, math.inf, math.nan, 1e-300, 1e300])
def test_times_that_are_none_are_ignored(nonsense: float) -> None:
    curve = Measured(LINE)
    passes(curve, line, 50)
    before, pace, count = curve.seconds(1, 192, 63).copy(), curve.pace, curve.passes
    passes(curve, lambda _: nonsense, 50)
    assert (curve.seconds(1, 192, 63) == before).all() and (curve.pace, curve.passes) == (pace, count)


@given(values=st.lists(st.floats(0.1, 9.0), min_size=2, max_size=12))
def test_lines_never_fall_and_one_odd_pass_is_not_the_price_of_all_wider_ones(values: list[float]) -> None:
    """What is measured of several widths is brought into order without getting longer, or shorter, in the mean."""
    curve = Measured({(1, width, 192): seconds for width, seconds in enumerate(values, 1)})
    found = curve.seconds(1, 192, len(values) - 1)
    assert (np.diff(found) >= -1e-12).all() and found.sum() == pytest.approx(sum(values))
    assert min(values) - 1e-9 <= found[0] and found[-1] <= max(values) + 1e-9
    if values == sorted(values):
        assert found == pytest.approx(values)


def test_a_curve_nobody_measured_is_learnt() -> None:
    """From nothing but passes: a machine three times as slow as assumed, whose wide passes take twice as long as narrow ones."""
    curve = Measured()
    assert not curve.measured and Measured(LINE).measured and UNKNOWN
    passes(curve, lambda width: 0.003 * (1 + (width > 16)), 200)
    seconds = curve.seconds(1, 192, 63) * curve.pace
    for width in (1, 8, 16, 24, 48):
        assert seconds[width - 1] == pytest.approx(0.003 * (1 + (width > 16)), rel=0.2), width


def test_corrections_are_seen_after_a_few_passes() -> None:
    """Not at each pass, for they take a while to work out."""
    curve = Measured(LINE)
    curve.seconds(1, 192, 63)
    passes(curve, lambda width: line(width) * (2 if width == 48 else 1), 20 * NOW + STALE)
    assert shape(curve)[47] > 1.5 * line(48) / line(1)


# Measuring.


class Timed(ToyTarget):
    """A toy whose passes take known times: it moves the clock."""

    def __init__(self, takes: Callable[[int, int], float], context: int | None = None) -> None:
        super().__init__(markov(VOCAB), VOCAB, context=context)
        self.takes, self.now, self.odd = takes, 0.0, lambda count: 1.0
        self.read: set[int] = set()
        self.most_rows = self.longest = 0

    def clock(self) -> float:
        return self.now

    def score(self, feeds: Sequence[Feed]) -> Any:
        width = max(len(feed.tokens) + len(feed.draft) for feed in feeds)
        self.now += self.takes(len(feeds), width) * self.odd(self.forwards)
        for feed in feeds:
            self.read.update(feed.tokens, feed.draft.tokens)
            self.longest = max(self.longest, self.length(feed.row) + len(feed.tokens) + len(feed.draft))
        self.most_rows = max(self.most_rows, len(feeds))
        return super().score(feeds)


def grows(rows: int, width: int) -> float:
    return 0.001 + 0.00002 * rows * width


@pytest.mark.parametrize("odd", [1.0, 50.0, 0.0])
def test_known_times_are_found(odd: float) -> None:
    """Also where one pass in seven is disturbed: medians."""
    target = Timed(grows)
    target.odd = lambda count: odd if count % 7 == 3 else 1.0
    points = measure(target, [1, 2, 3], clock=target.clock, limit_s=60.0)
    assert all(seconds == pytest.approx(grows(rows, width)) for (rows, width, _), seconds in points.items())
    assert {(1, width, 192) for width in (1, 2, 3, 4, 8, 16, 32, 64)} <= points.keys()
    assert {rows for rows, _, _ in points} == {1, 2, 4, 8, 16} and {768} < {context for *_, context in points}
    assert target.read == {1, 2, 3}, "something else than the text was fed"
    assert not target._rows


@pytest.mark.parametrize("slow", [1e-4, 0.01, 0.1, 1.0, 20.0])
def test_it_takes_no_longer_than_it_may(slow: float) -> None:
    """One pass at least, so that there is something to go by; prompts and what is going on come on top."""
    target = Timed(lambda rows, width: slow * (1 + width / 50))
    points = measure(target, [1, 2, 3], limit_s=2.5, clock=target.clock)
    assert any(width == 1 for _, width, _ in points)
    assert target.now < 2.5 + 8 * slow * (1 + 192 / 50)


@pytest.mark.parametrize("context", [2, 3, 5, 16, 50, 200, 1000])
def test_a_short_context_is_never_exceeded(context: int) -> None:
    """Nor is a target with room for two tokens left without a curve."""
    target = Timed(grows, context)
    points = measure(target, [4], clock=target.clock)
    assert points and target.longest <= context and not target._rows
    assert all(seconds == pytest.approx(grows(rows, width)) for (rows, width, _), seconds in points.items())
    Measured(points).seconds(1, 1, 63)


@pytest.mark.parametrize("context", [16, 40])
def test_a_model_with_a_short_context_can_be_measured(context: int) -> None:
    """Where a row is cut to more tokens than it has."""
    target = HFTarget(tiny_llama(hidden=16, layers=1), max_context=context)
    points = measure(target, [5, 6, 7], limit_s=0.2, max_rows=2)
    assert points and all(long + width <= context for _, width, long in points) and not target._rows


@pytest.mark.parametrize("max_rows", [1, 3, 8])
def test_no_more_rows_than_are_asked_for(max_rows: int) -> None:
    target = Timed(grows)
    measure(target, [1], clock=target.clock, max_rows=max_rows)
    assert target.most_rows == max(rows for rows in (1, 2, 4, 8) if rows <= max_rows)


def test_a_pass_that_fails_leaves_no_scratch_row() -> None:
    target = Timed(lambda rows, width: grows(rows, width) if rows == 1 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        measure(target, [1], clock=target.clock)
    assert not target._rows


@pytest.mark.parametrize("clock", [lambda: 0.0, itertools.count(0, -1).__next__, itertools.count(0, 3600).__next__])
def test_a_clock_that_is_none_ends_it_all_the_same(clock: Callable[[], float]) -> None:
    """Whatever it finds, a curve must be able to live with it."""
    curve = Measured(measure(Timed(grows), [1], clock=clock))
    seconds = curve.seconds(1, 100, 63)
    assert np.isfinite(seconds).all() and (seconds > 0).all()


# What asking has been worth.


def test_hope_gives_way_to_experience() -> None:
    shared, own, other = pays.no_answers(3)[:, 3]
    assert expected(shared, own, 0, HOPE) == HOPE
    for step in range(50):
        answered(other, own, 0.0, step)
    assert expected(shared, own, 50, HOPE) < 0.25 * HOPE, "one's own experience outweighs others'"
    assert expected(shared, own, 1000, HOPE) > 0.95 * HOPE, "and is forgotten"
    nobody = pays.no_answers(1)[0, 3]
    for _ in range(200):
        answered(shared, other, 0.0, 0)
    assert expected(shared, nobody, 0, HOPE) < 0.02
    assert expected(nobody, nobody, 0, 5.0) == 5.0, "where it was never asked, what it is usually worth"


def test_another_situation_is_another_record() -> None:
    claims = Claims(Records(), 20)
    for before, share in ((0, 1), (1, 2)):
        claims.clear(before)
        claims.add(0, chain([1], [0.9]), COSTLESS)
        assert (claims.answers[0, :, pays.COUNT] > 0).sum() == share and claims.answers[0, before, pays.COUNT] > 0


def test_first_answers_count_less() -> None:
    """Whose scores mean nothing promises much at first; soon an answer is an answer."""
    shared, own, weights = pays.no_answers(1)[0], pays.no_answers(1)[0, 3], []
    for worth in (5.0, 5.0, *[0.0] * 10):
        weights.append(pays.weight(shared))
        answered(shared[3], own, worth, 0, weights[-1])
    assert weights == sorted(weights) and weights[0] < 0.5 and weights[-1] == 1.0
    even = pays.no_answers(2)[:, 3]
    for worth in (5.0, 5.0, *[0.0] * 10):
        answered(even[0], even[1], worth, 0)
    assert expected(shared[3], own, 0, HOPE) < 0.7 * expected(even[0], even[1], 0, HOPE)


def test_no_price_is_lost_however_many_come_at_once() -> None:
    """The first ones count at the next settling, later ones soon after; more than there is room for, at once; forgotten, none."""
    prices = Prices(2)
    prices.note(pays.ASKING, 1, 2.0)
    assert prices.asking(1) == 0.0
    prices.settle()
    assert prices.asking(1) == 2.0 and prices.asking(0) == 0.0 == prices.deciding
    for _ in range(5 * SOME):
        prices.note(pays.ASKING, 0, 3.0)
        prices.note(pays.FOLLOWING, 0, 1.0)
    prices.settle()
    assert prices.asking(0) == 4.0 == prices.dearest
    assert prices.values[pays.ASKING, 0, pays.NUMBER] > 5 * SOME - SOME
    for _ in range(30):
        prices.note(pays.ASKING, 0, 9.0)
        prices.settle()
    assert prices.asking(0) == 10.0
    prices.forget()
    assert prices.asking(0) == 0.0 == prices.asking(1) and not prices.values.any()


TENTHS = np.arange(9) / 10  # each node more costs a tenth of a token


def test_an_answer_is_worth_what_it_changes() -> None:
    """Of two members: who makes a node likely that was not to be fed, though another had named it; who says what was certain before; who
    says that what was to be fed is wrong."""
    claims = Claims(Records(), 9)
    assert claims.add(0, chain([1], [0.05]), TENTHS) == 0.0 == claims.worth
    assert claims.add(1, chain([1], [0.95]), TENTHS) == pytest.approx(claims.worth) and claims.worth > 0.3
    claims.clear()
    before = claims.add(0, chain([1], [0.9]), TENTHS)
    assert before == pytest.approx(0.8) and claims.add(1, chain([1], [0.95]), TENTHS) > before + 0.02
    assert claims.worth == pytest.approx(0.0)
    records = Records()
    records.mixer[2 + 3, MOST, 0] = -5.0  # a node of the first that the second does not name
    claims = Claims(records, 9)
    assert claims.add(0, chain([1], [0.6]), TENTHS) == pytest.approx(0.5)
    assert claims.add(1, chain([2], [0.05]), TENTHS) == 0.0, "nothing is to be fed now"
    assert claims.worth == pytest.approx(0.1 - chance(log_odds(0.6) - 5)), "which saves a node"


def test_an_answer_that_replaces_another_is_worth_the_difference() -> None:
    records = Records()
    records.mixer[2 + 3, MOST, 0] = -1.0
    claims = Claims(records, 9)
    claims.add(0, chain([1], [0.6]), TENTHS)
    after = claims.add(1, chain([2], [0.8]), TENTHS)
    doubted = chance(log_odds(0.6) - 1)
    assert after == pytest.approx(0.8 + doubted - 0.2) and claims.worth == pytest.approx(after - (doubted - 0.1))


def test_nobody_is_judged_by_the_first_few_answers() -> None:
    """Answers that were worth nothing: it is asked on for a while, then no more; of each heat anew."""
    prices = unpriced(1)
    claims = Claims(Records(), 9, None, places(prices))
    for _ in range(pays.FEWEST):
        pays.note(prices.values[pays.ASKING, 0], 1.0)
    asked = []
    for _ in range(pays.EARLY + 10):
        claims.clear()
        asked.append(claims.whom(0.0, 1, 1, 1, 0, 1.0) == 0)
        claims.add(0, chain([1], [0.0]), TENTHS)
    often = sum(asked)  # fading, ten answers are not quite ten
    assert asked == sorted(asked, reverse=True) and pays.EARLY <= often < pays.EARLY + 5
    assert Claims(Records(), 9, None, places(prices)).whom(0.0, 1, 1, 1, 0, 1.0) == 0


def test_whoever_was_unlucky_at_first_is_asked_on() -> None:
    """A dozen answers worth a fifth less than they cost say little; three times as many are believed. Of one heat, not of all."""
    prices = unpriced(1)
    for _ in range(pays.FEWEST):
        pays.note(prices.values[pays.ASKING, 0], 1.0)
    shared, own = pays.no_answers(1), pays.no_answers(1)
    asked = []
    for _ in range(40):
        asked.append(pays.whom(prices.values, 0.0, shared, own, 1, 1, 1, 0, standing(0), 0, 0.5) == 0)
        answered(shared[0, standing(0)], own[0, standing(0)], 0.4, 0)
    assert all(asked[:12]) and not any(asked[36:]), asked
    assert pays.whom(prices.values, 0.0, pays.no_answers(1), own, 1, 1, 1, 0, standing(0), 0, 0.5) == 0


@given(added=st.floats(0, 1e6), right=st.none() | st.integers(0, 500))
def test_every_situation_has_a_place(added: float, right: int | None) -> None:
    assert 0 <= standing(right) < situation(added) < SITUATIONS


def test_a_situation_is_what_is_there_already() -> None:
    """Before anybody is asked, how it went in the last step; later, what the tree adds."""
    assert len({standing(right) for right in (None, 0, 1, 5)}) == 4
    places = [situation(added) for added in (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 50.0)]
    assert places == sorted({*places}) and situation(0.0) > standing(None)


def test_a_price_is_a_mean_that_one_odd_moment_hardly_moves_and_needs_a_few_answers() -> None:
    prices, lately = pays.no_prices(1), np.zeros(pays.VALUES + pays.LATELY)
    for seconds in (1.0, 1e9, 1.0):
        assert not pays.known(prices, 0)
        pays.note(prices[pays.ASKING, 0], seconds)
    pays.note(prices[pays.FOLLOWING, 0], 0.5)
    pays.note(prices[pays.BEGINNING, 0], pays.SPREAD)
    asking = (1.0 + 1.0 + pays.ODD) / 3
    assert pays.known(prices, 0)
    pays.note(prices[pays.RETURNING, 0], 0.4 * pays.RETURNS)
    assert pays.price(prices, 0, True, True) == pytest.approx(asking + 0.5)
    assert pays.price(prices, 0, True, False) == pytest.approx(asking + 0.9)
    assert pays.price(prices, 0, False, True) == pytest.approx(asking + 1.5)
    for value in (*[1.0] * 20, *[7.0] * 15):
        pays.note(lately, value)
    assert lately[pays.MIDDLE] == 7.0 == lately[pays.MEAN], "what was long ago has no say"


@given(values=st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=40))
def test_a_number_lately_is_its_last_values(values: list[float]) -> None:
    kept = np.zeros(pays.VALUES + pays.LATELY)
    for value in values:
        pays.note(kept, value)
    last = values[-pays.LATELY :]
    assert kept[pays.MIDDLE] == sorted(last)[len(last) // 2] and kept[pays.MEAN] == pytest.approx(
        sum(last) / len(last), abs=1e-3
    )


# Decisions, in worlds whose times are known.


class World:
    """A target whose passes take known times, and members that take theirs: time passes where something is done, only there."""

    def __init__(self, takes: Callable[[int, int], float]) -> None:
        self.target = Timed(takes)
        self.clock = self.target.clock
        widths, rows = (1, 2, 4, 8, 16, 32, 64), (1, 2, 4, 8, 16)
        self.curve = Measured({(row, width, 192): takes(row, width) for row in rows for width in widths})

    def auto(self, members: dict[str, Any], **options: Any) -> Auto:
        return Auto(members, curve=self.curve, clock=self.clock, **options)

    def run(self, auto: Auto | None, tokens: int = 600, rows: int = 1, *, temperature: float = 1.0) -> "Run":
        """Decode; from then on the world is older."""
        batch = [
            request((0, n % VOCAB, n // VOCAB), max_tokens=tokens, ignore_eos=True, temperature=temperature, seed=n)
            for n in range(rows)
        ]
        start, forwards = self.target.now, self.target.forwards
        stats = [one.running.stats for one in decode(batch, auto, target=self.target, clock=self.clock, max_rows=rows)]
        fed = sum(one.draft_tokens for one in stats)
        steps = sum(one.steps for one in stats)
        return Run(self.target.now - start, self.target.forwards - forwards, steps, fed, rows * (tokens - 1))


@dataclass(frozen=True)
class Run:
    """seconds and passes of the target; steps of all rows; nodes that were fed; tokens."""

    seconds: float
    passes: int
    steps: int
    fed: int
    tokens: int


class Guess(BaseProposer):
    """Drafts a chain whose every token is right with the same probability, given that those before it are; and says so."""

    name = "guess"

    def __init__(
        self,
        world: World,
        share: float,
        *,
        price: float = 0.0,
        depth: int = 8,
        score: float | None = None,
        seed: int = 0,
    ) -> None:
        self.world, self.share, self.price, self.depth = world, share, price, depth
        self.score, self.seed = share if score is None else score, seed
        self.asked: list[int] = []

    def propose(self, ctx: ProposeContext) -> list[Draft]:
        self.world.target.now += self.price * len(ctx.seqs)
        self.asked += [len(seq.tokens) for seq in ctx.seqs]
        return [self._guess(seq) for seq in ctx.seqs]

    def _guess(self, seq: SeqView) -> Draft:
        dice = random.Random(f"{self.seed} {seq.seq_id} {len(seq.tokens)}")
        depth = max(min(self.depth, seq.room), 0)
        right = next((level for level in range(depth) if dice.random() >= self.share), depth)
        truth = foretold(seq, markov(VOCAB), min(right + 1, depth))
        tokens = [*truth[:right], *((token + 1) % VOCAB for token in truth[right:])]
        return chain([*tokens, *[0] * (depth - len(tokens))], [self.score] * depth)


class Reading(ToyTarget):
    """A draft model whose passes take a known time each."""

    def __init__(self, world: World, price: float, logits_of: Any) -> None:
        super().__init__(logits_of, VOCAB)
        self.world, self.price = world, price

    def score(self, feeds: Sequence[Feed]) -> Any:
        self.world.target.now += self.price
        return super().score(feeds)


def full(rows: int, width: int) -> float:
    """Every extra row costs a full pass."""
    return float(rows * width)


def steep(rows: int, width: int) -> float:
    """Every extra row costs four fifths of a pass."""
    return 0.2 + 0.8 * rows * width


def flat(rows: int, width: int) -> float:
    return 1.0


def test_plain_decoding_takes_what_it_takes() -> None:
    """The worlds keep time: the prompt of three tokens, then a pass a token."""
    assert World(flat).run(None).seconds == 600
    assert World(full).run(None, 50).seconds == 3 + 49
    assert World(full).run(None, 50, 4).seconds == 4 * 3 + 4 * 49


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_where_every_row_costs_a_pass_nothing_is_fed(share: float) -> None:
    """A node that is right half of the time brings half a token for the time of a whole one."""
    world = World(full)
    plain = world.run(None).seconds
    run = world.run(world.auto({"guess": Guess(world, share)}))
    assert run.fed < 0.05 * run.steps
    assert run.seconds < plain / 0.98


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_where_rows_cost_nothing_everything_is_fed(share: float) -> None:
    """Up to the limit there is; the last steps have less room."""
    for nodes, depth in ((64, 8), (5, 8)):
        world = World(flat)
        run = world.run(world.auto({"guess": Guess(world, share, depth=depth)}, nodes=nodes))
        assert min(nodes, depth) * (run.steps - 10) <= run.fed <= min(nodes, depth) * run.steps
        assert run.steps < 600 / (1 + share) + 40


@pytest.mark.parametrize("price", [0.5, 0.2, 0.1, 0.05])
def test_an_index_that_never_helps_is_hardly_asked(price: float) -> None:
    """After 150 tokens of it: of half a pass each, less than one in twenty steps; of any price, no more time than may be spent on
    trying. What it says of tokens behind a wrong one is never put to the test, and must not keep it in favour."""
    world = World(flat)
    useless = Guess(world, 0.0, price=price, score=0.7)
    auto = world.auto({"useless": useless})
    world.run(auto, 150)
    useless.asked.clear()
    run = world.run(auto, 1000)
    assert price < 0.5 or len(useless.asked) < 0.05 * run.steps
    assert run.seconds - run.passes <= 1.5 * EXPLORE * run.seconds + 8 * price


def thinking(world: World, auto: Auto, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From now on each step that is looked at takes a twentieth of a pass; how many rows it had."""
    asked: list[int] = []
    propose = auto.propose

    def slowly(ctx: ProposeContext) -> list[Draft]:
        asked.append(len(ctx.seqs))
        drafts = propose(ctx)
        world.target.now += 0.05
        auto._step.spent += 0.05
        return drafts

    monkeypatch.setattr(auto, "propose", slowly)
    return asked


def test_rests_double_up_to_a_limit() -> None:
    """And end with the first node that is fed; where thinking costs nothing there are none."""
    row = Row(Claims(Records(), 4), 1)
    rests = []
    for _ in range(200):
        row.tire(True)
        rests.append(row.rest)
    assert rests == [0, 0, 1, 2, 4, 8] + [15] * 194 and row.tired < 10
    row.tire(False)
    assert row.rest == 0
    row.tire(True)
    row.draft = chain([1])
    assert row.rest == 15 and row.tire(True) and row.rest == 0
    row.draft = EMPTY
    row.tire(True)
    assert row.rest == 0


@pytest.mark.parametrize(("took", "seldom"), [(steep, 6), (full, 16)])
def test_steps_go_by_where_nobody_could_help(
    took: Callable[[int, int], float], seldom: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are written down like all others, and few are looked at: one in sixteen where not even a draft that is right would pay."""
    world = World(took)
    auto = world.auto({"useless": Guess(world, 0.0, price=0.05, score=0.7)})
    asked = thinking(world, auto, monkeypatch)
    world.run(auto, 150)
    before, emitted = auto.ledger.steps, auto.ledger.emitted
    asked.clear()
    run = world.run(auto, 400)
    assert auto.ledger.steps - before == run.steps == auto.ledger.emitted - emitted == 399
    assert 399 / 16 - 1 <= len(asked) <= 399 / seldom + 1
    assert {note.nodes for note in [*auto.ledger.notes][-100:]} == {0}
    assert not auto._rows and not auto.rests()


@pytest.mark.parametrize("kept", [False, True])
def test_who_is_new_is_looked_at_at_once(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another rests; and who is kept for later keeps nobody awake."""
    world = World(full)
    auto = world.auto({"useless": Guess(world, 0.0, price=0.05, score=0.7)})
    engine = Engine(world.target, auto, clock=world.clock)
    if kept:
        engine.add(replace(request((0, 1), max_tokens=3, ignore_eos=True), keep=True))
    engine.add(request((0,), max_tokens=400, ignore_eos=True))
    asked = thinking(world, auto, monkeypatch)
    while not auto.rests():
        assert engine.unfinished, "nobody ever rested"
        engine.step()
    asked.clear()
    engine.step()
    assert not asked
    engine.add(request((1,), max_tokens=20, ignore_eos=True))
    while len(engine._live) < 2:
        engine.step()
    asked.clear()
    engine.step()
    assert asked == [2]


def test_an_index_that_begins_to_help_is_found_again() -> None:
    """It slept for hundreds of steps; exploration is bounded and still there."""
    world = World(flat)
    index = Guess(world, 0.0, price=0.5, score=0.7)
    auto = world.auto({"index": index})
    world.run(auto, 1000)
    index.share = 0.95
    world.run(auto, 1500)
    run = world.run(auto, 300)
    assert run.tokens / run.steps > 4


def test_at_another_temperature_tokens_come_at_another_pace() -> None:
    """What time is worth at one says nothing about the other: who drafts would be judged by it."""
    world = World(flat)
    auto = world.auto({"guess": Guess(world, 0.97)})
    world.run(auto, 600, temperature=0.0)
    assert auto._pace.speedup > 3
    world.run(auto, 2, temperature=1.0)
    assert auto._pace.speedup < 2
    world.run(auto, 2, temperature=0.0)
    assert auto._pace.speedup > 3


def test_who_is_tried_is_asked_some_times_in_a_row() -> None:
    """And in the mean no oftener than there is time for: one answer in so many steps as it takes, over what is put by."""
    world = World(flat)
    useless = Guess(world, 0.0, price=0.5, score=0.7)
    auto = world.auto({"useless": useless}, explore=0.01)
    world.run(auto, 1000)
    useless.asked.clear()
    world.run(auto, 2000)
    begun = [length for length in useless.asked if length - 1 not in useless.asked]
    assert len(begun) > 2 and all({*range(first, first + TRIAL)} <= {*useless.asked} for first in begun)
    assert len(useless.asked) <= 0.01 * 2000 / (0.4 * 0.5) + TRIAL


class Reader(Guess):
    """Has to read what came since it last drafted, and takes its time where that is much."""

    needs = Needs(levels=True)
    away = 3.0

    def propose(self, ctx: ProposeContext) -> list[Draft]:
        for seq in ctx.seqs:
            if not self.asked or len(seq.tokens) - self.asked[-1] > FAR:
                self.world.target.now += self.away
        return super().propose(ctx)


def test_what_returning_takes_is_no_part_of_the_price() -> None:
    """It is spread over answers to come: of who was away one answer alone would not pay."""
    world = World(flat)
    reader = Reader(world, 0.0, price=0.2, score=0.7)
    auto = world.auto({"reader": reader})
    world.run(auto, 3000)
    prices = auto._prices
    assert prices.middle(pays.ASKING, 0) == pytest.approx(0.2, abs=0.01)
    assert prices.middle(pays.RETURNING, 0) == pytest.approx(reader.away, rel=0.1)
    reader.share = 0.7
    world.run(auto, 3000)
    run = world.run(auto, 300)
    assert run.tokens / run.steps > 2


def test_a_curve_from_a_busy_moment_is_put_right() -> None:
    """Measured where a token more seemed to cost nothing, while it costs half a pass and more; every draft is about as wide as the last,
    so that only a plain pass shows it. Drafts whose tokens are right two times in five do not pay then, where nothing tells them
    apart: at a temperature the noise of the draws does."""
    takes = lambda rows, width: 1 + 0.9 * (width > 1)  # noqa: E731
    world = World(takes)
    world.curve = Measured({(1, width, 192): 1 + 0.001 * width for width in (1, 2, 4, 8, 16, 32, 64)})
    auto = world.auto({"guess": Guess(world, 0.4, price=0.01)})
    world.run(auto, 1500, temperature=0.0)
    run = world.run(auto, 600, temperature=0.0)
    assert run.fed < 0.1 * run.steps and run.seconds / run.tokens < 1 / 0.97


def test_the_noise_of_a_draw_tells_which_guesses_to_believe() -> None:
    """Guesses right two times in five and told with the same score; the tokens that were drawn were drawn for their noise."""
    fed = {}
    for temperature in (0.0, 1.0):
        world = World(lambda rows, width: 1 + 0.9 * (width > 1))
        auto = world.auto({"guess": Guess(world, 0.4, price=0.01)})
        world.run(auto, 1500, temperature=temperature)
        run = world.run(auto, 600, temperature=temperature)
        fed[temperature] = run.fed / run.steps
        assert run.seconds / run.tokens < (0.97 if temperature else 1 / 0.97)
    assert fed[0.0] < 0.1 and fed[1.0] > 0.5


def test_plain_passes_are_rare_where_nothing_surprises() -> None:
    """And soon made again where they do."""
    curve = Measured({(1, 1, 192): 1.0, (1, 9, 192): 1.5})
    made: list[int] = []
    for step in range(4000):
        plain = curve.forgotten(1)
        made += [step] * plain
        changed = 1.5 if step > 3000 else 1.0
        curve.learn(1, 1 if plain else 9, 192, 1.0 * changed if plain else 1.5)
    apart = [later - earlier for earlier, later in itertools.pairwise(made)]
    settled = [gap for gap, step in zip(apart, made, strict=False) if 1500 < step < 2500]
    assert apart[0] < 100 and settled and min(settled) > 300
    assert min(gap for gap, step in zip(apart, made, strict=False) if step > 3000) < 60


def test_one_request_that_changes_is_followed() -> None:
    """Useless, then almost always right, within one request: soon asked at every step again; and the other way round."""
    world = World(flat)
    index = Guess(world, 0.0, price=0.05, score=0.7)
    guess = index._guess

    def changing(seq: SeqView) -> Draft:
        index.share = 0.9 if 400 <= len(seq.tokens) < 900 else 0.0
        return guess(seq)

    index._guess = changing  # type: ignore[method-assign]
    run = world.run(world.auto({"index": index}), 1300)
    assert run.tokens - run.steps > 0.6 * 500, "most of the good part took a step a token"
    late = [place for place in index.asked if place > 1000]
    assert len(late) * index.price < 0.03 * 300, "it costs, and is of no use any more"


def test_a_member_that_pays_is_asked_at_every_step() -> None:
    """A tenth of a pass for two tokens."""
    world = World(flat)
    good = Guess(world, 0.8, price=0.1)
    run = world.run(world.auto({"good": good}))
    assert len(good.asked) > 0.9 * run.steps and run.seconds < 0.5 * 600


def test_who_is_cheap_is_asked_at_every_step_while_it_brings_something() -> None:
    """Two of another opinion, for a twentieth of a pass each: neither is left out because the other was asked; one that is always wrong
    is asked less. (It still seems to be worth something: half of what counts is what was expected.)"""
    world = World(flat)
    first, second, useless = (Guess(world, share, price=0.05, seed=seed) for seed, share in enumerate((0.5, 0.5, 0.0)))
    auto = world.auto({"first": first, "second": second, "useless": useless})
    world.run(auto, 600)
    for guess in (first, second, useless):
        guess.asked.clear()
    run = world.run(auto, 600)
    assert min(len(first.asked), len(second.asked)) > 0.8 * run.steps, (len(first.asked), len(second.asked), run.steps)
    assert len(useless.asked) < 0.85 * min(len(first.asked), len(second.asked))


@pytest.mark.parametrize(("around", "least", "most"), [(0.0, 0.0, 0.2), (1.0, 0.5, 1.0)])
def test_what_a_step_takes_around_its_pass_is_what_more_tokens_save(
    around: float, least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token for seven tenths of a pass, every second time, is not worth it where a pass is all a step takes; where as much comes on top,
    it is."""
    world = World(flat)
    verify = Engine._verdicts

    def slowly(engine: Engine, *args: Any) -> Any:
        world.target.now += around
        return verify(engine, *args)

    monkeypatch.setattr(Engine, "_verdicts", slowly)
    guess = Guess(world, 0.5, price=0.7, depth=1)
    auto = world.auto({"guess": guess})
    world.run(auto, 300)
    guess.asked.clear()
    run = world.run(auto, 600)
    assert least * run.steps <= len(guess.asked) <= most * run.steps, (len(guess.asked), run.steps)


@pytest.mark.parametrize(("price", "least", "most"), [(0.05, 0.0, 0.35), (0.0, 0.9, 1.0)])
def test_where_nothing_is_worth_feeding_who_costs_something_is_hardly_asked(
    price: float, least: float, most: float
) -> None:
    """Every node takes nearly a pass, so that none is worth feeding. Who costs nothing is asked all the same."""
    world = World(steep)
    guess = Guess(world, 0.5, price=price)
    auto = world.auto({"guess": guess})
    world.run(auto, 300)
    guess.asked.clear()
    run = world.run(auto, 600)
    assert least <= len(guess.asked) / run.steps <= most


def test_who_only_repeats_another_is_not_asked_where_that_costs() -> None:
    """Two that draft the same: what the second adds to the tree is nothing. Another opinion is worth its price."""
    asked = {}
    for seed in (0, 1):
        world = World(flat)
        first, second = Guess(world, 0.6), Guess(world, 0.6, price=0.1, seed=seed)
        auto = world.auto({"first": first, "second": second})
        world.run(auto, 1200)
        second.asked.clear()
        run = world.run(auto, 600)
        asked[seed] = len(second.asked) / run.steps
    assert asked[0] < 0.15 and asked[1] > 0.5, asked


def test_a_draft_model_of_random_weights_is_hardly_asked() -> None:
    """A fifth of a pass a level; it agrees by chance only. Not much more than a level in ten steps, in the first request while it is found
    out some more."""
    world = World(flat)
    stranger = Reading(world, 0.2, markov(VOCAB, seed=77, sharpness=6.0))
    auto = world.auto({"draft": DraftModel(stranger, k=16, worth=0.0)})
    levels = []
    for _ in range(4):
        before = stranger.forwards
        world.run(auto, 300)
        levels.append(stranger.forwards - before)
    assert levels[0] < 0.16 * 300 and max(levels[1:]) < 0.12 * 300 and levels[-1] < 0.1 * 300, levels


def test_a_draft_model_that_is_often_right_is_stopped_level_by_level() -> None:
    """The same table, softer, so that it mostly agrees: levels that cost next to nothing are all read, dear ones while the chance of
    being on the accepted path is worth them."""
    levels = {}
    for price in (0.001, 0.15, 0.4):
        world = World(flat)
        softer = Reading(world, price, markov(VOCAB, sharpness=1.5))
        auto = world.auto({"draft": DraftModel(softer, k=16, worth=0.0)})
        world.run(auto, 200)
        before = softer.forwards
        run = world.run(auto, 600)
        levels[price] = (softer.forwards - before) / run.steps
        assert run.seconds < 600 * 1.03
    assert levels[0.001] > 12 and 0.5 < levels[0.15] < 6 and levels[0.4] < levels[0.15]


def test_what_a_level_takes_is_what_later_ones_take() -> None:
    """First ones read what came since the last draft; later ones are read a few times to see, and one odd moment is got over: what first
    ones take is the most that is believed."""
    known = Levels()
    known.note(1, 1.0)
    assert known.price == 0.0
    for seconds in (9.0, 8.0, 0.5):
        known.note(2, seconds)
    assert known.price == 1.0
    for _ in range(3):
        known.note(3, 0.5)
    assert known.price == 0.5


def test_a_node_costs_what_more_of_them_would_cost_together() -> None:
    """Where passes get longer by jumps the node behind one is not dear, and none is free."""
    costs = Costs().of(np.array([1.0, 1.4, 1.4, 1.4, 1.4, 1.8]), 0.5)
    costs.rate = 2.0
    assert [costs.each(nodes) for nodes in range(5)] == pytest.approx([0.2, 0.0, 0.0, 0.0, 0.8]), "0.4 for four nodes"
    assert costs.each(5) == 0.0 and costs.plain == 1.5 and costs.between(0, 5) == pytest.approx(1.6)
    assert costs.most == pytest.approx(5 * 1.5 / 1.9)


def test_a_draft_model_goes_as_deep_as_pays() -> None:
    """The target itself for a draft model, a tenth of a pass a level: deep. At nine tenths of a pass a level: hardly."""
    depth = {}
    for price in (0.05, 0.9):
        world = World(flat)
        itself = Reading(world, price, markov(VOCAB))
        run = world.run(world.auto({"draft": DraftModel(itself, k=16, worth=0.0)}), 400)
        depth[price] = run.fed / run.steps
        assert run.seconds < 400 * 1.03
    assert depth[0.05] > 5 and depth[0.9] < depth[0.05] / 2


def test_a_batch_is_throttled() -> None:
    """Where passes take longer with every row of every sequence, the same drafts get fewer nodes in wider batches."""
    fed = {}
    for rows in (1, 4, 16):
        world = World(lambda rows, width: 1 + 0.03 * rows * width)
        run = world.run(world.auto({"guess": Guess(world, 0.7)}), 120, rows)
        fed[rows] = run.fed / run.steps
    assert fed[1] > fed[4] > fed[16] and fed[16] < 0.5 * fed[1]


@pytest.mark.parametrize(
    ("share", "slope"),
    [(share, slope) for share, slope in itertools.product((0.1, 0.5, 0.9), (0.0, 0.05, 0.3, 1.0))],
)
def test_it_is_never_much_slower_than_plain_nor_than_the_best_fixed_length(slope: float, share: float) -> None:
    """Lengths 0, 1, 2, ... of the same drafts, each exactly computed: the mean time of a token."""
    takes = lambda rows, width: 1 + slope * (rows * width - 1)  # noqa: E731
    world = World(takes)
    auto = world.auto({"guess": Guess(world, share, price=0.01)})
    world.run(auto, 150)
    run = world.run(auto, 600)
    best = min(
        (takes(1, 1 + length) + 0.01 * (length > 0)) / sum(share**depth for depth in range(length + 1))
        for length in range(9)
    )
    assert run.seconds / run.tokens < best / 0.9
    assert run.seconds / run.tokens < 1 / 0.97


def test_what_was_expected_is_what_came() -> None:
    """Tokens and seconds of the ledger, in a world that keeps its promises."""
    world = World(lambda rows, width: 1 + 0.02 * rows * width)
    auto = world.auto({"guess": Guess(world, 0.7, price=0.05)})
    run = world.run(auto, 1000)
    ledger = auto.ledger
    assert ledger.steps == run.passes - 1 and ledger.emitted == run.tokens
    assert ledger.expected == pytest.approx(ledger.emitted, rel=0.08)
    assert ledger.predicted_s == pytest.approx(ledger.measured_s, rel=0.08)
    assert ledger.measured_s == pytest.approx(run.seconds, rel=0.02)


def test_a_step_is_predicted_to_take_what_steps_take_in_the_mean() -> None:
    """One pass in five takes twice as long, which medians, that decide, do not see."""
    world = World(lambda rows, width: 1 + 0.02 * rows * width)
    world.target.odd = lambda count: 2.0 if count % 5 == 3 else 1.0
    auto = world.auto({"guess": Guess(world, 0.7, price=0.05)})
    world.run(auto, 1000)
    assert auto.ledger.predicted_s == pytest.approx(auto.ledger.measured_s, rel=0.05)
