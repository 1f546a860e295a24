"""What is audited, and the ways of sampling it is audited in. Loads nothing."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from betoken.bench.cells import PLAIN
from betoken.bench.measure import Ids, Item, heat
from betoken.errors import BetokenError, ParameterError
from betoken.llm import LLM
from betoken.methods import spelt
from betoken.params import SEED_LIMIT, SamplingParams
from betoken.targets.base import TargetInfo

TREE = "draft:k=4:width=2"  # beside `draft`, so that branching trees are audited, too
# Strong enough that a count that is one token late changes what is said; rewards, since they bring repeats about.
HISTORY = {
    "penalties": {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 1.0},
    "rewards": {"presence_penalty": -0.3, "frequency_penalty": -0.5},
}
CONSTRAINTS = "constraints"
LAW_REWARDS = {
    "presence_penalty": -1.0,
    "frequency_penalty": -1.0,
}  # a law needs more than a text to show that it is off
BIASED, BIAS = 8, 2.0  # so many of an answer's tokens get a bias, of this size
FORBIDDEN_PAIRS = 3
CHANGED_EVERY, CHANGED_FROM = 6, 2  # a reference agrees with the answer but for every sixth token


@dataclass(frozen=True, slots=True)
class Case:
    """One way of sampling, and what the table calls it. `constrained`: with `constraints` of each prompt on top."""

    name: str
    params: SamplingParams
    constrained: bool = False


@dataclass(frozen=True, slots=True)
class Setup:
    """What is audited. No model means the embedded pair, no prompts the embedded ones, no methods all of them.

    limit:   at most so many prompts of each group; None for all
    seed:    of the first prompt; the next one has the next seed
    samples: how many outputs residual mode is judged by, per method and prompt; 0 leaves it out
    """

    model: str | None = None
    draft: str | None = None
    methods: tuple[str, ...] = ()
    prompts: Path | None = None
    limit: int | None = None
    max_tokens: int = 64
    batch_sizes: tuple[int, ...] = (1, 4)
    temperatures: tuple[float, ...] = (0.0, 1.0)
    dtype: str = "auto"
    device: str = "auto"
    seed: int = 0
    samples: int = 500

    def cases(self) -> list[Case]:
        """Every temperature, and the highest again with parameters that look back, and with constraints.

        Raises ParameterError.
        """
        made = [
            Case(heat(value), SamplingParams(temperature=value, max_tokens=self.max_tokens, seed=self.seed))
            for value in dict.fromkeys(self.temperatures)
        ]
        hottest = max(made, key=lambda case: case.params.temperature)
        changed = [Case(f"{hottest.name}, {name}", hottest.params.replaced(**HISTORY[name])) for name in HISTORY]
        return [*made, *changed, Case(f"{hottest.name}, {CONSTRAINTS}", hottest.params, constrained=True)]

    def seed_of(self, place: int) -> int:
        """The seed of the prompt at a place; after the last seed there is comes 0."""
        return (self.seed + place) % SEED_LIMIT

    def check(self) -> None:
        """Raises ParameterError."""
        for size in self.batch_sizes:
            if size < 1:
                raise ParameterError("batch_size", size, "a whole number of at least 1")
        if self.samples and self.samples < 100:
            raise ParameterError("samples", self.samples, "at least 100, or 0 to leave residual mode out")


def constraints(params: SamplingParams, said: Ids, info: TargetInfo) -> SamplingParams:
    """Everything that restricts a choice, made out of an unrestricted answer so that it changes what is said.

    said: a plain answer to the same prompt, with other parameters
    """
    limit = params.max_tokens or len(said)
    pairs = [pair for pair in dict.fromkeys(pairwise(said)) if pair[1] not in info.eos_ids]
    return params.replaced(
        **filters(said),
        top_p=0.95,
        bad_words=tuple(pairs[:: max(len(pairs) // FORBIDDEN_PAIRS, 1)]),
        allowed_token_ids=_allowed(info),
        min_tokens=limit // 2,
        stop_token_ids=(said[3 * len(said) // 4],) if said else (),
    )


def filters(said: Ids) -> dict[str, Any]:
    """The constraints that a test of a law takes, too: few enough tokens are left that its cells fill."""
    often = [token for token, _ in Counter(said).most_common(BIASED)]
    bias = {token: BIAS if place % 2 else -BIAS for place, token in enumerate(often)}
    return {"logit_bias": bias, "top_k": 40, "min_p": 0.01}


@cache
def _allowed(info: TargetInfo) -> Ids:
    """Four fifths of the vocabulary; one tuple for all, since it is long."""
    return tuple(token for token in range(info.vocab_size) if token % 5 != 3 or token in info.eos_ids)


def reference_of(said: Ids, vocab_size: int) -> Ids:
    """An answer with some tokens replaced: to draft from it, and to be wrong now and then."""
    return tuple(
        (token + 1) % vocab_size if place % CHANGED_EVERY == CHANGED_FROM else token for place, token in enumerate(said)
    )


def repetitive(items: Sequence[Item], most: int, least: int) -> list[Item]:
    """Where a count of tokens said matters most: of every group the prompt that repeats itself most, at most `most`;
    where that gives fewer than `least`, the next most repetitive ones."""
    ranked = sorted(items, key=lambda item: len({*item.ids}) / len(item.ids))
    firsts: dict[str, Item] = {}
    for item in ranked:
        firsts.setdefault(item.group, item)
    chosen_ = [item for item in ranked if firsts[item.group] is item][:most]
    rest = [item for item in ranked if item not in chosen_]
    return [*chosen_, *rest[: max(least - len(chosen_), 0)]]


def chosen(names: Sequence[str], *, with_draft: bool) -> list[str]:
    """The methods to audit, plain decoding first. Raises ParameterError, BetokenError."""
    known = [name for name in LLM.methods() if name != "draft" or with_draft]
    wanted = [*dict.fromkeys(names)] or [*known, *[TREE] * with_draft]
    for name in wanted:
        if spelt(name)[0] == PLAIN != name:
            raise ParameterError("method", name, f"{PLAIN} without options; it has none")
    if any(spelt(name)[0] == "draft" for name in wanted) and not with_draft:
        raise BetokenError(
            "the method draft needs a draft model; name one with --draft, or leave draft out of --methods"
        )
    return [PLAIN, *(name for name in wanted if name != PLAIN)]
