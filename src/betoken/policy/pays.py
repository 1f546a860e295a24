"""What asking a drafter has been worth, and what it took: whether to ask it again, now. Compiled; no torch.

Worth is counted in tokens, nodes' own cost taken off: what the best choice of nodes is expected to bring now that the answer is known,
beyond what the choice that would have been made without it is expected to bring now (the value of information; Howard 1966). It depends
on what is there already: a drafter that only repeats a certain copy changes nothing. So it is kept by situation; for all requests together, and for each request, whose own experience soon outweighs the
others' and is slowly forgotten.
"""

from bisect import bisect_left

import numpy as np
import numpy.typing as npt

from betoken.compiled import compiled

Floats = npt.NDArray[np.float64]

# Situations: what the tree adds already, in tokens; where nobody was asked yet, how deep the last tree was right.
ADDED = (0.05, 0.15, 0.35, 0.7, 1.5, 3.0, 6.0, 12.0)
RIGHT = (0, 2)
UNKNOWN, SITUATIONS = len(RIGHT) + 1, len(RIGHT) + 2 + len(ADDED) + 1
# A record of answers, fading: how many, what they were worth together; tokens expected of nodes that were fed, and those that came;
# the step of the last answer; then, not fading, how many there were.
COUNT, WORTH, EXPECTED, CAME, LAST, TOTAL = range(6)
ANSWER = TOTAL + 1
# What a drafter is hoped to be worth before it was ever asked, and how many answers what it is usually worth outweighs.
HOPE, HOPED = 0.5, 1.0
FADE, OWN_FADE = 0.97, 0.95
# So many answers of others are as good as one's own; one's own fade by so much a step.
OTHERS, FORGET = 4.0, 0.985
# So many tokens that were expected and did not come, or did, halve the doubt in a member's answers; of all requests, and in one. They fade,
# an answer. What came is a few tokens or none: over few answers that is chance, and who is thought little of is not asked again.
TRUST, OWN_TRUST, MOST_TRUST = 3.0, 5.0, 1.2
TRUST_FADE, OWN_TRUST_FADE = 0.99, 0.95
# A number lately: how many values there are, their median (what one odd moment does not move), their mean (which sees what is rare), the
# mean where none is more than so many medians (which sees both); then the values.
NUMBER, MIDDLE, MEAN, FAIR, VALUES = range(5)
ODD = 1.5
LATELY = 15
# Answers before a price is believed, for the first one may have had to load something; and, of a heat, fading, the first ones counting
# less, before it is judged what they are worth: who was unlucky with the first few would not be asked again for long.
FEWEST, EARLY = 3, 4
# The first answers in a heat may be worth so many tokens more than expected, each less so, until there were so many: a dozen that were worth little by chance would be the last ones for long.
DOUBT, SURE = 0.3, 32.0
# Prices of each member, lately: seconds of asking a row, of observing what came of it, of reading a sequence before the first draft, and
# what asking takes more where it has not been asked for a while; then what its answers were worth, in tokens.
ASKING, FOLLOWING, BEGINNING, RETURNING, USUAL = range(5)
PRICES = USUAL + 1
# What beginning a sequence costs is spread over so many steps, what returning costs over so many answers.
SPREAD, RETURNS = 24, 4
# A dearer member has to be worth so much more than a cheaper one to be asked before it.
CLEARLY = 0.15
# How quickly what answers bring fades, an answer.
BROUGHT_FADE = 0.95
# How much of what a member is worth it counts for that it learns from the pass: whoever reads what the target holds likely does.
LESSONS = 0.15


def no_answers(members: int) -> Floats:
    """`[members, SITUATIONS, 6]`."""
    return np.zeros((members, SITUATIONS, ANSWER))


def no_prices(members: int) -> Floats:
    """`[PRICES, members, 4 + LATELY]`."""
    return np.zeros((PRICES, members, VALUES + LATELY))


