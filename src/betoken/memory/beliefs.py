"""How far to trust a piece of evidence about the next token, learnt online from what came. Compiled.

Evidence is a context of some length with what followed it, or the longest match with its one continuation; in the
sequence itself ("here") or in what is remembered of others ("there"). Laid over each other, least specific first, each
with its share, they make a law (PPM's blending: Cleary and Witten 1984; Bell, Cleary, Witten 1990, section 6):

    p = doubt * p_of_less_specific_evidence + (1 - doubt) * count / total

The doubt of each kind of evidence is a weight in log-odds. It starts at Witten and Bell's estimate, kinds of
continuation over occurrences, and takes a gradient step on the log-likelihood at every token. On top, all matches of a
source share one more weight, of this sequence alone: a text that copies does so throughout, and a few tokens show it.
"""

import math
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from betoken.compiled import compiled
from betoken.memory.trie import LENGTH, LONGEST, NONE, ORDER, PLACE, child

HERE, THERE = 0, 1
EVIDENCE = np.dtype([(name, np.int32) for name in ("source", "context", "token", "kind")])
MOST = 2 * (ORDER + 1) + 2
# Kinds: by source, context length, how often seen, how varied what followed; of matches: by source and length. All of
# them twice: a draft's first token comes where the last draft failed, and so right after a surprise.
SIZES, VARIETIES, MATCHES = 8, 4, 13
CONTEXTS = 2 * (ORDER + 1) * SIZES * VARIETIES
AFTER_SURPRISE = CONTEXTS + 2 * MATCHES * 2
KINDS = 2 * AFTER_SURPRISE
# What a sequence's own matches showed, by source, stands behind the kinds; it takes large steps, and fades.
OWN, OWN_STEP, OWN_FADE = KINDS, 0.4, 0.99
# Steps shrink like an average's until they are this small.
SMALLEST_STEP, FIRST_STEP = 0.02, 10
UNSEEN = 1e-5  # of a token nothing speaks for

Weights = npt.NDArray[Any]


@compiled
def _size(total):
    if total <= 3:
        return total - 1
    if total <= 5:
        return 3
    if total <= 9:
        return 4
    if total <= 19:
        return 5
    return 6 if total <= 49 else 7


@compiled
def _variety(kids, total):
    if kids <= 2:
        return kids - 1
    return 2 if 2 * kids <= total else 3


@compiled
def _match(length):
    if length <= 8:
        return length - 1
    if length <= 12:
        return 8
    if length <= 16:
        return 9
    if length <= 24:
        return 10
    return 11 if length < LONGEST else 12


def untaught() -> Weights:
    """`[2, KINDS + 2]`: the log-odds of each kind's doubt before anything is learnt, then what is a sequence's own; and how often
    each was taught: never."""
    return _untaught().copy()


@cache
def _untaught() -> Weights:
    weights = np.zeros((2, KINDS + 2))
    totals = (1, 2, 3, 4.5, 7.5, 14, 30, 100)
    for source in (HERE, THERE):
        for k in range(ORDER + 1):
            for size, total in enumerate(totals):
                for variety in range(VARIETIES):
                    kids = (1, 2, max(2.5, 0.3 * total), max(2.5, 0.75 * total))[variety]
                    doubt = min(kids / total, 0.97) if k else (0.5, 0.9)[source]
                    weights[0, _context_kind(source, k, size, variety)] = math.log(doubt / (1 - doubt))
        for match in range(MATCHES):
            weights[0, _match_kind(source, match, 0) : _match_kind(source, match, 0) + 2] = FIRST_MATCH[match]
    weights[0, AFTER_SURPRISE:KINDS] = weights[0, :AFTER_SURPRISE]
    return weights


# Longer matches are doubted less: from 0.9 for one token to 0.06 for 32 of them.
FIRST_MATCH = (2.2, 1.39, 0.62, 0.2, -0.2, -0.41, -0.62, -0.85, -1.1, -1.39, -1.73, -2.2, -2.75)


@compiled
def _context_kind(source, k, size, variety):
    return ((source * (ORDER + 1) + k) * SIZES + size) * VARIETIES + variety


@compiled
def _match_kind(source, match, repeated):
    return CONTEXTS + (source * MATCHES + match) * 2 + repeated


@compiled
def _own(kind):
    """Where what a sequence's own matches of this kind's source showed stands; NONE for contexts."""
    match = kind % AFTER_SURPRISE - CONTEXTS
    return NONE if match < 0 else OWN + match // (2 * MATCHES)


@compiled
def doubt(weights, kind):
    own = _own(kind)
    log_odds = weights[0, kind] if own == NONE else weights[0, kind] + weights[0, own]
    return 1 / (1 + math.exp(-log_odds))


@compiled
def collect(states, here, there, tails, found, first_token):
    """All evidence for a state, least specific first; returns how much.

    states: `[2, STATE]`, here and there; tails: `[2]` what follows the longest match of each, NONE where nothing does
    found:  `[MOST]` of EVIDENCE, to be filled; first_token: whether the next token is the first of a draft
    """
    n = 0
    for k in range(ORDER + 1):
        n = _collect_context(states[THERE, k], there, THERE, k, found, n)
        n = _collect_context(states[HERE, k], here, HERE, k, found, n)
    first = THERE if states[THERE, LENGTH] <= states[HERE, LENGTH] else HERE
    n = _collect_match(states[first], here if first == HERE else there, first, tails[first], found, n)
    other = 1 - first
    n = _collect_match(states[other], here if other == HERE else there, other, tails[other], found, n)
    if first_token:
        for i in range(n):
            found[i].kind += AFTER_SURPRISE
    return n


@compiled
def _collect_context(context, ix, source, k, found, n):
    if context == NONE or ix.nodes[context].kids <= 0 or ix.nodes[context].total <= 0:
        return n
    node, one = ix.nodes[context], found[n]
    one.source, one.context, one.token = source, context, NONE
    one.kind = _context_kind(source, k, _size(node.total), _variety(node.kids, node.total))
    return n + 1


@compiled
def _collect_match(state, ix, source, token, found, n):
    length = state[LENGTH]
    if state[PLACE] == NONE or length < 1 or token == NONE:
        return n
    context = state[min(length, ORDER)]
    repeated = 1 if context != NONE and ix.nodes[context].kids >= 1 else 0
    one = found[n]
    one.source, one.context, one.token = source, NONE, token
    one.kind = _match_kind(source, _match(length), repeated)
    return n + 1


@compiled
def learn(found, n, token, here, there, weights):
    """The next token came: move every doubt by how much of the token's probability was due to less specific evidence."""
    gradients = np.empty(MOST)
    p = UNSEEN
    for i in range(n):
        trust = doubt(weights, found[i].kind)
        below = trust * p
        p = below + (1 - trust) * _share(found[i], token, here, there)
        gradients[i] = below / p - trust
    for i in range(n):
        kind = found[i].kind
        weights[1, kind] += 1
        weights[0, kind] += max(SMALLEST_STEP, 1 / (weights[1, kind] + FIRST_STEP)) * gradients[i]
        own = _own(kind)
        if own != NONE:
            weights[0, own] = OWN_FADE * weights[0, own] + OWN_STEP * gradients[i]


@compiled
def _share(one, token, here, there):
    if one.context == NONE:
        return 1.0 if one.token == token else 0.0
    ix = here if one.source == HERE else there
    node = child(ix, one.context, token)
    return 0.0 if node == NONE else ix.nodes[node].count / ix.nodes[one.context].total
