"""Logits to distribution, once; then to a token. numpy only: the same code chooses for every target, live or toy.

The order of operations: logit bias, penalties, masks (grammar, allowed ids, bad words, min_tokens), temperature, top-k,
top-p, min-p. What comes out is a law: one float64 log-weight per token, -inf where the token cannot be emitted. The token is
`argmax(law + gumbel(seed, sample, position))`, the lowest id where values are equal; at temperature 0 without noise.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from betoken.errors import ParameterError
from betoken.grammar import Grammar
from betoken.noise import DRAFT, LIKELIEST, REPLACE, STREAMS, Draw, NoiseSource, gumbel
from betoken.params import SamplingParams

Logits = npt.NDArray[Any]
Law = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probabilities of one emitted token under the raw logits, and of the most likely ones: token id -> logprob."""

    token_id: int
    logprob: float
    rank: int
    top: dict[int, float]


class Sampler:
    """How one request chooses its tokens: parameters, noise, and the history its penalties and its grammar look at.

    grammar: `params.grammar`, compiled for the target
    `choose(logits_V)` is a pure function of (logits, seed, sample, position, history); `push` moves on by one token.
    """

    def __init__(
        self,
        params: SamplingParams,
        *,
        seed: int,
        vocab_size: int,
        prompt: Sequence[int] = (),
        eos_ids: Iterable[int] = (),
        sample: int = 0,
        grammar: Grammar | None = None,
    ) -> None:
        _check_ids(params, vocab_size, eos_ids)
        _check_grammar(params, vocab_size, grammar)
        self.params = params
        self.noise = NoiseSource(seed, sample, vocab_size)
        self.output: list[int] = []
        self.logprobs: list[TokenLogprobs] = []
        self._prompt_ids = frozenset(prompt) if params.repetition_penalty != 1 else frozenset()
        self._counts: Counter[int] = Counter()
        self._enders = sorted({*eos_ids, *params.stop_token_ids})
        self._mask = _allowed_mask(params, vocab_size)
        ends = params.stop_token_ids if params.ignore_eos else self._enders
        self._matcher = None if grammar is None else grammar.matcher(ends)
        self._bias = (
            np.array([*params.logit_bias], dtype=np.int64),
            np.array([*params.logit_bias.values()], dtype=np.float64),
        )
        penalties = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty)
        self._penalised = penalties != (1, 0, 0)
        masked = self._mask is not None or self._matcher is not None
        self._adjusted = self._penalised or bool(params.logit_bias or params.bad_words) or masked
        if not params.greedy:
            _ = self._draws  # loaded before the first step, not in it

    @property
    def position(self) -> int:
        """The output position of the next token."""
        return len(self.output)

    @property
    def takes_argmax(self) -> bool:
        """Whether the next token is simply the argmax of the raw logits, and nothing else is asked of them."""
        plain = self.params.greedy and not self._adjusted and self.params.logprobs is None
        return plain and self.position >= self.params.min_tokens

    @property
    def complete(self) -> bool:
        """Whether there is a grammar, and the output as it stands is all that it asks for."""
        return self._matcher is not None and self._matcher.accepting

    def push(self, token: int) -> None:
        """One more token of the output."""
        self.output.append(token)
        if self._matcher is not None:
            self._matcher.push(token)
        if self._penalised:
            self._counts[token] += 1

    def draw_at(self, position: int) -> Draw:
        """Which draw the token at an output position comes of, for who guesses it."""
        if self.params.greedy:
            return LIKELIEST
        return Draw(float(self.params.temperature), self.noise.base, position)  # code is compiled for each type

    def choose(self, logits_V: Logits) -> int | None:
        """The token at the next position; notes its log-probability where the request wants them. None where the masks
        leave none."""
        law = self._allowed_law(logits_V, ())
        if law is None:
            return None
        token = self._first(law)
        self.note(logits_V, token)
        return token

    def _first(self, law: Law) -> int:
        """The token of an adjusted law. As `perturbed_argmax`, in a fraction of the time."""
        law = self._filtered(law)
        return int(np.argmax(law) if self.params.greedy else self._draws.drawn(law, self.noise.base, self.position))

    def leaders(self, logits_V: Logits, ahead: Sequence[int], count: int) -> tuple[list[int], list[float]]:
        """Where `perturbed` is highest, best first, and how high: so many tokens, at most."""
        law = self.law(logits_V, ahead)
        ids, values = np.zeros(min(count, len(law)), np.int64), np.empty(min(count, len(law)))
        self._draws.highest(law, not self.params.greedy, self.noise.base, self.position + len(ahead), ids, values)
        return ids.tolist(), values.tolist()

    @cached_property
    def _draws(self) -> Any:
        """The compiled code: here and not above, since whoever takes the likeliest need not wait for the compiler."""
        from betoken import draws

        draws.warm_up()
        return draws

    def stuck(self, logits_V: Logits) -> bool:
        """Whether no token may come next: a grammar is complete, or asks for what other masks forbid."""
        return self._matcher is not None and self._allowed_law(logits_V, ()) is None

    def note(self, logits_V: Logits, token: int) -> None:
        """Note the log-probability of the next token, where the request wants it."""
        if self.params.logprobs is not None:
            self.logprobs.append(logprobs_of(logits_V, token, self.params.logprobs))

    def perturbed_argmax(self, logits_V: Logits, ahead: Sequence[int] = ()) -> int:
        """The token these logits give after `ahead`, tokens assumed to follow the output."""
        return int(np.argmax(self.perturbed(logits_V, ahead)))

    def perturbed(self, logits_V: Logits, ahead: Sequence[int] = ()) -> Law:
        """`[V]` law plus noise: what the argmax is taken of. A drafter that ranks by it shares the target's noise."""
        return self._noisy(self.law(logits_V, ahead), len(ahead))

    def _noisy(self, law: Law, depth: int) -> Law:
        if not self.params.greedy:
            law += self.noise.at(self.position + depth)
        return law

    def law(self, logits_V: Logits, ahead: Sequence[int] = ()) -> Law:
        """`[V]` unnormalised log-weights after every parameter; at temperature 0 the adjusted logits themselves.

        Where a grammar knows no such output, or nothing may follow it, the law is one without masks: no token of it is
        ever emitted, and drafters need no special case.
        """
        law = self._allowed_law(logits_V, ahead)
        return self._filtered(np.array(logits_V, dtype=np.float64) if law is None else law)

    def _filtered(self, law: Law) -> Law:
        if self.params.greedy:
            return law
        law /= self.params.temperature
        return _filtered(law, self.params)

    def probabilities(self, logits_V: Logits, ahead: Sequence[int] = ()) -> Law:
        """`[V]` the normalised law; at temperature 0 all of it on the argmax."""
        law = self.law(logits_V, ahead)
        if not self.params.greedy:
            return probabilities(law)
        mass = np.zeros_like(law)
        mass[np.argmax(law)] = 1
        return mass

    def replace(self, probabilities_V: Law, depth: int) -> int:
        """A draw from what residual verification left over, `depth` tokens after the output; noise of its own."""
        noise = gumbel(self.noise.seed, self.noise.sample, self.position + depth, len(probabilities_V), REPLACE)
        with np.errstate(divide="ignore"):
            return int(np.argmax(np.log(probabilities_V) + noise))

    def draw(self, probabilities_V: Law, node: int) -> int:
        """A residual-mode drafter's own draw for its node-th node: fresh every step, independent of what judges it."""
        stream = DRAFT + STREAMS * (node + 1)
        noise = gumbel(self.noise.seed, self.noise.sample, self.position, len(probabilities_V), stream)
        with np.errstate(divide="ignore"):
            return int(np.argmax(np.log(probabilities_V) + noise))

    def _allowed_law(self, logits_V: Logits, ahead: Sequence[int]) -> Law | None:
        """`[V]` the adjusted logits; None where a grammar leaves no token."""
        law = np.array(logits_V, dtype=np.float64)
        if self._adjusted or self.position + len(ahead) < self.params.min_tokens:
            self._adjust(law, ahead)
        if self._matcher is None:
            return law
        state = self._matcher.after(ahead)
        if state is None:
            return None
        np.copyto(law, -np.inf, where=~state.allowed)
        return law if law.max() > -np.inf else None

    def _adjust(self, law: Law, ahead: Sequence[int]) -> None:
        ids, bias = self._bias
        law[ids] += bias
        if self._penalised:
            self._penalise(law, ahead)
        if self._mask is not None:
            law[self._mask] = -np.inf
        if self.params.bad_words:
            law[self._banned(ahead)] = -np.inf
        if self.position + len(ahead) < self.params.min_tokens:
            law[self._enders] = -np.inf

    def _penalise(self, law: Law, ahead: Sequence[int]) -> None:
        counts = self._counts + Counter(ahead) if ahead else self._counts
        output = np.fromiter(counts, dtype=np.int64, count=len(counts))
        times = np.fromiter(counts.values(), dtype=np.float64, count=len(counts))
        if self.params.repetition_penalty != 1:
            seen = np.array(sorted(self._prompt_ids | counts.keys()), dtype=np.int64)
            values = law[seen]
            law[seen] = np.where(
                values > 0, values / self.params.repetition_penalty, values * self.params.repetition_penalty
            )
        law[output] -= self.params.presence_penalty + self.params.frequency_penalty * times

    def _banned(self, ahead: Sequence[int]) -> list[int]:
        """Tokens that would complete a bad word."""
        longest = max(len(word) for word in self.params.bad_words)
        recent = (*self.output[-longest:], *ahead)
        return [
            int(word[-1])
            for word in self.params.bad_words
            if len(word) <= len(recent) + 1 and tuple(recent[len(recent) + 1 - len(word) :]) == tuple(word[:-1])
        ]


