"""Tasks on a passage of text whose answer copies from it: quote, repeat, replace, leave out, extract."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from words import made_up, person

Task = tuple[str, str]
WORD = re.compile(r"[A-Za-z]{4,}")
BREAK = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"'”’]))\s+(?=[\"'“‘A-Z])")
ORDINALS = ("first", "second", "third", "fourth", "fifth")
NUMBERS = {2: "two", 3: "three", 4: "four"}


def split_sentences(text: str) -> list[str]:
    """The sentences of one paragraph."""
    flat = " ".join(text.split())
    return [s for s in BREAK.split(flat) if len(s) > 8]


class Passages:
    """Runs of consecutive sentences drawn from the training texts, sometimes with words swapped for invented ones."""

    def __init__(self, documents: Sequence[Sequence[str]]) -> None:
        self.documents = [d for d in documents if len(d) >= 3]

    def draw(self, rng: random.Random, characters: int, least: int = 3) -> list[str]:
        """Consecutive distinct sentences, about ``characters`` long in all."""
        while True:
            document = rng.choice(self.documents)
            start = rng.randrange(max(1, len(document) - least))
            out: list[str] = []
            total = 0
            for sentence in document[start:]:
                if sentence in out or len(sentence) > max(300, characters // 2):
                    break
                out.append(sentence)
                total += len(sentence)
                if total >= characters and len(out) >= least:
                    break
            if len(out) >= least:
                return _disturb(rng, out)


def _disturb(rng: random.Random, sentences: list[str]) -> list[str]:
    """Swap a few words for invented ones in a part of the passages: those can only be copied, not recalled."""
    if rng.random() < 0.55:
        return sentences
    words = sorted(set(WORD.findall(" ".join(sentences))))
    for word in rng.sample(words, min(len(words), rng.randint(1, 8))):
        new = person(rng) if word[0].isupper() else made_up(rng)
        sentences = [re.sub(rf"\b{word}\b", new, s) for s in sentences]
    return sentences


def _ask(rng: random.Random, instructions: Sequence[str], text: str) -> str:
    """The instruction before (mostly) or after the text."""
    instruction = rng.choice(list(instructions))
    return f"{instruction}\n\n{text}" if rng.random() < 0.88 else f"{text}\n\n{instruction}"


def _join(rng: random.Random, sentences: Sequence[str]) -> str:
    return " ".join(sentences)


def repeat(rng: random.Random, source: Passages, size: int) -> Task:
    """Copy the whole passage."""
    text = _join(rng, source.draw(rng, size))
    orders = (
        "Repeat the following text exactly.",
        "Repeat the text.",
        "Copy the text word for word.",
        "Write this text again.",
        "Repeat this text exactly.",
        "Say this again, word for word.",
    )
    return _ask(rng, orders, text), text


def quote_containing(rng: random.Random, source: Passages, size: int) -> Task:
    """The sentence with a given word."""
    while True:
        sentences = source.draw(rng, size, 4)
        text = _join(rng, sentences)
        target = rng.choice(sentences)
        words = [w for w in WORD.findall(target) if len(re.findall(rf"\b{w}\b", text)) == 1]
        if words:
            break
    word = rng.choice(words)
    orders = (
        f'Quote the sentence that contains the word "{word}".',
        f'Quote the sentence with the word "{word}".',
        f'Which sentence contains the word "{word}"?',
        f'Find the sentence with "{word}" and copy it.',
        f"Quote the sentence that mentions {word}.",
    )
    return _ask(rng, orders, text), target


def quote_every(rng: random.Random, source: Passages, size: int) -> Task:
    """All sentences that mention a word or name."""
    while True:
        sentences = source.draw(rng, size, 5)
        counts: dict[str, int] = {}
        for sentence in sentences:
            for w in set(WORD.findall(sentence)):
                counts[w] = counts.get(w, 0) + 1
        words = [w for w, n in counts.items() if 2 <= n <= 3 and len(w) > 4]
        if words:
            break
    word = rng.choice(words)
    answer = " ".join(s for s in sentences if re.search(rf"\b{word}\b", s))
    orders = (
        f"Quote every sentence that mentions {word}.",
        f'Quote all sentences that contain "{word}".',
        f'Copy each sentence with the word "{word}".',
    )
    return _ask(rng, orders, _join(rng, sentences)), answer


def quote_place(rng: random.Random, source: Passages, size: int) -> Task:
    """The first, last, or nth sentences."""
    sentences = source.draw(rng, size, 4)
    kind = rng.choice(("first", "last", "firsts", "lasts", "nth"))
    if kind == "nth":
        place = rng.randrange(min(len(sentences), 5))
        order = f"Quote the {ORDINALS[place]} sentence of the text."
        return _ask(rng, (order,), _join(rng, sentences)), sentences[place]
    count = 1 if kind in ("first", "last") else rng.choice((2, 2, 3))
    side = "first" if kind.startswith("first") else "last"
    picked = sentences[:count] if side == "first" else sentences[-count:]
    what = f"{side} sentence" if count == 1 else f"{side} {NUMBERS[count]} sentences"
    orders = (f"Quote the {what} of the text.", f"Copy the {what}.", f"Quote the {what}.")
    return _ask(rng, orders, _join(rng, sentences)), " ".join(picked)


def replace_word(rng: random.Random, source: Passages, size: int) -> Task:
    """The passage with one word replaced everywhere."""
    sentences = source.draw(rng, size)
    text = _join(rng, sentences)
    words = WORD.findall(text)
    often = [w for w in set(words) if words.count(w) > 1]
    word = rng.choice(sorted(often)) if often and rng.random() < 0.7 else rng.choice(words)
    if word[0].isupper():
        new = person(rng)
    else:
        new = made_up(rng) if rng.random() < 0.4 else rng.choice(WORD.findall(" ".join(source.draw(rng, 300)))).lower()
    answer = re.sub(rf"\b{word}\b", new, text)
    orders = (
        f'Replace the word "{word}" by the word "{new}" everywhere in the text.',
        f'Replace "{word}" with "{new}" in the text.',
        f"Replace {word} by {new}.",
        f'Change "{word}" to "{new}" everywhere.',
        f'Write the text again with "{new}" instead of "{word}".',
    )
    return _ask(rng, orders, text), answer


def leave_out(rng: random.Random, source: Passages, size: int) -> Task:
    """The passage without one of its sentences."""
    sentences = source.draw(rng, size, 4)
    last = rng.random() < 0.3
    place = len(sentences) - 1 if last else rng.randrange(min(len(sentences), 5))
    name = "last" if last else ORDINALS[place]
    answer = " ".join(s for i, s in enumerate(sentences) if i != place)
    orders = (
        f"Copy the text, but leave out the {name} sentence.",
        f"Repeat the text without the {name} sentence.",
        f"Remove the {name} sentence from the text.",
    )
    return _ask(rng, orders, _join(rng, sentences)), answer


def summarise(rng: random.Random, source: Passages, size: int) -> Task:
    """An extractive summary."""
    sentences = source.draw(rng, size, 4)
    text = _join(rng, sentences)
    if rng.random() < 0.5:
        orders = (
            "Summarise the text by copying its first and its last sentence.",
            "Summarise the text with its first and last sentence.",
        )
        return _ask(rng, orders, text), f"{sentences[0]} {sentences[-1]}"
    if rng.random() < 0.5:
        orders = (
            "Summarise the text by copying its first two sentences.",
            "Summarise the text in its first two sentences.",
        )
        return _ask(rng, orders, text), f"{sentences[0]} {sentences[1]}"
    orders = ("Summarise the text by copying its longest sentence.", "Quote the longest sentence.")
    return _ask(rng, orders, text), max(sentences, key=len)


def as_lines(rng: random.Random, source: Passages, size: int) -> Task:
    """One sentence a line, bare, bulleted or numbered."""
    sentences = source.draw(rng, size)
    kind = rng.choice(("line", "bullet", "number"))
    if kind == "line":
        orders = ("Write each sentence on its own line.", "Put every sentence on a new line.")
        return _ask(rng, orders, _join(rng, sentences)), "\n".join(sentences)
    if kind == "bullet":
        orders = ("Write the sentences as a bullet list.", "Turn the text into a bullet list, one sentence each.")
        return _ask(rng, orders, _join(rng, sentences)), "\n".join(f"- {s}" for s in sentences)
    orders = ("Write the sentences as a numbered list.", "Number the sentences of the text.")
    lines = [f"{i}. {s}" for i, s in enumerate(sentences, 1)]
    return _ask(rng, orders, _join(rng, sentences)), "\n".join(lines)


TEXT_TASKS: dict[Callable[[random.Random, Passages, int], Task], float] = {
    repeat: 4,
    quote_containing: 4,
    quote_every: 2,
    quote_place: 3,
    replace_word: 4,
    leave_out: 2,
    summarise: 2.5,
    as_lines: 2,
}
