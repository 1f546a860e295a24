"""Requests on their way through an engine: what was asked, what has come of it so far, and who still waits.

Knows engines and tokenizers; knows nothing of models.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from betoken.engine import Engine, Event, Request
from betoken.grammar import Grammar
from betoken.outputs import Output, Result, Step
from betoken.params import SamplingParams
from betoken.sampling import Sampler
from betoken.speculation import USUAL, Speculation
from betoken.stats import Stats
from betoken.stops import FinishReason, Stops
from betoken.text import Detokenizer


@dataclass(frozen=True, slots=True)
class Ask:
    """A prompt, ready for the engine."""

    prompt: str | None
    ids: tuple[int, ...]
    params: SamplingParams
    tokenizer: Any
    reference: tuple[int, ...] = ()
    namespace: str = ""
    speculation: Speculation = USUAL
    grammar: Grammar | None = None

    def request(self, sample: int) -> Request:
        text = Detokenizer(self.tokenizer)
        return Request(
            self.ids,
            self.params,
            sample,
            text,
            reference=self.reference,
            namespace=self.namespace,
            speculation=self.speculation,
            grammar=self.grammar,
        )

    def result(self, answers: Sequence["Answer"]) -> Result:
        outputs = tuple(answer.output(index) for index, answer in enumerate(answers))
        return Result(self.prompt, self.ids, outputs, self.params.seed or 0)


@dataclass(slots=True)
class Answer:
    """What has come of one request so far."""

    ask: Ask
    sample: int
    seq_id: int
    sampler: Sampler
    stops: Stops
    events: list[Event] = field(default_factory=list)
    read: int = 0

    @property
    def finished(self) -> FinishReason | None:
        return self.events[-1].finished if self.events else None

    def output(self, index: int) -> Output:
        logprobs = None if self.sampler.params.logprobs is None else tuple(self.sampler.logprobs)
        return Output(
            index,
            "".join(event.text for event in self.events),
            tuple(token for event in self.events for token in event.tokens),
            self.finished or FinishReason.ABORT,
            self.stops.stop,
            logprobs,
            self.events[-1].stats if self.events else Stats(),
        )


class Room:
    """One method's engine, and who waits for which of its events. `listeners` are told of every answer that ends."""

    def __init__(self, method: str, engine: Engine, listeners: Sequence[Callable[[Answer], object]] = ()) -> None:
        self.method, self.engine, self._listeners = method, engine, listeners
        self._answers: dict[int, Answer] = {}

    def add(self, ask: Ask, sample: int = 0) -> Answer:
        seq_id = self.engine.add(ask.request(sample))
        running = self.engine.running(seq_id)
        answer = Answer(ask, sample, seq_id, running.sampler, running.stops)
        self._answers[seq_id] = answer
        return answer

    def knows(self, answer: Answer) -> bool:
        return answer.seq_id in self._answers

    def only(self, answers: Sequence[Answer]) -> bool:
        """Whether nobody else's are under way."""
        ours = {answer.seq_id for answer in answers}
        return all(answer.finished is not None for seq_id, answer in self._answers.items() if seq_id not in ours)

    def shut(self) -> None:
        """Abort everything."""
        self.forget([*self._answers.values()])

    def step(self) -> None:
        events = self.engine.step()
        for event in events:
            self._answers[event.seq_id].events.append(event)
        for answer in [self._answers[event.seq_id] for event in events if event.finished]:
            for listener in tuple(self._listeners):
                listener(answer)

    def forget(self, answers: Sequence[Answer]) -> None:
        """Abort what is unfinished, and keep nothing of the rest."""
        for answer in answers:
            if self._answers.pop(answer.seq_id, None) is not None and answer.finished is None:
                self.engine.abort(answer.seq_id)


class Steps(Iterator[Step]):
    """The steps of one request. `close` (also at the end of the iterator's life) aborts it."""

    def __init__(self, room: Room, answer: Answer) -> None:
        self._room, self._answer = room, answer

    def __next__(self) -> Step:
        answer = self._answer
        if not self._room.knows(answer):
            raise StopIteration
        while answer.read == len(answer.events):
            if answer.finished is not None:
                self.close()
                raise StopIteration
            self._step()
        event = answer.events[answer.read]
        answer.read += 1
        return Step(event.text, event.tokens, event.sources, event.finished, event.stats)

    def _step(self) -> None:
        try:
            self._room.step()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._room.forget([self._answer])

    def __del__(self) -> None:
        self.close()


def texts(steps: Steps) -> Generator[str]:
    try:
        for step in steps:
            if step.text:
                yield step.text
    finally:
        steps.close()


def drain(room: Room, answers: Sequence[Answer], *, progress: bool) -> None:
    """Step until all answers are complete. Where they are all there is, drafting may know it."""
    before, room.engine.draining = room.engine.draining, room.only(answers)
    try:
        _drain(room, answers, progress=progress)
    finally:
        room.engine.draining = before


def _drain(room: Room, answers: Sequence[Answer], *, progress: bool) -> None:
    if not progress:
        while any(answer.finished is None for answer in answers):
            room.step()
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("decoding", total=len(answers))
        while (done := sum(answer.finished is not None for answer in answers)) < len(answers):
            bar.update(task, completed=done)
            room.step()
