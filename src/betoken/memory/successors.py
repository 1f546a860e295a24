"""What a target held likely after each token and each pair of tokens, and the trees that follow from it. Compiled.

Rows of successors are one array, a row's head beside its successors, so that a row is near in memory. They stand in the order in which
they were needed first, so that those of one text are near each other, and memory that nobody needs is never touched. `recycled` holds
them. What a row means is told in `proposers.recycling`.
"""

from heapq import heappop, heappush
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import carray

from betoken.addresses import pointer
from betoken.compiled import compiled
from betoken.memory.chances import ODDS, PLACES, SHARES, lag, mark

ROOT, UNSEEN = -1, -1
# The columns of a row: the pair it belongs to (of rows of pairs), its kind, what lesson it is of that has not been needed yet and what
# was likeliest before it, its successors from FIRST on, best first; then, a byte each, how far behind the first one they were (`chances.lag`).
BEFORE, TOKEN, KIND, LESSON, WAS, FIRST = range(6)
# What kind of row it is tells how far to trust it. READ: known from text alone. From 1: seen in a forward pass; to STABLE: one more
# for each time its likeliest successor was the same again. Rows of pairs are counted apart from rows of tokens.
READ, STABLE = 0, 4
KINDS = 2 * (STABLE + 1)
# A node that was fed and not accepted is a lesson where it told a row more than was known: of a token that had only been read, of a pair
# where only its second token had been seen, of a pair that had only been read. It was of use where the text comes to that row later, and
# finds its next token there, which is not what was likeliest before. How often that is of each kind of lesson is counted, below what is
# known of kinds of rows.
NO_LESSON, NEW_TOKEN, NEW_PAIR, READ_PAIR = range(4)
LESSONS = 3
# How slowly lessons fade, what a lesson is worth before anything happened, and how many lessons that counts for.
LESSON_FADE, LESSON_WORTH, LESSON_WEIGHT = 0.999, 0.05, 50.0
# The hit rate of the first place before anything happened, how many trials that is worth, and how many a share is; how slowly trials fade,
# the least score.
BELIEF, WEIGHT, SHARE_WEIGHT, FADE, FLOOR = 0.5, 8.0, 4.0, 0.998, 1e-4
# Rates are counted apart where tokens are drawn and where the likeliest is taken.
GREEDY, DRAWN = 0, 1
SPREAD = 40503  # odd, so that pairs fall on different rows
# A row begins with a line of the processor's cache, and is as long as whole lines: rows are met in no order, and each line is waited for.
LINE = 64
NUMBERS = LINE // 4
# The first row is nobody's: whoever is not known finds it. Its head says how many places there are for pairs, and how many rows are taken.
# Behind the last row stands, for each token and then for each place of a pair, which row it has; 0: none.
NOBODY, PAIRS, TAKEN = 0, BEFORE, TOKEN

# A node that is drafted, and the row its children are from.
NODE = np.dtype(
    [
        ("token", np.int64),
        ("parent", np.int64),
        ("score", np.float64),
        ("value", np.float64),  # the product of scores down to it
        ("depth", np.int64),
        ("row", np.int64),
        ("kind", np.int64),
    ]
)


def untaught(k: int) -> npt.NDArray[Any]:
    """`[2, KINDS + LESSONS, marks, (hits, trials)]` for each kind of row: how often successors with each mark were the target's token,
    before anything happened; then for each kind of lesson, first and in the first half only, how many were of use, and how many there
    were. Numbers only, so that all namespaces may share them."""
    rates = np.zeros((2, KINDS + LESSONS, 2 * SHARES + k, 2))
    shares, places = rates[:, :KINDS, : 2 * SHARES], rates[:, :KINDS, 2 * SHARES :]
    shares[..., 0] = SHARE_WEIGHT * np.tile(1 / (1 + np.exp(ODDS - np.arange(SHARES))), 2)
    places[..., 0] = WEIGHT * BELIEF / np.arange(1, k + 1) ** 2
    shares[..., 1], places[..., 1] = SHARE_WEIGHT, WEIGHT
    rates[:, KINDS:, 0] = LESSON_WEIGHT * LESSON_WORTH, LESSON_WEIGHT
    return rates


