"""The step loop: propose a tree per row, score all trees in one forward, keep what the target itself would have said.

The engine knows token ids only. It touches neither tensors nor KV, and no drafting method by name.
"""

import itertools
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from betoken.draft import EMPTY, Draft, clip, trunk
from betoken.errors import ParameterError, PromptError
from betoken.grammar import Grammar
from betoken.judging import check_drawn, exactly, residually
from betoken.params import SEED_LIMIT, SamplingParams
from betoken.proposers.base import ObserveContext, ProposeContext, Proposer, SeqView, TopIds
from betoken.sampling import Sampler
from betoken.speculation import USUAL, Speculation
from betoken.stats import Stats
from betoken.stops import FinishReason, Stops, TextStream
from betoken.targets.base import Feed, Scores, Target
from betoken.verify import Verdict

TARGET = "target"


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
    """What a step did to one sequence. `sources[i]` names who proposed `tokens[i]`: a method, or the target."""

    seq_id: int
    tokens: tuple[int, ...]
    sources: tuple[str, ...]
    text: str
    finished: FinishReason | None
    stats: Stats


@dataclass(slots=True)
class Running:
    """The engine's state of one request. `tokens` holds prompt and output; the last is the root of the next tree."""

    seq_id: int
    request: Request
    sampler: Sampler
    stops: Stops
    tokens: list[int]
    stats: Stats
    begun: bool = False  # whether the proposer knows of it

    @property
    def output_length(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

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
        )


