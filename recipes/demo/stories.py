"""Sample simple stories from a tiny TinyStories model with a batched, ragged-free decoder.

The model is a Hugging Face folder (``models/stories260K`` of the data directory). Half of the stories start from
nothing, half from an opening sentence made here, which widens the range of names, animals and places.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from words import words

NAMES = words(
    "Tom Lily Ben Mia Sam Anna Max Lucy "
    "Tim Sara Jack Ella Leo Zoe Fin Rosie Amy Bob Kitty Spot Daisy Peter Molly Billy "
    "Sue Joe Jane Mark Nina Oscar Polly Rex Tilly Henry Ruby Bella Charlie Emma Freddy Grace"
)
ANIMALS = words(
    "cat dog bird frog bear rabbit mouse fox duck pig cow horse lion monkey fish bee turtle squirrel owl elephant "
    "sheep goat hen wolf snail butterfly tiger puppy kitten"
)
THINGS = words(
    "ball box tree boat hat book cake car kite cup flower stick stone doll bell drum bag toy train leaf shell lamp "
    "ring rope apple key basket blanket map balloon wagon ladder whistle puzzle bucket"
)
ADJECTIVES = words(
    "red big small blue happy sad old new funny green little shiny brave kind soft lazy curious clever yellow brown "
    "noisy quiet hungry sleepy tall fast"
)
PLACES = words("park forest garden house farm beach kitchen river school barn hill pond yard shop lake zoo castle")
OPENINGS = (
    "Once upon a time, there was a {adj} {animal} named {name}.",
    "One day, {name} went to the {place} with a {adj} {thing}.",
    "{name} and {name2} were best friends. They liked to play in the {place}.",
    "{name} had a {adj} {thing}.",
    "There was a {adj} {animal} who lived near the {place}.",
    "{name} was a {adj} {animal}. One day, {name} found a {thing}.",
    "It was a sunny day. {name} and Mom went to the {place}.",
    "{name} wanted a {adj} {thing}.",
    "A {adj} {animal} and a {adj2} {animal2} met in the {place}.",
    "Once there was a boy named {name}. He loved his {adj} {thing}.",
    "Once there was a girl named {name}. She loved to play with her {thing}.",
)


def _opening(rng: random.Random) -> str:
    if rng.random() < 0.35:
        return ""
    name, name2 = rng.sample(NAMES, 2)
    animal, animal2 = rng.sample(ANIMALS, 2)
    adj, adj2 = rng.sample(ADJECTIVES, 2)
    parts = {"name": name, "name2": name2, "animal": animal, "animal2": animal2, "adj": adj, "adj2": adj2}
    return rng.choice(OPENINGS).format(thing=rng.choice(THINGS), place=rng.choice(PLACES), **parts)


def _trim(text: str) -> str:
    """Cut an unfinished last sentence."""
    end = max(text.rfind(mark) for mark in ('."', '!"', '?"'))
    end = max(end + 2 if end >= 0 else 0, max(text.rfind(mark) for mark in ".!?") + 1)
    return text[:end].strip()


@torch.inference_mode()
def _batch(model, tok, openings: list[str], temperatures: torch.Tensor, gen: torch.Generator) -> list[str]:
    """One batch of stories; openings are fed token by token, so no padding is needed."""
    limit = model.config.max_position_embeddings - 2
    ends = torch.tensor([1, 2], device=model.device)
    prompts = [tok(o, add_special_tokens=False)["input_ids"] if o else [] for o in openings]
    forced = torch.full((len(prompts), max(map(len, prompts)) + 1), -1, dtype=torch.long, device=model.device)
    for row, ids in enumerate(prompts):
        forced[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
    cache = DynamicCache(config=model.config)
    now = torch.full((len(prompts), 1), 1, dtype=torch.long, device=model.device)
    done = torch.zeros(len(prompts), dtype=torch.bool, device=model.device)
    out: list[torch.Tensor] = []
    for step in range(limit):
        logits = model(now, past_key_values=cache, use_cache=True).logits[:, -1].float()
        pick = torch.multinomial((logits / temperatures[:, None]).softmax(-1), 1, generator=gen)[:, 0]
        if step < forced.shape[1]:
            pick = torch.where(forced[:, step] >= 0, forced[:, step], pick)
        done |= torch.isin(pick, ends)
        pick = torch.where(done, 2, pick)
        out.append(pick)
        if done.float().mean() > 0.97:
            break
        now = pick[:, None]
    ids = torch.stack(out, 1).tolist()
    return [_trim(tok.decode([t for t in row if t not in (0, 1, 2)])) for row in ids]


def sample_stories(
    folder: Path, out: Path, characters: int, seed: int, batch: int, device: str, tick: Callable[[int], None]
) -> None:
    """Write stories as JSON lines to ``out`` until ``characters`` are there (resumes an unfinished file)."""
    tok = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    part = out.with_suffix(".part")
    rounds, total = 0, 0
    if part.exists():
        for line in part.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            rounds, total = max(rounds, row["round"] + 1), total + len(row["text"])
    tick(total)
    while total < characters:
        rng = random.Random(f"{seed}-{rounds}")
        gen = torch.Generator(device).manual_seed(seed * 1000 + rounds)
        temperatures = torch.tensor([rng.choice((0.5, 0.6, 0.7, 0.8)) for _ in range(batch)], device=device)
        texts = _batch(model, tok, [_opening(rng) for _ in range(batch)], temperatures, gen)
        with part.open("a", encoding="utf-8") as handle:
            for text in texts:
                if len(text) > 200:
                    handle.write(json.dumps({"round": rounds, "text": text}) + "\n")
                    total += len(text)
        rounds += 1
        tick(total)
    part.rename(out)