@compiled
def width(k):
    """Of a row with so many successors."""
    return -(-(4 * (FIRST + k) + k) // LINE) * NUMBERS


@compiled
def _rows_at(at, k):
    return carray(pointer(at[0, 0]), (at[0, 1], width(k)), np.int32)


@compiled
def _rates_at(at, k):
    return carray(pointer(at[1, 0]), (2, KINDS + LESSONS, 2 * SHARES + k, 2), np.float64)


@compiled
def learn_at(at, vocab_size, k, count, temperature, base, position):
    said = carray(pointer(at[2, 0]), (at[2, 1],), np.int32)
    learn(_rows_at(at, k), vocab_size, k, _rates_at(at, k), said[:count], temperature, base, position)


@compiled
def take_in_at(at, vocab_size, k, emitted, count, accepted, likeliest, logits, temperature, base, position):
    """What was said stands at `at`: the text; the token before the root, the root and the nodes; their parents; who was accepted."""
    said = carray(pointer(at[2, 0]), (at[2, 1],), np.int32)
    rows, rates = _rows_at(at, k), _rates_at(at, k)
    nodes = emitted + 2 + count
    learn(rows, vocab_size, k, rates, said[:emitted], temperature, base, position)
    path = said[nodes + count : nodes + count + accepted]
    write(rows, vocab_size, rates, said[emitted:nodes], said[nodes : nodes + count], likeliest, logits, path)


@compiled
def grow_at(at, into, vocab_size, k, before, root, depth, least, temperature, base, position):
    most = into[0, 1]
    return grow(
        _rows_at(at, k),
        vocab_size,
        k,
        _rates_at(at, k),
        carray(pointer(into[4, 0]), (most + 1,), NODE),
        before,
        root,
        depth,
        least,
        temperature,
        base,
        position,
        carray(pointer(into[0, 0]), (most,), np.int64),
        carray(pointer(into[1, 0]), (most,), np.int64),
        carray(pointer(into[2, 0]), (most,), np.float64),
        carray(pointer(into[3, 0]), (most,), np.float64),
    )


@compiled
def _place(rows, vocab_size, before, token):
    """Of a pair, among the places of all tokens and pairs."""
    return vocab_size + (np.int64(before) * SPREAD + np.int64(token)) % np.int64(rows[NOBODY, PAIRS])


@compiled
def _row_of(rows, vocab_size, place):
    """NOBODY where none was needed so far."""
    wide = rows.shape[1]
    return np.int64(rows[1 + vocab_size + rows[NOBODY, PAIRS] + place // wide, place % wide])


@compiled
def _taken(rows, vocab_size, place):
    """The same; where there was none, the next one from now on."""
    row = _row_of(rows, vocab_size, place)
    if row == NOBODY:
        wide = rows.shape[1]
        row = np.int64(rows[NOBODY, TAKEN]) + 1
        rows[NOBODY, TAKEN] = rows[1 + vocab_size + rows[NOBODY, PAIRS] + place // wide, place % wide] = row
        rows[row] = rows[NOBODY]
        rows[row, BEFORE], rows[row, TOKEN] = UNSEEN, UNSEEN
    return row


@compiled
def _is_of(rows, row, before, token):
    return row != NOBODY and rows[row, BEFORE] == before and rows[row, TOKEN] == token


@compiled
def _check(vocab_size, token):
    """Compiled code writes wherever it is told to."""
    if token < 0 or token >= vocab_size:
        raise IndexError("a token is outside of the vocabulary")


@compiled
def _find(rows, vocab_size, before, token):
    """The row for a token that stands after another, the pair's own if there is one; and its kind."""
    if rows[NOBODY, PAIRS] > 0:
        row = _row_of(rows, vocab_size, _place(rows, vocab_size, before, token))
        if _is_of(rows, row, before, token):
            return row, np.int64(rows[row, KIND]) + STABLE + 1
    row = _row_of(rows, vocab_size, np.int64(token))
    return row, np.int64(rows[row, KIND])


@compiled
def read(rows, vocab_size, k, text, new):
    for place in range(len(text)):
        _check(vocab_size, text[place])
    for place in range(max(len(text) - new, 1), len(text)):
        _lead(rows, k, _taken(rows, vocab_size, np.int64(text[place - 1])), text[place])
        if place > 1 and rows[NOBODY, PAIRS] > 0:
            before, token = text[place - 2], text[place - 1]
            row = _taken(rows, vocab_size, _place(rows, vocab_size, before, token))
            if not _is_of(rows, row, before, token):
                rows[row, BEFORE], rows[row, TOKEN], rows[row, LESSON] = before, token, NO_LESSON
                rows[row, FIRST:] = UNSEEN
            _lead(rows, k, row, text[place])


@compiled
def _lead(rows, k, row, token):
    """Make a token the first successor; the others move down over its old place, or over the last."""
    if rows[row, FIRST] == token:
        return
    place = FIRST
    while place < FIRST + k - 1 and rows[row, place] != token:
        place += 1
    for i in range(place, FIRST, -1):
        rows[row, i] = rows[row, i - 1]
    rows[row, FIRST], rows[row, KIND] = token, READ
    lags = _lags(rows, row, k)
    for rank in range(k):
        lags[rank] = PLACES + rank


@compiled
def _lags(rows, row, k):
    return rows[row].view(np.uint8)[4 * (FIRST + k) : 4 * (FIRST + k) + k]


@compiled
def learn(rows, vocab_size, k, rates, text, temperature, base, position):
    """position: of the third token of the text, the first one that was said."""
    for place in range(len(text)):
        _check(vocab_size, text[place])
    marks, heat = np.empty(k, np.int64), DRAWN if temperature > 0.0 else GREEDY
    for place in range(2, len(text)):
        row, kind = _find(rows, vocab_size, text[place - 2], text[place - 1])
        if rows[row, FIRST] == UNSEEN:
            continue
        tokens, found = rows[row, FIRST : FIRST + k], 0.0
        mark(tokens, _lags(rows, row, k), temperature, base, position + place - 2, UNSEEN, marks)
        for rank in range(k):
            if marks[rank] >= 0:
                hit, rate = 1.0 if tokens[rank] == text[place] else 0.0, rates[heat, kind, marks[rank]]
                rate[0], rate[1] = rate[0] * FADE + hit, rate[1] * FADE + 1.0
                found += hit
        if rows[row, LESSON] != NO_LESSON:
            rates[0, KINDS - 1 + rows[row, LESSON], 0, 0] += found if text[place] != rows[row, WAS] else 0.0
            rows[row, LESSON] = NO_LESSON


@compiled
def _lesson(rows, kind):
    """What a forward pass would teach where so much is known."""
    if kind > STABLE:
        return READ_PAIR if kind == STABLE + 1 else NO_LESSON
    if kind == READ:
        return NEW_TOKEN
    return NEW_PAIR if rows[NOBODY, PAIRS] > 0 else NO_LESSON


@compiled
def write(rows, vocab_size, rates, fed, parents, likeliest, logits, path):
    """All kinds are found before any row is written: a token fed twice is compared with what was known before the step, and its
    last row stays.

    fed: the token before the root, the root, the nodes; path: those that were accepted, which are no lessons; logits: of the likeliest, or
    none
    """
    count = len(likeliest)
    befores, kinds, lessons = np.empty(count, np.int64), np.empty((count, 2), np.int64), np.empty((count, 2), np.int64)
    for i in range(count):
        befores[i] = fed[0] if i == 0 else fed[parents[i - 1] + 2]  # fed[1], the root, where the parent is ROOT
        before, token, first = befores[i], fed[i + 1], likeliest[i, 0]
        _check(vocab_size, before)
        _check(vocab_size, token)
        row, kind = _find(rows, vocab_size, before, token)
        lessons[i, 0], lessons[i, 1] = _lesson(rows, kind), rows[row, FIRST]
        kinds[i, 0] = _kind_after(rows, _row_of(rows, vocab_size, np.int64(token)), first)
        if rows[NOBODY, PAIRS] > 0:
            row = _row_of(rows, vocab_size, _place(rows, vocab_size, before, token))
            kinds[i, 1] = _kind_after(rows, row, first) if _is_of(rows, row, before, token) else 1
    lessons[0, 0] = NO_LESSON
    for node in path:
        if node < 0 or node + 1 >= count:
            raise IndexError("a node is outside of the draft")
        lessons[node + 1, 0] = NO_LESSON
    for i in range(count):
        before, token, lesson = befores[i], fed[i + 1], lessons[i, 0]
        row = _taken(rows, vocab_size, np.int64(token))
        _put(rows, vocab_size, row, kinds[i, 0], likeliest, logits, i)
        if rows[NOBODY, PAIRS] > 0:
            row = _taken(rows, vocab_size, _place(rows, vocab_size, before, token))
            if not _is_of(rows, row, before, token):
                rows[row, BEFORE], rows[row, TOKEN], rows[row, LESSON] = before, token, NO_LESSON
            _put(rows, vocab_size, row, kinds[i, 1], likeliest, logits, i)
        if lesson != NO_LESSON:
            about = rates[0, KINDS - 1 + lesson, 0]
            about[0], about[1] = about[0] * LESSON_FADE, about[1] * LESSON_FADE + 1.0
            rows[row, LESSON], rows[row, WAS] = lesson, lessons[i, 1]


@compiled
def _kind_after(rows, row, first):
    """The kind of a row that a forward pass is about to overwrite."""
    return min(np.int64(rows[row, KIND]) + 1, STABLE) if rows[row, FIRST] == first else 1


@compiled
def _put(rows, vocab_size, row, kind, likeliest, logits, i):
    """A model's output may be wider than its vocabulary; what has no row of its own is left out."""
    k = likeliest.shape[1]
    lags, known = _lags(rows, row, k), len(logits) > 0
    rows[row, KIND] = kind
    for rank in range(k):
        token = likeliest[i, rank]
        rows[row, FIRST + rank] = token if token < vocab_size else UNSEEN
        lags[rank] = lag(logits[i, 0] - logits[i, rank]) if known else PLACES + rank


@compiled
def grow(
    rows,
    vocab_size,
    k,
    rates,
    tree,
    before,
    root,
    room,
    least,
    temperature,
    base,
    position,
    tokens,
    parents,
    chances,
    lessons,
):
    """Fill the tree: the next node is always the one likeliest to be on the accepted path. Returns how many nodes."""
    _check(vocab_size, before)
    _check(vocab_size, root)
    most, size, pushed, draw = len(tree) - 1, 0, 0, (temperature, base, position)
    # Of each node's successors, best first; the root's are last.
    ranks, scores, marks = np.empty((most + 1, k), np.int64), np.empty((most + 1, k)), np.empty(k, np.int64)
    queue = [
        (0.0, 0, 0, 0) for _ in range(0)
    ]  # (-value, how many were pushed before, parent, place among its children)
    tree[ROOT].token, tree[ROOT].value, tree[ROOT].depth = root, 1.0, 0
    if room > 0:
        _open(rows, vocab_size, rates, ranks, scores, marks, tree, ROOT, before, draw)
        pushed = _offer(ranks, scores, tree, queue, pushed, ROOT, 0)
    while size < most and len(queue) > 0 and -queue[0][0] >= least:
        value, _, parent, place = heappop(queue)
        family, node = tree[parent], tree[size]
        node.token, node.parent = rows[family.row, FIRST + ranks[parent, place]], parent
        node.score, node.value, node.depth = scores[parent, place], -value, family.depth + 1
        pushed = _offer(ranks, scores, tree, queue, pushed, parent, place + 1)
        lessons[size] = 0.0
        if node.depth < room:
            _open(rows, vocab_size, rates, ranks, scores, marks, tree, size, family.token, draw)
            pushed = _offer(ranks, scores, tree, queue, pushed, size, 0)
            lesson = _lesson(rows, node.kind)
            if lesson != NO_LESSON:
                about = rates[0, KINDS - 1 + lesson, 0]
                lessons[size] = about[0] / about[1]
        tokens[size], parents[size], chances[size] = node.token, parent, node.score
        size += 1
    return size


@compiled
def _open(rows, vocab_size, rates, ranks, scores, marks, tree, node, before, draw):
    """Let a node have children."""
    (row, kind), k, (temperature, base, position) = _find(rows, vocab_size, before, tree[node].token), len(marks), draw
    tree[node].row, tree[node].kind = row, kind
    tokens, position = rows[row, FIRST : FIRST + k], position + tree[node].depth
    mark(tokens, _lags(rows, row, k), temperature, base, position, UNSEEN, marks)
    _rank(marks, rates[DRAWN if temperature > 0.0 else GREEDY, kind], ranks[node], scores[node])


@compiled
def _rank(marks, rates, ranks, scores):
    """Sort a row's successors by how often such ones were right, best first, equals as they are. A row may end early: what was read has as
    many as the text showed; behind them stands UNSEEN."""
    count = 0
    for rank in range(len(marks)):
        if marks[rank] < 0:
            continue
        rate, place = rates[marks[rank]], count
        score, count = max(rate[0] / rate[1], FLOOR), count + 1
        while place > 0 and scores[place - 1] < score:
            scores[place], ranks[place] = scores[place - 1], ranks[place - 1]
            place -= 1
        scores[place], ranks[place] = score, rank
    if count < len(marks):
        ranks[count] = UNSEEN


@compiled
def _offer(ranks, scores, tree, queue, pushed, parent, place):
    """Let the next sibling compete."""
    if place == ranks.shape[1] or ranks[parent, place] == UNSEEN:
        return pushed
    heappush(queue, (-tree[parent].value * scores[parent, place], pushed, parent, place))
    return pushed + 1
