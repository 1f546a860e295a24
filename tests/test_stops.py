"""Where an output ends, and what of its text may be shown before."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import Letters

from betoken.params import SamplingParams
from betoken.stops import FinishReason, Stops

EOS = 7


class Characters(Letters):
    """Token i is the letter i; nothing is flushed."""

    pieces = ("a", "b", "c", "ab", "ca", "", "aab", "\0")

    def push(self, token: int) -> str:
        return self.pieces[token]

    def flush(self) -> str:
        return ""


def fed(
    tokens: Sequence[int], sizes: Sequence[int] = (), *, room: int = 10**6, **fields: Any
) -> tuple[int, str, Stops]:
    """Push tokens until the end; text is taken after steps of these sizes, then after every token."""
    stops = Stops(SamplingParams(**{"max_tokens": None, **fields}), eos_ids=(EOS,), room=room, text=Characters())
    text, count, pauses = "", 0, {sum(sizes[: i + 1]) for i in range(len(sizes))}
    for token in tokens:
        count += 1
        ended = stops.push(token)
        if ended or count in pauses or count > sum(sizes):
            text += stops.take_text()
        if ended:
            break
    return count, text, stops


def ending(tokens: Sequence[int], params: SamplingParams) -> tuple[int, str]:
    """The definition: the first token at which a stop string lies in the text and ends in that token's piece; the text up to
    the earliest such string, the longest where several begin there."""
    text = ""
    for count, token in enumerate(tokens, 1):
        before, text = len(text), text + Characters.pieces[token]
        found = [(at, -len(stop)) for stop in params.stop for at in range(len(text)) if text.startswith(stop, at)]
        found = [(at, size) for at, size in found if at - size > before]
        if found and count >= params.min_tokens:
            at, size = min(found)
            return count, text[: at - size if params.include_stop_str else at]
    return len(tokens), text


TOKENS = st.lists(st.integers(0, 6), max_size=20)
SIZES = st.lists(st.integers(1, 6), max_size=6)
STOPS = st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3).map(tuple)


@given(TOKENS, SIZES, STOPS, st.integers(0, 6), st.booleans())
@example([0, 1, 2, 2, 2], [5], ("ab",), 4, False)
def test_stop_strings_whatever_the_steps(
    tokens: list[int], sizes: list[int], stop: tuple, least: int, include: bool
) -> None:
    """A stop string that straddles tokens was missed; one that min_tokens had let pass ended the output later, but only where
    a step of several tokens still held its text, so the output depended on the draft."""
    fields = {"stop": stop, "min_tokens": least, "include_stop_str": include}
    count, text, stops = fed(tokens, sizes, **fields)
    expected = ending(tokens, SamplingParams(max_tokens=None, **fields))
    held = "" if stops.reason else stops._held
    assert (count, text + held) == expected
    assert (stops.reason is FinishReason.STOP) == (stops.stop in stop)


@given(TOKENS, STOPS)
def test_shown_text_is_never_taken_back(tokens: list[int], stop: tuple) -> None:
    """The beginning of a stop string was streamed before it was clear that it is one."""
    _, shown, stops = fed(tokens, stop=stop)
    assert not any(word in shown for word in stop)
    whole = shown + stops._held
    assert stops.reason or not any(word.startswith(whole[at:]) for word in stop for at in range(len(shown)))


@pytest.mark.parametrize(
    ("tokens", "fields", "count", "reason", "stop"),
    [
        ([0, EOS, 1], {}, 2, FinishReason.EOS, None),
        ([0, EOS, 1], {"ignore_eos": True}, 3, None, None),
        ([0, EOS, 1], {"stop_token_ids": (EOS,)}, 2, FinishReason.STOP, EOS),
        ([0, 2, 1], {"stop_token_ids": (2,), "ignore_eos": True}, 2, FinishReason.STOP, 2),
        ([0, EOS, EOS, 1], {"min_tokens": 3}, 3, FinishReason.EOS, None),
        ([0, 1, 2], {"max_tokens": 2}, 2, FinishReason.LENGTH, None),
        ([0, EOS, 2], {"max_tokens": 2}, 2, FinishReason.EOS, None),
        ([0, 1, 2], {"max_tokens": 2, "room": 2}, 2, FinishReason.LENGTH, None),
        ([0, 1, 2], {"max_tokens": 3, "room": 2}, 2, FinishReason.CONTEXT, None),
        ([0, 1, 2], {"room": 1}, 1, FinishReason.CONTEXT, None),
        ([0, 1, 2], {"max_tokens": 2, "stop": "b"}, 2, FinishReason.STOP, "b"),
    ],
)
def test_ends_and_their_reasons(tokens: list, fields: dict, count: int, reason: FinishReason | None, stop: Any) -> None:
    """An end one token early or late, or with the reason of another end that falls on the same token."""
    found, _, stops = fed(tokens, **fields)
    assert (found, stops.reason, stops.stop) == (count, reason, stop)


@pytest.mark.parametrize(("include", "text"), [(False, "ab"), (True, "ab\0")])
def test_an_ending_token_is_shown_only_where_asked(include: bool, text: str) -> None:
    """The end-of-sequence token's text ("</s>") appeared in the output."""
    assert fed([0, 1, EOS], include_stop_str=include)[1] == text


def test_room_counts_down() -> None:
    """Drafts were cut one token too deep or too shallow near max_tokens."""
    stops = Stops(SamplingParams(max_tokens=3), eos_ids=(), room=10)
    rooms = [stops.room] + [stops.room for token in range(3) if stops.push(token) or True]
    assert rooms == [3, 2, 1, 0]


def test_an_unfinished_character_is_flushed_at_the_end() -> None:
    """The last bytes of an output cut by max_tokens were lost; or flushed before a stop string's cut."""
    cut = Stops(SamplingParams(max_tokens=2), eos_ids=(), room=9, text=Letters())
    assert [cut.push(0), cut.push(4)] == [False, True]
    assert cut.take_text() == "ae$"