def logprobs_of(logits_V: Logits, token: int, top: int) -> TokenLogprobs:
    """Log-softmax of raw logits at the emitted token and at the `top` most likely ones (of equals the lowest ids)."""
    logits = np.asarray(logits_V, dtype=np.float64)
    peak = logits.max()
    norm = peak + np.log(np.exp(logits - peak).sum())
    best = np.argsort(-logits, kind="stable")[:top]
    rank = int((logits > logits[token]).sum()) + 1
    return TokenLogprobs(token, float(logits[token] - norm), rank, {int(i): float(logits[i] - norm) for i in best})


def probabilities(law: Law) -> Law:
    """`[V]` the normalised distribution of a law."""
    weights: Law = np.exp(law - law.max())
    weights /= weights.sum()
    return weights


def _filtered(law: Law, params: SamplingParams) -> Law:
    """Top-k (ties with the k-th stay), then top-p, then min-p, as -inf."""
    if 0 < params.top_k < len(law):
        law[law < np.partition(law, -params.top_k)[-params.top_k]] = -np.inf
    if params.top_p < 1:
        _keep_top_p(law, params.top_p)
    if params.min_p > 0:
        law[law < law.max() + np.log(params.min_p)] = -np.inf
    return law


def _keep_top_p(law: Law, top_p: float) -> None:
    """Keep the smallest set of most likely tokens whose probability reaches top_p (Holtzman et al. 2020, 3.1)."""
    weights = np.exp(law - law.max())
    mass = top_p * weights.sum()
    size = min(256, len(law))
    while True:
        # All that tie with the size-th weight: among equals the lowest ids are kept.
        least = np.partition(weights, -size)[-size]
        best = np.flatnonzero(weights >= least)
        best = best[np.argsort(-weights[best], kind="stable")]
        reached = np.cumsum(weights[best])
        if reached[-1] >= mass or len(best) == len(law):
            break
        size = min(size * 8, len(law))
    kept = best[: int(np.searchsorted(reached, mass)) + 1]
    values = law[kept].copy()
    law[:] = -np.inf
    law[kept] = values


