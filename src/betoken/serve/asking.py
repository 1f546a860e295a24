"""From a client's request to the engine's: parameters under their own names, prompts as token ids, whose memory it may use."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from betoken.decoding import Ask
from betoken.engine import Request
from betoken.errors import ParameterError
from betoken.llm import LLM
from betoken.params import SEED_LIMIT, SamplingParams
from betoken.serve.errors import APIError
from betoken.serve.protocol import ChatRequest, CompletionRequest, Generation, Message
from betoken.serve.settings import Settings
from betoken.serve.structured import form_of, renamed
from betoken.speculation import Speculation

LOG = logging.getLogger("betoken.serve")
# Ours, where a field has the same meaning and the same name.
SAME = (
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias",
    "allowed_token_ids", "stop_token_ids", "ignore_eos", "min_tokens", "n",
)  # fmt: skip
# Fields of other servers that would change the answer and are not there, with the values that ask for nothing.
ABSENT: Mapping[str, Sequence[Any]] = {
    "functions": ((), []), "function_call": ("none",), "prompt_logprobs": (), "use_beam_search": (False,),
    "logits_processors": ([],), "truncate_prompt_tokens": (), "audio": (), "json_schema": (), "mirostat": (0,), "typical_p": (1,),
    "xtc_probability": (0,), "dry_multiplier": (0,), "dynatemp_range": (0,), "top_a": (0,), "tfs_z": (1,), "top_n_sigma": (-1,),
    "length_penalty": (1,),
}  # fmt: skip
# Bad words of a request, and their characters: each is encoded in several ways.
WORDS, WORDS_LENGTH = 1000, 50_000
LEGACY_TOKENS = 16  # of a completion that says nothing, as OpenAI has it
TOP_LOGPROBS, LOGPROBS = 20, 20


@dataclass(frozen=True, slots=True)
class Asked:
    """One HTTP request, ready for the engine: of each prompt `n` requests, in order."""

    asks: tuple[Ask, ...]
    body: Generation
    chat: bool

    def requests(self) -> list[Request]:
        return [ask.request(sample) for ask in self.asks for sample in range(ask.params.n)]

    def ask_of(self, index: int) -> Ask:
        """Of the request with this index."""
        return self.asks[index // self.asks[0].params.n]

    @property
    def prompt_tokens(self) -> int:
        return sum(len(ask.ids) for ask in self.asks)


class Reader:
    """Reads requests for one model, in any thread."""

    def __init__(self, llm: LLM, settings: Settings) -> None:
        self._llm, self._settings = llm, settings

    def read(self, body: Generation, owner: str) -> Asked:
        """Raises APIError, ParameterError, PromptError."""
        self._check(body)
        chat = isinstance(body, ChatRequest)
        prompts = [self._conversation(body)] if isinstance(body, ChatRequest) else self._prompts(body)
        field, form = form_of(body)
        params = self._params(body).replaced(grammar=form)
        wish = _wish(body)
        wish = replace(wish, method=wish.method or self._llm.method)
        space = self._settings.namespace(owner, body.cache_salt or "")
        expected = None if body.prediction is None else _text(body.prediction.content, "prediction") or None
        try:
            if form is not None:
                self._llm.grammars.compile(
                    form
                )  # kept there, so that what is wrong with it goes by the client's name of it
        except ParameterError as failure:
            raise renamed(failure, field) from failure
        asks = tuple(self._llm.ask(prompt, params, expected, space, wish) for prompt in prompts)
        return Asked(asks, body, chat)

    def tokens(self, prompt: str | None, messages: Any, special: bool) -> list[int]:
        """A text or a conversation as token ids. Raises PromptError."""
        return self._llm.chat_prompt(messages) if prompt is None else self._llm.encode(prompt, special=special)

    def check_model(self, name: str | None) -> None:
        """Raises APIError for any but the one that is served."""
        if name is not None and name != self._settings.name:
            raise APIError(
                404,
                f"there is no model {name!r} here; there is {self._settings.name!r}",
                param="model",
                code="model_not_found",
            )

    def _check(self, body: Generation) -> None:
        self.check_model(body.model)
        _check_absent(body.model_extra or {})
        if unknown := body.unknown:
            LOG.info("ignored fields that nothing is known of: %s", ", ".join(repr(name) for name in unknown[:20]))
        limits = self._settings
        samples = body.n or 1
        if samples > limits.max_n:
            raise ParameterError("n", samples, f"at most {limits.max_n} (--max-n)")
        if isinstance(body.stop, list) and len(body.stop) > limits.max_stops:
            raise ParameterError("stop", f"{len(body.stop)} strings", f"at most {limits.max_stops} (--max-stops)")
        words = body.bad_words or ()
        if len(words) > WORDS or sum(map(len, words)) > WORDS_LENGTH:
            expected = f"at most {WORDS}, with {WORDS_LENGTH:,} characters in all"
            raise ParameterError("bad_words", f"{len(words)} strings", expected)
        if isinstance(body, CompletionRequest):
            _check_completion(body)

    def _conversation(self, body: ChatRequest) -> list[int]:
        more: dict[str, Any] = dict(body.chat_template_kwargs or {})
        for name in (
            "self",
            "messages",
            "conversation",
            "tokenize",
            "chat_template",
            "return_tensors",
            "return_dict",
            "tools",
        ):
            if name in more:
                raise ParameterError("chat_template_kwargs", name, "names that the template alone reads")
        if body.tool_choice not in (None, "auto", "none"):
            raise ParameterError(
                "tool_choice", body.tool_choice, '"auto" or "none": calls come as text, and none is forced'
            )
        if body.tools and body.tool_choice != "none":
            more["tools"] = body.tools
        if body.continue_final_message:
            if body.add_generation_prompt or body.messages[-1].role != "assistant":
                raise ParameterError(
                    "continue_final_message", True, "a last message of the assistant, and no add_generation_prompt"
                )
            more["continue_final_message"] = True
        if body.continue_final_message or body.add_generation_prompt is False:
            more["add_generation_prompt"] = False
        return self._llm.chat_prompt([plain(message) for message in body.messages], **more)

    def _prompts(self, body: Generation) -> list[Any]:
        assert isinstance(body, CompletionRequest)
        prompt: Any = body.prompt
        many = isinstance(prompt, list) and not (prompt and isinstance(prompt[0], int))
        prompts: list[Any] = prompt if many else [prompt]
        if not prompts or len(prompts) > self._settings.max_prompts:
            raise ParameterError("prompt", f"{len(prompts)} prompts", f"1 to {self._settings.max_prompts} of them")
        return prompts

    def _params(self, body: Generation) -> SamplingParams:
        given = {name: value for name in SAME if (value := getattr(body, name)) is not None}
        given.setdefault("temperature", 1.0)
        if body.top_k == -1:  # vLLM's way to say all
            given["top_k"] = 0
        given["max_tokens"] = self._most(body)
        given["seed"] = None if body.seed is None else body.seed % SEED_LIMIT
        given["stop"] = body.stop or ()
        given["bad_words"] = tuple(body.bad_words or ())
        given["include_stop_str"] = bool(body.include_stop_str_in_output)
        given["logprobs"] = _logprobs(body)
        return SamplingParams(**given)

    @staticmethod
    def _most(body: Generation) -> int | None:
        if isinstance(body, ChatRequest):
            return body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
        return LEGACY_TOKENS if body.max_tokens is None else body.max_tokens


def _wish(body: Generation) -> Speculation:
    try:
        return Speculation.of(None if body.speculation is None else body.speculation.model_dump())
    except ParameterError as failure:
        raise renamed(failure, f"speculation.{failure.name}") from failure


def _check_absent(given: Mapping[str, Any]) -> None:
    """Raises ParameterError for what would change the answer, and cannot be done."""
    for name, value in given.items():
        if name in ABSENT and value is not None and value not in ABSENT[name]:
            raise ParameterError(name, value, "nothing: there is no such thing here")


def _check_completion(body: CompletionRequest) -> None:
    if body.suffix:
        raise ParameterError("suffix", body.suffix, "nothing: text is not inserted here")
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise ParameterError("best_of", body.best_of, "n, or nothing")
    if body.echo and body.logprobs is not None:
        raise ParameterError("echo", True, "no logprobs with it: those of a prompt are not known")


def _logprobs(body: Generation) -> int | None:
    """How many alternatives a token; None: no logprobs."""
    if isinstance(body, CompletionRequest):
        if body.logprobs is not None and body.logprobs > LOGPROBS:
            raise ParameterError("logprobs", body.logprobs, f"0 to {LOGPROBS}")
        return body.logprobs
    assert isinstance(body, ChatRequest)
    top = body.top_logprobs
    if top is not None and not 0 <= top <= TOP_LOGPROBS:
        raise ParameterError("top_logprobs", top, f"0 to {TOP_LOGPROBS}")
    if top and not body.logprobs:
        raise ParameterError("top_logprobs", top, '"logprobs": true with it')
    return (top or 0) if body.logprobs else None


def plain(message: Message) -> Mapping[str, Any]:
    """A message as chat templates take it: parts of text joined, arguments of tools as objects."""
    found: dict[str, Any] = {"role": message.role, **(message.model_extra or {})}
    found["content"] = _text(message.content, "messages") if message.content is not None else ""
    if isinstance(found.get("tool_calls"), list):
        found["tool_calls"] = [_called(call) for call in found["tool_calls"]]
    return found


def _called(call: Any) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        return {**call, "function": {**function, "arguments": json.loads(function["arguments"])}}
    except (ValueError, RecursionError):
        return call


def _text(content: str | Sequence[Mapping[str, Any]], where: str) -> str:
    """Text, or the text of its parts. Raises ParameterError for parts of another kind."""
    if isinstance(content, str):
        return content
    for part in content:
        if part.get("type") not in ("text", "input_text") or not isinstance(part.get("text"), str):
            raise ParameterError(where, str(part.get("type")), "parts of type text only: this model reads nothing else")
    return "".join(part["text"] for part in content)
