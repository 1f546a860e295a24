"""Texts built to hurt: `auto` against plain decoding where drafting is of no use, or looks useful and is not."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from figures import Found, held

from auto_parts.common import AUTO, PLAIN, Bench, Ids
from auto_parts.contest import ByHand, Contest, Live, Outcome
from betoken import LLM, demo
from betoken.bench.shapes import random_model
from betoken.policy.cost import Measured

BOUND = 0.97
RIVALS = (AUTO, PLAIN)
# Of a prompt of random words, and of one whose copies break; how many different words the latter is made of.
WORDS, LONG, ALPHABET = 60, 240, 48
INDEXED, PAGE = 200_000, 2_000
# The other language: a passage, from which a walk from word to word makes as much as is wanted.
SPANISH = """La lluvia caía despacio sobre los tejados del pueblo y nadie salía de su casa. El panadero abrió la puerta, miró la calle
vacía y volvió a cerrar la puerta sin decir nada. Por la tarde llegó un hombre con una maleta vieja y preguntó por la casa de la
maestra. Los niños que jugaban en la plaza le dijeron que la casa de la maestra estaba al final de la calle, junto al río. El hombre dio
las gracias y se fue por la calle vacía. La maestra lo esperaba en la puerta de su casa con una lámpara en la mano. Nadie sabe de qué
hablaron aquella noche, pero por la mañana la maleta vieja estaba en el río y el hombre ya no estaba en el pueblo. Desde entonces la
maestra cierra la puerta de la escuela con llave y los niños del pueblo no juegan junto al río cuando cae la tarde. El panadero dice que
la maleta estaba llena de cartas, y que las cartas eran de un hermano que se fue a la guerra y que no volvió al pueblo. Los viejos de la
plaza dicen que el hermano volvió una noche de lluvia, que llamó a la puerta y que nadie le abrió."""


def run(bench: Bench) -> Found:
    found = Found()
    for label, outcome in _all(bench):
        in_steps = median(outcome.ratios(AUTO, PLAIN, steps=True))
        ratios = outcome.ratios(AUTO, PLAIN)
        found.figures.append(held(label, ratios, BOUND, **{"in steps alone": in_steps}))
        found.data.append({"auto_over_plain": ratios, **outcome.as_json()})
        bench.say(f"{label}: {found.figures[-1].value:.3f} of plain")
    return found


def _all(bench: Bench) -> Iterator[tuple[str, Outcome]]:
    yield from _random_words(bench)
    yield from _broken_copies(bench)
    yield from _random_draft(bench)
    yield from _other_language(bench)


def _count(bench: Bench) -> int:
    """How many prompts are made."""
    return bench.settings.per_group or 7


def _random_words(bench: Bench) -> Iterator[tuple[str, Outcome]]:
    """No end of sequence: an answer that ends at once says nothing."""
    label, draw = "random words, T = 1.5", random.Random(bench.settings.seed)
    batches = [[tuple(draw.choices(bench.words, k=WORDS))] for _ in range(_count(bench))]
    params = bench.settings.params(1.5, ignore_eos=True)
    yield label, Contest(bench, Live(bench.llm), label, RIVALS, batches, params).run(bench.settings.rounds)


def _broken_copies(bench: Bench) -> Iterator[tuple[str, Outcome]]:
    """The output is forced, the forward passes are real."""
    label, draw = "copies that break after two tokens", random.Random(bench.settings.seed)
    length = bench.settings.max_tokens
    scripts = dict(broken_copy(draw, bench.words, length) for _ in range(_count(bench)))
    llm = bench.llm
    stage = ByHand(llm.target, llm._draft, lambda: Measured(llm.curve().points), scripts)
    batches = [[prompt] for prompt in scripts]
    yield label, Contest(bench, stage, label, RIVALS, batches, bench.settings.params()).run(bench.settings.rounds)


def broken_copy(draw: random.Random, words: Sequence[int], length: int) -> tuple[Ids, Ids]:
    """A prompt of few words in which no pair comes twice, so that every pair is a certain match; and an output of pairs from it, each
    followed by a word that does not follow it in the prompt. One word alone says little: it has several successors there."""
    few = draw.sample(list(words), ALPHABET)
    prompt = [draw.choice(few)]
    pairs: set[tuple[int, int]] = set()
    while len(prompt) < LONG:
        fresh = [word for word in few if (prompt[-1], word) not in pairs]
        prompt.append(draw.choice(fresh or few))
        pairs.add((prompt[-2], prompt[-1]))
    output: list[int] = []
    while len(output) < length:
        place = draw.randrange(len(prompt) - 2)
        first, second, after = prompt[place : place + 3]
        output += [first, second, draw.choice([word for word in words if word != after])]
    return tuple(prompt), tuple(output[:length])


def _random_draft(bench: Bench) -> Iterator[tuple[str, Outcome]]:
    """The embedded draft model's shape with random weights."""
    target, draft = demo.pair()
    dtype = bench.llm.info.dtype
    model, _ = random_model(Path(draft) / "config.json", dtype, "cpu")
    with LLM(target, model, dtype=bench.settings.dtype) as llm:
        for temperature in (0.0, 1.0):
            for group in ("prose", "code"):
                label = f"draft model of random weights, {group}, T = {temperature:g}"
                batches = [[ids] for ids in bench.groups[group]]
                params = bench.settings.params(temperature)
                yield label, Contest(bench, Live(llm), label, RIVALS, batches, params).run(bench.settings.rounds)


def _other_language(bench: Bench) -> Iterator[tuple[str, Outcome]]:
    """The memory is filled anew in each round's namespace, then English is decoded."""
    library: Any = bench.llm.memory(AUTO)
    size = 5_000 if bench.settings.quick else INDEXED
    for name, text in (("Spanish", spanish(bench, size)), ("random words", random_text(bench, size))):

        def fill(space: str, text: list[int] = text) -> None:
            for start in range(0, len(text), PAGE):
                library.add(text[start : start + PAGE], space)

        label = f"an index of {size:,} tokens of {name}"
        batches = [[ids] for group in ("prose", "maths") for ids in bench.groups[group]]
        stage, params = Live(bench.llm), bench.settings.params()
        contest = Contest(bench, stage, label, RIVALS, batches, params, before=fill, after=library.clear)
        yield label, contest.run(bench.settings.rounds)


def spanish(bench: Bench, size: int) -> list[int]:
    """A walk over the passage: after each word one of those that follow it there."""
    draw, words = random.Random(bench.settings.seed), SPANISH.split()
    following: dict[str, list[str]] = {}
    for word, after in pairwise(words):
        following.setdefault(word, []).append(after)
    tokens: list[int] = []
    word = words[0]
    while len(tokens) < size:
        sentence = []
        for _ in range(200):
            sentence.append(word)
            word = draw.choice(following.get(word, words))
        tokens += bench.llm.token_ids(" ".join(sentence) + " ")
    return tokens[:size]


def random_text(bench: Bench, size: int) -> list[int]:
    return random.Random(bench.settings.seed).choices(bench.words, k=size)