def _allowed_mask(params: SamplingParams, vocab_size: int) -> npt.NDArray[np.bool_] | None:
    if params.allowed_token_ids is None:
        return None
    mask = np.ones(vocab_size, dtype=np.bool_)
    mask[list(params.allowed_token_ids)] = False
    return mask


def _check_ids(params: SamplingParams, vocab_size: int, eos_ids: Iterable[int]) -> None:
    """Every id inside the vocabulary, and never a state in which no token is left."""
    for name, ids in (
        ("logit_bias", [*params.logit_bias]),
        ("allowed_token_ids", params.allowed_token_ids or ()),
        ("stop_token_ids", params.stop_token_ids),
        ("bad_words", [token for word in params.bad_words for token in _as_ids(word)]),
    ):
        for token in ids:
            if not 0 <= token < vocab_size:
                raise ParameterError(name, token, f"token ids from 0 to {vocab_size - 1}")
    never = {word[-1] for word in params.bad_words}
    if params.min_tokens:
        never |= {*eos_ids, *params.stop_token_ids}
    allowed = range(vocab_size) if params.allowed_token_ids is None else params.allowed_token_ids
    if len(never) >= len(allowed) and never.issuperset(allowed):
        raise ParameterError(
            "allowed_token_ids", list(allowed)[:8], "at least one token that bad_words and min_tokens leave possible"
        )


def _check_grammar(params: SamplingParams, vocab_size: int, grammar: Grammar | None) -> None:
    """What was asked for has been compiled, and for this target."""
    if (None if grammar is None else grammar.spec) != params.grammar:
        found = None if params.grammar is None else params.grammar.kind
        raise ParameterError("grammar", found, "the same as was compiled; only LLM compiles it by itself")
    if grammar is not None and grammar.vocab_size != vocab_size:
        raise ParameterError("grammar", grammar.vocab_size, f"one compiled for a vocabulary of {vocab_size}")


def _as_ids(word: str | tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(word, str):
        raise ParameterError("bad_words", word, "token ids here (only LLM can turn text into ids)")
    return word
