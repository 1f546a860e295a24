"""What the tests draw from: trees, parameters, table models, and proposers that behave as badly as they may."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from betoken.draft import ROOT, Draft, chain
from betoken.engine import Engine, Event, Request
from betoken.params import SamplingParams
from betoken.proposers.base import BaseProposer, ObserveContext, ProposeContext, SeqView
from betoken.sampling import Sampler, TokenLogprobs
from betoken.stops import Stops
from betoken.targets.toy import LogitsOf, ToyTarget, markov

VOCAB = 6
EOS = 5
WAYS = ("nothing", "tree", "chain", "foreign", "repeat", "same", "oracle", "oracle tree", "oracle then wrong")


@st.composite
def trees(draw: st.DrawFn, *, max_nodes: int = 10, low: int = 0, high: int = VOCAB - 1) -> Draft:
    """A tree of any shape; tokens from `low` to `high`."""
    wanted = draw(st.lists(st.tuples(st.integers(0, max_nodes), st.integers(low, high)), max_size=max_nodes))
    return grown([(place % (node + 1) - 1, token) for node, (place, token) in enumerate(wanted)])


def grown(wanted: Sequence[tuple[int, int]]) -> Draft:
    """The tree of (parent, token) pairs, in order; where a sibling has the token already, its subtree is shared."""
    place, tokens, parents = {ROOT: ROOT}, list[int](), list[int]()
    children: dict[tuple[int, int], int] = {}
    for node, (parent, token) in enumerate(wanted):
        key = (place[parent], token)
        place[node] = children.setdefault(key, len(tokens))
        if place[node] == len(tokens):
            tokens.append(token)
            parents.append(key[0])
    return Draft(tuple(tokens), tuple(parents))


@st.composite
def laws_of_sampling(draw: st.DrawFn) -> dict[str, Any]:
    """Sampling fields, from plain to everything at once, that leave at least two of VOCAB tokens possible."""
    some = st.sampled_from
    return {
        "temperature": draw(some((0.0, 0.3, 1.0, 2.0))),
        "top_k": draw(some((0, 0, 1, 3, 50))),
        "top_p": draw(some((1.0, 1.0, 0.3, 0.9))),
        "min_p": draw(some((0.0, 0.0, 0.1))),
        "repetition_penalty": draw(some((1.0, 1.0, 1.3, 0.8))),
        "presence_penalty": draw(some((0.0, 0.0, 0.5))),
        "frequency_penalty": draw(some((0.0, 0.0, 0.7))),
        "logit_bias": draw(some(({}, {}, {1: 2.0, 3: -100.0}))),
        "bad_words": draw(some(((), (), ((2,), (0, 1), (4, 4, 4))))),
        "allowed_token_ids": draw(some((None, None, (0, 1, 4, 5)))),
        "logprobs": draw(some((None, 0, 3))),
        "seed": draw(st.integers(0, 2**63 - 1)),
    }


@st.composite
def endings(draw: st.DrawFn) -> dict[str, Any]:
    """Stopping fields."""
    some = st.sampled_from
    return {
        "max_tokens": draw(st.integers(8, 24)),
        "min_tokens": draw(some((0, 0, 1, 7))),
        "stop": draw(some(((), (), ("ab",), ("bc", "a b", "dde")))),
        "stop_token_ids": draw(some(((), (), (3,)))),
        "ignore_eos": draw(st.booleans()),
        "include_stop_str": draw(st.booleans()),
    }


class Scripted(BaseProposer):
    """Proposes whatever a function of the sequence says; remembers which sequences it was told of."""

    name = "scripted"

    def __init__(self, script: Callable[[SeqView], Draft]) -> None:
        self.script = script
        self.known: set[int] = set()
        self.target: ToyTarget | None = None

    def begin(self, seq: SeqView) -> None:
        assert seq.seq_id not in self.known
        self.known.add(seq.seq_id)

    def propose(self, ctx: ProposeContext) -> list[Draft]:
        assert {seq.seq_id for seq in ctx.seqs} == self.known
        return [self.script(seq) for seq in ctx.seqs]

    def observe(self, ctx: ObserveContext) -> None:
        """The root invariant holds here already, for rows that have just ended too."""
        for seq in ctx.seqs:
            assert self.target is None or self.target.length(seq.seq_id) == len(seq.tokens) - 1

    def end(self, seq_id: int) -> None:
        self.known.remove(seq_id)


def misbehaving(way: str, seed: int, logits_of: LogitsOf) -> Scripted:
    """A proposer of one of WAYS: nothing; random trees and chains; ids that no target knows; one token over and over; the
    same subtree everywhere; what the target will say, far past its end; that, hidden in a tree; that, but for the end."""

    def script(seq: SeqView) -> Draft:
        dice = random.Random(f"{seed} {seq.seq_id} {len(seq.tokens)}")
        truth = dice.randint(0, 30)
        if way == "nothing":
            return Draft()
        if way == "repeat":
            return chain([seq.tokens[-1]] * 40)
        if way == "chain":
            return chain(dice.randrange(VOCAB) for _ in range(dice.randint(0, 40)))
        if way.startswith("oracle"):
            return _hidden(way, foretold(seq, logits_of, truth), dice)
        tokens = range(-2, VOCAB + 3) if way == "foreign" else range(2) if way == "same" else range(VOCAB)
        return _random_tree(dice, tokens)

    return Scripted(script)


def foretold(seq: SeqView, logits_of: LogitsOf, count: int) -> list[int]:
    """What the target will say next, ends of sequence ignored."""
    ahead: list[int] = []
    for _ in range(count):
        ahead.append(seq.sampler.perturbed_argmax(logits_of([*seq.tokens, *ahead]), ahead))
    return ahead


def _hidden(way: str, truth: list[int], dice: random.Random) -> Draft:
    if way == "oracle":
        return chain(truth)
    if way == "oracle then wrong":
        return chain([*truth, *(dice.randrange(VOCAB) for _ in range(5))])
    noise = [(dice.randint(ROOT, node - 1), dice.randrange(VOCAB)) for node in range(8)]
    first = len(noise)
    return grown([*noise, *((first + i - 1 if i else ROOT, token) for i, token in enumerate(truth))])


def _random_tree(dice: random.Random, tokens: range) -> Draft:
    return grown([(dice.randint(ROOT, node - 1), dice.choice(tokens)) for node in range(dice.randint(0, 40))])


class Letters:
    """A toy text stream: token i is the i-th of these strings; a letter may need two tokens, as bytes of a character do."""

    pieces = ("a", "b", "c", "d", "e", " ", "ab", "\0")

    def __init__(self) -> None:
        self._waiting = ""

    def push(self, token: int) -> str:
        text = self._waiting + self.pieces[token % len(self.pieces)]
        self._waiting = text if token == 4 and not self._waiting else ""
        return "" if self._waiting else text

    def flush(self) -> str:
        text, self._waiting = self._waiting, ""
        return text + "$"


class Result:
    """All that an engine said about one request, and its logprobs."""

    def __init__(self, running: Any = None) -> None:
        self.running = running
        self.tokens: list[int] = []
        self.sources: list[str] = []
        self.text = ""
        self.finished: Any = None

    def take(self, event: Event) -> None:
        assert self.finished is None, "an event after the end"
        assert len(event.sources) == len(event.tokens)
        self.tokens += event.tokens
        self.sources += event.sources
        self.text += event.text
        self.finished = event.finished

    @property
    def said(self) -> tuple[list[int], str, Any, list[TokenLogprobs]]:
        """What must not depend on the draft."""
        return self.tokens, self.text, self.finished, self.running.sampler.logprobs


def decode(
    requests: Sequence[Request], proposer: Any = None, *, target: ToyTarget | None = None, **options: Any
) -> list[Result]:
    """Run an engine over the requests; checks the root invariant after every step, and that nothing stays behind."""
    target = target or toy()
    engine = Engine(target, proposer, **options)
    if proposer is not None:
        proposer.target = target
    results = {engine.add(request): Result(engine._waiting[-1]) for request in requests}
    while engine.unfinished:
        for event in engine.step():
            results[event.seq_id].take(event)
        check_roots(engine, target)
    assert not target._rows, "a row was not released"
    assert not getattr(proposer, "known", ()), "a sequence was not ended"
    return list(results.values())


def check_roots(engine: Engine, target: ToyTarget) -> None:
    """The cache holds every committed token but the last, and the sampler counts the output."""
    for seq in engine._live:
        assert target._rows[seq.seq_id].tokens == seq.tokens[:-1]
        assert seq.sampler.output == seq.tokens[len(seq.request.prompt) :]


def by_hand(request: Request, target: ToyTarget) -> tuple[list[int], str, Any, list[TokenLogprobs]]:
    """Plain decoding without an engine."""
    info, tokens, text = target.info, list(request.prompt), ""
    sampler = Sampler(
        request.params,
        seed=request.params.seed or 0,
        sample=request.sample,
        vocab_size=info.vocab_size,
        prompt=request.prompt,
        eos_ids=info.eos_ids,
    )
    room = info.context - len(tokens) if info.context else 10**6
    stops = Stops(request.params, eos_ids=info.eos_ids, room=room, text=request.text)
    while stops.reason is None:
        token = sampler.choose(target._logits_of(tokens))
        sampler.push(token)
        tokens.append(token)
        stops.push(token)
        text += stops.take_text()
    return tokens[len(request.prompt) :], text, stops.reason, sampler.logprobs


def toy(seed: int = 0, *, context: int | None = None, sharpness: float = 3.0) -> ToyTarget:
    """A random order-2 table over VOCAB tokens, EOS the end of sequence."""
    return ToyTarget(markov(VOCAB, seed=seed, sharpness=sharpness), VOCAB, eos_ids=(EOS,), context=context)


def request(prompt: Sequence[int] = (0, 1), **fields: Any) -> Request:
    """A request with a text stream of its own."""
    return Request(tuple(prompt), SamplingParams(**{"seed": 7, **fields}), text=Letters())


@st.composite
def expecting(draw: st.DrawFn) -> Request:
    """A request of anybody's, with or without a reference, which may hold ids that no target knows."""
    params = SamplingParams(**draw(laws_of_sampling()), **draw(endings()))
    prompt = tuple(draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9)))
    reference = tuple(draw(st.lists(st.integers(0, VOCAB + 1), max_size=20)))
    sample, namespace = draw(st.integers(0, 3)), draw(st.sampled_from(("", "a")))
    return Request(prompt, params, sample, Letters(), reference=reference, namespace=namespace)


