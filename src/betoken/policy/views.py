"""What is known of claims, and the claims of one sequence, by the addresses of their arrays (see `addresses`). Compiled."""

from typing import NamedTuple

import numpy as np
from numba import carray

from betoken.addresses import pointer
from betoken.compiled import compiled
from betoken.policy.mixing import (
    BEFORE,
    BINS,
    COLUMNS,
    CONSTELLATIONS,
    DEPTHS,
    MOST,
    OWN_DEPTHS,
    WEIGHED,
    Floats,
    Ints,
)
from betoken.policy.pays import ANSWER, LATELY, PRICES, SITUATIONS, VALUES, no_prices

# Numbers that may come before they are taken up, three a value.
SOME = 3 * 64
# Where a tree stands: the situation before anybody was asked and now (`pays`), how many nodes would be fed now; where tokens are drawn,
# whose scores take no account of the noise, as bits, and which noise that is (`noise.Draw`); what it adds, in tokens, and what the last answer was worth.
STOOD, WHERE, CHOSEN, DEAF, BASE, POSITION = range(6)
ADDED, WORTH = range(2)


class Known(NamedTuple):
    """Of all requests of one heat: a mixer, what scores have meant, constants for what came of the step before (`mixing`); answers
    (`pays`), sums of what was expected and came, what answers brought."""

    mixer: Floats
    meant: Floats
    after: Floats
    answers: Floats
    sums: Floats
    brought: Floats


class Mine(NamedTuple):
    """Of one sequence: the tree, its nodes by likelihood, where each was put, who was asked in which situation; a request's own constants, answers, sums, and what was brought;
    what each member's last answer seemed to be worth; what was emitted; what was picked: tokens, parents, members, values; where the
    tree stands, and its numbers."""

    ints: Ints
    floats: Floats
    order: Ints
    places: Ints
    turns: Ints
    own: Floats
    answers: Floats
    sums: Floats
    brought: Floats
    gains: Floats
    emitted: Ints
    tokens: Ints
    parents: Ints
    members: Ints
    values: Floats
    state: Ints
    numbers: Floats


class Wide(NamedTuple):
    """Of the widest draft of a batch, `[1 + N]`: tokens that the likeliest 0, 1, ... nodes of all rows gain, the same with those of later
    steps, weighted, and seconds of the pass; `[MOST]`: accepted nodes of each member."""

    gained: Floats
    brings: Floats
    seconds: Floats
    came: Floats


class Priced(NamedTuple):
    """Of the drafters of one policy: their prices, `[PRICES, members, ...]` (`pays.no_prices`), and of those the medians alone, flat; and
    numbers that came lately, flat."""

    values: Floats
    middles: Floats
    came: Floats


def unpriced(members: int) -> Priced:
    """Nobody has been asked yet; room for some numbers."""
    return Priced(no_prices(members), np.zeros(PRICES * members), np.empty(SOME))


# One sequence's `Known`, `Mine` and `Priced` one after the other, and where what more nodes take lies.
MINE = len(Known._fields)
PRICED = MINE + len(Mine._fields)
MORE = PRICED + len(Priced._fields)


@compiled
def known_at(places):
    """The `Known` whose arrays lie there."""
    return Known(
        carray(pointer(places[0, 0]), (CONSTELLATIONS + MOST, WEIGHED, 2), np.float64),
        carray(pointer(places[1, 0]), (MOST, BINS, 4), np.float64),
        carray(pointer(places[2, 0]), (BEFORE, MOST, DEPTHS, 2), np.float64),
        carray(pointer(places[3, 0]), (MOST, SITUATIONS, ANSWER), np.float64),
        carray(pointer(places[4, 0]), (2,), np.float64),
        carray(pointer(places[5, 0]), (MOST,), np.float64),
    )


@compiled
def mine_at(places):
    """The `Mine` whose arrays lie there."""
    room = places[2, 1]
    return Mine(
        carray(pointer(places[0, 0]), (room + 1, 6), np.int64),
        carray(pointer(places[1, 0]), (room + 1, COLUMNS), np.float64),
        carray(pointer(places[2, 0]), (room,), np.int64),
        carray(pointer(places[3, 0]), (room,), np.int64),
        carray(pointer(places[4, 0]), (MOST, 2), np.int64),
        carray(pointer(places[5, 0]), (MOST, OWN_DEPTHS + 1, 2), np.float64),
        carray(pointer(places[6, 0]), (MOST, SITUATIONS, ANSWER), np.float64),
        carray(pointer(places[7, 0]), (2,), np.float64),
        carray(pointer(places[8, 0]), (MOST,), np.float64),
        carray(pointer(places[9, 0]), (MOST,), np.float64),
        carray(pointer(places[10, 0]), (room + 1,), np.int64),
        carray(pointer(places[11, 0]), (room,), np.int64),
        carray(pointer(places[12, 0]), (room,), np.int64),
        carray(pointer(places[13, 0]), (room,), np.int64),
        carray(pointer(places[14, 0]), (room,), np.float64),
        carray(pointer(places[15, 0]), (POSITION + 1,), np.int64),
        carray(pointer(places[16, 0]), (WORTH + 1,), np.float64),
    )


@compiled
def wide_at(places):
    """The `Wide` whose arrays lie there."""
    return Wide(
        carray(pointer(places[0, 0]), (places[0, 1],), np.float64),
        carray(pointer(places[1, 0]), (places[0, 1],), np.float64),
        carray(pointer(places[2, 0]), (places[0, 1],), np.float64),
        carray(pointer(places[3, 0]), (MOST,), np.float64),
    )


@compiled
def priced_at(places):
    """The `Priced` whose arrays lie there."""
    members = places[1, 1] // PRICES
    return Priced(
        carray(pointer(places[0, 0]), (PRICES, members, VALUES + LATELY), np.float64),
        carray(pointer(places[1, 0]), (PRICES * members,), np.float64),
        carray(pointer(places[2, 0]), (places[2, 1],), np.float64),
    )
