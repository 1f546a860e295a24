"""`lookahead`: lookahead decoding (Fu, Bailis, Stoica, Zhang 2024, arXiv 2402.02057): the target drafts for itself.

A window of tokens ahead of the text is refined a little by every forward pass, as Jacobi iteration would (section 3.1). The
n-grams it leaves behind go to a pool; those that begin with the last token are drafted (section 3.2). No second model.

Window and drafts are one tree. The window's columns are pinned paths: column i stands i tokens below the root, on level 0 of
columns 1 to i, and carries its own upper levels. A node of a tree sees its ancestors, which is the paper's mask (figure 2b).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from betoken.draft import ROOT, Draft, chain, merge
from betoken.errors import ParameterError, UnsupportedModelError
from betoken.noise import GOLDEN, MASK, mix
from betoken.proposers.base import (
    BaseProposer,
    Needs,
    ObserveContext,
    ProposeContext,
    SeqView,
    Workshop,
    register,
)

Gram = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """How far to look, and how much to remember. A tree has at most `window * (level - 1) - 1 + pool * (level - 1)` nodes once
    the window is full; before that, at most that many and a few less.

    window:           W, how many columns are refined at once
    level:            N, the length of the n-grams: a token and the `level - 1` drafted after it
    pool:             G, how many n-grams are kept, and drafted, for each token; the most recent ones
    pool_from_prompt: whether n-grams of the text itself, prompt and output, go to the pool too (as in prompt lookup)

    Raises ParameterError.
    """

    window: int = 5
    level: int = 4
    pool: int = 5
    pool_from_prompt: bool = True

    def __post_init__(self) -> None:
        for name, low, most in (("window", 1, 256), ("level", 2, 16), ("pool", 1, 256)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= most:
                raise ParameterError(name, value, f"a whole number from {low} to {most}")
        if self.pool_from_prompt not in (True, False):
            raise ParameterError("pool_from_prompt", self.pool_from_prompt, "True or False (1 or 0)")


@dataclass(slots=True)
class _Pool:
    """token -> the n-grams seen after it, oldest first; an n-gram seen again is new again."""

    size: int
    grams: dict[int, dict[Gram, None]] = field(default_factory=dict)
    read: int = 0

    def add(self, token: int, gram: Gram) -> None:
        kept = self.grams.setdefault(token, {})
        kept.pop(gram, None)
        kept[gram] = None
        if len(kept) > self.size:
            del kept[next(iter(kept))]

    def newest(self, token: int) -> list[Gram]:
        """The token's n-grams, the most recent first."""
        return list(reversed(self.grams.get(token, {})))

    def read_on(self, tokens: Sequence[int], level: int) -> None:
        """Take up the n-grams of the text that end in what has not been read."""
        end = max(len(tokens) - level + 1, self.read)
        for start in range(self.read, end):
            self.add(tokens[start], tuple(tokens[start + 1 : start + level]))
        self.read = end


@dataclass(slots=True)
class _Window:
    """The tokens ahead. Column 0 of level 0 is the root itself, so `levels[0]` starts with column 1 and is one shorter.

    It starts with level 0 alone, `level - 2` columns wider than `width`: each of the first steps adds a level on top and loses
    a column.
    """

    width: int
    height: int
    levels: list[list[int]] = field(default_factory=list)
    drawn: int = 0

    @property
    def full(self) -> bool:
        return len(self.levels) == self.height

    def start(self, context: Sequence[int]) -> None:
        """Level 0, drawn from the text."""
        self.levels = [self._refilled([], self.width + self.height - 2, context)]

    def paths(self) -> list[Gram]:
        """For each column, the tokens from the root's child to its top."""
        ground, *upper = self.levels
        return [(*ground[:column], *(row[column] for row in upper)) for column in range(len(ground) + 1)]

    def grams(self, root: int, said: Sequence[int | None]) -> list[tuple[int, Gram]]:
        """Each column's first token and the n-gram after it, now that the target has said what follows its top."""
        ground, *upper = self.levels
        grams = []
        for column, (token, last) in enumerate(zip([root, *ground], said, strict=True)):
            if last is not None:
                grams.append((token, (*(row[column] for row in upper), last)))
        return grams

    def advance(self, said: Sequence[int | None], count: int, context: Sequence[int]) -> None:
        """Move on by `count` tokens of text: `said` becomes the top level and columns that are now text go.

        A full window also loses its lowest level, which is the move by one token for every other level.
        """
        width = self.width if self.full else len(self.levels[0])
        passed = count - 1 if self.full else count
        fresh = [self._random(context) if token is None else token for token in said]
        ground, *upper = [*self.levels, fresh][self.full :]
        self.levels = [
            self._refilled(ground[count:], width - 1, context),
            *(self._refilled(row[passed:], width, context) for row in upper),
        ]

    def _refilled(self, row: list[int], width: int, context: Sequence[int]) -> list[int]:
        return row + [self._random(context) for _ in range(width - len(row))]

    def _random(self, context: Sequence[int]) -> int:
        """A token of the text; the same ones in the same order every time."""
        self.drawn += 1
        return context[mix(self.drawn * GOLDEN & MASK) % len(context)]


