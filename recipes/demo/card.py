"""The model card, written from the measured figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from presets import Preset

SOURCES = {
    "books": "books (held-out books)",
    "stories": "sampled stories",
    "maths": "GSM8K (held-out training questions)",
    "text": "copying from prose",
    "lists": "lists, tables, JSON",
    "code": "editing code",
}
HEAD = """---
license: apache-2.0
language: en
pipeline_tag: text-generation
tags: [speculative-decoding, demonstration]
---

# Betoken's demo pair

Two small Llama models with one tokenizer, made to demonstrate speculative decoding on a laptop: a **target** and a
**draft** that guesses what the target will say. **They are a demonstration, not assistants**: they write simple
stories, copy, edit and reformat what stands in the prompt, and imitate the form of worked sums, usually with wrong
results. Do not use them for anything that matters.
"""
DATA = """
## Data

Trained from `recipes/demo/` (one command, fixed seed) on:

- public-domain books from Project Gutenberg (45 titles, two held out for measuring), children's books counted twice;
- the training half of GSM8K (MIT licence), without the calculator marks, the last 200 questions held out;
- {stories:.1f} M characters of stories sampled from `stories260K`, a 0.26 M-parameter TinyStories model (MIT licence),
  so their plots wander;
- tasks whose answer copies from the prompt, made by the recipe's own programs from those texts, invented words,
  generated Python functions and generated tables: quote, repeat, replace, leave out, reformat, sort, rename.

Shares of the training tokens: {shares}. Prompts of the copy tasks have a quarter of the weight of the answers in the
loss. The texts themselves are not part of the package. No output of any other model is in the data.
"""


def _quality_table(report: dict[str, Any]) -> str:
    lines = [
        "| held-out text | target, bits per byte | draft, bits per byte | target, right greedy answer tokens | draft |",
        "| --- | --- | --- | --- | --- |",
    ]
    for kind, name in SOURCES.items():
        target, draft = report["target"][kind], report["draft"][kind]
        lines.append(
            f"| {name} | {target['bits per byte']:.3f} | {draft['bits per byte']:.3f} "
            f"| {target['greedy accuracy']:.0%} | {draft['greedy accuracy']:.0%} |"
        )
    return "\n".join(lines)


def _agreement_table(report: dict[str, Any]) -> str:
    own = report["own text"]
    lines = ["| text | same greedy token | 1 - TV at temperature 1 |", "| --- | --- | --- |"]
    for kind, name in SOURCES.items():
        row = report["agreement"][kind]
        lines.append(f"| {name} | {row['greedy']:.2f} | {row['1 - TV']:.2f} |")
    for temperature, groups in own.items():
        for group, row in groups.items():
            name = f"the target's own text, temperature {temperature}, {group}"
            lines.append(f"| {name} | {row['greedy']:.2f} | {row['1 - TV']:.2f} |")
    return "\n".join(lines)


def model_card(preset: Preset, report: dict[str, Any], facts: dict[str, Any]) -> str:
    """The card of both models."""
    shares = ", ".join(f"{kind} {share:.0%}" for kind, share in facts["mix"].items())
    rows = ["| | target | draft |", "| --- | --- | --- |"]
    for label, attribute in (
        ("layers", "layers"),
        ("width", "hidden"),
        ("query heads", "heads"),
        ("key/value heads", "kv_heads"),
        ("head width", "head_dim"),
        ("MLP width", "mlp"),
        ("parameters (tied embedding once)", "parameters"),
    ):
        rows.append(f"| {label} | {getattr(preset.target, attribute):,} | {getattr(preset.draft, attribute):,} |")
    target, draft = facts["target tokens"], facts["draft tokens"]
    rows.append(f"| tokens seen | {target:,} | {draft:,} |")
    rows.append(
        f"| tokens a parameter | {target / preset.target.parameters:.1f} | {draft / preset.draft.parameters:.1f} |"
    )
    times = report["step ms"]
    rows.append(
        f"| one-token forward, float32, 200 tokens cached | {times['target']:.1f} ms | {times['draft']:.1f} ms |"
    )
    notes = f"\n{facts['notes']}\n" if facts.get("notes") else ""
    return "\n".join(
        (
            HEAD,
            "## Models\n",
            "\n".join(rows),
            "\nBoth: Llama architecture, 4,096-token byte-level BPE, context 4,096 (trained mostly at 256 to 1,024",
            "tokens, the last part up to 4,096), bfloat16 weights trained in float32. Answers end with `<|end|>`,",
            "documents with `<|endoftext|>`. The draft was trained on the data first and then on the target's",
            f"distributions over the same data.{notes}",
            DATA.format(stories=facts["story characters"] / 1e6, shares=shares),
            "## Held-out quality (bfloat16 weights)\n",
            _quality_table(report),
            "\n## Agreement of draft and target\n",
            _agreement_table(report),
            "\n## Licence\n",
            "The weights are released under Apache-2.0, like the package.\n",
        )
    )


def write_cards(folder: Path, text: str) -> None:
    """``MODEL_CARD.md`` and a pointer in each model folder."""
    (folder / "MODEL_CARD.md").write_text(text, encoding="utf-8")
    for name in ("target", "draft"):
        pointer = (
            "---\nlicense: apache-2.0\nlanguage: en\n---\n\n"
            f"The {name} of Betoken's demo pair, a demonstration. Its card is [MODEL_CARD.md](../MODEL_CARD.md).\n"
        )
        (folder / name / "README.md").write_text(pointer, encoding="utf-8")
