"""Per request: whether, who, how much. It is checked, it is kept to, it is in the counters, and it changes no text."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import VOCAB, Scripted, Watched, by_hand, decode, expecting, request, toy
from test_cli import PROMPT, run
from tiny_models import byte_tokenizer, near_copy, save_pair, tiny_llama

from betoken import LLM, ParameterError, SamplingParams, Speculation
from betoken.draft import Draft, chain
from betoken.engine import Engine, Request
from betoken.methods import spelt
from betoken.proposers.base import Needs, ObserveContext, ProposeContext, Workshop, build
from betoken.speculation import together, wishes
from betoken.stats import total
from betoken.targets.base import TargetInfo

METHODS = (
    "naive",
    "ngram",
    "mix:nodes=9",
    "suffix",
    "recycling:nodes=9",
    "reference",
    "draft:k=3:width=2",
    "auto:nodes=12",
)
WISHES = st.builds(Speculation, enabled=st.booleans(), max_nodes=st.sampled_from((None, 1, 2, 5)))


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"enable": False}, "enabled, method, max_nodes"),
        ({"enabled": 0}, "True or False"),
        ({"enabled": "no"}, "True or False"),
        ({"method": 3}, "a method such as"),
        ({"max_nodes": 0}, "at least 1"),
        ({"max_nodes": True}, "at least 1"),
        ({"max_nodes": 2.0}, "at least 1"),
        ("off", "a mapping"),
        (False, "a mapping"),
        ([{}], "a mapping"),
    ],
)
def test_what_makes_no_sense_is_refused(given_: Any, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        Speculation.of(given_)


def test_one_for_all_or_one_each() -> None:
    assert wishes({"max_nodes": 3}, 2) == [Speculation(max_nodes=3)] * 2
    assert wishes([None, {"enabled": False}], 2) == [Speculation(), Speculation(enabled=False)]
    assert wishes(None, 0) == wishes([], 0) == []
    for wrong in ([{}], "no", 5):
        with pytest.raises(ParameterError):
            wishes(wrong, 2)


def test_in_words() -> None:
    assert Speculation(method="mix").words == "mix"
    assert Speculation(method="mix", max_nodes=3).words == "mix, at most 3 nodes a draft"
    assert Speculation(enabled=False, method="mix").words == "off"


@given(st.lists(WISHES, max_size=4), st.lists(WISHES, max_size=4))
def test_merged_counters_name_each_once(some: list[Speculation], others: list[Speculation]) -> None:
    both = together(some, others)
    assert both == together(others, some, both) and set(both) == {*some, *others} and len(both) == len(set(both))


class Limited(Watched):
    """Watches that no row is fed more than it wants, and that nothing is heard of those who want nothing."""

    def propose(self, ctx: ProposeContext) -> list[Draft]:
        Scripted.propose(self, ctx)  # no more than that: not every method scores its drafts
        return list(self.proposer.propose(ctx))

    def observe(self, ctx: ObserveContext) -> None:
        assert {seq.seq_id for seq in ctx.seqs} == self.known
        super().observe(ctx)
        for seq, draft in zip(ctx.seqs, ctx.drafts, strict=True):
            assert seq.max_nodes is None or len(draft) <= seq.max_nodes


def proposer_for(method: str, table: int) -> Any:
    name, options = spelt(method)
    target = toy(table)
    draft = toy(table, sharpness=2.5)
    return build(name, Workshop(TargetInfo("", VOCAB, target.info.eos_ids), draft, options))


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=15)
@given(
    batch=st.lists(st.tuples(expecting(), WISHES), min_size=1, max_size=4),
    table=st.integers(0, 99),
    rows=st.sampled_from((2, 32)),
)
def test_any_mixture_says_what_plain_decoding_says(
    method: str, batch: list[tuple[Request, Speculation]], table: int, rows: int
) -> None:
    """Rows with and without drafts, with few nodes and many; twice, the second time with all that is remembered."""
    target, proposer = toy(table), proposer_for(method, table)
    alone = [by_hand(replace(one, text=request().text), target) for one, _ in batch]
    for _ in range(2):
        fresh = [replace(one, text=request().text, speculation=wish) for one, wish in batch]
        results = decode(fresh, Limited(proposer), target=target, max_rows=rows)
        assert [result.said for result in results] == alone
        for result, (_, wish) in zip(results, batch, strict=True):
            stats = result.running.stats
            assert wish.enabled or stats.draft_tokens == 0
            assert stats.speculation == (replace(wish, method="scripted"),)


class Reads(Scripted):
    """Wants the likeliest tokens, and knows what they must be: the row's own."""

    def __init__(self, logits_of: Any) -> None:
        super().__init__(lambda seq: chain([seq.tokens[-1], 1, 2]))
        self.needs, self.logits_of, self.read = Needs(top_ids=2), logits_of, 0

    def observe(self, ctx: ObserveContext) -> None:
        super().observe(ctx)
        assert len(ctx.seqs) == len(ctx.drafts) == len(ctx.verdicts) == len(ctx.top_ids)
        for seq, draft, verdict, top in zip(ctx.seqs, ctx.drafts, ctx.verdicts, ctx.top_ids, strict=True):
            before = list(seq.tokens[: len(seq.tokens) - len(verdict.tokens)])
            assert list(top[0]) == list(np.argsort(-self.logits_of(before), kind="stable")[:2])
            assert len(top) == 1 + len(draft) <= 1 + (seq.max_nodes or 3)
            self.read += 1


