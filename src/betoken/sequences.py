"""What an engine is asked, what it holds of it, and what it says of every step. Token ids only. No torch."""

from dataclasses import dataclass, field

from betoken.grammar import Grammar
from betoken.params import SamplingParams
from betoken.proposers.base import SeqView
from betoken.sampling import Sampler, TokenLogprobs
from betoken.speculation import USUAL, Speculation
from betoken.stats import Stats
from betoken.stops import FinishReason, Stops, TextStream


@dataclass(frozen=True, slots=True)
class Request:
    """One output to decode.

    sample: which of the n samples of its prompt it is
    text:   how tokens become text
    ends:   of a recording: the output has so many tokens, which drafting must not know
    reference: a text the output is expected to follow mostly (read by the method `reference`)
    namespace: whose it is; nobody else's text has a say in its drafts
    speculation: whether anything is drafted for it, and how much; its method is for whoever chose this engine
    grammar: `params.grammar`, compiled for the target (`grammar.Compiler`)
    keep:   the row stays when the output ends, for `Engine.extend`; until then, or `abort`, it holds memory
    """

    prompt: tuple[int, ...]
    params: SamplingParams = field(default_factory=SamplingParams)
    sample: int = 0
    text: TextStream | None = None
    ends: int | None = None
    reference: tuple[int, ...] = ()
    namespace: str = ""
    keep: bool = False
    speculation: Speculation = USUAL
    grammar: Grammar | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """What a step did to one sequence.

    sources:  who proposed each of `tokens`: a method, or the target
    drafted:  nodes of the draft that was fed
    logprobs: one a token, where the request wants them
    stopped_by: the stop string or id that ended it
    failure:  why it ended, where that was an error (only of engines that `isolate`)
    """

    seq_id: int
    tokens: tuple[int, ...]
    sources: tuple[str, ...]
    text: str
    finished: FinishReason | None
    stats: Stats
    drafted: int = 0
    logprobs: tuple[TokenLogprobs, ...] = ()
    stopped_by: str | int | None = None
    failure: Exception | None = None


@dataclass(slots=True)
class Running:
    """The engine's state of one request. `tokens` holds prompt and output; the last is the root of the next tree."""

    seq_id: int
    request: Request
    sampler: Sampler
    stops: Stops
    tokens: list[int]
    stats: Stats
    drafter: str = "target"  # who proposed what no draft names a source for
    turned_away: int = 0  # how often there was no memory to read it
    begun: bool = False  # whether the proposer knows of it
    resumes: bool = False  # its row was given up: everything but the root is to be read again

    @property
    def output_length(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    @property
    def to_read(self) -> int:
        """How many tokens its row must hold before it decodes: of a row given up, all but the root; else the prompt, whose last
        token gives the first of the output."""
        return len(self.tokens) - 1 if self.resumes else len(self.request.prompt)

    @property
    def drafted_for(self) -> bool:
        """Whether the proposer may know of it."""
        return self.request.speculation.enabled

    def view(self) -> SeqView:
        asked, room = self.request, self.stops.room - 1
        return SeqView(
            self.seq_id,
            self.tokens,
            len(asked.prompt),
            self.sampler,
            room,
            asked.reference,
            asked.namespace,
            asked.speculation.max_nodes,
            asked.speculation.method,
        )
