"""Prompts, chats and words as the token ids a model is fed. Knows a tokenizer; knows nothing of models and drafts."""

from collections.abc import Mapping, Sequence
from typing import Any

from betoken.errors import PromptError
from betoken.prompts import Prompt, checked_ids, reference_ids
from betoken.tokenization import quiet

Message = Mapping[str, Any]


class Encoder:
    """A tokenizer as one model uses it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """special: with the tokens that the tokenizer adds of its own. Raises PromptError."""
        try:
            text.encode()
        except UnicodeEncodeError as failure:
            raise PromptError(f"the text has half a character (a lone surrogate) at {failure.start}") from None
        with quiet():
            return [int(token) for token in self._tokenizer(text, add_special_tokens=special)["input_ids"]]

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Text with the tokenizer's own special tokens, ids as they are."""
        return self.encode(prompt) if isinstance(prompt, str) else list(checked_ids(prompt))

    def reference_ids(self, reference: Any) -> tuple[int, ...]:
        """The text as it would stand in the middle of an answer: without special tokens."""
        if isinstance(reference, str):
            return tuple(self.encode(reference, special=False))
        return reference_ids(reference)

    def word_ids(self, word: str | tuple[int, ...]) -> list[tuple[int, ...]]:
        """The ways a bad word is usually written: at the start, after a space, and inside a line."""
        if not isinstance(word, str):
            return [word]
        line, after = self.encode("\n", special=False), self.encode("\n" + word, special=False)
        ways = [self.encode(word, special=False), self.encode(" " + word, special=False)]
        if after[: len(line)] == line:
            ways.append(after[len(line) :])
        return [*dict.fromkeys(tuple(way) for way in ways if way)]

    def chat_ids(self, messages: Sequence[Message], **more: Any) -> list[int]:
        """A conversation, up to where the answer begins. Raises PromptError without a template.

        more: what else the template takes: tools, and whatever is its own
        """
        given: Any = messages
        if not isinstance(given, list | tuple) or not all(isinstance(message, Mapping) for message in given):
            raise PromptError('messages must be a list of {"role": ..., "content": ...}')
        if not getattr(self._tokenizer, "chat_template", None):
            raise PromptError("this model has no chat template; give a plain prompt, or a template")
        more = {"add_generation_prompt": True, **more}
        try:
            text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, **more)
        except Exception as failure:
            raise PromptError(f"the chat template refuses these messages: {failure}") from failure
        return self.encode(str(text), special=False)
