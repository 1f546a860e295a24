"""What a caller may ask of sampling, checked at construction. No torch, no numpy."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from betoken.errors import ParameterError
from betoken.grammar_spec import GrammarSpec

SEED_LIMIT = 2**63
LARGEST = 1e30  # of any number here: room for arithmetic that stays finite; also false for NaN
COLLECTIONS: dict[str, tuple[type, ...]] = {
    "stop": (str, list, tuple),
    "stop_token_ids": (list, tuple, set, frozenset, range),
    "bad_words": (str, list, tuple),
    "allowed_token_ids": (list, tuple, set, frozenset, range),
    "logit_bias": (Mapping,),
}


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen and when to stop. Every field is exact under speculation: the text is what plain decoding
    with the same seed gives.

    temperature:        0 is greedy; otherwise logits are divided by it
    top_k:              keep the k most likely tokens (ties with the k-th are kept); 0 keeps all
    top_p:              then keep the smallest set of most likely tokens whose probability reaches top_p
    min_p:              then keep tokens at least min_p times as likely as the most likely one
    repetition_penalty: > 1 makes tokens of the prompt and the output less likely (CTRL, Keskar et al. 2019, 4.1)
    presence_penalty, frequency_penalty: subtracted from the logits of tokens in the output, once or per occurrence
    logit_bias:         token id -> added to its logit
    bad_words:          texts, or lists of token ids, that must not appear
    allowed_token_ids:  nothing else may appear
    min_tokens:         no end of sequence, stop id or stop string before this many tokens
    max_tokens:         stop after this many tokens; None: up to the end of the context
    stop:               strings that end the output; they are not part of the text unless include_stop_str is set
    stop_token_ids:     ids that end the output, as well as the model's own end-of-sequence ids
    ignore_eos:         go on after the model's end-of-sequence ids
    grammar:            the shape the output must have: `{"json_schema": {...}}`, `{"json_object": True}`,
                        `{"regex": "..."}`, `{"choice": [...]}`, `{"lark": "..."}`; kept as a `GrammarSpec`
    n:                  how many samples of each prompt
    seed:               None: a fresh one per request, returned with the result
    logprobs:           None, or how many of the most likely tokens to report beside each emitted one (raw logits,
                        before any of the above)

    Raises ParameterError, naming the field, the value and the range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    bad_words: tuple[str | tuple[int, ...], ...] = ()
    allowed_token_ids: tuple[int, ...] | None = None
    min_tokens: int = 0
    max_tokens: int | None = 128
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str: bool = False
    ignore_eos: bool = False
    grammar: GrammarSpec | None = None
    n: int = 1
    seed: int | None = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        if self.grammar is not None:
            object.__setattr__(self, "grammar", GrammarSpec.of(self.grammar))
        for name in ("include_stop_str", "ignore_eos"):
            if not isinstance(getattr(self, name), bool):
                raise ParameterError(name, getattr(self, name), "True or False")
        self._normalise()
        _number("temperature", self.temperature, low=0)
        _whole("top_k", self.top_k, low=0)
        _number("top_p", self.top_p, low=0, high=1, open_low=True)
        _number("min_p", self.min_p, low=0, high=1)
        _number("repetition_penalty", self.repetition_penalty, low=0, open_low=True)
        _number("presence_penalty", self.presence_penalty, low=-2, high=2)
        _number("frequency_penalty", self.frequency_penalty, low=-2, high=2)
        _whole("min_tokens", self.min_tokens, low=0)
        _whole("n", self.n, low=1, high=1024)
        _optional_whole("max_tokens", self.max_tokens, low=1)
        _optional_whole("seed", self.seed, low=0, high=SEED_LIMIT - 1)
        _optional_whole("logprobs", self.logprobs, low=0, high=100)
        self._check_tokens()
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ParameterError("min_tokens", self.min_tokens, f"at most max_tokens ({self.max_tokens})")

    def _normalise(self) -> None:
        """Accept lists, and a single string for `stop`, as users write them."""
        for field_name, kinds in COLLECTIONS.items():
            value: Any = getattr(self, field_name)
            if value is not None and not isinstance(value, kinds):
                raise ParameterError(field_name, value, "a " + " or a ".join(kind.__name__.lower() for kind in kinds))
        strings: Any = self.stop
        words: Any = self.bad_words
        strings = (strings,) if isinstance(strings, str) else strings
        words = (words,) if isinstance(words, str) else words
        for name, value in (
            ("stop", tuple(strings or ())),
            ("stop_token_ids", tuple(self.stop_token_ids or ())),
            ("bad_words", tuple(word if isinstance(word, str) else _word(word) for word in words or ())),
            ("allowed_token_ids", None if self.allowed_token_ids is None else tuple(self.allowed_token_ids)),
            ("logit_bias", {_token_id(token): bias for token, bias in (self.logit_bias or {}).items()}),
        ):
            object.__setattr__(self, name, value)

    def _check_tokens(self) -> None:
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise ParameterError("stop", text, "non-empty strings")
        for word in self.bad_words:
            if not word:
                raise ParameterError("bad_words", word, "non-empty strings or lists of token ids")
        for token in (*self.stop_token_ids, *self.logit_bias):
            _whole("stop_token_ids" if token in self.stop_token_ids else "logit_bias", token, low=0)
        for bias in self.logit_bias.values():
            _number("logit_bias", bias, low=-1000, high=1000)
        if self.allowed_token_ids is not None:
            if not self.allowed_token_ids:
                raise ParameterError("allowed_token_ids", [], "at least one token id, or None for no restriction")
            for token in self.allowed_token_ids:
                _whole("allowed_token_ids", token, low=0)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def replaced(self, **changes: Any) -> "SamplingParams":
        """A copy with some fields changed, checked again."""
        return replace(self, **changes)


def _word(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not all(type(token) is int and token >= 0 for token in value):
        raise ParameterError("bad_words", value, "non-empty strings or lists of token ids")
    return tuple(value)


def _token_id(value: Any) -> Any:
    """JSON writes the ids of a mapping as strings."""
    return int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 20 else value


def _whole(name: str, value: Any, *, low: int, high: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        raise ParameterError(
            name, value, f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"
        )


def _optional_whole(name: str, value: Any, *, low: int, high: int | None = None) -> None:
    if value is not None:
        _whole(name, value, low=low, high=high)


def _number(name: str, value: Any, *, low: float, high: float | None = None, open_low: bool = False) -> None:
    bad = isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < LARGEST
    if bad or value < low or (open_low and value == low) or (high is not None and value > high):
        least = f"above {low}" if open_low else f"at least {low}"
        raise ParameterError(name, value, f"a finite number, {least}" + ("" if high is None else f", at most {high}"))
