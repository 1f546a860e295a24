"""How drafting methods would have done on recorded text: the engine, the walk and the proposers of a live run, over a
target that says what the recording says.

Drafting starts after each output's first token, which comes from the prefill and is no step (Spec-Bench's convention).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from betoken.engine import Engine, Request
from betoken.errors import BetokenError, TraceError
from betoken.params import SamplingParams
from betoken.proposers.base import Proposer
from betoken.stats import Stats
from betoken.targets.base import Target
from betoken.trace import CONTEXT, Conversation, Trace

# What of a recording's sampling has a say in drafting: the rest ends outputs, which the recording does itself.
SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "bad_words",
    "allowed_token_ids",
)


class RecordedTarget(Target, Protocol):
    """A target that can be told what to say: `ReplayTarget`, `ForcedTarget`."""

    def record(self, row: int, tokens: Sequence[int]) -> None: ...


@dataclass(slots=True)
class Tally:
    """What one method did: in all, and for each category of conversations in the order they appear."""

    method: str
    total: Stats = field(default_factory=Stats)
    categories: dict[str, Stats] = field(default_factory=dict)

    def add(self, category: str, stats: Stats) -> None:
        self.total = self.total.merge(stats)
        self.categories[category] = self.categories.get(category, Stats()).merge(stats)


class Replay:
    """One method on its way through a trace.

    make:  the method's proposer, nothing remembered; None for plain decoding
    warm:  one proposer for the whole trace, which may remember earlier conversations; else a new one for each
    nodes: how many nodes of a draft are fed at most
    """

    def __init__(
        self,
        method: str,
        make: Callable[[], Proposer | None],
        target: RecordedTarget,
        *,
        warm: bool = False,
        nodes: int | None = None,
    ) -> None:
        self.tally = Tally(method)
        self._make, self._target, self._warm, self._nodes = make, target, warm, nodes
        self._engine: Engine | None = None

    def add(self, conversation: Conversation) -> None:
        """Replay one more conversation. Raises TraceError for one the target cannot hold."""
        if self._engine is None or not self._warm:
            limits: dict[str, Any] = {} if self._nodes is None else {"max_nodes": self._nodes}
            self._engine = Engine(self._target, self._make(), **limits)
        for stats in replay_one(self._engine, self._target, conversation):
            self.tally.add(conversation.category, stats)

    def run(self, trace: Trace) -> Tally:
        """Replay a whole trace, in order."""
        for conversation in trace.conversations:
            self.add(conversation)
        return self.tally


def replay_one(engine: Engine, target: RecordedTarget, conversation: Conversation) -> Iterator[Stats]:
    """Replay one conversation; the counters of each of its outputs."""
    said: list[int] = []
    fed = 0
    seq_id: int | None = None
    try:
        for segment in conversation.segments:
            said += segment.tokens
            if segment.kind == CONTEXT or not segment.tokens:
                continue
            context, length = said[fed : len(said) - len(segment.tokens)], len(segment.tokens)
            params = _params(conversation, length)
            if seq_id is None:
                seq_id = engine.add(_request(conversation, tuple(context), params, length))
            else:
                engine.extend(seq_id, context, params, ends=length)
            target.record(seq_id, tuple(said))
            fed = len(said)
            yield _decoded(engine)
    except BetokenError as failure:
        raise TraceError(f"conversation {conversation.id} cannot be replayed: {failure}") from failure
    finally:
        if seq_id is not None:
            engine.abort(seq_id)


def _request(conversation: Conversation, prompt: tuple[int, ...], params: SamplingParams, length: int) -> Request:
    reference = conversation.reference
    return Request(prompt, params, conversation.sample, ends=length, reference=reference, keep=True)


def _params(conversation: Conversation, length: int) -> SamplingParams:
    """For an output of `length` tokens. Where a live run stopped at its limit, it drafted no further than that."""
    known = {name: conversation.sampling[name] for name in SAMPLING if name in conversation.sampling}
    limit = conversation.sampling.get("max_tokens")
    try:
        limit = None if limit is None else max(limit, length)
        return SamplingParams(**known, max_tokens=limit, seed=conversation.seed or 0, ignore_eos=True)
    except TypeError as failure:
        raise TraceError(f"sampling {dict(conversation.sampling)}: {failure}") from failure


def _decoded(engine: Engine) -> Stats:
    stats = Stats()
    while engine.unfinished:
        for event in engine.step():
            stats = event.stats
    return stats
