"""The step loop: read prompts, propose a tree per row, score all trees in one forward, keep what the target itself would have said.

The engine knows token ids only. It touches neither tensors nor KV, and no drafting method by name.
"""

import itertools
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from betoken.draft import EMPTY, Draft, clip, trunk
from betoken.errors import NoRoomError, ParameterError, PromptError
from betoken.grammar import Grammar
from betoken.judging import check_drawn, exactly, residually
from betoken.params import SEED_LIMIT, SamplingParams
from betoken.prefill import Prefill
from betoken.proposers.base import ObserveContext, ProposeContext, Proposer, Rests, TopIds
from betoken.sampling import Sampler
from betoken.scheduler import Limits
from betoken.sequences import Event as Event
from betoken.sequences import Request as Request
from betoken.sequences import Running as Running
from betoken.stats import Stats
from betoken.stops import FinishReason, Stops, TextStream
from betoken.targets.base import Feed, Scores, Target
from betoken.verify import Verdict

TARGET = "target"
NOTHING = Verdict((), ())


class Engine(Prefill):
    """Many requests, one target, at most one proposer. Rows join and leave at any step; each accepts its own length.

    acceptance: "exact" (the same seed gives the same text whatever is drafted) or "residual" (the classical rule: the
                same law, other text)
    max_rows:   how many requests decode at once; the others wait
    chunk:      how many prompt tokens one prefill forward takes
    max_nodes:  how many nodes of a draft are fed; the rest is dropped, the last ones first
    clock:      what `Stats` and the policy of `auto` go by; no text depends on it
    limits:     instead of `max_rows` and `chunk`, and more of their kind
    isolate:    what goes wrong with one request ends that request, with an event that says why; else `step` raises it

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
        limits: Limits | None = None,
        isolate: bool = False,
    ) -> None:
        if acceptance not in ("exact", "residual"):
            raise ParameterError("acceptance", acceptance, '"exact" or "residual"')
        if max_nodes < 0:
            raise ParameterError("max_nodes", max_nodes, "a whole number of at least 0")
        super().__init__(target, limits or Limits(rows=max_rows, chunk=chunk), proposer, clock=clock, isolate=isolate)
        self._max_nodes = max_nodes
        self._residual = acceptance == "residual"
        self._ids = itertools.count()
        self.draining = False  # whether nobody else comes before all who are here have ended: drafting may know it
        self._due = False  # whether whoever decodes is next
        self._rests = isinstance(proposer, Rests)
        self._resting = False  # the proposer, in this step

    def add(self, request: Request) -> int:
        """Take a request; its id is in every event about it. Raises PromptError, ParameterError."""
        sampler, stops = self._prepared(request)
        drafter = (request.speculation.method or self._usual).partition(":")[0]
        seq = Running(next(self._ids), request, sampler, stops, list(request.prompt), self._counters(request), drafter)
        self._waiting.append(seq)
        return seq.seq_id

    def check(self, request: Request) -> None:
        """Whether `add` would take it, from any thread. Raises PromptError, ParameterError."""
        self._prepared(request)

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

    @property
    def _usual(self) -> str:
        return "plain" if self.proposer is None else self.proposer.name

    def _counters(self, request: Request) -> Stats:
        asked = request.speculation
        return Stats(speculation=(replace(asked, method=asked.method or self._usual),))

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
                raise PromptError(f"the prompt has token id {token}; the model knows 0 to {info.vocab_size - 1}")
        context = min(info.context or len(prompt) + 2**31, self.rows.room() or 2**62)
        if len(prompt) >= context:
            raise PromptError(
                f"the prompt has {len(prompt)} tokens; the model has room for {context}, one of them for the output"
            )
        return context - len(prompt)

    def abort(self, seq_id: int) -> None:
        """Forget a request, wherever it is."""
        for group in (self._waiting, self._reading, self._live):
            for seq in [seq for seq in group if seq.seq_id == seq_id]:
                group.remove(seq)
                self._release(seq)
        if seq_id in self._kept:
            self._release(self._kept.pop(seq_id))

    def step(self) -> list[Event]:
        """Admit what fits, read prompts, then one step of every decoding row. First tokens are told at once: that step comes with the
        next call, before more is read. Events come in the order of the rows."""
        self._admit()
        events = [] if self._due else self._read()
        self._due = bool(events and self._live)
        if events or not self._live:
            return events
        start = self._clock()
        events += self._begun()
        if not self._live:
            return events
        drafts = self._propose()
        drafted = self._clock()
        try:
            drafts, scores = self._scored(drafts)
        except NoRoomError as failure:
            return events if self._made_room() else [*events, self._failed(self._live[0], failure)]
        scored = self._clock()
        verdicts, failed = self._verdicts(drafts, scores)
        self._observe(drafts, verdicts, scores, scored - drafted)
        events += [
            self._event(seq, draft, verdict)
            for seq, draft, verdict in zip(self._live, drafts, verdicts, strict=True)
            if seq.seq_id not in failed
        ]
        self._time(drafted - start, scored - drafted, self._clock() - scored)
        events += [self._fail(seq, failed[seq.seq_id]) for seq in tuple(self._live) if seq.seq_id in failed]
        for seq in [seq for seq in self._live if seq.stops.reason is not None]:
            self._live.remove(seq)
            self._retire(seq)
        self._pace.stepped(self._clock() - start)
        return events

    def run(self, on_event: Callable[[Event], None]) -> None:
        """Step until nothing is left."""
        while self.unfinished:
            for event in self.step():
                on_event(event)

    def _goes_live(self, seq: Running, scores: Scores | None, index: int) -> list[Event]:
        """It is read. A row that was given up before goes on where it was; any other has its first token."""
        self._reading.remove(seq)
        if seq.resumes:
            seq.resumes = False
            self._live.append(seq)
            return []
        assert scores is not None  # of a prompt at least the last token is fed
        self._live.append(seq)
        event = self._event(seq, EMPTY, self._keep(seq, exactly(seq.sampler, scores, index, EMPTY)))
        if seq.stops.reason is not None:
            self._live.remove(seq)
            self._retire(seq)
        return [event]

    def _begun(self) -> list[Event]:
        """Show the proposer whoever is new to it."""
        events: list[Event] = []
        for seq in [seq for seq in self._live if self.proposer is not None and seq.drafted_for and not seq.begun]:
            events += self._guarded(seq, lambda: self._begin(seq))  # noqa: B023
        return events

    def _begin(self, seq: Running) -> list[Event]:
        assert self.proposer is not None
        self.proposer.begin(seq.view())
        seq.begun = True
        return []

    def _propose(self) -> list[Draft]:
        self._nodes = 0
        self._resting = self._rests and self.proposer.rests()  # type: ignore[union-attr]
        shown = [] if self._resting else [seq for seq in self._live if seq.drafted_for]
        if self.proposer is None or not shown:
            return [EMPTY] * len(self._live)
        last = self.draining and not self._waiting and not self._reading
        drafts = self.proposer.propose(
            ProposeContext([seq.view() for seq in shown], self._residual, len(self._live), last=last)
        )
        if not self.target.info.can_branch:
            drafts = [trunk(draft) for draft in drafts]
        if self._residual:
            drafts = [check_drawn(draft, self.target.info.vocab_size) for draft in drafts]
        fed = {seq.seq_id: self._clipped(seq, draft) for seq, draft in zip(shown, drafts, strict=True)}
        self._nodes = sum([len(draft) for draft in fed.values()])
        return [fed.get(seq.seq_id, EMPTY) for seq in self._live]

    def _clipped(self, seq: Running, draft: Draft) -> Draft:
        own = seq.request.speculation.max_nodes
        most = self.limits.nodes(len(self._live), self._max_nodes)
        return clip(
            draft,
            vocab_size=self.target.info.vocab_size,
            max_depth=seq.stops.room - 1,
            max_nodes=most if own is None else min(own, most),
        )

    def _scored(self, drafts: list[Draft]) -> tuple[list[Draft], Scores]:
        """What the target says of these drafts; of none, where there is no memory for them: who drafts must not fail where plain
        decoding would not."""
        try:
            return drafts, self.target.score(self._feeds(drafts))
        except NoRoomError:
            if not self._nodes:
                raise
        self._nodes, drafts = 0, [EMPTY] * len(drafts)
        return drafts, self.target.score(self._feeds(drafts))

    def _feeds(self, drafts: Sequence[Draft]) -> list[Feed]:
        return [Feed(seq.seq_id, self._unseen(seq), draft) for seq, draft in zip(self._live, drafts, strict=True)]

    def _unseen(self, seq: Running) -> tuple[int, ...]:
        return tuple(seq.tokens[self.target.length(seq.seq_id) :])

    def _verdicts(self, drafts: list[Draft], scores: Scores) -> tuple[list[Verdict], dict[int, Exception]]:
        """One a row; an empty one where it failed, and why."""
        verdicts, failed = [], {}
        for index, (seq, draft) in enumerate(zip(self._live, drafts, strict=True)):
            try:
                verdicts.append(self._verify(seq, scores, index, draft))
            except Exception as failure:
                if not self._isolate:
                    raise
                failed[seq.seq_id] = failure
                verdicts.append(NOTHING)
        return verdicts, failed

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
        if self._resting:
            self.proposer.rested(len(self._live), seconds)  # type: ignore[union-attr]
            return
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
            top_logits=TopIds(lambda index: scores.top_logits(shown[index], k), len(shown)) if k else (),
        )
        self.proposer.observe(seen)

    def _event(self, seq: Running, draft: Draft, verdict: Verdict) -> Event:
        accepted = len(verdict.path)
        drafters = (seq.drafter,) * accepted
        if draft.sources is not None:
            drafters = tuple([draft.sources[node] for node in verdict.path])
        sources = drafters + (TARGET,) * (len(verdict.tokens) - accepted)
        logprobs = tuple(seq.sampler.logprobs[-len(verdict.tokens) :]) if seq.sampler.logprobs and sources else ()
        return Event(
            seq.seq_id,
            verdict.tokens,
            sources,
            seq.stops.take_text(),
            seq.stops.reason,
            seq.stats,
            len(draft),
            logprobs,
            seq.stops.stop,
        )

    def _time(self, draft_s: float, verify_s: float, host_s: float) -> None:
        rows = len(self._live)
        for seq in self._live:
            seq.stats.draft_s += draft_s / rows
            seq.stats.verify_s += verify_s / rows
            seq.stats.host_s += host_s / rows

    def _retire(self, seq: Running) -> None:
        if seq.request.keep:
            self._kept[seq.seq_id] = seq
        else:
            self._release(seq)

    def _release(self, seq: Running) -> None:
        self.rows.end(seq)
        if self.proposer is not None and seq.begun:
            self.proposer.end(seq.seq_id)
