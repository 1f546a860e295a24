"""Sequences as they are read: indexed while they grow, drafted for, remembered when they end. No drafting method by name."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import numpy.typing as npt

from betoken.addresses import Places, places
from betoken.memory import BLEND
from betoken.memory.beliefs import HERE, KINDS, THERE, Weights, untaught
from betoken.memory.growth import room_for
from betoken.memory.index import CHUNK, Index
from betoken.memory.library import Library, Shelf
from betoken.memory.step import find, put_out, take_in
from betoken.memory.trie import NONE, STATE, Ints

Nodes = tuple[Ints, Ints, npt.NDArray[np.float64]]


@dataclass(slots=True)
class Reading:
    """One sequence. `states` is `[2, STATE]`: where it stands in its own index, and in the shelf's of that `version`; `own` says where
    states, weights and the tokens that end an output lie."""

    namespace: str
    shelf: Shelf
    unremembered: int  # the first prompt stays out of the memory
    weights: Weights
    before: Weights
    epoch: int
    index: Index = field(default_factory=Index)
    states: Ints = field(default_factory=lambda: np.zeros((2, STATE), np.int64))
    version: int = -1
    text: int = 0
    own: Places = field(default_factory=lambda: np.zeros((3, 2), np.int64))


class Reader:
    """What `mix` and `suffix` have in common.

    rule:     how evidence becomes probabilities (`memory.BLEND`, `memory.LONGEST_MATCH`)
    nodes:    of a draft, at most; floor: the least probable path
    ends:     tokens that end an output, so that nothing is drafted after them
    library:  where ended sequences go; remember: whether they do
    """

    def __init__(
        self, rule: int, *, nodes: int, floor: float, ends: Iterable[int], library: Library, remember: bool
    ) -> None:
        self._rule, self._nodes, self._floor = rule, nodes, float(floor)
        self._ends = np.array(sorted(ends), np.int64)
        self.library, self._remember = library, remember
        self.tree = room_for(nodes)
        self._tree_places = places(self.tree)
        _warm_up()
        self._readings: dict[int, Reading] = {}
        self._numbers: dict[int, tuple[int, int]] = {}  # of ended sequences: the library's epoch, the number there

    def begin(self, seq_id: int, prompt_length: int, namespace: str) -> None:
        """A sequence of which `prompt_length` tokens are its first prompt."""
        with self.library.lock:
            shelf = self.library.shelf(namespace) if self._remember else Shelf()
            shelf.readers += 1
            epoch = self.library.epoch
            weights = shelf.weights()  # taught never: every sequence is learnt from quickly at first
        reading = Reading(namespace, shelf, prompt_length, weights, weights[0, :KINDS].copy(), epoch)
        reading.text = reading.index.new()
        reading.states[HERE] = reading.index.state
        reading.index.state = reading.states[HERE]
        reading.own = places((reading.states, weights, self._ends))
        self._readings[seq_id] = reading

    def unread(self, seq_id: int, tokens: Sequence[int]) -> int:
        """How many tokens of a sequence came since it was read."""
        return len(tokens) - len(self._readings[seq_id].index)

    def read(self, seq_id: int, tokens: Sequence[int], output: int) -> None:
        """Index what is new of a sequence. What an output says after its first token, at `output`, is learnt from."""
        reading = self._readings[seq_id]
        known, taught = len(reading.index), min(output + 1, len(tokens))
        if known == len(tokens):
            return
        with self.library.lock:
            self._find_there(reading)
            for begin in range(known, taught, CHUNK):
                self._absorb(reading, tokens[begin : min(begin + CHUNK, taught)], teach=False)
            for begin in range(max(known, taught), len(tokens), CHUNK):
                self._absorb(reading, tokens[begin : begin + CHUNK], teach=True)

    def _absorb(self, reading: Reading, tokens: Sequence[int], *, teach: bool) -> None:
        begin, end = self._write(reading, tokens)
        here, there = reading.index.places, reading.shelf.index.places
        take_in(here, there, self._tree_places, reading.own, begin, end, teach)
        reading.index.grown(len(tokens))

    def _write(self, reading: Reading, tokens: Sequence[int]) -> tuple[int, int]:
        """Add tokens that are to be read; where they stand."""
        index, begin = reading.index, len(reading.index)
        end = begin + len(tokens)
        index.reserve(len(tokens))
        text = index.text
        for place, token in enumerate(tokens, begin):
            text[place] = token
        text[end] = NONE
        return begin, end

    def _find_there(self, reading: Reading) -> None:
        """Look the place in the shelf up again where others have changed it meanwhile."""
        there = reading.shelf.index
        if reading.version != there.version:
            find(there.places, reading.index.places, len(reading.index), reading.states[THERE])
            reading.version = there.version

    def grow(self, seq_id: int, tokens: Sequence[int], output: int, room: int, least: float) -> int:
        """Read what is new, as `read` does, and draft what may come next, in `tree`, overwritten by the next; returns how many nodes. No
        path is less probable than `least`."""
        reading = self._readings[seq_id]
        known = len(reading.index)
        if known <= output or len(tokens) - known > CHUNK:
            self.read(seq_id, tokens, output)
            known = len(tokens)
        with self.library.lock:
            self._find_there(reading)
            begin, end = self._write(reading, tokens[known:]) if known < len(tokens) else (known, known)
            size: int = put_out(
                self._rule,
                reading.index.places,
                reading.shelf.index.places,
                self._tree_places,
                reading.own,
                begin,
                end,
                self._nodes,
                min(room, self._nodes),
                max(self._floor, least),
            )
            if begin < end:
                reading.index.grown(end - begin)
        return size

    def draft(self, seq_id: int, room: int, least: float = 0.0) -> Nodes:
        """The tokens, parents and scores of a draft for what has been read already."""
        index = self._readings[seq_id].index
        size, tree = self.grow(seq_id, range(len(index)), -1, room, least), self.tree
        return tree.token[:size], tree.parent[:size], tree.score[:size]

    def end(self, seq_id: int) -> int | None:
        """A sequence is over; the number it has in the library, if it is remembered."""
        reading = self._readings.pop(seq_id)
        if not self._remember:
            return None
        with self.library.lock:
            if reading.epoch == self.library.epoch:  # else what was learnt is to be forgotten
                reading.shelf.learn(reading.weights[0, :KINDS] - reading.before)
            tokens = reading.index.tokens(reading.text)[reading.unremembered :]
            number = self.library.add(tokens, reading.namespace)
            self.library.leave(reading.namespace, reading.shelf)
            self._numbers[seq_id] = (self.library.epoch, number)
            if len(self._numbers) > 2 * len(self.library.texts) + 64:
                self._numbers = {seq: where for seq, where in self._numbers.items() if self._is_there(*where)}
        return number

    def _is_there(self, epoch: int, number: int) -> bool:
        return epoch == self.library.epoch and number in self.library.texts

    def remove(self, seq_id: int) -> bool:
        """Forget what an ended sequence said; whether it was remembered."""
        with self.library.lock:
            epoch, number = self._numbers.pop(seq_id, (-1, -1))
            return self._is_there(epoch, number) and self.library.remove(number)


@cache
def _warm_up() -> None:
    """Load the compiled code (0.1 s), or compile it (10 s, once after installation): here, and not inside a timed step."""
    here, there, tree, states = Index(), Index(), room_for(1), np.zeros((2, STATE), np.int64)
    here.new([1, 1])
    states[HERE] = here.state
    weights, ends, where = untaught(), np.empty(0, np.int64), places(tree)
    own = places((states, weights, ends))
    find(there.places, here.places, 2, states[THERE])
    here.reserve(2)
    here.arrays.text[2:5] = 1, 1, NONE
    take_in(here.places, there.places, where, own, 2, 3, True)
    put_out(BLEND, here.places, there.places, where, own, 3, 4, 1, 1, 0.0)