def test_what_is_observed_belongs_to_the_rows_that_are_shown() -> None:
    """The second row's verdict and likeliest tokens went to the third one's drafter."""
    target = toy(4)
    reads = Reads(target._logits_of)
    some = [None, {"enabled": False}, {"max_nodes": 1}, {"enabled": False}, {}]
    batch = [
        replace(request((place, 1), max_tokens=12, ignore_eos=True), speculation=Speculation.of(wish))
        for place, wish in enumerate(some)
    ]
    results = decode(batch, reads, target=target)
    assert reads.read == sum(result.running.stats.steps for result in results[::2])
    assert [result.running.stats.drafts > 0 for result in results] == [True, False, True, False, True]


def test_nobody_is_asked_where_nobody_wants_drafts() -> None:
    class Never(Scripted):
        def begin(self, seq: Any) -> None:
            raise AssertionError

        propose = observe = end = begin  # type: ignore[assignment]

    off = Speculation(enabled=False)
    (result,) = decode([replace(request(), speculation=off)], Never(lambda seq: Draft()))
    assert result.said == decode([request()])[0].said


def test_a_sequence_that_goes_on_keeps_its_wish() -> None:
    engine = Engine(toy(), Scripted(lambda seq: chain([1, 2, 3, 4])))
    seq_id = engine.add(
        replace(request(ignore_eos=True, max_tokens=5), keep=True, speculation=Speculation(max_nodes=2))
    )
    running = engine.running(seq_id)
    for _ in range(2):
        engine.run(lambda event: None)
        assert running.stats.speculation == (Speculation(method="scripted", max_nodes=2),)
        assert 0 < running.stats.draft_tokens <= 2 * running.stats.steps
        if seq_id in engine._kept:
            engine.extend(seq_id, [1])
    engine.abort(seq_id)


SHORT = SamplingParams(max_tokens=24, ignore_eos=True)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM((tiny_llama(), byte_tokenizer()), near_copy(tiny_llama()), method="draft") as made:
        yield made


@pytest.mark.parametrize("params", [SHORT, SHORT.replaced(temperature=1.0, seed=3)])
def test_each_prompt_has_its_own(llm: LLM, params: SamplingParams) -> None:
    """Methods, limits and nothing at all in one call; results in the order of the prompts."""
    prompts = [PROMPT + letter for letter in "abcde"]
    some = [None, {"enabled": False}, {"method": "auto"}, {"method": "ngram:k=3", "max_nodes": 2}, {"max_nodes": 1}]
    plain = llm.generate(prompts, params, method="plain")
    results = llm.generate(prompts, params, speculation=some)
    assert [result.token_ids for result in results] == [result.token_ids for result in plain]
    assert [result.prompt for result in results] == prompts
    assert [result.stats.speculation[0].words for result in results] == [
        "draft", "off", "auto", "ngram:k=3, at most 2 nodes a draft", "draft, at most 1 nodes a draft",
    ]  # fmt: skip
    assert results[1].stats.draft_tokens == 0 < results[0].stats.draft_tokens
    assert results[4].stats.draft_tokens <= results[4].stats.steps
    assert len(total([result.stats for result in results]).speculation) == 5
    assert {one.method for result in plain for one in result.stats.speculation} == {"plain"}


def test_everywhere_a_request_begins(llm: LLM) -> None:
    off, messages = {"enabled": False}, [{"role": "user", "content": "hi"}]
    assert llm.chat(messages, SHORT, speculation=off).stats.drafts == 0
    assert list(llm.steps(PROMPT, SHORT, speculation=off))[-1].stats.drafts == 0
    streamed = "".join(llm.stream(PROMPT, SHORT, speculation={"method": "naive", "max_nodes": 1}))
    assert streamed == llm.generate(PROMPT, SHORT, speculation=off).text
    outputs = llm.generate(PROMPT, SHORT.replaced(n=2), speculation=off).outputs
    assert [output.stats.speculation[0].enabled for output in outputs] == [False, False]


def test_options_belong_to_the_method_they_were_given_with(llm: LLM) -> None:
    """`k` of the draft model went to ngram, which has another idea of it; naive has none."""
    many = llm.generate([PROMPT] * 2, SHORT, options={"width": 2}, speculation=[{"method": "naive"}, None])
    assert [result.stats.speculation[0].method for result in many] == ["naive", "draft"]


@pytest.mark.parametrize(
    "wrong", [{"method": "telepathy"}, {"nodes": 3}, [{}], [{}, {}, {}], {"max_nodes": -1}, 7, {"method": "naive:k=0"}]
)
def test_errors_are_readable_and_harmless(llm: LLM, wrong: Any) -> None:
    with pytest.raises(ParameterError):
        llm.generate(["a", "b"], SHORT, speculation=wrong)
    with pytest.raises(ParameterError):
        llm.steps("a", SHORT, speculation=wrong)
    assert llm.generate("a", SHORT).finish_reason == "length"


def test_from_the_command_line(tmp_path: Any) -> None:
    target, draft = save_pair(tmp_path)
    given_ = ["generate", PROMPT, "--model", str(target), "--draft", str(draft), "--max-tokens", "12", "--ignore-eos"]
    plain = run(*given_, "--method", "plain")
    assert run(*given_, "--no-speculation") == run(*given_, "--max-nodes", "2") == plain
    assert "nobody, speculation being off" in run(*given_, "--no-speculation", "--show")[1]
    assert "proposed by auto, at most 2 nodes a draft" in run(*given_, "--max-nodes", "2", "--show")[1]
    code, _, error = run(*given_, "--max-nodes", "0")
    assert (code, "max_nodes is 0" in error) == (2, True)
