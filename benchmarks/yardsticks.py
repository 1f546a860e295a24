"""Two reference n-gram drafters ("yardsticks") replayed over recorded token traces.

Both are interpolated absolute-discounting n-gram models over orders 0 to 8 that grow a draft tree best-first.
With c = c_context + 0.25 * c_memory, and the sums running over the successors of h:

    p_k(w|h) = (c(hw) - D_k * min(c(hw), 1)) / c(h) + D_k * distinct(h) / c(h) * p_{k-1}(w|h')
    c(h) = sum of c(hw),   distinct(h) = sum of min(c(hw), 1),   p_{-1} = 0

so a count below one, seen only in memory, gives up the share D_k of itself and the weights always add up to one.
Yardstick A discounts 0.85 at every order (depth at most 16), B trusts long matches (depth at most 32).

Usage: python benchmarks/yardsticks.py FOLDER_OF_TRACES [--trace NAME] [--json]
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

ORDERS = 8  # longest context, in tokens
TOP = 12  # successors kept for each node of the draft tree
SHORTLIST = 24  # leading successors of a trie node that are kept sorted and proposed as candidates
CONTEXT_WEIGHT = 1.0
MEMORY_WEIGHT = 0.25


class Yardstick(NamedTuple):
    """A reference drafter: one discount an order, and the greatest depth of its draft tree."""

    discounts: tuple[float, ...]
    max_depth: int


class Row(NamedTuple):
    """One setting to measure, with the published mean tokens per step where there is one."""

    trace: str
    nodes: int
    warm: bool
    published: tuple[float | None, float | None]


YARDSTICKS = {
    "A": Yardstick((0.85,) * (ORDERS + 1), 16),
    "B": Yardstick((0.9, 0.9, 0.8, 0.6, 0.4, 0.3, 0.2, 0.2, 0.2), 32),
}
ROWS = (
    Row("vicuna-7b.specbench", 40, False, (2.27, 2.25)),
    Row("vicuna-7b.specbench", 40, True, (2.47, 2.34)),
    Row("qwen3-32b.mtbench", 16, False, (1.65, 1.62)),
    Row("qwen3-32b.mtbench", 16, True, (1.76, 1.69)),
    Row("qwen3-32b.code-edit", 40, False, (5.58, 6.69)),
    Row("qwen3-32b.code-edit", 40, True, (6.24, 6.98)),
    Row("rollouts.prob0019_s1", 40, True, (3.13, 2.85)),
    Row("rollouts.prob0019_s2", 40, True, (None, None)),
    Row("tau-airline", 40, True, (3.48, None)),
    Row("swe-agent", 40, False, (None, None)),
    Row("swe-agent", 40, True, (None, None)),
)


class Trie(NamedTuple):
    """A forward trie of n-grams in flat arrays; node 0 is the empty n-gram."""

    size: Array  # (1,) nodes in use
    table: Array  # open addressing: (parent, token) -> node, -1 where free
    parent: Array
    token: Array
    first: Array  # first successor; the first SHORTLIST successors are sorted by count, latest first among equals
    next: Array
    previous: Array
    successors: Array  # how many
    count: Array
    total: Array  # sum of the successors' counts: c(h)
    distinct: Array  # sum of min(count, 1) over the successors


class Tree(NamedTuple):
    """A draft tree with its scratch space; row 0 is the position drafted from."""

    states: Array  # trie nodes of the suffixes of length 0..ORDERS, -1 where unseen
    tokens: Array  # (node, TOP) successors, most probable first
    probabilities: Array  # (node, TOP)
    found: Array  # successors filled in, -1 before the node is expanded
    used: Array  # successors already added to the tree
    value: Array  # product of probabilities down to the node
    depth: Array
    true: Array  # whether the node's path is what really follows
    slot: Array  # vocabulary -> candidate index, -1 where not a candidate
    candidates: Array
    scores: Array


class Conversation(NamedTuple):
    """All tokens of a recorded conversation, and where its segments lie."""

    tokens: Array
    bounds: Array  # segment i is tokens[bounds[i] : bounds[i + 1]]
    output: Array  # whether segment i was generated


def new_trie(capacity: int) -> Trie:
    """An empty trie with room for `capacity` nodes."""
    links = [np.full(capacity, -1, np.int32) for _ in range(5)]
    counts = [np.zeros(capacity, np.float32) for _ in range(3)]
    table = np.full(1 << (2 * capacity).bit_length(), -1, np.int32)
    return Trie(np.ones(1, np.int64), table, *links, np.zeros(capacity, np.int32), *counts)


def new_tree(nodes: int, vocabulary: int) -> Tree:
    """Space for a draft tree of `nodes` tokens below its root."""
    rows, most = nodes + 1, (ORDERS + 1) * SHORTLIST
    return Tree(
        states=np.full((rows, ORDERS + 1), -1, np.int32),
        tokens=np.zeros((rows, TOP), np.int32),
        probabilities=np.zeros((rows, TOP)),
        found=np.zeros(rows, np.int32),
        used=np.zeros(rows, np.int32),
        value=np.zeros(rows),
        depth=np.zeros(rows, np.int32),
        true=np.zeros(rows, np.bool_),
        slot=np.full(vocabulary, -1, np.int32),
        candidates=np.zeros(most, np.int32),
        scores=np.zeros(most),
    )


def copy_trie(source: Trie, target: Trie) -> None:
    """Make `target` equal to `source`, clearing the nodes that only `target` had."""
    kept, dirty = int(source.size[0]), int(target.size[0])
    target.size[:] = source.size
    target.table[:] = source.table
    for old, new in zip(source[2:], target[2:], strict=True):
        end = max(kept, dirty)
        new[:end] = old[:end]


@numba.njit(cache=True)
def find_slot(trie: Trie, node: int, token: int) -> int:
    """The table slot that holds, or would hold, the successor `token` of `node`."""
    mask = len(trie.table) - 1
    key = np.uint64(node) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(token) * np.uint64(0xC2B2AE3D27D4EB4F)
    key = (key ^ (key >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    at = np.int64(key >> np.uint64(33)) & mask
    while True:
        found = trie.table[at]
        if found < 0 or (trie.parent[found] == node and trie.token[found] == token):
            return at
        at = (at + 1) & mask


@numba.njit(cache=True)
def place(trie: Trie, node: int) -> None:
    """Move `node` to its place among its siblings, walking the sorted head of the list only."""
    parent, before, after = trie.parent[node], trie.previous[node], trie.next[node]
    if before >= 0:
        trie.next[before] = after
    elif trie.first[parent] == node:
        trie.first[parent] = after
    if after >= 0:
        trie.previous[after] = before
    before, after = -1, trie.first[parent]
    for _ in range(SHORTLIST):
        if after < 0 or trie.count[after] <= trie.count[node]:
            break
        before, after = after, trie.next[after]
    trie.previous[node], trie.next[node] = before, after
    if before >= 0:
        trie.next[before] = node
    else:
        trie.first[parent] = node
    if after >= 0:
        trie.previous[after] = node


@numba.njit(cache=True)
def count_successor(trie: Trie, node: int, token: int, weight: float) -> int:
    """Add `weight` to the count of `token` after `node`; returns the successor's node."""
    at = find_slot(trie, node, token)
    new = trie.table[at]
    if new < 0:
        new = trie.size[0]
        trie.size[0] += 1
        trie.table[at], trie.parent[new], trie.token[new] = new, node, token
        trie.successors[node] += 1
    trie.distinct[node] += min(trie.count[new] + weight, 1.0) - min(trie.count[new], 1.0)
    trie.count[new] += weight
    trie.total[node] += weight
    place(trie, new)
    return new


