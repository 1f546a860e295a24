"""What a target held likely after each token and each pair of tokens, and the trees that follow from it. Compiled.

Rows of successors are one array, a row's head beside its successors, so that a row is near in memory. `recycled` holds them. What a row
means is told in `proposers.recycling`.
"""

from heapq import heappop, heappush
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import carray

from betoken.addresses import pointer
from betoken.compiled import compiled

ROOT, UNSEEN = -1, -1
# The columns of a row: the pair it belongs to (of rows of pairs), its kind, what lesson it is of that has not been needed yet and what
# was likeliest before it, its successors from FIRST on, best first.
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
# The hit rate of the first rank before anything happened, how many trials that is worth, how slowly trials fade, the least score.
BELIEF, WEIGHT, FADE, FLOOR = 0.5, 8.0, 0.998, 1e-4
SPREAD = 40503  # odd, so that pairs fall on different rows
# A row begins with a line of the processor's cache, and is as long as whole lines: rows are met in no order, and each line is waited for.
LINE = 64
NUMBERS = LINE // 4

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
    """`[KINDS + LESSONS, k + 1]` for each kind of row: how often the target's token was of each rank, then how many trials that is of,
    before anything happened; then for each kind of lesson how many were of use, first, and how many there were, last. Numbers only, so
    that all namespaces may share them."""
    hits = [WEIGHT * BELIEF / (rank + 1) ** 2 for rank in range(k)]
    lesson = [LESSON_WEIGHT * LESSON_WORTH, *[0.0] * (k - 1), LESSON_WEIGHT]
    return np.array([[*hits, WEIGHT]] * KINDS + [lesson] * LESSONS)


