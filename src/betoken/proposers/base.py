"""What a drafting method is: `begin`, `propose`, `observe`, `end`; and the registry of methods by name. No torch.

A proposer may propose anything: the engine drops what cannot be fed, and verification keeps only what the target says itself.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from betoken.draft import Draft
from betoken.errors import ParameterError
from betoken.noise import LIKELIEST, Draw
from betoken.sampling import Sampler
from betoken.targets.base import Target, TargetInfo
from betoken.verify import Verdict


@dataclass(frozen=True, slots=True)
class Needs:
    """What a proposer wants to see of the target's forward passes."""

    top_ids: int = 0  # the k most likely tokens at the root and at every node
    draft_probs: bool = False  # residual mode: the engine asks the proposer to draw its tokens and say the law
    levels: bool = False  # drafts level by level, and asks `ProposeContext.pays` before each
    noise: bool = False  # guesses draws by their noise, which its scores take into account


NOTHING = Needs()


@dataclass(frozen=True, slots=True)
class SeqView:
    """One sequence as a proposer sees it. `tokens` is live (prompt and output, the root last) and must not be changed."""

    seq_id: int
    tokens: Sequence[int]
    prompt_length: int
    sampler: Sampler
    room: int  # no node deeper than this can be of use
    reference: Sequence[int] = ()  # what the caller expects the output to be, roughly
    namespace: str = ""  # whose it is: what is remembered of others' sequences must not be used for it
    max_nodes: int | None = None  # no more nodes than this are fed
    method: str | None = None  # who is to draft, where there is a choice (`routing`)


# For each sequence that may go on, its id and the scores down to its likeliest last node: whether to draft a level more.
Levels = Callable[[Sequence[tuple[int, Sequence[float]]]], list[bool]]


@dataclass(frozen=True, slots=True)
class ProposeContext:
    """What `propose` is given: the sequences that decode in this step."""

    seqs: Sequence[SeqView]
    stochastic: bool = False  # residual mode: drafts must carry `probs`, or be deterministic
    rows: int = 0  # how many rows the pass will have, those nobody drafts for included
    least: float = 0.0  # a node whose path is less probable is of no use
    last: bool = False  # nobody comes after these, and all that counts is when the last of them ends
    pays: "Levels | None" = None  # says, level by level, who is to draft on; None: nobody asks


class TopIds(Sequence[npt.NDArray[Any]]):
    """The likeliest tokens of each sequence of a step, found when they are first read: whoever does not read pays nothing.

    look_up: finds those of the sequence at a place, `[1 + N, k]`. It looks at the step's forward pass, so it must not be kept.
    """

    def __init__(self, look_up: Callable[[int], npt.NDArray[Any]], count: int) -> None:
        self._look_up = look_up
        self._found: list[npt.NDArray[Any] | None] = [None] * count

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, index: Any) -> Any:
        places = range(len(self))[index]
        return self._at(places) if isinstance(places, int) else [self._at(place) for place in places]

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        return map(self._at, range(len(self)))  # Sequence's own would take an IndexError of `look_up` for the end

    def _at(self, place: int) -> npt.NDArray[Any]:
        found = self._found[place]
        if found is None:
            found = self._found[place] = self._look_up(place)
        return found


def fewer(top: Sequence[npt.NDArray[Any]], places: Sequence[int], k: int) -> Sequence[npt.NDArray[Any]]:
    """Of the likeliest tokens of the sequences at these places the first k, cut when they are read; none of none."""
    return TopIds(lambda index: top[places[index]][:, :k], len(places)) if k and len(top) else ()


@dataclass(frozen=True, slots=True)
class ObserveContext:
    """What came of it. `drafts` are what was really fed, `top_ids[i]` is `[1 + N, k]` where `needs` asked for it, and so is
    `top_logits[i]`, of these tokens, where the target can say them."""

    seqs: Sequence[SeqView]
    drafts: Sequence[Draft]
    verdicts: Sequence[Verdict]
    top_ids: Sequence[npt.NDArray[Any]] = ()
    seconds: float = 0.0  # what the forward pass took
    width: int = 0  # tokens of its widest row, where more rows were in it than are shown here
    top_logits: Sequence[npt.NDArray[Any]] = ()

    def only(self, places: Sequence[int], k: int) -> "ObserveContext":
        """Of the sequences at these places alone, and of the likeliest tokens the first k."""
        width = max(self.width, 1 + max([len(draft) for draft in self.drafts], default=0))
        return replace(
            self,
            seqs=[self.seqs[place] for place in places],
            drafts=[self.drafts[place] for place in places],
            verdicts=[self.verdicts[place] for place in places],
            top_ids=fewer(self.top_ids, places, k),
            top_logits=fewer(self.top_logits, places, k),
            width=width,
        )


