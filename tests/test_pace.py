"""How deep a draft model drafts: by what became of this sequence's drafts so far."""

import pytest
from tiny_models import byte_tokenizer, near_copy, tiny_llama

from betoken import LLM, SamplingParams
from betoken.proposers.draft_model import FIRST_ESTIMATE, RETRY, _Pace


def test_all_accepted_goes_deeper_and_nothing_accepted_rests() -> None:
    lucky, unlucky = _Pace(0.25), _Pace(0.25)
    first = lucky.depth(20)
    assert FIRST_ESTIMATE**first >= 0.25 and FIRST_ESTIMATE ** (first + 1) < 0.25
    for _ in range(40):
        lucky.learn(depth := lucky.depth(20), depth)
        unlucky.learn(unlucky.depth(20), 0)
    assert lucky.depth(20) == 20
    assert unlucky.estimate < 0.25


def test_who_rests_is_tried_again_once_in_a_while() -> None:
    """A text that has become easy would never be drafted for again."""
    pace = _Pace(0.25, estimate=0.1)
    depths = []
    for _ in range(2 * RETRY):
        depths.append(depth := pace.depth(6))
        pace.learn(depth, 0)
    assert depths == ([0] * (RETRY - 1) + [1]) * 2


def test_tokens_behind_a_rejected_one_say_nothing() -> None:
    one, many = _Pace(0.25), _Pace(0.25)
    one.learn(1, 0)
    many.learn(6, 0)
    assert one.estimate == many.estimate < FIRST_ESTIMATE


def test_no_worth_means_all_levels() -> None:
    pace = _Pace(0.0)
    for _ in range(30):
        pace.learn(4, 0)
    assert pace.depth(4) == 4


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_useless_draft_model_is_hardly_asked(temperature: float) -> None:
    """Another model's weights: most steps must draft nothing; a near copy is asked for more and more."""
    params = SamplingParams(max_tokens=120, ignore_eos=True, temperature=temperature, seed=1)
    drafted = {}
    for name, draft in (("stranger", tiny_llama(seed=9)), ("near copy", near_copy(tiny_llama()))):
        with LLM((tiny_llama(), byte_tokenizer()), draft, method="draft") as llm:
            stats = llm.generate("the cat", params).stats
            drafted[name] = stats.draft_tokens / stats.steps
    assert drafted["stranger"] < 0.6 < 2 < drafted["near copy"]