class Watched(Scripted):
    """A real method on a watch: its trees must fit into `nodes` and the room, its scores must be probabilities."""

    def __init__(self, proposer: Any, nodes: int = 10**9) -> None:
        super().__init__(lambda _: Draft())
        self.proposer, self.nodes, self.needs = proposer, nodes, proposer.needs
        self.drafts: list[Draft] = []

    def begin(self, seq: SeqView) -> None:
        super().begin(seq)
        self.proposer.begin(seq)

    def propose(self, ctx: ProposeContext) -> list[Draft]:
        super().propose(ctx)
        drafts = self.proposer.propose(ctx)
        for seq, draft in zip(ctx.seqs, drafts, strict=True):
            assert draft.num_draft_tokens <= self.nodes
            assert draft.depth <= max(seq.room, 0)
            assert draft.scores is not None or not draft
            assert all(0 < score <= 1 for score in draft.scores or ())
        self.drafts += drafts
        return list(drafts)

    def observe(self, ctx: ObserveContext) -> None:
        super().observe(ctx)
        self.proposer.observe(ctx)

    def end(self, seq_id: int) -> None:
        super().end(seq_id)
        self.proposer.end(seq_id)


def check_identity(proposer: Any, nodes: int, batch: Sequence[Request], table: int, **options: Any) -> None:
    """A method on a random table: what plain decoding says, twice, the second time with all it remembers."""
    target = toy(table)
    alone = [by_hand(replace(one, text=Letters()), target) for one in batch]
    for _ in range(2):
        fresh = [replace(one, text=Letters()) for one in batch]
        assert [result.said for result in decode(fresh, Watched(proposer, nodes), target=target, **options)] == alone


def view(tokens: Sequence[int], params: SamplingParams | None = None, seed: int = 0, **fields: Any) -> SeqView:
    """A sequence as a proposer sees it."""
    sampler = Sampler(params or SamplingParams(), seed=seed, vocab_size=VOCAB)
    given = {"seq_id": 0, "prompt_length": 1, "room": 100, **fields}
    return SeqView(tokens=tokens, sampler=sampler, **given)


def spoken(tokens: Sequence[int], vocab_size: int) -> ToyTarget:
    """A target that says these tokens after a prompt of one token, then the last one for ever."""

    def logits_of(context: Sequence[int]) -> Any:
        logits = [0.0] * vocab_size
        logits[tokens[min(len(context) - 1, len(tokens) - 1)]] = 9.0
        return np.array(logits)

    return ToyTarget(logits_of, vocab_size)
