"""Speculative equals plain, with `==`, on ten architectures: any draft, any temperature, ragged batches, every parameter."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from architectures import CONFIGS, VOCAB, context_sensitivity, plain_logits, tiny

from betoken.draft import Draft, chain
from betoken.engine import Engine, Request
from betoken.params import SamplingParams
from betoken.proposers.base import BaseProposer, ProposeContext, SeqView, Workshop, build
from betoken.proposers.base import methods as known_methods
from betoken.proposers.draft_model import DraftModel
from betoken.sampling import Sampler
from betoken.targets import hf
from betoken.targets.base import Feed
from betoken.targets.hf import HFTarget
from betoken.targets.layout import Layout
from betoken.targets.scores import HFScores

PROMPTS = ((1, 2, 3), (4,), (9, 8, 7, 6, 5, 4, 3, 2, 1, 9, 8), (11, 12))
EVERYTHING: dict[str, Any] = {
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0.001,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.2,
    "frequency_penalty": 0.1,
    "logit_bias": {5: 1.0, 7: -2.0},
    "bad_words": ((3,), (10, 11)),
    "allowed_token_ids": tuple(range(60)),
    "min_tokens": 4,
    "stop_token_ids": (50,),
    "logprobs": 3,
}

Outputs = list[tuple[list[int], list[Any]]]


class Scripted(BaseProposer):
    """Proposes what a function of the sequence says."""

    name = "scripted"

    def __init__(self, script: Callable[[SeqView], Draft]) -> None:
        self._script = script

    def propose(self, ctx: ProposeContext) -> list[Draft]:
        return [self._script(seq) for seq in ctx.seqs]


def decode(
    target: HFTarget, proposer: Any, params: SamplingParams, prompts: Any = PROMPTS, max_rows: int = 3
) -> Outputs:
    """Tokens and logprobs of every prompt; rows come and go since there are more prompts than rows."""
    engine = Engine(target, proposer, max_rows=max_rows, chunk=4)
    ids = [engine.add(Request(prompt, params)) for prompt in prompts]
    tokens: dict[int, list[int]] = {seq_id: [] for seq_id in ids}
    logprobs: dict[int, list[Any]] = {}
    while engine.unfinished:
        samplers = {seq.seq_id: seq.sampler for seq in (*engine._live, *engine._waiting)}
        for event in engine.step():
            tokens[event.seq_id] += event.tokens
            logprobs[event.seq_id] = [(entry.token_id, entry.rank) for entry in samplers[event.seq_id].logprobs]
    return [(tokens[seq_id], logprobs[seq_id]) for seq_id in ids]


def junk(seed: int) -> Scripted:
    """Random trees, some of their tokens impossible."""
    dice = random.Random(seed)

    def script(seq: SeqView) -> Draft:
        tree: dict[tuple[int, int], int] = {}
        for node in range(dice.randrange(9)):
            tree.setdefault((dice.randrange(-1, len(tree)) if tree else -1, dice.randrange(-2, VOCAB + 2)), node)
        return Draft(tuple(token for _, token in tree), tuple(parent for parent, _ in tree))

    return Scripted(script)


def hinted(outputs: Outputs) -> Scripted:
    """The true continuation, deep in a tree whose first branches are wrong: accepted slots have to move."""

    def script(seq: SeqView) -> Draft:
        truth = outputs[seq.seq_id][0][len(seq.tokens) - seq.prompt_length :][:3]
        tokens, parents, above = [], [], -1
        for token in truth:
            for wrong in ((token + 1) % VOCAB, (token + 2) % VOCAB):
                tokens.append(wrong)
                parents.append(above)
            tokens.append(token)
            parents.append(above)
            above = len(tokens) - 1
        return Draft(tuple(tokens), tuple(parents))

    return Scripted(script)


def methods(target: HFTarget, draft: HFTarget, plain: Outputs) -> dict[str, Any]:
    shop = Workshop(target.info)
    return {
        "junk": junk(1),
        "hinted": hinted(plain),
        **{name: build(name, shop) for name in known_methods() if name not in ("plain", "draft")},
        "draft chain": DraftModel(draft, k=3),
        "draft tree": DraftModel(draft, k=3, width=3),
        "itself": DraftModel(HFTarget(target.model, pack=False), k=4, width=2, nodes=5),
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_context_matters(name: str) -> None:
    """A model that hardly reads its context would pass with any mask: the other tests here would prove nothing."""
    assert context_sensitivity(tiny(name)) > 0.5


@pytest.mark.parametrize("name", CONFIGS)
def test_any_draft_any_temperature_equals_plain(name: str) -> None:
    """Guards masks, positions, slots, rollback, ragged rows and the walk, in float64 where rounding cannot help or hurt."""
    model, small = tiny(name), tiny(name, seed=1, layers=1)
    target, draft = HFTarget(model, pack=False), HFTarget(small, pack=False)
    for temperature in (0.0, 0.7, 1.3):
        params = SamplingParams(temperature=temperature, seed=5, max_tokens=20, ignore_eos=True)
        plain = decode(target, None, params)
        for label, proposer in methods(target, draft, plain).items():
            assert decode(target, proposer, params) == plain, (label, temperature)


@pytest.mark.parametrize("name", CONFIGS)
def test_plain_decoding_is_the_models_own(name: str) -> None:
    """Our plain loop against the model's own uncached forward, token by token and logits too: a lucky argmax hides nothing."""
    model = tiny(name)
    target = HFTarget(model, pack=False)
    params = SamplingParams(max_tokens=20, ignore_eos=True)
    for prompt, (tokens, _) in zip(PROMPTS, decode(target, None, params), strict=True):
        logits = plain_logits(model, [*prompt, *tokens])[len(prompt) - 1 : -1]
        assert tokens == logits.argmax(-1).tolist()


