"""How much is to be said for each successor that the target held likely before: what it gave it then and, where tokens are drawn, the noise
of the draw to come. Compiled.

A request's noise is known beforehand (`noise`), so a token that the target will draw can be guessed by drawing from what is known of its
law with the same noise: the two agree wherever their laws do (Daliri, Musco, Suresh 2024, arXiv 2408.07978, section 3).
"""

import math

import numpy as np

from betoken.compiled import compiled
from betoken.draws import gumbel_of, key_at

# How far behind the first a successor was, in so many steps a nat. Where that is not known, its place, from PLACES on: then it is taken to be
# twice the log of that.
STEPS, PLACES = 8, 192
# A successor's mark is its share of what is said for all, in whole log-odds, of the best and of the others apart; or its place, where no more
# is known of it and none is drawn.
ODDS = 7
SHARES = 2 * ODDS + 1
# Of all tokens but the successors that are known the likeliest may be drawn: this much of the law is theirs, and the noise of many tokens
# together is higher by this.
OTHERS, EULER = 0.2, 0.5772


@compiled
def lag(behind):
    """Of a successor whose logit is so far behind the first one's."""
    if not behind >= 0.0:  # not a number
        return PLACES - 1
    return int(min(behind * STEPS + 0.5, PLACES - 1))


@compiled
def behind(lag):
    """By how many nats; of whose place alone is known, by as many as its place lets expect."""
    return 2.0 * math.log(lag - PLACES + 1.0) if lag >= PLACES else lag / STEPS


@compiled
def mark(tokens, lags, temperature, base, position, unseen, marks):
    """Into `marks`, of each successor: which mark it has; -1 where there is none. temperature: 0 where the likeliest is taken."""
    said, drawn = np.empty(len(tokens)), temperature > 0.0
    best, others = _said(tokens, lags, temperature, base, position, unseen, said)
    marks[:] = -1
    if best < 0:
        return
    highest = max(said[best], others)
    whole = math.exp(others - highest)
    for rank in range(len(tokens)):
        if tokens[rank] != unseen:
            said[rank] = math.exp(said[rank] - highest)
            whole += said[rank]
    for rank in range(len(tokens)):
        if tokens[rank] == unseen:
            continue
        if lags[rank] >= PLACES and not drawn:
            marks[rank] = 2 * SHARES + lags[rank] - PLACES
        else:
            marks[rank] = _odds(said[rank], whole - said[rank]) + (0 if rank == best else SHARES)


@compiled
def _said(tokens, lags, temperature, base, position, unseen, said):
    """Into `said`, what is to be said for each successor, in nats. Returns for which of them most, -1 where there is none; and for all other
    tokens together, of which none is taken but by a draw."""
    best, drawn, known = -1, temperature > 0.0, 0.0
    key = key_at(base, position) if drawn else base
    for rank in range(len(tokens)):
        if tokens[rank] == unseen:
            continue
        said[rank] = -behind(lags[rank])
        if drawn:
            said[rank] /= temperature
            known += math.exp(said[rank])
            said[rank] += gumbel_of(key, tokens[rank])
        if best < 0 or said[rank] > said[best]:
            best = rank
    if best < 0 or not drawn:
        return best, -math.inf
    return best, math.log(known * OTHERS / (1.0 - OTHERS)) + EULER


@compiled
def _odds(share, rest):
    if share <= 0.0:
        return 0
    if rest <= 0.0:
        return 2 * ODDS
    return ODDS + math.floor(min(max(math.log(share / rest), -float(ODDS)), float(ODDS)) + 0.5)
