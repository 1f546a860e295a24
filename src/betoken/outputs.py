"""What a user gets back: results, samples, and the steps of a stream. No torch."""

from dataclasses import dataclass

from betoken.sampling import TokenLogprobs
from betoken.stats import Stats, total
from betoken.stops import FinishReason


@dataclass(frozen=True, slots=True)
class Output:
    """One sample of a prompt.

    index:         which of the n samples
    text:          what was said, special tokens and the stop string left out
    token_ids:     every emitted token, the ending one included
    finish_reason: "eos", "stop", "length", "context" or "abort"
    stop_reason:   the stop string or stop id that ended it, else None
    logprobs:      one entry per token where `SamplingParams.logprobs` was given, else None
    stats:         what speculation did for it
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    stop_reason: str | int | None
    logprobs: tuple[TokenLogprobs, ...] | None
    stats: Stats


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one prompt. With one sample (the default) `text`, `token_ids` and the rest are its own.

    prompt:           the text, or None where token ids were given
    prompt_token_ids: what the target was fed
    outputs:          the n samples
    seed:             the seed that was used: give it again, and with the same parameters the same text comes back
    """

    prompt: str | None
    prompt_token_ids: tuple[int, ...]
    outputs: tuple[Output, ...]
    seed: int

    @property
    def text(self) -> str:
        return self.outputs[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.outputs[0].token_ids

    @property
    def finish_reason(self) -> FinishReason:
        return self.outputs[0].finish_reason

    @property
    def logprobs(self) -> tuple[TokenLogprobs, ...] | None:
        return self.outputs[0].logprobs

    @property
    def stats(self) -> Stats:
        """The counters of all samples together."""
        return total([output.stats for output in self.outputs])


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a stream.

    text:          what may be shown now; whole characters only, possibly none
    token_ids:     the tokens of this step
    sources:       who proposed each of them: the method's name, or "target"
    finish_reason: set on the last step
    stats:         the counters so far (live: they go on counting)
    """

    text: str
    token_ids: tuple[int, ...]
    sources: tuple[str, ...]
    finish_reason: FinishReason | None
    stats: Stats
