"""Chats in tokens: every assistant turn an output, by the tokenizer's chat template.

The context of a turn is what the template writes up to where the answer begins; the output is what it writes then, up to the
end of the turn. Where a template writes earlier turns otherwise later on (it drops their thinking), a model would have had to
read them anew, so that turn begins a new conversation.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from betoken.errors import TraceError
from betoken.textual import Ids, Texts
from betoken.trace import CONTEXT, OUTPUT, Segment

Message = Mapping[str, Any]
ASSISTANT = "assistant"
COMPARED = 40  # characters of an answer's end that must stand in its rendered turn


class Chats:
    """The messages of one line of a log.

    tools: as the request had them, for the template
    Raises TraceError, from here and from every method, naming the place.
    """

    def __init__(self, texts: Texts, place: str, tools: Any = None) -> None:
        if not getattr(texts.tokenizer, "chat_template", None):
            raise TraceError(
                f"{place}: a chat, and the tokenizer has no chat template; give the tokenizer of a chat model"
            )
        self._texts, self._place, self._tools = texts, place, tools or None

    def conversations(self, messages: Any) -> Iterator[tuple[Segment, ...]]:
        """The segments of one conversation, or of more where the template rewrites what was said before."""
        plain = self._plain(messages)
        turns = [place for place, message in enumerate(plain) if place and message["role"] == ASSISTANT]
        segments: list[Segment] = []
        said: Ids = ()
        for turn in turns:
            before, after, text = self._turn(plain[: turn + 1])
            if segments and before[: len(said)] != said:
                yield tuple(segments)
                segments, said = [], ()
            segments += [Segment(CONTEXT, before[len(said) :]), Segment(OUTPUT, after, text)]
            said = (*before, *after)
        if segments:
            yield tuple(segments)

    def answer(self, messages: Any) -> tuple[Segment, ...]:
        """The last message as the output, all others as the context."""
        plain = self._plain(messages)
        if plain[-1]["role"] != ASSISTANT:
            raise TraceError(f"{self._place}: the answer's role is {plain[-1]['role']!r}; expected {ASSISTANT!r}")
        before, after, text = self._turn(plain)
        return Segment(CONTEXT, before), Segment(OUTPUT, after, text)

    def _turn(self, messages: Sequence[Message]) -> tuple[Ids, Ids, str]:
        """Tokens before the last message, those of the last message, and its text."""
        prompt = self._render(messages[:-1], begin=True)
        whole = self._render(messages, begin=False)
        said = whole.removeprefix(prompt)
        self._check(messages[-1], said)
        before = self._texts.encode(prompt, self._place)
        if whole.startswith(prompt):
            after = self._texts.continued(before, prompt, said, self._place)
        else:
            before, after = self._opened_otherwise(messages, before, whole)
        after = self._texts.until_end(after)
        if not before or not after:
            raise TraceError(f"{self._place}: the chat template writes nothing; expected an answer to something")
        return before, after, messages[-1]["content"]

    def _opened_otherwise(self, messages: Sequence[Message], before: Ids, whole: str) -> tuple[Ids, Ids]:
        """Context and output where a template opens an answer (say, with "<think>") otherwise than it writes a given one:
        the output begins where they part."""
        given = self._texts.encode(whole, self._place)
        parted = next((i for i, (a, b) in enumerate(zip(before, given, strict=False)) if a != b), len(given))
        question = self._texts.encode(self._render(messages[:-1], begin=False), self._place)
        if given[:parted][: len(question)] != question:
            raise TraceError(f"{self._place}: the chat template writes the question otherwise once it is answered")
        return given[:parted], given[parted:]

    def _check(self, message: Message, said: str) -> None:
        """The answer stands in the rendered turn: its end (templates drop what was thought before), its tool calls."""
        end = message["content"].strip()[-COMPARED:]
        if end not in said:
            raise TraceError(f"{self._place}: the chat template does not write the answer that ends in {end!r}")
        older = [message["function_call"]] if message.get("function_call") else []
        for call in [*(message.get("tool_calls") or ()), *older]:
            name = str(call.get("function", call).get("name"))
            if name not in said:
                raise TraceError(
                    f"{self._place}: the chat template does not write tool calls ({name}); "
                    "give the tokenizer of the model that made them"
                )

    def _render(self, messages: Sequence[Message], *, begin: bool) -> str:
        tokenizer = self._texts.tokenizer
        try:
            return str(
                tokenizer.apply_chat_template(
                    list(messages), tools=self._tools, tokenize=False, add_generation_prompt=begin
                )
            )
        except Exception as failure:  # templates raise what they like
            raise TraceError(f"{self._place}: the chat template refuses these messages: {failure}") from failure

    def _plain(self, messages: Any) -> list[Message]:
        if not isinstance(messages, list) or not messages:
            raise TraceError(f'{self._place}: no messages; expected a list of {{"role": ..., "content": ...}}')
        return [self._message(message) for message in messages]

    def _message(self, message: Any) -> Message:
        """A message as templates take it: content as text, arguments of tool calls as objects."""
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise TraceError(f'{self._place}: message {str(message)[:40]!r}; expected {{"role": ..., "content": ...}}')
        plain = {name: value for name, value in message.items() if value is not None}
        plain["content"] = self._text(message.get("content"))
        if plain.get("tool_calls"):
            plain["tool_calls"] = [self._call(call) for call in plain["tool_calls"]]
        return plain

    def _text(self, content: Any) -> str:
        parts = content if isinstance(content, list) else [content]
        return "".join(self._part(part) for part in parts)

    def _part(self, part: Any) -> str:
        if part is None or isinstance(part, str):
            return part or ""
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            return str(part["text"])
        kind = part.get("type") if isinstance(part, dict) else part
        raise TraceError(f"{self._place}: content of type {str(kind)[:40]!r}; only text can be written in tokens")

    def _call(self, call: Any) -> Any:
        """The API writes arguments as a string of JSON, templates want the object."""
        if not isinstance(call, dict) or not isinstance(call.get("function", call), dict):
            raise TraceError(f'{self._place}: tool call {str(call)[:40]!r}; expected {{"function": {{"name": ...}}}}')
        function = dict(call.get("function", call))
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            try:
                function["arguments"] = json.loads(arguments or "{}")
            except (ValueError, RecursionError):
                function["arguments"] = arguments
        return {**call, "function": function}