@pytest.mark.parametrize("align", [1, 8, 32])
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_of_a_tree_are_those_of_its_paths(name: str, align: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every node of a branching tree, in a ragged batch, after commits that moved slots, against plain forwards. align: 8 is what slots
    are padded to on CUDA, 32 stands for what they are there over long contexts, where tokens are padded, too."""
    model = tiny(name)
    target = HFTarget(model, pack=False)
    target._align = min(align, 8)
    monkeypatch.setattr(hf, "FAR", 0 if align > 8 else hf.FAR)
    monkeypatch.setattr(hf, "FAR_SLOTS", 32)
    tree = Draft((5, 6, 7, 8, 9, 10, 11), (-1, -1, 0, 1, 3, 3, -1))
    rows = {0: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], 1: [30], 2: [21, 22, 23]}
    target.score([Feed(row, tuple(tokens)) for row, tokens in rows.items()])
    for row in rows:
        target.commit(row, ())
    for _ in range(2):
        for row in rows:
            rows[row].append(40 + row)
        scores = target.score([Feed(row, (tokens[-1],), tree) for row, tokens in rows.items()])
        assert target._cache._window % align == 0
        for index, tokens in enumerate(rows.values()):
            for node in range(-1, len(tree)):
                path = [tree.tokens[step] for step in tree.path_to(node)]
                expected = plain_logits(model, [*tokens, *path])[-1].float().numpy()
                np.testing.assert_allclose(scores.logits(index, node), expected, rtol=1e-4, atol=1e-4)
        for row in rows:
            target.commit(row, (1, 3, 5))
            rows[row] += [6, 8, 10]


def test_no_query_is_left_over_where_cuda_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes of two and more tokens whose number is one more than a multiple of 32 are one wider there, prompts and drafts; the logits
    are the same."""
    model = tiny("llama")
    target, plain, widths = HFTarget(model, pack=False), HFTarget(model, pack=False), list[int]()
    target._align, forward = hf.ALIGNED, target._forward

    def seen(layout: Layout, roots: list[int]) -> torch.Tensor:
        widths.append(layout.tokens_BQ.shape[1])
        return forward(layout, roots)

    monkeypatch.setattr(target, "_forward", seen)
    for tokens, nodes in ((33, 32), (1, 32), (31, 1), (1, 31), (2, 0), (1, 0), (32, 1), (33, 0), (61, 3)):
        widths.clear()
        feeds = [Feed(1, (3,) * tokens, chain([4] * nodes)), Feed(2, (5,))]
        scores, expected = target.score(feeds), plain.score(feeds)
        assert max(widths) == tokens + nodes + (tokens + nodes in (33, 65))
        for node in range(-1, nodes):
            np.testing.assert_allclose(scores.logits(0, node), expected.logits(0, node), rtol=1e-6)
        for row in (1, 2):
            target.release(row)
            plain.release(row)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("name", ["llama", "gemma3", "mixtral"])
def test_every_parameter_at_once_equals_plain(name: str, temperature: float) -> None:
    """Penalties, masks and logprobs look at the path: applied once a step instead of once a node, they would differ."""
    target, draft = HFTarget(tiny(name), pack=False), HFTarget(tiny(name, seed=1, layers=1), pack=False)
    params = SamplingParams(temperature=temperature, seed=5, max_tokens=20, **EVERYTHING)
    plain = decode(target, None, params)
    for label, proposer in methods(target, draft, plain).items():
        assert decode(target, proposer, params) == plain, label


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2", "qwen3_moe"])
def test_float32_packed_equals_plain(name: str) -> None:
    """The dtype and the packed linears users run: no near tie in this matrix, so `==` holds."""
    target = HFTarget(tiny(name, torch.float32, seed=2), pack=True)
    draft = HFTarget(tiny(name, torch.float32, seed=1, layers=1))
    try:
        for temperature in (0.0, 1.0):
            params = SamplingParams(temperature=temperature, seed=5, max_tokens=20, ignore_eos=True)
            plain = decode(target, None, params)
            for label, proposer in methods(target, draft, plain).items():
                assert decode(target, proposer, params) == plain, (label, temperature)
    finally:
        target.close()
        draft.close()


def test_shared_noise_agrees_more_than_an_argmax_draft() -> None:
    """A draft model that ranks without the target's noise still decodes correctly, but at temperature 1 accepts little."""
    model = tiny("llama")
    target, itself = HFTarget(model, pack=False), HFTarget(model, pack=False)
    params = SamplingParams(temperature=1.3, seed=5, max_tokens=30, ignore_eos=True)
    engine = Engine(target, DraftModel(itself, k=4))
    engine.add(Request((1, 2, 3), params))
    events: list[Any] = []
    engine.run(events.append)
    stats = events[-1].stats
    assert stats.accepted_tokens == stats.draft_tokens


def test_rows_share_nothing() -> None:
    """A row's text depends on its own prompt and seed only: alone, or beside others."""
    target = HFTarget(tiny("qwen3"), pack=False)
    params = SamplingParams(temperature=1.0, seed=5, max_tokens=20, ignore_eos=True)
    together = decode(target, None, params, max_rows=4)
    alone = [decode(target, None, params, [prompt])[0] for prompt in PROMPTS]
    assert together == alone


def test_sampler_is_asked_once_per_visited_node() -> None:
    """The emitted token must come from the visited node's own logits, in path order."""
    sampler = Sampler(SamplingParams(), seed=0, vocab_size=VOCAB)
    target = HFTarget(tiny("llama"), pack=False)
    scores = target.score([Feed(0, (1, 2, 3), Draft((4, 5), (-1, 0)))])
    assert [scores.emit(0, node, sampler) for node in (-1, 0, 1)] == [
        int(scores.logits(0, node).argmax()) for node in (-1, 0, 1)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("values", [2, 50, 2**20])
def test_of_equal_logits_the_first_is_highest(dtype: torch.dtype, values: int) -> None:
    """Who looks for the highest may not change the text: with many equal, infinite or undefined ones too."""
    generator = torch.Generator().manual_seed(values)
    logits = torch.randint(values, (2, 9, 1000), generator=generator).to(dtype)
    logits[0, 1], logits[0, 2, 500:], logits[0, 3, 7::9] = -torch.inf, torch.inf, torch.nan
    scores = HFScores(logits, [0, 1], [1, 1], [Feed(row, (1,), Draft(tuple(range(8)), (-1,) * 8)) for row in (0, 1)])
    sampler = Sampler(SamplingParams(), seed=0, sample=0, vocab_size=1000)
    for index in range(2):
        first = [min((row == row.max()).nonzero().flatten().tolist(), default=7) for row in logits[index]]
        assert [scores.emit(index, node, sampler) for node in range(-1, 8)] == first
        assert scores.top_ids(index, 1)[:, 0].tolist() == first == logits[index].argmax(-1).tolist()
