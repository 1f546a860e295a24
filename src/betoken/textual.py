"""Text to tokens as a live run would have had them: a prompt, then what was said after it."""

from collections.abc import Iterator, Sequence
from typing import Any

from betoken.errors import TraceError
from betoken.tokenization import quiet

Ids = tuple[int, ...]


class Texts:
    """A tokenizer, as logs need it."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        # Some tokenizers leave gaps between their ids.
        self.vocab_size = max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=-1))
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self._special = {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}

    def encode(self, text: str, place: str, *, special: bool = False) -> Ids:
        """special: whether the tokenizer adds its own special tokens. Raises TraceError for half characters."""
        try:
            text.encode()
        except UnicodeEncodeError as failure:
            raise TraceError(f"{place}: the text has half a character (a lone surrogate) at {failure.start}") from None
        with quiet():
            return tuple(int(token) for token in self.tokenizer(text, add_special_tokens=special)["input_ids"])

    def continued(self, before: Ids, prompt: str, said: str, place: str, *, special: bool = False) -> Ids:
        """The tokens of `said` after `prompt`, whose tokens are `before`.

        A model is fed the prompt's tokens and says others after them: a token that spans both never occurs. So the
        tokens of the whole text are right only where they begin with the prompt's. Raises TraceError where no way of
        writing `said` reads as it should.
        """
        whole = self.encode(prompt + said, place, special=special)
        if whole[: len(before)] == before:
            return whole[len(before) :]
        text = self._decode(whole)
        for ids in self._ways(said, place):
            if self._decode((*before, *ids)) == text:
                return ids
        raise TraceError(f"{place}: {said[:40]!r} cannot be written in tokens of its own after its prompt")

    def _ways(self, said: str, place: str) -> Iterator[Ids]:
        """Alone; and after a line's end, where a tokenizer would put a space before a text's first word."""
        yield self.encode(said, place)
        line, after = self.encode("\n", place), self.encode("\n" + said, place)
        if after[: len(line)] == line:
            yield after[len(line) :]

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def until_end(self, ids: Ids) -> Ids:
        """Up to the last special token, where only white space follows: a template's line end after the end of a turn
        is not what the model said."""
        last = next((place for place in range(len(ids) - 1, -1, -1) if ids[place] in self._special), None)
        if last is None or self._decode(ids[last + 1 :]).strip():
            return ids
        return ids[: last + 1]