@numba.njit(cache=True)
def push(trie: Trie, state: Array, token: int, weight: float) -> None:
    """Count `token` after every suffix in `state`, and advance `state` past it."""
    for order in range(ORDERS, -1, -1):
        if state[order] >= 0:
            new = count_successor(trie, state[order], token, weight)
            if order < ORDERS:
                state[order + 1] = new


@numba.njit(cache=True)
def start_state() -> Array:
    """The suffixes of an empty text: only the empty one."""
    state = np.full(ORDERS + 1, -1, np.int32)
    state[0] = 0
    return state


@numba.njit(cache=True)
def remember(trie: Trie, tokens: Array, weight: float) -> None:
    """Count all n-grams of a finished text."""
    state = start_state()
    for token in tokens:
        push(trie, state, token, weight)


@numba.njit(cache=True)
def gather(trie: Trie, tree: Tree, state: Array) -> int:
    """Collect the leading successors of all suffixes as candidates; returns their number."""
    number = 0
    for order in range(ORDERS, -1, -1):
        if state[order] < 0:
            continue
        child = trie.first[state[order]]
        for _ in range(SHORTLIST):
            if child < 0:
                break
            token = trie.token[child]
            if tree.slot[token] < 0:
                tree.slot[token] = number
                tree.candidates[number] = token
                number += 1
            child = trie.next[child]
    return number


