"""Live runs as traces: every answer that ends while a recording is open is appended to a file. No torch.

Knows answers and traces; knows nothing of models. What is recorded is enough for `bench.replay` to count what the live run
counted, step for step.
"""

from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from betoken.decoding import Answer
from betoken.grammar_spec import GrammarSpec
from betoken.outputs import Output, Result
from betoken.params import SamplingParams
from betoken.trace import CONTEXT, OUTPUT, UNNAMED, Conversation, Header, Segment, Writer

# Not of the sampling: said elsewhere in a conversation, or no matter of what was said.
ELSEWHERE = frozenset({"n", "seed", "logprobs", "max_tokens"})


class Recording:
    """An open trace file; ends with its `with` statement, or with `close`. `category` may be changed while it is open.

    Answers are appended when they end, in that order, by number; those that are aborted before (a stream closed early, an
    interrupted call) are left out. A file that would hold no answer is removed at the end.

    Raises TraceError: here, where the file exists or cannot be written; where it cannot be written any more (a full disk),
    from the call whose answer cannot be recorded. It then keeps the answers before.
    """

    def __init__(self, path: Path, header: Header, *, category: str = UNNAMED) -> None:
        self.path, self.category = path, category
        self._writer = Writer(path, header)
        self._closed = False

    @property
    def written(self) -> int:
        """How many answers the file holds."""
        return self._writer.written

    def hear(self, answer: Answer) -> None:
        """Append an answer that has ended."""
        ask = answer.ask
        limit = answer.stops.room + answer.stops.count
        output = answer.output(answer.sample)
        one = conversation(str(self.written), self.category, ask.ids, output, ask.params, limit)
        self.add(replace(one, reference=ask.reference))

    def add(self, one: Conversation) -> None:
        """Append any conversation."""
        self._writer.add(one)

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Nothing is appended any more."""
        if self._closed:
            return
        self._closed = True
        self._writer.close()
        if not self.written:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def spoken_name(model: str) -> str:
    """How a trace calls a model: a folder by its last part (where it lies is nobody's business), a hub name as it is."""
    folder = Path(model)
    return folder.resolve().name if folder.is_dir() else model


def of_result(name: str, category: str, result: Result, params: SamplingParams, context: int | None) -> Conversation:
    """The first sample of a result. `context`: the target's, in tokens."""
    room = None if context is None else context - len(result.prompt_token_ids)
    limits = [limit for limit in (params.max_tokens, room) if limit is not None]
    asked = params.replaced(seed=result.seed)
    return conversation(name, category, result.prompt_token_ids, result.outputs[0], asked, min(limits, default=None))


def conversation(
    name: str, category: str, prompt: tuple[int, ...], output: Output, params: SamplingParams, limit: int | None
) -> Conversation:
    """A prompt and what was said to it.

    limit: how many tokens the output could have had, be it for max_tokens or for the context; no draft was deeper
    """
    segments = (Segment(CONTEXT, prompt), Segment(OUTPUT, output.token_ids, output.text))
    sampling = {**_asked(params), **({} if limit is None else {"max_tokens": limit})}
    return Conversation(name, category, segments, params.seed, sampling, output.index)


def _asked(params: SamplingParams) -> dict[str, Any]:
    """What differs from the defaults, as JSON has it; the temperature in any case."""
    usual = SamplingParams()
    names = [name for name in SamplingParams.__dataclass_fields__ if name not in ELSEWHERE]
    changed = {name: getattr(params, name) for name in names if getattr(params, name) != getattr(usual, name)}
    return {"temperature": params.temperature} | {name: _plain(value) for name, value in changed.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, GrammarSpec):
        return value.as_mapping()
    if isinstance(value, dict):
        return {str(key): entry for key, entry in value.items()}
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    return value
