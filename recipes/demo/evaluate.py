"""Measure the exported pair: bits per byte per source, copying, agreement of draft and target, time of a step."""

from __future__ import annotations

import json
import math
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from data import FULL_WEIGHT, Documents, Piece, Sources
from tokenizer import EOS
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, LlamaForCausalLM, PreTrainedTokenizerFast

KINDS = ("books", "stories", "maths", "text", "lists", "code")


def load(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The bfloat16 weights, computed with in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).float().eval()
    return model, AutoTokenizer.from_pretrained(folder)


def held_out(sources: Sources, count: int, seed: int = 99) -> dict[str, list[list[Piece]]]:
    """Documents of each kind that the training has not seen."""
    docs = Documents(sources, 512, seed)
    docs.passages.documents = docs.passages.documents[: len(docs.passages.documents) // 2] or docs.passages.documents
    return {kind: [docs.draw(kind) for _ in range(count)] for kind in KINDS}


@torch.inference_mode()
def _losses(model: LlamaForCausalLM, ids: list[int]) -> tuple[Tensor, Tensor]:
    """Nats and greedy hits of every token after the first."""
    row = torch.tensor([ids])
    logits = model(row).logits[0, :-1].float()
    nats = torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="none")
    return nats, logits.argmax(-1) == row[0, 1:]


def quality(model: LlamaForCausalLM, tok: PreTrainedTokenizerFast, docs: list[list[Piece]]) -> dict[str, float]:
    """Bits per byte of whole documents, and the share of answer tokens whose greedy prediction is right."""
    bits = 0.0
    size = hits = answers = 0
    first = tok.convert_tokens_to_ids(EOS)
    for doc in docs:
        pieces = [(tok(text)["input_ids"], weight) for text, weight in doc]
        ids = [first, *(t for piece, _ in pieces for t in piece)][:1500]
        weights = [w for piece, w in pieces for _ in piece][:1499]
        nats, right = _losses(model, ids)
        bits += nats.sum().item() / math.log(2)
        size += len(tok.decode(ids[1:]).replace(EOS, "").encode())
        answer = torch.tensor(weights) == FULL_WEIGHT
        hits += int(right[answer].sum())
        answers += int(answer.sum())
    return {"bits per byte": bits / size, "greedy accuracy": hits / max(1, answers)}


@torch.inference_mode()
def agreement(target: LlamaForCausalLM, draft: LlamaForCausalLM, rows: list[tuple[list[int], int]]) -> dict[str, float]:
    """Greedy agreement and 1 - TV at temperature 1, over the positions from each row's start on."""
    same = overlap = count = 0.0
    for ids, start in rows:
        row = torch.tensor([ids])
        p = target(row).logits[0, start - 1 : -1].float().softmax(-1)
        q = draft(row).logits[0, start - 1 : -1].float().softmax(-1)
        same += (p.argmax(-1) == q.argmax(-1)).sum().item()
        overlap += torch.minimum(p, q).sum().item()
        count += len(p)
    return {"greedy": same / max(1, count), "1 - TV": overlap / max(1, count)}


@torch.inference_mode()
def generate(model: LlamaForCausalLM, ids: list[int], limit: int, temperature: float, seed: int = 0) -> list[int]:
    """The prompt with its continuation, ending with the end token if one came."""
    torch.manual_seed(seed)
    options: dict[str, Any] = {"do_sample": temperature > 0}
    if temperature > 0:
        options |= {"temperature": temperature, "top_k": 0}
    out = model.generate(torch.tensor([ids]), max_new_tokens=limit, **options)
    return out[0].tolist()


def prompt_ids(tok: PreTrainedTokenizerFast, row: dict[str, Any]) -> list[int]:
    """A demo prompt as the model reads it."""
    if "prompt" in row:
        return tok(row["prompt"])["input_ids"]
    return tok.apply_chat_template(row["messages"], add_generation_prompt=True, return_dict=True)["input_ids"]


@torch.inference_mode()
def step_times(models: list[LlamaForCausalLM], context: int = 200, rounds: int = 60) -> list[float]:
    """Median milliseconds of a one-token forward on a cache of ``context`` tokens, the models taking turns."""
    caches = []
    for model in models:
        cache = DynamicCache(config=model.config)
        model(torch.randint(6, 4000, (1, context)), past_key_values=cache)
        caches.append(cache)
    times: list[list[float]] = [[] for _ in models]
    for _ in range(rounds):
        for model, cache, taken in zip(models, caches, times, strict=True):
            now = time.perf_counter()
            model(torch.tensor([[100]]), past_key_values=cache)
            taken.append((time.perf_counter() - now) * 1e3)
    return [statistics.median(t) for t in times]


def overlap_with_training(
    tok: PreTrainedTokenizerFast, prompts: list[dict[str, Any]], sources: Sources, n: int = 12
) -> int:
    """How many runs of ``n`` tokens of the prompts occur in the training texts (instructions are not texts)."""
    grams: dict[tuple[int, ...], None] = {}
    for row in prompts:
        ids = tok(row.get("prompt") or row["messages"][0]["content"])["input_ids"]
        grams |= dict.fromkeys(tuple(ids[i : i + n]) for i in range(len(ids) - n + 1))
    found: set[tuple[int, ...]] = set()
    texts = [*sources.books, *sources.stories, *(f"{q}\n{a}" for q, a in sources.maths)]
    for ids in tok(list(dict.fromkeys(texts)))["input_ids"]:
        found |= {g for g in zip(*(ids[i:] for i in range(n)), strict=False) if g in grams}
    return len(found)


def measure(pair: Path, sources: Sources, prompts: Path, count: int = 60) -> dict[str, Any]:
    """Everything the model card states."""
    target, tok = load(pair / "target")
    draft, _ = load(pair / "draft")
    docs = held_out(sources, count)
    report: dict[str, Any] = {"target": {}, "draft": {}, "agreement": {}, "own text": {}}
    for kind, items in docs.items():
        report["target"][kind] = quality(target, tok, items)
        report["draft"][kind] = quality(draft, tok, items)
        rows = [(tok("".join(text for text, _ in doc))["input_ids"][:1500], 1) for doc in items]
        report["agreement"][kind] = agreement(target, draft, rows)
    demos = [json.loads(line) for line in prompts.read_text(encoding="utf-8").splitlines()]
    for temperature in (0.0, 0.8):
        by_group: dict[str, list[tuple[list[int], int]]] = {}
        for row in demos:
            ids = prompt_ids(tok, row)
            by_group.setdefault(row["group"], []).append((generate(target, ids, 300, temperature), len(ids)))
        report["own text"][str(temperature)] = {g: agreement(target, draft, rows) for g, rows in by_group.items()}
    report["step ms"] = dict(zip(("target", "draft"), step_times([target, draft]), strict=True))
    random.seed(0)
    return report