@compiled
def note(values, value):
    """One more value of a number; returns the median."""
    number, room = int(values[NUMBER]), len(values) - VALUES
    values[VALUES + number % room] = value
    values[NUMBER] = number + 1
    count = min(number + 1, room)
    ranked, total = np.empty(room), 0.0
    for i in range(count):
        one, at = values[VALUES + i], i
        total += one
        while at > 0 and ranked[at - 1] > one:
            ranked[at] = ranked[at - 1]
            at -= 1
        ranked[at] = one
    middle, fair = ranked[count // 2], 0.0
    for i in range(count):
        fair += min(ranked[i], ODD * middle)
    values[MIDDLE], values[MEAN], values[FAIR] = middle, total / count, fair / count
    return middle


@compiled
def note_all(prices, middles, came):
    """Many values at once. came: kind, member, value, and so on; middles: all medians, flat."""
    members = prices.shape[1]
    for at in range(0, len(came), 3):
        kind, member = int(came[at]), int(came[at + 1])
        middles[kind * members + member] = note(prices[kind, member], came[at + 2])


def standing(right: int | None) -> int:
    """Where a row stands before anybody is asked, by how deep the last tree was right; None: that is not known, or long ago."""
    return UNKNOWN if right is None else bisect_left(RIGHT, right)


@compiled
def situation(added):
    """Where it stands then, by how much the tree adds."""
    place = 0
    while place < len(ADDED) and added > ADDED[place]:
        place += 1
    return UNKNOWN + 1 + place


@compiled
def price(prices, member, begun, near):
    """Seconds a row, at the machine's usual pace. near: whether it was asked a moment ago."""
    seconds = prices[ASKING, member, FAIR] + prices[FOLLOWING, member, FAIR]
    if not near:
        seconds += prices[RETURNING, member, MIDDLE] / RETURNS
    return seconds if begun else seconds + prices[BEGINNING, member, MIDDLE] / SPREAD


@compiled
def known(prices, member):
    return prices[ASKING, member, NUMBER] >= FEWEST


@compiled
def expected(shared, own, step, usual):
    """What one more answer is expected to be worth, in tokens. step: of the request; usual: what the drafter was worth lately, for
    situations in which it has hardly been asked."""
    others = OTHERS * (shared[WORTH] + HOPED * usual) / (shared[COUNT] + HOPED)
    left = FORGET ** (step - own[LAST])
    return (own[WORTH] * left + others) / (own[COUNT] * left + OTHERS)


@compiled
def trust(shared, own):
    """How much of what is expected will come, by this request and, where it knows little, by the others. What an answer seems to be
    worth is a matter of probabilities, and of nodes whose turn never comes nothing is learnt; what was accepted is a fact."""
    others = (shared[CAME] + TRUST) / (shared[EXPECTED] + TRUST)
    return min((own[CAME] + OWN_TRUST * others) / (own[EXPECTED] + OWN_TRUST), MOST_TRUST)


@compiled
def doubt(shared):
    """How many tokens more than expected an answer may be worth, as long as there were few."""
    return DOUBT * max(1 - shared[:, TOTAL].sum() / SURE, 0.0)


@compiled
def answered(shared, own, worth, step, weight=1.0):
    """An answer was worth so much."""
    shared[COUNT], shared[WORTH] = shared[COUNT] * FADE + weight, shared[WORTH] * FADE + weight * worth
    shared[TOTAL] += 1
    left = OWN_FADE * FORGET ** (step - own[LAST])
    own[COUNT], own[WORTH], own[LAST] = own[COUNT] * left + weight, own[WORTH] * left + weight * worth, step


@compiled
def weight(shared):
    """How much the next answer of a member counts: the first ones little, for it is not known yet what its scores mean."""
    return min((1 + shared[:, COUNT].sum()) / EARLY, 1.0)


@compiled
def delivered(record, hoped, came, fade):
    """Of the nodes of an answer that were fed, so many were expected on the accepted path, and so many were."""
    record[EXPECTED] = record[EXPECTED] * fade + hoped
    record[CAME] = record[CAME] * fade + came


@compiled
def bring(shared, own, member, hits, seemed, seems):
    """What an answer brought: in part, `seems`, what it seemed to be worth, for that is soon known; the rest what came, for that is true."""
    brought = seems * seemed + (1 - seems) * hits
    shared[member] += (1 - BROUGHT_FADE) * (brought - shared[member])
    own[member] += (1 - BROUGHT_FADE) * (brought - own[member])


@compiled
def whom(prices, extra, shared, own, able, begun, near, readers, where, step, rate):
    """Whom a row should ask now: the one whose answer is worth most beyond its price, -1 where nobody's is. Whoever
    is not known yet is asked first.

    able, begun, near, readers: bits: who may be asked, who has read the sequence, who was asked a moment ago, who reads what the target
           holds likely
    rate: tokens a second; extra: seconds that each answer takes besides its price
    """
    best, most, paid = -1, 0.0, 0.0
    for member in range(prices.shape[1]):
        if not able >> member & 1:
            continue
        if not known(prices, member) or shared[member, :, COUNT].sum() < EARLY:
            return member
        seconds = price(prices, member, begun >> member & 1, near >> member & 1)
        usual = prices[USUAL, member, MEAN] if prices[USUAL, member, NUMBER] > 0 else HOPE
        worth = expected(shared[member, where], own[member, where], step, usual) - rate * (seconds + extra)
        worth += doubt(shared[member])
        if readers >> member & 1:
            worth += LESSONS * prices[USUAL, member, MIDDLE]
        # What answers are worth is known roughly, what they take well: the dearer one has to be clearly better.
        if worth > 0.0 and worth > most * (1 + CLEARLY if seconds > paid else 1 / (1 + CLEARLY)):
            best, most, paid = member, worth, seconds
    return best