@compiled
def width(k):
    """Of a row with so many successors."""
    return -(-(FIRST + k) // NUMBERS) * NUMBERS


@compiled
def _rows_at(at, k):
    return carray(pointer(at[0, 0]), (at[0, 1], width(k)), np.int32)


@compiled
def _rates_at(at, k):
    return carray(pointer(at[1, 0]), (KINDS + LESSONS, k + 1), np.float64)


@compiled
def learn_at(at, vocab_size, k, count):
    said = carray(pointer(at[2, 0]), (at[2, 1],), np.int32)
    learn(_rows_at(at, k), vocab_size, _rates_at(at, k), said[:count])


@compiled
def take_in_at(at, vocab_size, k, emitted, count, accepted, likeliest):
    """What was said stands at `at`: the text; the token before the root, the root and the nodes; their parents; who was accepted."""
    said = carray(pointer(at[2, 0]), (at[2, 1],), np.int32)
    rows, rates = _rows_at(at, k), _rates_at(at, k)
    nodes = emitted + 2 + count
    learn(rows, vocab_size, rates, said[:emitted])
    path = said[nodes + count : nodes + count + accepted]
    write(rows, vocab_size, rates, said[emitted:nodes], said[nodes : nodes + count], likeliest, path)


@compiled
def grow_at(at, into, vocab_size, k, before, root, depth, least):
    most = into[0, 1]
    return grow(
        _rows_at(at, k),
        vocab_size,
        _rates_at(at, k),
        carray(pointer(into[4, 0]), (most + 1,), NODE),
        before,
        root,
        depth,
        least,
        carray(pointer(into[0, 0]), (most,), np.int64),
        carray(pointer(into[1, 0]), (most,), np.int64),
        carray(pointer(into[2, 0]), (most,), np.float64),
        carray(pointer(into[3, 0]), (most,), np.float64),
    )


@compiled
def _pair_row(rows, vocab_size, before, token):
    """The place that a pair may have."""
    return vocab_size + (np.int64(before) * SPREAD + np.int64(token)) % (len(rows) - vocab_size)


@compiled
def _is_of(rows, row, before, token):
    return rows[row, BEFORE] == before and rows[row, TOKEN] == token


@compiled
def _check(vocab_size, token):
    """Compiled code writes wherever it is told to."""
    if token < 0 or token >= vocab_size:
        raise IndexError("a token is outside of the vocabulary")


@compiled
def _find(rows, vocab_size, before, token):
    """The row for a token that stands after another, the pair's own if there is one; and its kind."""
    if len(rows) > vocab_size:
        row = _pair_row(rows, vocab_size, before, token)
        if _is_of(rows, row, before, token):
            return row, np.int64(rows[row, KIND]) + STABLE + 1
    return np.int64(token), np.int64(rows[token, KIND])


@compiled
def read(rows, vocab_size, k, text, new):
    for place in range(len(text)):
        _check(vocab_size, text[place])
    for place in range(max(len(text) - new, 1), len(text)):
        _lead(rows, k, text[place - 1], text[place])
        if place > 1 and len(rows) > vocab_size:
            before, token = text[place - 2], text[place - 1]
            row = _pair_row(rows, vocab_size, before, token)
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


@compiled
def learn(rows, vocab_size, rates, text):
    for place in range(len(text)):
        _check(vocab_size, text[place])
    k = rates.shape[1] - 1
    for place in range(2, len(text)):
        row, kind = _find(rows, vocab_size, text[place - 2], text[place - 1])
        if rows[row, FIRST] == UNSEEN:
            continue
        found = 0.0
        for rank in range(k):
            hit = 1.0 if rows[row, FIRST + rank] == text[place] else 0.0
            rates[kind, rank] = rates[kind, rank] * FADE + hit
            found += hit
        rates[kind, k] = rates[kind, k] * FADE + 1.0
        if rows[row, LESSON] != NO_LESSON:
            rates[KINDS - 1 + rows[row, LESSON], 0] += found if text[place] != rows[row, WAS] else 0.0
            rows[row, LESSON] = NO_LESSON


@compiled
def _lesson(rows, vocab_size, row, kind):
    """What a forward pass would teach where so much is known."""
    if row >= vocab_size:
        return READ_PAIR if kind == STABLE + 1 else NO_LESSON
    if kind == READ:
        return NEW_TOKEN
    return NEW_PAIR if len(rows) > vocab_size else NO_LESSON


@compiled
def write(rows, vocab_size, rates, fed, parents, likeliest, path):
    """All kinds are found before any row is written: a token fed twice is compared with what was known before the step, and its
    last row stays.

    fed: the token before the root, the root, the nodes; path: those that were accepted, which are no lessons
    """
    count, k = len(likeliest), rates.shape[1] - 1
    befores, kinds, lessons = np.empty(count, np.int64), np.empty((count, 2), np.int64), np.empty((count, 2), np.int64)
    for i in range(count):
        befores[i] = fed[0] if i == 0 else fed[parents[i - 1] + 2]  # fed[1], the root, where the parent is ROOT
        before, token, first = befores[i], fed[i + 1], likeliest[i, 0]
        _check(vocab_size, before)
        _check(vocab_size, token)
        row, kind = _find(rows, vocab_size, before, token)
        lessons[i, 0], lessons[i, 1] = _lesson(rows, vocab_size, row, kind), rows[row, FIRST]
        kinds[i, 0] = _kind_after(rows, token, first)
        if len(rows) > vocab_size:
            row = _pair_row(rows, vocab_size, before, token)
            kinds[i, 1] = _kind_after(rows, row, first) if _is_of(rows, row, before, token) else 1
    lessons[0, 0] = NO_LESSON
    for node in path:
        if node < 0 or node + 1 >= count:
            raise IndexError("a node is outside of the draft")
        lessons[node + 1, 0] = NO_LESSON
    for i in range(count):
        before, token, lesson = befores[i], fed[i + 1], lessons[i, 0]
        _put(rows, vocab_size, token, kinds[i, 0], likeliest, i)
        row = np.int64(token)
        if len(rows) > vocab_size:
            row = _pair_row(rows, vocab_size, before, token)
            if not _is_of(rows, row, before, token):
                rows[row, BEFORE], rows[row, TOKEN], rows[row, LESSON] = before, token, NO_LESSON
            _put(rows, vocab_size, row, kinds[i, 1], likeliest, i)
        if lesson != NO_LESSON:
            about = rates[KINDS - 1 + lesson]
            about[0], about[k] = about[0] * LESSON_FADE, about[k] * LESSON_FADE + 1.0
            rows[row, LESSON], rows[row, WAS] = lesson, lessons[i, 1]


@compiled
def _kind_after(rows, row, first):
    """The kind of a row that a forward pass is about to overwrite."""
    return min(np.int64(rows[row, KIND]) + 1, STABLE) if rows[row, FIRST] == first else 1


@compiled
def _put(rows, vocab_size, row, kind, likeliest, i):
    """A model's output may be wider than its vocabulary; what has no row of its own is left out."""
    rows[row, KIND] = kind
    for rank in range(likeliest.shape[1]):
        token = likeliest[i, rank]
        rows[row, FIRST + rank] = token if token < vocab_size else UNSEEN


@compiled
def grow(rows, vocab_size, rates, tree, before, root, room, least, tokens, parents, chances, lessons):
    """Fill the tree: the next node is always the one likeliest to be on the accepted path. Returns how many nodes."""
    _check(vocab_size, before)
    _check(vocab_size, root)
    k, most, size, pushed = rates.shape[1] - 1, len(tree) - 1, 0, 0
    ranks, scores = np.full((KINDS, k), UNSEEN, np.int64), np.empty((KINDS, k))
    queue = [
        (0.0, 0, 0, 0) for _ in range(0)
    ]  # (-value, how many were pushed before, parent, place among its children)
    tree[ROOT].token, tree[ROOT].value, tree[ROOT].depth = root, 1.0, 0
    if room > 0:
        _open(rows, vocab_size, rates, ranks, scores, tree, ROOT, before)
        pushed = _offer(rows, ranks, scores, tree, queue, pushed, ROOT, 0)
    while size < most and len(queue) > 0 and -queue[0][0] >= least:
        value, _, parent, place = heappop(queue)
        family, node = tree[parent], tree[size]
        rank = ranks[family.kind, place]
        node.token, node.parent = rows[family.row, FIRST + rank], parent
        node.score, node.value, node.depth = scores[family.kind, place], -value, family.depth + 1
        pushed = _offer(rows, ranks, scores, tree, queue, pushed, parent, place + 1)
        lessons[size] = 0.0
        if node.depth < room:
            _open(rows, vocab_size, rates, ranks, scores, tree, size, family.token)
            pushed = _offer(rows, ranks, scores, tree, queue, pushed, size, 0)
            lesson = _lesson(rows, vocab_size, node.row, node.kind)
            if lesson != NO_LESSON:
                about = rates[KINDS - 1 + lesson]
                lessons[size] = about[0] / about[k]
        tokens[size], parents[size], chances[size] = node.token, parent, node.score
        size += 1
    return size


@compiled
def _open(rows, vocab_size, rates, ranks, scores, tree, node, before):
    """Let a node have children."""
    row, kind = _find(rows, vocab_size, before, tree[node].token)
    tree[node].row, tree[node].kind = row, kind
    if ranks[kind, 0] == UNSEEN:
        _rank(rates, ranks, scores, kind)


@compiled
def _rank(rates, ranks, scores, kind):
    """Sort the ranks of a kind of row by how often each was right, best first, equals as they are."""
    k = rates.shape[1] - 1
    for rank in range(k):
        score, place = max(rates[kind, rank] / rates[kind, k], FLOOR), rank
        while place > 0 and scores[kind, place - 1] < score:
            scores[kind, place], ranks[kind, place] = scores[kind, place - 1], ranks[kind, place - 1]
            place -= 1
        scores[kind, place], ranks[kind, place] = score, rank


@compiled
def _offer(rows, ranks, scores, tree, queue, pushed, parent, first):
    """Let the next sibling compete. A row may end early: what was read has as many successors as the text showed."""
    family = tree[parent]
    for place in range(first, ranks.shape[1]):
        if rows[family.row, FIRST + ranks[family.kind, place]] != UNSEEN:
            heappush(queue, (-family.value * scores[family.kind, place], pushed, parent, place))
            return pushed + 1
    return pushed
