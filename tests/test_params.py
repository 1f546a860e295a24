"""Parameters are checked where they are given: every error names the parameter, the value and the range."""

from typing import Any

import pytest

from betoken.errors import ParameterError
from betoken.params import SamplingParams
from betoken.sampling import Sampler

NAN, INF = float("nan"), float("inf")

WRONG = [
    ("temperature", (-0.1, NAN, INF, "hot", None, True), "a finite number, at least 0"),
    ("top_k", (-1, 1.5, "3", None, True), "at least 0"),
    ("top_p", (0, -0.5, 1.01, NAN), "above 0, at most 1"),
    ("min_p", (-0.1, 1.1, NAN), "at least 0, at most 1"),
    ("repetition_penalty", (0, -1, INF), "above 0"),
    ("presence_penalty", (-2.1, 2.1, NAN), "at least -2, at most 2"),
    ("frequency_penalty", (-2.1, 2.1), "at least -2, at most 2"),
    ("min_tokens", (-1, 129, 0.5), "at "),
    ("max_tokens", (0, -5, 1.0, "all"), "at least 1"),
    ("n", (0, 1025, 1.0), "from 1 to 1024"),
    ("seed", (-1, 2**63, 0.5, "seed"), "from 0 to 9223372036854775807"),
    ("logprobs", (-1, 101, 0.5, True), "from 0 to 100"),
    ("stop", (("",), (3,)), "non-empty strings"),
    ("bad_words", (("",), ((),)), "non-empty"),
    ("allowed_token_ids", ((), (-1,), ("a",)), "at least"),
    ("stop_token_ids", ((-1,), (0.5,)), "at least 0"),
    ("logit_bias", ({-1: 0.5}, {1: NAN}, {1: 1001}, {"x": 1.0}, {0.5: 1.0}), "at least"),
]


@pytest.mark.parametrize(
    ("name", "value", "span"), [(name, value, span) for name, values, span in WRONG for value in values]
)
def test_a_wrong_value_is_named_with_its_range(name: str, value: Any, span: str) -> None:
    """A wrong value surfaced as NaN logits, an endless run, or a TypeError deep in numpy that names nothing."""
    with pytest.raises(ParameterError) as caught:
        SamplingParams(**{name: value})
    shown = next(iter(value), value) if isinstance(value, tuple) else value
    assert caught.value.name == name
    assert span in str(caught.value)
    if not isinstance(value, dict):
        assert str(caught.value).startswith(f"{name} is {shown!r}" if value != () else f"{name} is []")


@pytest.mark.parametrize("value", [{-1: 0.5}, {1: NAN}, {1: 1001}, {"x": 1.0}])
def test_a_wrong_bias_shows_the_key_or_the_weight(value: dict) -> None:
    """`logit_bias={"x": 1}` was a bare ValueError of int()."""
    with pytest.raises(ParameterError, match=r"logit_bias is (-1|nan|1001|'x')"):
        SamplingParams(logit_bias=value)


@pytest.mark.parametrize("name", [name for name, *_ in WRONG])
def test_every_numeric_field_and_list_is_checked(name: str) -> None:
    """A field was renamed and its check went with it."""
    assert name in SamplingParams.__dataclass_fields__


def test_lists_strings_and_json_keys_are_taken() -> None:
    """`stop="\\n"` was taken for its letters, and a server's JSON could not carry a logit bias."""
    params = SamplingParams(stop="ab", bad_words="no", stop_token_ids=[3], allowed_token_ids=[1], logit_bias={"7": 1})
    assert (params.stop, params.bad_words) == (("ab",), ("no",))
    assert (params.stop_token_ids, params.allowed_token_ids, params.logit_bias) == ((3,), (1,), {7: 1})
    assert SamplingParams(stop=None, bad_words=[[1, 2], "x"]).bad_words == ((1, 2), "x")


def test_the_bounds_themselves_are_allowed() -> None:
    """An off-by-one refused top_p=1 or seed 2**63 - 1, which the server hands out itself."""
    SamplingParams(
        top_p=1, min_p=1, seed=2**63 - 1, logprobs=100, n=1024, presence_penalty=-2, min_tokens=4, max_tokens=4
    )
    SamplingParams(min_tokens=10**6, max_tokens=None)


def test_replaced_checks_again() -> None:
    """A copy with changes went around the checks."""
    assert SamplingParams(top_k=3).replaced(seed=1) == SamplingParams(top_k=3, seed=1)
    with pytest.raises(ParameterError, match="top_k"):
        SamplingParams().replaced(top_k=-1)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"logit_bias": {4: 1.0}}, "logit_bias"),
        ({"allowed_token_ids": (4,)}, "allowed_token_ids"),
        ({"stop_token_ids": (9,)}, "stop_token_ids"),
        ({"bad_words": ((1, 4),)}, "bad_words"),
        ({"bad_words": ((-1,),)}, "bad_words"),
        ({"bad_words": ("text",)}, "bad_words"),
        ({"bad_words": ((0,), (1,), (2,), (3,))}, "allowed_token_ids"),
        ({"allowed_token_ids": (3,), "min_tokens": 1}, "allowed_token_ids"),
    ],
)
def test_ids_are_checked_against_the_vocabulary(fields: dict[str, Any], name: str) -> None:
    """An id past the vocabulary indexed the logits of another token (or from the end); a law with no token left gave token 0."""
    with pytest.raises(ParameterError) as caught:
        Sampler(SamplingParams(**fields), seed=0, vocab_size=4, eos_ids=(3,))
    assert caught.value.name == name


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 10**400},
        {"repetition_penalty": 1e308},
        {"logit_bias": 5},
        {"logit_bias": [(1, 2)]},
        {"stop": 5},
        {"stop": [None]},
        {"stop_token_ids": 5},
        {"allowed_token_ids": 5},
        {"bad_words": 5},
        {"bad_words": [None]},
        {"bad_words": [[1.5]]},
        {"bad_words": [["a"]]},
        {"ignore_eos": "no"},
        {"include_stop_str": 2},
    ],
)
def test_values_of_another_kind_are_named(fields: dict) -> None:
    """They ended in an OverflowError, an AttributeError or a TypeError, or were taken for something else."""
    with pytest.raises(ParameterError) as caught:
        SamplingParams(**fields)
    assert caught.value.name == next(iter(fields))