@dataclass(frozen=True, slots=True)
class _State:
    pool: _Pool
    window: _Window


class Lookahead(BaseProposer):
    """Lookahead decoding at any temperature: the window follows the argmax, as in the paper, and verification emits the
    target's own tokens whatever the pool holds. Drafts are point masses, so either acceptance rule takes them.

    The pool is the sequence's own, as in the authors' code. Unlike there, what the prompt put in the pool is drafted from the
    first step on, not only once the window is full; and a window path that turns out to be the text is accepted too.
    """

    name = "lookahead"
    needs = Needs(top_ids=1)

    def __init__(self, shape: Shape | None = None) -> None:
        self._shape = shape or Shape()
        self._states: dict[int, _State] = {}

    def begin(self, seq: SeqView) -> None:
        shape = self._shape
        state = _State(_Pool(shape.pool), _Window(shape.window, shape.level - 1))
        state.window.start(seq.tokens)
        self._states[seq.seq_id] = state

    def propose(self, ctx: ProposeContext) -> list[Draft]:
        """The pool's n-grams first: where nodes are scarce they pay at once."""
        return [self._tree(seq) for seq in ctx.seqs]

    def _tree(self, seq: SeqView) -> Draft:
        state = self._states[seq.seq_id]
        if self._shape.pool_from_prompt:
            state.pool.read_on(seq.tokens, self._shape.level)
        room = max(seq.room, 0)
        drafts = [chain(gram[:room]) for gram in state.pool.newest(seq.tokens[-1])]
        drafts += [_pinned(path[:room]) for path in state.window.paths()]
        return merge(drafts)[0]

    def observe(self, ctx: ObserveContext) -> None:
        """Collect the n-grams the window has completed, then move it on."""
        for seq, draft, verdict, top_ids in zip(ctx.seqs, ctx.drafts, ctx.verdicts, ctx.top_ids, strict=True):
            state, count = self._states[seq.seq_id], len(verdict.tokens)
            if count == 0:
                continue
            said = [_after(path, draft, top_ids) for path in state.window.paths()]
            if state.window.full:
                for token, gram in state.window.grams(seq.tokens[-1 - count], said):
                    state.pool.add(token, gram)
            state.window.advance(said, count, seq.tokens)

    def end(self, seq_id: int) -> None:
        self._states.pop(seq_id, None)


def _pinned(path: Gram) -> Draft:
    return Draft(path, tuple(range(-1, len(path) - 1)), pinned=frozenset(range(len(path))))


def _after(path: Gram, draft: Draft, top_ids: npt.NDArray[Any]) -> int | None:
    """What the target holds likeliest after this path; None where the path was not fed."""
    node = ROOT
    for token in path:
        if (node, token) not in draft.children:
            return None
        node = draft.children[node, token]
    return int(top_ids[node + 1, 0])


@register("lookahead", knobs=tuple(Shape.__dataclass_fields__))
def _build(workshop: Workshop) -> Lookahead:
    if not workshop.target.can_branch:
        raise UnsupportedModelError(
            f"lookahead drafts trees, and {workshop.target.name} takes chains only; use a method that drafts chains (ngram)"
        )
    return Lookahead(Shape(**workshop.options))