@numba.njit(cache=True)
def score(trie: Trie, tree: Tree, state: Array, number: int, discounts: Array) -> None:
    """Interpolate the candidates' probabilities from order 0 upwards, into `tree.scores`."""
    scores, candidates = tree.scores, tree.candidates
    scores[:number] = 0.0
    for order in range(ORDERS + 1):
        node, cut = state[order], discounts[order]
        if node < 0 or trie.total[node] <= 0:  # the end of the text, not seen before: no longer suffix was either
            break
        total = trie.total[node]
        scores[:number] *= cut * trie.distinct[node] / total
        if trie.successors[node] <= SHORTLIST:  # all of them are candidates
            child = trie.first[node]
            while child >= 0:
                count = trie.count[child]
                scores[tree.slot[trie.token[child]]] += (count - cut * min(count, 1.0)) / total
                child = trie.next[child]
        else:
            for i in range(number):
                child = trie.table[find_slot(trie, node, candidates[i])]
                if child >= 0:
                    count = trie.count[child]
                    scores[i] += (count - cut * min(count, 1.0)) / total


@numba.njit(cache=True)
def expand(trie: Trie, tree: Tree, row: int, discounts: Array) -> None:
    """Fill in the TOP most probable successors of a draft node, most probable first."""
    number = gather(trie, tree, tree.states[row])
    score(trie, tree, tree.states[row], number, discounts)
    tokens, probabilities, found = tree.tokens[row], tree.probabilities[row], 0
    for i in range(number):
        tree.slot[tree.candidates[i]] = -1
        if found == TOP and tree.scores[i] <= probabilities[TOP - 1]:
            continue
        at = min(found, TOP - 1)
        while at > 0 and probabilities[at - 1] < tree.scores[i]:
            probabilities[at], tokens[at] = probabilities[at - 1], tokens[at - 1]
            at -= 1
        probabilities[at], tokens[at] = tree.scores[i], tree.candidates[i]
        found = min(found + 1, TOP)
    tree.found[row] = found


@numba.njit(cache=True)
def add_child(trie: Trie, tree: Tree, row: int, new: int, actual: Array) -> None:
    """Add the next successor of draft node `row` as draft node `new`."""
    at = tree.used[row]
    tree.used[row] += 1
    token, depth = tree.tokens[row, at], tree.depth[row]
    tree.value[new] = tree.value[row] * tree.probabilities[row, at]
    tree.depth[new] = depth + 1
    tree.true[new] = tree.true[row] and depth < len(actual) and actual[depth] == token
    tree.states[new, 0] = 0
    for order in range(ORDERS):
        node = tree.states[row, order]
        tree.states[new, order + 1] = trie.table[find_slot(trie, node, token)] if node >= 0 else -1


@numba.njit(cache=True)
def promise(tree: Tree, row: int, max_depth: int) -> float:
    """The value of a node's best child not yet added (at most its own while unexpanded), -1 if it has none."""
    if tree.found[row] < 0:
        return tree.value[row] if tree.depth[row] < max_depth else -1.0
    at = tree.used[row]
    return tree.value[row] * tree.probabilities[row, at] if at < tree.found[row] else -1.0


@numba.njit(cache=True)
def draft(trie: Trie, tree: Tree, state: Array, actual: Array, discounts: Array, max_depth: int) -> int:
    """Grow a tree best-first until the budget is spent; returns how many tokens of `actual` it holds."""
    rows, accepted, size = len(tree.found), 0, 1
    heads = np.empty(rows)
    tree.found[:], tree.used[:] = -1, 0
    tree.states[0], tree.value[0], tree.depth[0], tree.true[0] = state, 1.0, 0, True
    heads[0] = promise(tree, 0, max_depth)
    while size < rows:
        best = int(np.argmax(heads[:size]))
        if heads[best] < 0:
            break
        if tree.found[best] < 0:
            expand(trie, tree, best, discounts)
        else:
            add_child(trie, tree, best, size, actual)
            if tree.true[size]:
                accepted = max(accepted, tree.depth[size])
            heads[size] = promise(tree, size, max_depth)
            size += 1
        heads[best] = promise(tree, best, max_depth)
    return accepted


