"""Incremental detokenising equals decoding at once, and never shows half a character."""

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import byte_tokenizer

from betoken.text import REPLACEMENT, Detokenizer

SENTENCEPIECE = Path(__file__).parents[2] / "shared" / "data" / "models" / "stories260K"
TRICKY = "Zoë naïve 日本語 🙂👩‍👩‍👧 é e\u0301 ‘quoted’ €5 \t\n\n  two  spaces 🇫🇷"


@cache
def demo_tokenizer() -> Any:
    folder = resources.files("betoken") / "demo" / "target"
    if not (folder / "tokenizer.json").is_file():
        pytest.skip("the embedded pair is not there yet")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder))


@cache
def sentencepiece() -> Any:
    if not SENTENCEPIECE.is_dir():
        pytest.skip("the SentencePiece tokenizer of the measuring data is not on this machine")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(SENTENCEPIECE))


def pieces(tokenizer: Any, ids: list[int]) -> list[str]:
    stream = Detokenizer(tokenizer)
    return [*(stream.push(token) for token in ids), stream.flush()]


def at_once(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


@given(st.lists(st.integers(0, len(byte_tokenizer()) - 1), max_size=40))
def test_any_ids_of_a_byte_tokenizer(ids: list[int]) -> None:
    assert "".join(pieces(byte_tokenizer(), ids)) == at_once(byte_tokenizer(), ids)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_ids_of_the_embedded_tokenizer(data: st.DataObject) -> None:
    tokenizer = demo_tokenizer()
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=40))
    assert "".join(pieces(tokenizer, ids)) == at_once(tokenizer, ids)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_sentencepiece_with_valid_bytes(data: st.DataObject) -> None:
    """Any pieces, and bytes that spell characters: the leading space goes once, at the start only."""
    tokenizer = sentencepiece()
    vocab = tokenizer.get_vocab()
    words = sorted(i for piece, i in vocab.items() if not piece.startswith("<0x"))
    spelt = st.characters(exclude_categories=["Cs"], exclude_characters=REPLACEMENT, min_codepoint=0x400).map(
        lambda char: [vocab[f"<0x{byte:02X}>"] for byte in char.encode()]
    )
    chunks = data.draw(st.lists(st.sampled_from(words).map(lambda i: [i]) | spelt, max_size=30))
    ids = [i for chunk in chunks for i in chunk]
    assert "".join(pieces(tokenizer, ids)) == at_once(tokenizer, ids)


def test_sentencepiece_invalid_bytes_keep_the_valid_characters_before_them() -> None:
    tokenizer = sentencepiece()
    vocab = tokenizer.get_vocab()
    ids = [vocab[f"<0x{byte:02X}>"] for byte in "é".encode() + b"\xff"]
    assert "".join(pieces(tokenizer, ids)).startswith("é")


@given(st.text(alphabet=st.sampled_from(TRICKY) | st.characters(exclude_categories=["Cs"]), max_size=30))
def test_text_comes_back_in_whole_characters(text: str) -> None:
    tokenizer = byte_tokenizer()
    shown = pieces(tokenizer, tokenizer.encode(text))
    assert "".join(shown) == text
    if REPLACEMENT not in text:
        assert not any(REPLACEMENT in piece for piece in shown)


def test_each_character_is_shown_with_its_last_byte() -> None:
    tokenizer = byte_tokenizer()
    assert [piece for piece in pieces(tokenizer, tokenizer.encode("a🙂b")) if piece] == ["a", "🙂", "b"]


def test_an_unfinished_character_appears_at_flush_only() -> None:
    tokenizer = byte_tokenizer()
    shown = pieces(tokenizer, tokenizer.encode("x🙂")[:-1])
    assert shown[0] == "x"
    assert "".join(shown[1:-1]) == ""
    assert shown[-1] == REPLACEMENT


def test_special_tokens_are_not_shown() -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode("hi")
    assert "".join(pieces(tokenizer, [0, ids[0], 1, ids[1], 0])) == "hi"


def test_cost_does_not_grow_with_the_output() -> None:
    tokenizer = byte_tokenizer()
    stream = Detokenizer(tokenizer)
    for token in tokenizer.encode("the cat sat on the mat. " * 100):
        stream.push(token)
        assert len(stream._window) <= 8