class Proposer(Protocol):
    """One drafting method. `seqs` may come and go between steps; a sequence is begun before it is proposed for."""

    name: str
    needs: Needs

    def begin(self, seq: SeqView) -> None: ...

    def propose(self, ctx: ProposeContext) -> list[Draft]: ...

    def observe(self, ctx: ObserveContext) -> None: ...

    def end(self, seq_id: int) -> None: ...

    def forget(self) -> None: ...


NO_LESSONS: npt.NDArray[np.float64] = np.zeros(0)


class Grown(NamedTuple):
    """A draft as arrays, of which the first `size` places count.

    places: where these three lie (`addresses.places`), and behind them how many tokens, in later steps, are expected of having fed each
            node; of a method that learns nothing from what the target says after it an array of none
    """

    size: int
    tokens: npt.NDArray[np.int64]
    parents: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    places: npt.NDArray[np.int64]


@runtime_checkable
class Grows(Protocol):
    """A method that can say what it drafts without a context and a `Draft`, for whoever lays drafts over each other at every step."""

    def grow(self, seq: SeqView, least: float) -> Grown:
        """What `propose` drafts for a sequence with room for a token, no node less probable than `least`. Overwritten by the next."""


@runtime_checkable
class Rests(Protocol):
    """A method that can let a step go by in which it would draft nothing: it is neither asked nor shown what came, and takes no time."""

    def rests(self) -> bool:
        """Whether the coming step may go by. Changes nothing."""

    def rested(self, rows: int, seconds: float) -> None:
        """A step went by: so many rows, and what the forward pass took."""


def draw_of(seq: SeqView, ago: int = 0, *, apart: bool) -> Draw:
    """Of the token that comes next, or came so many tokens ago. apart: residual verification draws with other noise, of one token at each
    place: there the likeliest is the best guess."""
    return LIKELIEST if apart else seq.sampler.draw_at(seq.sampler.position - ago)


def as_draft(grown: Grown) -> Draft:
    """Arrays that are known to be a tree."""
    size, tokens, parents, scores = grown[:4]
    return Draft.trusted(tuple(tokens[:size].tolist()), tuple(parents[:size].tolist()), tuple(scores[:size].tolist()))


class BaseProposer:
    """Defaults for methods that keep nothing."""

    name = "none"
    needs = NOTHING

    def begin(self, seq: SeqView) -> None:
        """A sequence has its first token."""

    def propose(self, ctx: ProposeContext) -> list[Draft]:
        """One draft per sequence; here none."""
        return [Draft() for _ in ctx.seqs]

    def observe(self, ctx: ObserveContext) -> None:
        """The step is over."""

    def end(self, seq_id: int) -> None:
        """The sequence is over."""

    def forget(self) -> None:
        """Nothing remembered of ended sequences, or learnt from them, may have a say from now on."""


@dataclass(frozen=True, slots=True)
class Workshop:
    """What a method may be built from: the target's description, and the draft model if the user gave one."""

    target: TargetInfo
    draft: Target | None = None
    options: dict[str, Any] = field(default_factory=dict)
    curve: Any = None  # what the target's forward passes take (`policy.cost.Curve`), where somebody has measured
    clock: Callable[[], float] = time.perf_counter


Factory = Callable[[Workshop], Proposer]
_METHODS: dict[str, Factory] = {}
_BUDGETS: dict[str, str] = {}
_KNOBS: dict[str, tuple[str, ...]] = {}


def register(
    name: str, *, budget: str | None = None, knobs: tuple[str, ...] | None = None
) -> Callable[[Factory], Factory]:
    """Class or function decorator: make a method known by name. The factory takes a `Workshop`.

    budget: the option that says how many nodes a draft may have, if the method has one
    knobs:  the options it takes; None: whatever the factory makes of them
    """

    def remember(factory: Factory) -> Factory:
        _METHODS[name] = factory
        if budget is not None:
            _BUDGETS[name] = budget
        if knobs is not None:
            _KNOBS[name] = knobs
        return factory

    return remember


def methods() -> list[str]:
    """The names of all methods, plain decoding first."""
    return ["plain", *sorted(_METHODS)]


def budget_of(name: str) -> str | None:
    """The option of a method that limits its nodes."""
    return _BUDGETS.get(name)


def knobs_of(name: str) -> tuple[str, ...]:
    """The options a method is known to take."""
    return _KNOBS.get(name, ())


def build(name: str, workshop: Workshop) -> Proposer | None:
    """The proposer of a method; None for plain decoding.

    Raises ParameterError, listing what there is, for an unknown name or option.
    """
    if name == "plain":
        return None
    if name not in _METHODS:
        raise ParameterError("method", name, "one of " + ", ".join(methods()))
    for option, value in workshop.options.items():
        if name in _KNOBS and option not in _KNOBS[name]:
            raise ParameterError(option, value, f"an option of {name}: " + ", ".join(_KNOBS[name]))
    return _METHODS[name](workshop)
