"""Prompts, parameters and references as callers give them, one or many: told apart and checked. No torch."""

from collections.abc import Sequence
from typing import Any

from betoken.errors import ParameterError, PromptError
from betoken.params import SamplingParams

Prompt = str | Sequence[int]


def is_single(prompts: Prompt | Sequence[Prompt]) -> bool:
    """One prompt, or a list of them? An empty list is a list."""
    if not isinstance(prompts, Sequence):
        raise PromptError(f"a prompt is a string or a list of token ids; this one is {prompts!r}")
    return isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], int))


def checked_ids(prompt: Sequence[int]) -> Sequence[int]:
    if not isinstance(prompt, Sequence):
        raise PromptError(f"a prompt is a string or a list of token ids; this one is {prompt!r}")
    for token in prompt:
        if isinstance(token, bool) or not isinstance(token, int):
            raise PromptError(f"a prompt is a string or a list of token ids; this one holds {token!r}")
    return prompt


def references(references: Any, count: int) -> Sequence[Any]:
    if references is None:
        return [None] * count
    if isinstance(references, str) or not isinstance(references, Sequence) or len(references) != count:
        raise ParameterError(
            "reference", references, f"a list of {count}: a text, a list of token ids or None a prompt"
        )
    return references


def one_each(params: SamplingParams | Sequence[SamplingParams] | None, count: int) -> Sequence[SamplingParams]:
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * count
    if not isinstance(params, Sequence) or not all(isinstance(one, SamplingParams) for one in params):
        raise ParameterError("params", params, "SamplingParams, or a list of them")
    if len(params) != count:
        raise ParameterError("params", f"{len(params)} of them", f"one for all {count} prompts, or one each")
    return params


def reference_ids(reference: Any) -> tuple[int, ...]:
    """A reference given as token ids (a list, a tensor), or none. Raises ParameterError."""
    ids = reference.tolist() if hasattr(reference, "tolist") else () if reference is None else reference
    if not isinstance(ids, Sequence) or not all(type(token) is int and token >= 0 for token in ids):
        raise ParameterError("reference", reference, "text, or a list of token ids")
    return tuple(ids)


def check_limit(name: str, value: Any) -> None:
    """Raises ParameterError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ParameterError(name, value, "a whole number of at least 1")