class Engine:
    """Many requests, one target, at most one proposer. Rows join and leave at any step; each accepts its own length.

    acceptance: "exact" (the same seed gives the same text whatever is drafted) or "residual" (the classical rule: the
                same law, other text)
    max_rows:   how many requests decode at once; the others wait
    chunk:      how many prompt tokens one prefill forward takes
    max_nodes:  how many nodes of a draft are fed; the rest is dropped, the last ones first
    clock:      what `Stats` and the policy of `auto` go by; no text depends on it

    Raises ParameterError: here, where a value is out of range; from `step`, where a drawn draft of residual mode (one
    with `probs`) holds tokens that cannot be fed. To drop those would change the law; dropping by depth or place does
    not.
    """

    def __init__(
        self,
        target: Target,
        proposer: Proposer | None = None,
        *,
        acceptance: str = "exact",
        max_rows: int = 32,
        chunk: int = 512,
        max_nodes: int = 128,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if acceptance not in ("exact", "residual"):
            raise ParameterError("acceptance", acceptance, '"exact" or "residual"')
        for name, value, low in (("max_rows", max_rows, 1), ("chunk", chunk, 1), ("max_nodes", max_nodes, 0)):
            if value < low:
                raise ParameterError(name, value, f"a whole number of at least {low}")
        self.target, self.proposer = target, proposer
        self._residual = acceptance == "residual"
        self._max_rows, self._chunk, self._max_nodes = max_rows, chunk, max_nodes
        self._clock = clock
        self._ids = itertools.count()
        self._waiting: list[Running] = []
        self._live: list[Running] = []
        self._kept: dict[int, Running] = {}

    @property
    def unfinished(self) -> int:
        """How many requests are waiting or decoding."""
        return len(self._waiting) + len(self._live)

    def add(self, request: Request) -> int:
        """Take a request; its id is in every event about it. Raises PromptError, ParameterError."""
        sampler, stops = self._prepared(request)
        seq = Running(next(self._ids), request, sampler, stops, list(request.prompt), self._counters(request))
        self._waiting.append(seq)
        return seq.seq_id

    def extend(
        self,
        seq_id: int,
        tokens: Sequence[int],
        params: SamplingParams | None = None,
        text: TextStream | None = None,
        ends: int | None = None,
        grammar: Grammar | None = None,
    ) -> None:
        """Go on with a sequence whose output has ended (`Request.keep`): more context, then another output.

        What is decoded is what a new request with all its tokens as the prompt would give; only the new ones are fed.
        params, text, ends: of the next output; by default the last one's params, no text. Counters start anew.
        grammar: of the next output; by default the last one's, where `params` still ask for it.
        Raises KeyError where no ended sequence of that id is kept; PromptError, ParameterError.
        """
        seq = self._kept[seq_id]
        prompt, params = (*seq.tokens, *tokens), params or seq.request.params
        if grammar is None and params.grammar == seq.request.params.grammar:
            grammar = seq.request.grammar
        request = replace(seq.request, prompt=prompt, params=params, text=text, ends=ends, grammar=grammar)
        seq.sampler, seq.stops = self._prepared(request)
        seq.request, seq.stats = request, self._counters(request)
        seq.tokens += tokens
        if self.target.length(seq_id) == len(prompt):  # the last output ended without a token, so its root was fed
            self.target.truncate(seq_id, len(prompt) - 1)
        del self._kept[seq_id]
        self._waiting.append(seq)

    def _counters(self, request: Request) -> Stats:
        asked = request.speculation
        name = "plain" if self.proposer is None else self.proposer.name
        return Stats(speculation=(replace(asked, method=asked.method or name),))

    def _prepared(self, request: Request) -> tuple[Sampler, Stops]:
        info, params = self.target.info, request.params
        room = self._room(request.prompt)
        seed = secrets.randbelow(SEED_LIMIT) if params.seed is None else params.seed
        if params.stop and request.text is None:
            raise ParameterError("stop", params.stop, "no stop strings where requests carry no detokenizer")
        sampler = Sampler(
            params,
            seed=seed,
            sample=request.sample,
            vocab_size=info.vocab_size,
            prompt=request.prompt,
            eos_ids=info.eos_ids,
            grammar=request.grammar,
        )
        return sampler, Stops(params, eos_ids=info.eos_ids, room=room, text=request.text, ends=request.ends)

    def _room(self, prompt: Sequence[int]) -> int:
        info = self.target.info
        if not prompt:
            raise PromptError("the prompt is empty; give at least one token (a BOS token, or some text)")
        for token in prompt:
            if not 0 <= token < info.vocab_size:
                raise PromptError(f"the prompt has token id {token}; {info.name} knows 0 to {info.vocab_size - 1}")
        context = info.context or len(prompt) + 2**31
        if len(prompt) >= context:
            raise PromptError(
                f"the prompt has {len(prompt)} tokens; {info.name} has room for {context}, one of them for the output"
            )
        return context - len(prompt)

    def running(self, seq_id: int) -> Running:
        """The state of an unfinished request. Raises KeyError for any other id."""
        for seq in (*self._live, *self._waiting):
            if seq.seq_id == seq_id:
                return seq
        raise KeyError(seq_id)

    def abort(self, seq_id: int) -> None:
        """Forget a request, wherever it is."""
        for seq in [seq for seq in self._waiting if seq.seq_id == seq_id]:
            self._waiting.remove(seq)
            if seq.begun or self.target.length(seq_id):
                self._release(seq)
        for seq in [seq for seq in self._live if seq.seq_id == seq_id]:
            self._live.remove(seq)
            self._release(seq)
        if seq_id in self._kept:
            self._release(self._kept.pop(seq_id))

    def step(self) -> list[Event]:
        """Admit and prefill what waits, then one step of every decoding row. Events come in the order of the rows."""
        events = self._admit()
        if not self._live:
            return events
        start = self._clock()
        drafts = self._propose()
        drafted = self._clock()
        feeds = [Feed(seq.seq_id, self._unseen(seq), draft) for seq, draft in zip(self._live, drafts, strict=True)]
        scores = self.target.score(feeds)
        scored = self._clock()
        verdicts = [
            self._verify(seq, scores, index, draft)
            for index, (seq, draft) in enumerate(zip(self._live, drafts, strict=True))
        ]
        self._observe(drafts, verdicts, scores, scored - drafted)
        events += [
            self._event(seq, draft, verdict) for seq, draft, verdict in zip(self._live, drafts, verdicts, strict=True)
        ]
        self._time(drafted - start, scored - drafted, self._clock() - scored)
        for seq in [seq for seq in self._live if seq.stops.reason is not None]:
            self._retire(seq)
        return events

    def run(self, on_event: Callable[[Event], None]) -> None:
        """Step until nothing is left."""
        while self.unfinished:
            for event in self.step():
                on_event(event)

    def _admit(self) -> list[Event]:
        events = []
        while self._waiting and len(self._live) < self._max_rows:
            seq = self._waiting.pop(0)
            self._live.append(seq)
            events.append(self._prefill(seq))
            if seq.stops.reason is not None:
                self._retire(seq)
            elif self.proposer is not None and seq.drafted_for and not seq.begun:
                self.proposer.begin(seq.view())
                seq.begun = True
        return events

    def _prefill(self, seq: Running) -> Event:
        """The prompt in chunks, no tree; its last forward gives the first token, which is no step."""
        start = self._clock()
        prompt, row = seq.request.prompt, seq.seq_id
        for begin in range(self.target.length(row), len(prompt), self._chunk):
            scores = self.target.score([Feed(row, prompt[begin : begin + self._chunk])])
            self.target.commit(row, ())
        verdict = self._keep(seq, exactly(seq.sampler, scores, 0, EMPTY))
        seq.stats.prefill_s += self._clock() - start
        return self._event(seq, EMPTY, verdict)

    def _propose(self) -> list[Draft]:
        shown = [seq for seq in self._live if seq.drafted_for]
        if self.proposer is None or not shown:
            return [EMPTY] * len(self._live)
        drafts = self.proposer.propose(ProposeContext([seq.view() for seq in shown], self._residual, len(self._live)))
        if not self.target.info.can_branch:
            drafts = [trunk(draft) for draft in drafts]
        if self._residual:
            drafts = [check_drawn(draft, self.target.info.vocab_size) for draft in drafts]
        fed = {seq.seq_id: self._clipped(seq, draft) for seq, draft in zip(shown, drafts, strict=True)}
        return [fed.get(seq.seq_id, EMPTY) for seq in self._live]

    def _clipped(self, seq: Running, draft: Draft) -> Draft:
        own = seq.request.speculation.max_nodes
        return clip(
            draft,
            vocab_size=self.target.info.vocab_size,
            max_depth=seq.stops.room - 1,
            max_nodes=self._max_nodes if own is None else min(own, self._max_nodes),
        )

    def _unseen(self, seq: Running) -> tuple[int, ...]:
        return tuple(seq.tokens[self.target.length(seq.seq_id) :])

    def _verify(self, seq: Running, scores: Scores, index: int, draft: Draft) -> Verdict:
        """The verdict, cut where the output ends, committed and counted."""
        judge = residually if self._residual else exactly
        verdict = self._keep(seq, judge(seq.sampler, scores, index, draft))
        accepted = verdict.path
        # The root invariant: the cache holds every committed token but the last, be that an accepted node.
        self.target.commit(seq.seq_id, accepted[: max(len(verdict.tokens) - 1, 0)])
        hidden = len(draft.pinned.difference(accepted)) if draft.pinned else 0
        seq.stats.observe(emitted=len(verdict.tokens), drafted=len(draft) - hidden, accepted=len(accepted))
        seq.stats.held_back_by_experts += draft.held_back == "experts"
        return verdict

    def _keep(self, seq: Running, verdict: Verdict) -> Verdict:
        """Append the verdict's tokens one by one until one of them ends the output."""
        kept = next((i for i, token in enumerate(verdict.tokens, 1) if seq.stops.push(token)), len(verdict.tokens))
        seq.tokens += verdict.tokens[:kept]
        del seq.sampler.logprobs[seq.output_length :]
        if len(verdict.tokens) == 0:
            seq.stops.reason = FinishReason.STOP if seq.sampler.complete else FinishReason.ABORT
        return verdict if kept == len(verdict.tokens) else Verdict(verdict.path[:kept], verdict.tokens[:kept])

    def _observe(self, drafts: list[Draft], verdicts: list[Verdict], scores: Scores, seconds: float) -> None:
        """Show the proposer what came of its drafts; rows that nothing is drafted for are none of its business."""
        shown = [place for place, seq in enumerate(self._live) if seq.drafted_for]
        if self.proposer is None or not shown:
            return
        k = self.proposer.needs.top_ids
        seen = ObserveContext(
            [self._live[place].view() for place in shown],
            [drafts[place] for place in shown],
            [verdicts[place] for place in shown],
            TopIds(lambda index: scores.top_ids(shown[index], k), len(shown)) if k else (),
            seconds,
        )
        self.proposer.observe(seen)

    def _event(self, seq: Running, draft: Draft, verdict: Verdict) -> Event:
        name = self.proposer.name if self.proposer is not None else TARGET
        accepted = len(verdict.path)
        drafters = (name,) * accepted
        if draft.sources is not None:
            drafters = tuple([draft.sources[node] for node in verdict.path])
        sources = drafters + (TARGET,) * (len(verdict.tokens) - accepted)
        return Event(seq.seq_id, verdict.tokens, sources, seq.stops.take_text(), seq.stops.reason, seq.stats)

    def _time(self, draft_s: float, verify_s: float, host_s: float) -> None:
        rows = len(self._live)
        for seq in self._live:
            seq.stats.draft_s += draft_s / rows
            seq.stats.verify_s += verify_s / rows
            seq.stats.host_s += host_s / rows

    def _retire(self, seq: Running) -> None:
        self._live.remove(seq)
        if seq.request.keep:
            self._kept[seq.seq_id] = seq
        else:
            self._release(seq)

    def _release(self, seq: Running) -> None:
        self.target.release(seq.seq_id)
        if self.proposer is not None and seq.begun:
            self.proposer.end(seq.seq_id)
