"""The training mix: documents from every source, packed into windows of several lengths without cutting a task."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from tasks_code import CODE_TASKS
from tasks_lists import LIST_TASKS
from tasks_text import TEXT_TASKS, Passages, split_sentences
from tokenizer import ASSISTANT, END, EOS, SYSTEM, USER
from transformers import PreTrainedTokenizerFast
from words import made_up

Shares = dict[str, float]
SHARES: Shares = {
    "books": 0.21,
    "stories": 0.11,
    "story chat": 0.14,
    "maths": 0.12,
    "text": 0.16,
    "lists": 0.11,
    "code": 0.12,
    "drills": 0.03,
}
EARLY_SHARES: Shares = {
    "books": 0.07,
    "stories": 0.05,
    "story chat": 0.07,
    "maths": 0.05,
    "text": 0.26,
    "lists": 0.10,
    "code": 0.10,
    "drills": 0.30,
}
EARLY = 0.2
PROSE = ("books", "stories")
LENGTHS = {256: 0.46, 512: 0.36, 1024: 0.10, 2048: 0.06, 4096: 0.02}
CHARACTERS = {256: (100, 390), 512: (200, 850), 1024: (500, 1800), 2048: (1200, 3600), 4096: (2500, 7000)}
ENTRIES = {256: (3, 8), 512: (4, 14), 1024: (8, 24), 2048: (16, 45), 4096: (30, 80)}
FUNCTIONS = {256: (1, 1), 512: (1, 3), 1024: (2, 6), 2048: (4, 12), 4096: (8, 24)}
PROMPT_WEIGHT, FULL_WEIGHT = 1, 4
STORY_ORDERS = (
    "Tell a story about {what}.",
    "Write a story about {what}.",
    "Tell me a story about {what}.",
    "Write a short story about {what}.",
    "Tell a short story about {what}.",
)
SYSTEMS = ("You are a helpful assistant.", "Answer briefly.", "You copy texts exactly.", "Be helpful and kind.")
Piece = tuple[str, int]
Item = TypeVar("Item")


@dataclass
class Sources:
    """The raw texts, split into training and held-out documents."""

    books: list[str]
    stories: list[str]
    maths: list[tuple[str, str]]

    def sentences(self, children: int) -> list[list[str]]:
        """Paragraph groups of books and whole stories as sentence lists, for the copy tasks."""
        out: list[list[str]] = []
        for book in self.books:
            paragraphs = [p for p in book.split("\n\n") if len(p) > 60 and not p.startswith("#")]
            groups = (paragraphs[start : start + 12] for start in range(0, len(paragraphs), 12))
            out.extend([s for p in group for s in split_sentences(p)] for group in groups)
        rng = random.Random(children)
        stories = rng.sample(self.stories, min(len(self.stories), len(out)))
        return out + [split_sentences(s) for s in stories]


def _read_books(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as handle:
        texts = [json.loads(line)["text"] for line in handle]
    return [re.sub(r"\n{3,}", "\n\n", t.replace("\r\n", "\n")) for t in texts]


def load_sources(data: Path, stories: Path) -> tuple[Sources, Sources]:
    """Training and held-out sources. The last book of two of the files, stories and questions are held out."""
    children = _read_books(data / "text/books/children_train.jsonl.gz")
    novels = _read_books(data / "text/books/novels_train.jsonl.gz")
    other = _read_books(data / "text/books/nonfiction_train.jsonl.gz")
    told = [json.loads(line)["text"] for line in stories.read_text(encoding="utf-8").splitlines()]
    maths = []
    for line in (data / "prompts/gsm8k.train.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        answer = re.sub(r"<<[^>]*>>", "", row["answer"]).replace("#### ", "The answer is ")
        maths.append((row["question"].strip(), answer.strip() + "."))
    train = Sources(children[:-1] * 2 + novels[:-1] + other, told[:-200], maths[:-200])
    return train, Sources([children[-1], novels[-1]], told[-200:], maths[-200:])


def tokenizer_texts(sources: Sources, seed: int) -> Iterator[str]:
    """A balanced sample for learning the merges."""
    rng = random.Random(seed)
    for book in sources.books:
        for _ in range(10):
            start = rng.randrange(max(1, len(book) - 8000))
            yield book[start : start + 8000]
    yield from rng.sample(sources.stories, min(2000, len(sources.stories)))
    for question, answer in rng.sample(sources.maths, min(3000, len(sources.maths))):
        yield f"{question}\n{answer}"
    for table, scale in ((LIST_TASKS, ENTRIES), (CODE_TASKS, FUNCTIONS)):
        for _ in range(1500):
            task = rng.choices(list(table), list(table.values()))[0]
            yield "\n".join(task(rng, rng.randint(*scale[512])))


def chat(rng: random.Random, user: str, answer: str, prompt_weight: int = PROMPT_WEIGHT) -> list[Piece]:
    """One exchange in the chat template."""
    system = f"{SYSTEM}\n{rng.choice(SYSTEMS)}{END}\n" if rng.random() < 0.04 else ""
    return [
        (f"{system}{USER}\n{user}{END}\n{ASSISTANT}\n", prompt_weight),
        (f"{answer}{END}\n", FULL_WEIGHT),
        (EOS, FULL_WEIGHT),
    ]


def _subject(rng: random.Random, story: str) -> str | None:
    """What a story is about: things and names that occur early in it."""
    names = re.findall(r"(?<=[a-z,] )[A-Z][a-z]{2,}\b", story[:400])
    names = [n for n in dict.fromkeys(names) if n not in ("The", "Mom", "Dad")]
    things = re.findall(
        r"\b(?:a|an|the|his|her) ((?:[a-z]{3,} ){0,1}[a-z]{3,})(?=[.,!?]| and | in | to | with )", story[:500]
    )
    things = [t for t in dict.fromkeys(things) if not t.startswith(("little girl", "little boy"))]
    parts = names[: rng.randint(0, 1)] + [f"a {t}" for t in things[: rng.randint(1, 2)]]
    if not parts:
        return None
    rng.shuffle(parts)
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def story_chat(rng: random.Random, story: str) -> list[Piece]:
    """A request for the story, or for its continuation."""
    if rng.random() < 0.3:
        sentences = split_sentences(story)
        cut = rng.randint(1, 4)
        if len(sentences) > cut + 2:
            head, tail = " ".join(sentences[:cut]), " ".join(sentences[cut:])
            order = rng.choice(("Continue the story.", "Go on with this story.", "Finish the story."))
            return chat(rng, f"{order}\n\n{head}", tail, FULL_WEIGHT)
    what = _subject(rng, story)
    order = rng.choice(STORY_ORDERS).format(what=what) if what else rng.choice(("Tell a story.", "Tell me a story."))
    return chat(rng, order, story)


class Documents:
    """Endless documents of each kind for windows of one length."""

    def __init__(self, sources: Sources, length: int, seed: int) -> None:
        self.sources, self.length = sources, length
        self.rng = random.Random(f"{seed}-{length}")
        self.passages = Passages(sources.sentences(seed))
        self.stories = self._cycle(sources.stories)
        self.maths = self._cycle(sources.maths)
        self.words = sorted({w for b in sources.books for w in b[:60_000].split() if w.isalpha()})
        weights = [len(b) for b in sources.books]
        self.next_book = lambda: self.rng.choices(sources.books, weights)[0]

    def _cycle(self, items: list[Item]) -> Iterator[Item]:
        while True:
            yield from self.rng.sample(items, len(items))

    def draw(self, kind: str) -> list[Piece]:
        """One document as weighted pieces."""
        rng = self.rng
        if kind == "books":
            book = self.next_book()
            start = book.find("\n\n", rng.randrange(max(1, len(book) - 6000))) + 2
            return [(book[start : start + rng.randint(1500, 6000)].rsplit(" ", 1)[0], FULL_WEIGHT), (EOS, FULL_WEIGHT)]
        if kind == "stories":
            return [(next(self.stories), FULL_WEIGHT), (EOS, FULL_WEIGHT)]
        if kind == "story chat":
            return story_chat(rng, next(self.stories))
        if kind == "maths":
            return chat(rng, *next(self.maths), 2)
        if kind == "drills":
            return self.drill()
        return chat(rng, *self.task(kind))

    def drill(self) -> list[Piece]:
        """Words in random order, said again: only copying can predict the second time."""
        rng = self.rng
        most = int(self.length * rng.uniform(0.05, 0.33))
        words = [rng.choice(self.words) if rng.random() < 0.85 else made_up(rng) for _ in range(max(4, most))]
        text = rng.choice((" ", " ", "\n", ", ")).join(words)
        if rng.random() < 0.3:
            order = rng.choice(("Repeat the text.", "Repeat this text exactly.", "Copy the text word for word."))
            return chat(rng, f"{order}\n\n{text}", text, 0)
        times = rng.randint(1, max(1, min(5, self.length // (2 * len(words)))))
        return [(text, 0), (f"\n{text}" * times, FULL_WEIGHT), (EOS, FULL_WEIGHT)]

    def task(self, kind: str) -> tuple[str, str]:
        """One copy task sized for the window."""
        rng = self.rng
        if kind == "text":
            make = rng.choices(list(TEXT_TASKS), list(TEXT_TASKS.values()))[0]
            return make(rng, self.passages, rng.randint(*CHARACTERS[self.length]))
        table = LIST_TASKS if kind == "lists" else CODE_TASKS
        scale = ENTRIES if kind == "lists" else FUNCTIONS
        chosen = rng.choices(list(table), list(table.values()))[0]
        return chosen(rng, rng.randint(*scale[self.length]))


class Stream:
    """Encodes documents of one kind in batches."""

    def __init__(self, tok: PreTrainedTokenizerFast, docs: Documents, kind: str) -> None:
        self.tok, self.docs, self.kind = tok, docs, kind
        self.ready: deque[tuple[list[int], list[int]]] = deque()

    def next(self) -> tuple[list[int], list[int]]:
        """Ids and weights of the next document."""
        if not self.ready:
            batch = [self.docs.draw(self.kind) for _ in range(64)]
            flat = [text for doc in batch for text, _ in doc]
            ids = iter(self.tok(flat, add_special_tokens=False)["input_ids"])
            for doc in batch:
                pairs = [(next(ids), weight) for _, weight in doc]
                tokens = [t for piece, _ in pairs for t in piece]
                self.ready.append((tokens, [w for piece, w in pairs for _ in piece]))
        return self.ready.popleft()


class Packer:
    """Fills windows of ``length + 1`` tokens: whole documents first, prose (which may be cut) in the gaps."""

    def __init__(self, tok: PreTrainedTokenizerFast, docs: Documents, shares: Shares) -> None:
        self.length, self.shares = docs.length, shares
        self.streams = {kind: Stream(tok, docs, kind) for kind in shares}
        self.counts = dict.fromkeys(shares, 1e-9)
        self.rest: dict[str, tuple[list[int], list[int]]] = {kind: ([], []) for kind in PROSE}
        self.waiting: deque[tuple[str, list[int], list[int]]] = deque()

    def _wanted(self, kinds: tuple[str, ...]) -> str:
        return min(kinds, key=lambda kind: self.counts[kind] / self.shares[kind])

    def _prose(self, room: int) -> tuple[list[int], list[int]]:
        kind = self._wanted(PROSE)
        ids, weights = self.rest[kind]
        if not ids:
            ids, weights = self.streams[kind].next()
        self.rest[kind] = (ids[room:], weights[room:])
        self.counts[kind] += min(room, len(ids))
        return ids[:room], weights[:room]

    def _whole(self, room: int) -> tuple[list[int], list[int]] | None:
        kinds = tuple(kind for kind in self.shares if kind not in PROSE)
        for _ in range(len(self.waiting)):
            kind, ids, weights = self.waiting.popleft()
            if len(ids) <= room:
                self.counts[kind] += len(ids)
                return ids, weights
            self.waiting.append((kind, ids, weights))
        for _ in range(8):
            kind = self._wanted(kinds)
            ids, weights = self.streams[kind].next()
            if len(ids) <= room:
                self.counts[kind] += len(ids)
                return ids, weights
            if len(ids) <= self.length and len(self.waiting) < 12:
                self.waiting.append((kind, ids, weights))
        return None

    def window(self) -> tuple[list[int], list[int]]:
        """One packed window."""
        ids: list[int] = []
        weights: list[int] = []
        total = sum(self.counts.values())
        only_prose = sum(self.counts[k] for k in PROSE) < total * sum(self.shares[k] for k in PROSE)
        while len(ids) < self.length + 1:
            room = self.length + 1 - len(ids)
            piece = None if only_prose or room < 40 else self._whole(room)
            more, their = piece or self._prose(room)
            ids += more
            weights += their
        return ids, weights


def build_windows(
    tok: PreTrainedTokenizerFast, sources: Sources, tokens: int, seed: int, out: Path, tick: Callable[[int], None]
) -> dict[str, float]:
    """Write ``w{length}.npy`` and ``m{length}.npy`` (ids and loss weights); returns the share of each kind.

    The first rows of the short lengths are the early mix, rich in drills, from which copying is learned."""
    counts = dict.fromkeys(SHARES, 0.0)
    done = 0
    for length, share in LENGTHS.items():
        docs = Documents(sources, length, seed)
        rows = max(4, round(tokens * share / length))
        early = round(rows * EARLY) if length <= 1024 else 0
        parts = []
        for count, shares in ((early, EARLY_SHARES), (rows - early, SHARES)):
            packer = Packer(tok, docs, shares)
            parts.append(fill(packer, count, seed))
            for kind, number in packer.counts.items():
                counts[kind] += number
        done += rows * length
        tick(done)
        np.save(out / f"w{length}.npy", np.concatenate([ids for ids, _ in parts]))
        np.save(out / f"m{length}.npy", np.concatenate([weights for _, weights in parts]))
    total = sum(counts.values())
    return {kind: count / total for kind, count in counts.items()}


def fill(packer: Packer, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """``rows`` windows in shuffled order."""
    ids = np.zeros((rows, packer.length + 1), np.uint16)
    weights = np.zeros((rows, packer.length + 1), np.uint8)
    for row in range(rows):
        ids[row], weights[row] = packer.window()
    order = np.random.default_rng(seed).permutation(rows)
    return ids[order], weights[order]