@numba.njit(cache=True)
def replay(trie: Trie, tree: Tree, talk: Conversation, discounts: Array, max_depth: int) -> tuple[int, int]:
    """Draft through a conversation; returns tokens after the first of each output, and steps."""
    state, tokens, steps = start_state(), 0, 0
    for segment in range(len(talk.output)):
        begin, end = talk.bounds[segment], talk.bounds[segment + 1]
        at = min(begin + 1, end) if talk.output[segment] else end  # what is given rather than drafted
        for token in talk.tokens[begin:at]:
            push(trie, state, token, CONTEXT_WEIGHT)
        tokens += end - at
        while at < end:
            accepted = draft(trie, tree, state, talk.tokens[at:end], discounts, max_depth)
            step_end = min(at + accepted + 1, end)
            for token in talk.tokens[at:step_end]:
                push(trie, state, token, CONTEXT_WEIGHT)
            at = step_end
            steps += 1
    return tokens, steps


def load(path: Path) -> list[Conversation]:
    """Read a trace file."""
    talks = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            segments = json.loads(line)["segments"]
            tokens = np.array([token for _, ids in segments for token in ids], np.int32)
            bounds = np.cumsum([0] + [len(ids) for _, ids in segments]).astype(np.int64)
            talks.append(Conversation(tokens, bounds, np.array([kind == "output" for kind, _ in segments])))
    return talks


def measure(talks: list[Conversation], yardstick: Yardstick, nodes: int, warm: bool) -> float:
    """Mean tokens per step of a yardstick over a trace."""
    longest = max(len(talk.tokens) for talk in talks)
    capacity = (ORDERS + 1) * (longest + warm * sum(len(talk.tokens) for talk in talks)) + 1
    memory, trie = new_trie(capacity), new_trie(capacity)
    tree = new_tree(nodes, 1 + max(int(talk.tokens.max()) for talk in talks))
    tokens = steps = 0
    for talk in talks:
        copy_trie(memory, trie)
        more = replay(trie, tree, talk, np.array(yardstick.discounts), yardstick.max_depth)
        tokens, steps = tokens + more[0], steps + more[1]
        if warm:  # without the first context segment
            remember(memory, talk.tokens[0 if talk.output[0] else talk.bounds[1] :], MEMORY_WEIGHT)
    return tokens / steps


def run_row(folder: Path, row: Row) -> dict[str, Any]:
    """Measure both yardsticks in one setting."""
    talks = load(folder / f"{row.trace}.jsonl.gz")
    result: dict[str, Any] = {"trace": row.trace, "nodes": row.nodes, "memory": "warm" if row.warm else "cold"}
    for name, yardstick in YARDSTICKS.items():
        result[name] = round(measure(talks, yardstick, row.nodes, row.warm), 3)
    for name, published in zip(YARDSTICKS, row.published, strict=True):
        result[f"published {name}"] = published
    return result


def main() -> None:
    """Print the table, or one JSON object a row."""
    parser = argparse.ArgumentParser(description="Reference n-gram drafters on recorded traces.")
    parser.add_argument("folder", type=Path, help="folder of *.jsonl.gz traces")
    parser.add_argument("--trace", help="only this trace, for example tau-airline")
    parser.add_argument("--json", action="store_true", help="one JSON object a row instead of a table")
    options = parser.parse_args()
    rows = [row for row in ROWS if options.trace in (None, row.trace)]
    if not rows:
        parser.error(f"no such trace: {options.trace} (one of {', '.join(sorted({row.trace for row in ROWS}))})")
    if not options.json:
        print(f"{'trace':24}{'nodes':>6}{'memory':>8}{'A':>8}{'B':>8}{'publ. A':>9}{'publ. B':>9}")
    for row in rows:
        result = run_row(options.folder, row)
        if options.json:
            print(json.dumps(result), flush=True)
            continue
        figures = "".join(f"{result[name]:8.3f}" for name in YARDSTICKS)
        known = "".join(f"{'-' if value is None else f'{value:.2f}':>9}" for value in row.published)
        print(f"{row.trace:24}{row.nodes:6}{result['memory']:>8}{figures}{known}", flush=True)


if __name__ == "__main__":
    main()
