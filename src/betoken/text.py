"""Tokens to text as they come: whole characters only, and in the end exactly what decoding everything at once gives.

Knows tokenizers, and nothing of models or of stop strings.
"""

from collections.abc import Callable, Sequence
from typing import Any

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
LONGEST_UNFINISHED = 3  # bytes of an unfinished UTF-8 character; byte-fallback decoders show one replacement for each


class Detokenizer:
    """Incremental decoding of one output; special tokens are skipped.

    Each push decodes the few tokens since the last whole character, with the tokens before those as context (a decoder
    may strip
    the space of the first word it sees), so the cost of a token does not grow with the output. What might be the
    beginning of a character is held back.

    The pieces together equal `tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)`.
    One exception:
    where a model writes invalid UTF-8 in byte-fallback tokens, decoding everything at once replaces the whole run of
    bytes, valid characters in it included; those are kept here.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._decode, self._special = _decoder(tokenizer)
        self._window: list[int] = []
        self._context = 0  # how many tokens of the window belong to text shown before
        self._shown = ""  # what of the window's text was shown

    def push(self, token: int) -> str:
        """The text this token completes; empty while a character is unfinished."""
        if token in self._special:
            return ""
        self._window.append(token)
        text = self._text()
        held = _unfinished(text)
        piece = text[len(self._shown) : len(text) - held]
        if piece and not held:
            self._slide()
        else:
            self._shown += piece
        return piece

    def _text(self) -> str:
        """The window's text. An unfinished run of byte tokens would spoil the bytes before it: those leave first."""
        text = self._decode(self._window)
        if not text.startswith(self._shown):
            del self._window[: self._context]
            self._context, self._shown = 0, ""
            text = self._decode(self._window)
        return text

    def _slide(self) -> None:
        """Everything is shown: the newest tokens become the context of the next ones."""
        del self._window[: self._context]
        self._context = len(self._window)
        self._shown = self._decode(self._window)

    def flush(self) -> str:
        """What is left at the end, unfinished characters replaced."""
        piece = self._text()[len(self._shown) :]
        self._shown += piece
        return piece


def _unfinished(text: str) -> int:
    """How many characters at the end stand for bytes that may yet become a character."""
    count = len(text) - len(text.rstrip(REPLACEMENT))
    return min(count, LONGEST_UNFINISHED)


def _decoder(tokenizer: Any) -> tuple[Callable[[Sequence[int]], str], frozenset[int]]:
    """How to decode a short list of ids, and the ids that are never shown."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        special = frozenset(tokenizer.all_special_ids)
        return lambda ids: str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)), special
    special = frozenset(i for i, added in backend.get_added_tokens_decoder().items() if added.special)
    return lambda ids: str(backend.decode(ids, skip_special_tokens=False)), special
