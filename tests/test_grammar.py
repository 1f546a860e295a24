"""Structured output: what comes out fits, is what plain decoding says token by token, and a drafter's nonsense changes nothing."""

import json
import random
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import byte_tokenizer, near_copy, tiny_llama

from betoken import LLM, BetokenError, GrammarSpec, ParameterError, SamplingParams, demo
from betoken.draft import Draft
from betoken.engine import Engine, Request
from betoken.grammar import Compiler, Grammar
from betoken.params import SEED_LIMIT
from betoken.proposers.base import BaseProposer, ProposeContext, Proposer, Workshop, build
from betoken.sampling import Sampler
from betoken.stops import FinishReason
from betoken.targets.toy import ToyTarget, markov

EOS = 0
VOCAB = len(byte_tokenizer()) + 12  # some ids that the tokenizer lacks
ABC = {"regex": "[a-c]{2,4}(é|😀)!"}
THING = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "kind": {"enum": ["ü", "b"]}, "n": {"type": "integer"}},
    "required": ["name", "kind"],
    "additionalProperties": False,
}
SPECS: list[dict[str, Any]] = [
    ABC,
    {"json_schema": THING},
    {"json_object": True},
    {"choice": ["yes", "no", "no!", 'may "be"\n', "日本"]},
    {"lark": 'start: "(" start ")" | "x" /[0-9]{1,3}/'},
]
GREEDY, SAMPLED = SamplingParams(max_tokens=40), SamplingParams(max_tokens=40, temperature=1.0, seed=5)


@cache
def compiler() -> Compiler:
    return Compiler(byte_tokenizer(), VOCAB, [EOS])


def compiled(spec: dict[str, Any]) -> Grammar:
    return compiler().compile(GrammarSpec.of(spec))


def text_of(tokens: Sequence[int]) -> str:
    return str(byte_tokenizer().decode(tokens, skip_special_tokens=True))


def ids_of(text: str) -> list[int]:
    return [int(token) for token in byte_tokenizer()(text)["input_ids"]]


def decode(
    specs: Sequence[dict[str, Any]], params: SamplingParams, proposer: Proposer | None = None, **options: Any
) -> list[tuple[tuple[int, ...], FinishReason | None]]:
    """Outputs of a table model, all of them in one batch: (tokens, why it ended). The toy dislikes to end."""
    engine = Engine(ToyTarget(markov(VOCAB, seed=3), VOCAB, eos_ids=[EOS]), proposer, **options)
    requests = [
        Request((5, 6, 7), params.replaced(grammar=spec, seed=params.seed or 0), grammar=compiled(spec))
        for spec in specs
    ]
    ids = [engine.add(request) for request in requests]
    said: dict[int, list[int]] = {seq_id: [] for seq_id in ids}
    ends: dict[int, FinishReason | None] = {}
    engine.run(lambda event: (said[event.seq_id].extend(event.tokens), ends.update({event.seq_id: event.finished})))
    return [(tuple(said[seq_id]), ends[seq_id]) for seq_id in ids]


def build_for_toy(name: str) -> Proposer:
    return build(
        name, Workshop(ToyTarget(markov(VOCAB, seed=3), VOCAB).info, _toy_draft() if name == "draft" else None, {})
    )


def _toy_draft() -> ToyTarget:
    """Agrees with the toy about half of the time."""
    mine, other = markov(VOCAB, seed=3), markov(VOCAB, seed=4)
    return ToyTarget(lambda context: mine(context) + 0.3 * other(context), VOCAB)


def schema(draw: random.Random, depth: int = 0) -> dict[str, Any]:
    """A random schema whose texts are mostly short."""
    simple = ["string", "pattern", "integer", "bounded", "number", "enum", "const", "boolean", "null", "union"]
    kind = draw.choice(simple + ["object", "object", "array"] * (depth < 3))
    match kind:
        case "string":
            low = draw.randrange(3)
            return {"type": "string", "minLength": low, "maxLength": low + draw.randrange(5)}
        case "pattern":
            return {"type": "string", "pattern": draw.choice(["^[a-z]{1,4}$", "^x-[0-9]{2}$", "^(é|ß){2}$", "^a*b$"])}
        case "bounded":
            low = draw.randrange(-50, 50)
            return {"type": "integer", "minimum": low, "maximum": low + draw.randrange(100)}
        case "enum":
            return {"enum": draw.sample(["red", "grün", 1, 2.5, None, True, "日"], draw.randint(1, 4))}
        case "const":
            return {"const": draw.choice(["fixed", 7, False])}
        case "union":
            return {"anyOf": [schema(draw, 3), schema(draw, 3)]}
        case "object":
            names = draw.sample(["a", "b", "näme", "c d", "e"], draw.randint(0, 4))
            parts = {name: schema(draw, depth + 1) for name in names}
            asked = [name for name in names if draw.random() < 0.6]
            return {"type": "object", "properties": parts, "required": asked, "additionalProperties": False}
        case "array":
            low = draw.randrange(3)
            return {
                "type": "array",
                "items": schema(draw, depth + 1),
                "minItems": low,
                "maxItems": low + draw.randrange(3),
            }
    return {"type": kind}


def finite(text: str) -> float:
    """JSON has numbers that floats have not."""
    return min(float(text), 1e300)


SCHEMAS = [{"json_schema": schema(random.Random(seed))} for seed in range(200)]


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_what_ends_by_itself_fits_its_schema_and_drafts_change_nothing(params: SamplingParams) -> None:
    """A mask was taken at the root of a draft and used below it: text that is no JSON."""
    plain = decode(SCHEMAS, params, max_rows=200)
    ended = 0
    for spec, (tokens, reason) in zip(SCHEMAS, plain, strict=True):
        assert reason in (FinishReason.EOS, FinishReason.LENGTH), spec
        if reason is FinishReason.EOS:
            ended += 1
            value = json.loads(text_of(tokens), parse_float=finite)
            jsonschema_rs.validate(spec["json_schema"], value)
    assert ended > 120
    for method in ("ngram", "mix", "draft"):
        assert decode(SCHEMAS, params, build_for_toy(method), max_rows=64) == plain, method
    some = range(0, 200, 9)
    assert [decode([SCHEMAS[i]], params)[0] for i in some] == [plain[i] for i in some]


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM((tiny_llama(), byte_tokenizer()), near_copy(tiny_llama())) as made:
        yield made


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: next(iter(spec)))
def test_every_method_says_what_plain_decoding_says(llm: LLM, spec: dict[str, Any]) -> None:
    for params in (GREEDY.replaced(grammar=spec), SAMPLED.replaced(grammar=spec, n=2, top_p=0.95)):
        plain = llm.generate(["the cat", "a hat and "], params, method="plain")
        for method in LLM.methods():
            together = llm.generate(["the cat", "a hat and "], params, method=method)
            for result, expected in zip(together, plain, strict=True):
                assert [o.token_ids for o in result.outputs] == [o.token_ids for o in expected.outputs], method
        alone = llm.generate("a hat and ", params, method="draft:width=2")
        assert [o.token_ids for o in alone.outputs] == [o.token_ids for o in plain[1].outputs]
        for output in (o for result in plain for o in result.outputs if o.finish_reason == "eos"):
            assert fits(spec, output.text)


def fits(spec: dict[str, Any], text: str) -> bool:
    """Whether a whole text is one of the grammar's, by its own matcher."""
    sampler_end = compiled(spec).matcher([EOS])
    for token in ids_of(text):
        sampler_end.push(token)
    return sampler_end.accepting


def test_the_embedded_pair(llm: LLM) -> None:
    try:
        target, draft = demo.pair()
    except BetokenError:
        pytest.skip("no weights in this copy")
    with LLM(target, draft) as pair:
        params = SamplingParams(max_tokens=48, grammar={"json_schema": THING})
        for asked in (params, params.replaced(temperature=0.8, seed=2), params.replaced(repetition_penalty=1.3)):
            plain = pair.generate("Name and kind: ", asked, method="plain")
            for method in ("auto", "draft", "draft:width=3", "mix", "ngram", "recycling", "lookahead", "merge"):
                assert pair.generate("Name and kind: ", asked, method=method).token_ids == plain.token_ids, method
            if plain.outputs[0].finish_reason == "eos":
                jsonschema_rs.validate(THING, json.loads(plain.text))


def test_residual_mode_ends_where_the_grammar_does() -> None:
    """The classical rule always brings one more token: after the last one a text can have it was any token at all."""
    with LLM((tiny_llama(), byte_tokenizer()), near_copy(tiny_llama()), acceptance="residual") as made:
        for method in ("draft", "draft:width=2", "ngram"):
            for spec in SPECS:
                for kw in ({}, {"ignore_eos": True}):
                    params = SAMPLED.replaced(grammar=spec, n=6, **kw)
                    for output in made.generate("the cat", params, method=method).outputs:
                        assert output.finish_reason in ("stop" if kw else "eos", "length")
                        assert output.finish_reason == "length" or fits(spec, output.text)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"json_schema": {"type": "string", "minLength": 5, "maxLength": 2}}, "minLength"),
        ({"json_schema": {"enum": []}}, "json_schema"),
        ({"json_schema": False}, "False fits nothing"),
        ({"json_schema": {"$ref": "#"}}, "finite"),
        ({"json_schema": {"$ref": "#/$defs/x", "$defs": {"x": {"type": "object", "required": ["x"], "properties": {"x": {"$ref": "#/$defs/x"}}}}}}, "finite"),
        ({"json_schema": {"type": "array", "minItems": 1, "items": {"$ref": "#"}}}, "finite"),
        ({"json_schema": {"type": "integer", "minimum": 3, "maximum": 1}}, "minimum"),
        ({"json_schema": {"type": "bogus"}}, "bogus"),
        ({"json_schema": {"not": {}}}, "not"),
        ({"json_schema": {"$ref": "http://example.com/x"}}, "references inside"),
        ({"json_schema": {"type": "string", "allOf": [{"pattern": f".*{c}.*"} for c in "abcdefghijklmnopqrstuvwxyz"]}}, "patterns"),
        ({"json_schema": {"type": "integer", "multipleOf": 99999989}}, "multipleOf"),
        ({"json_schema": '{"type": '}, "JSON schema"),
        ({"json_schema": {"a": {1, 2}}}, "JSON schema"),
        ({"json_schema": '{"items":' * 5000 + "{}" + "}" * 5000}, "deep"),
        ({"json_schema": {"const": "x" * 200_000}}, "bytes"),
        ({"json_schema": 3}, "JSON schema"),
        ({"json_schema": {"minimum": 10**400}}, "out of range"),
        ({"json_schema": {"const": "\ud800"}}, "hex escape"),
        ({"regex": "[^\\s\\S]"}, "regex"),
        ({"regex": "("}, "unclosed"),
        ({"regex": "(a{1000}){1000}"}, "too many"),
        ({"regex": "a\ud800"}, "half a character"),
        ({"regex": ""}, "non-empty"),
        ({"lark": 'start: "a" /[^\\s\\S]/'}, "lark"),
        ({"lark": "start: x\nx: y\ny: x"}, "lark"),
        ({"lark": 'start: "a" | b'}, "unknown name"),
        ({"lark": "start: %json " + json.dumps({"allOf": [{"pattern": f".*{c}.*"} for c in "abcdefghijklmnopqrstuvwxyz"]})}, "patterns"),
        ({"lark": "start: " + "(" * 9000 + '"a"' + ")" * 9000}, "nested"),
        ({"choice": []}, "at least one"),
        ({"choice": "yes"}, "list"),
        ({"choice": [""]}, "non-empty"),
        ({"json_object": False}, "True"),
    ],
)  # fmt: skip
def test_what_nothing_fits_or_nobody_can_compile_is_refused(spec: dict[str, Any], says: str) -> None:
    """An impossible schema decoded to max_tokens of nonsense; a hostile one took the process down."""
    with pytest.raises(ParameterError) as caught:
        compiled(spec)
    assert caught.value.name in (next(iter(spec)), "grammar")
    assert says in str(caught.value)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("given", [{}, {"regex": "a", "choice": ["b"]}, {"yaml": "a"}, "a+", 3, {"json_object": 1}])
def test_a_grammar_is_one_kind_and_its_value(given: Any) -> None:
    with pytest.raises(ParameterError):
        SamplingParams(grammar=given)


def test_specs_are_values() -> None:
    params = SamplingParams(grammar={"json_schema": THING})
    assert params.grammar == GrammarSpec("json_schema", json.dumps(THING)) == GrammarSpec.of({"json_schema": THING})
    assert compiler().compile(params.grammar) is compiled({"json_schema": THING})
    for spec in SPECS:
        assert GrammarSpec.of(spec).as_mapping() == json.loads(json.dumps(spec))
        assert GrammarSpec.of(GrammarSpec.of(spec).as_mapping()) == GrammarSpec.of(spec)


def test_a_grammar_must_be_compiled_and_for_this_vocabulary() -> None:
    params = SamplingParams(grammar=ABC)
    with pytest.raises(ParameterError, match="compiled"):
        Sampler(params, seed=0, vocab_size=VOCAB)
    with pytest.raises(ParameterError, match="compiled"):
        Sampler(SamplingParams(), seed=0, vocab_size=VOCAB, grammar=compiled(ABC))
    with pytest.raises(ParameterError, match="vocabulary"):
        Sampler(params, seed=0, vocab_size=VOCAB + 1, grammar=compiled(ABC))
    with pytest.raises(ParameterError, match="fast tokenizer"):
        Compiler(object(), VOCAB).compile(GrammarSpec.of(ABC))
    assert not Sampler(params, seed=0, vocab_size=VOCAB, grammar=compiled(ABC)).takes_argmax


def test_the_end_is_allowed_exactly_where_the_text_is_complete() -> None:
    matcher = compiled({"regex": "ab?"}).matcher([EOS])
    a, b = ids_of("a") + ids_of("b")
    assert np.flatnonzero(matcher.after().allowed).tolist() == [a]
    matcher.push(a)
    assert sorted(np.flatnonzero(matcher.after().allowed)) == sorted([EOS, b])
    matcher.push(b)
    assert np.flatnonzero(matcher.after().allowed).tolist() == [EOS]
    matcher.push(EOS)
    assert not matcher.after().allowed.any()


ONE = {"choice": ["no"]}


@pytest.mark.parametrize(
    ("spec", "more", "text", "reason"),
    [
        (ONE, {}, "no", "eos"),
        (ONE, {"ignore_eos": True}, "no", "stop"),
        (ONE, {"min_tokens": 10}, "no", "stop"),
        (ONE, {"allowed_token_ids": ids_of("no")}, "no", "stop"),
        (ONE, {"allowed_token_ids": ids_of("ny")}, "n", "abort"),
        (ONE, {"bad_words": [ids_of("n")]}, "", "abort"),
        (ONE, {"logit_bias": {7: 1000.0}}, "no", "eos"),
        (ONE, {"stop_token_ids": [1], "ignore_eos": True}, "no", "stop"),
        (ONE, {"stop_token_ids": ids_of("o")}, "n", "stop"),
        ({"regex": "a{30}"}, {}, "a" * 30, "eos"),
        ({"regex": "a{100}"}, {}, "a" * 40, "length"),
    ],
)  # fmt: skip
def test_grammars_and_other_parameters(spec: dict[str, Any], more: dict[str, Any], text: str, reason: str) -> None:
    """A state in which no token was left gave token 0."""
    for params in (GREEDY.replaced(**more), SAMPLED.replaced(**more)):
        for name in (None, "naive", "ngram", "draft"):
            proposer = None if name is None else build_for_toy(name)
            ((tokens, why),) = decode([spec], params, proposer)
            shown = [token for token in tokens if token not in (*params.stop_token_ids, EOS)]
            assert (text_of(shown), why) == (text, reason), name


class Chains(BaseProposer):
    """Drafts whatever it is told."""

    name = "chains"

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = tuple(tokens)

    def propose(self, ctx: ProposeContext) -> list[Draft]:
        return [Draft(self._tokens, tuple(range(-1, len(self._tokens) - 1))) for _ in ctx.seqs]


TOKENS = st.one_of(st.integers(0, VOCAB - 1), st.sampled_from([EOS, *ids_of('{"name": aé😀!}')]))


@given(st.sampled_from(SPECS), st.lists(st.lists(TOKENS, max_size=6), max_size=8), st.integers(0, SEED_LIMIT - 1))
def test_tokens_ahead_leave_no_trace(spec: dict[str, Any], asked: list[list[int]], seed: int) -> None:
    """A drafter asked what follows a text that the grammar does not know, and the matcher never recovered."""
    params = SamplingParams(temperature=1.0, seed=seed, grammar=spec)
    one, other = (Sampler(params, seed=seed, vocab_size=VOCAB, eos_ids=[EOS], grammar=compiled(spec)) for _ in range(2))
    logits = np.random.default_rng(seed % 2**32).normal(size=VOCAB)
    for ahead in asked:
        fresh = Sampler(params, seed=seed, vocab_size=VOCAB, eos_ids=[EOS], grammar=compiled(spec))
        for token in (*one.output, *ahead):
            fresh.push(token)
        law = one.law(logits, ahead)
        assert np.isfinite(law).any() and not np.isnan(one.probabilities(logits, ahead)).any()
        assert np.array_equal(law, fresh.law(logits))
        token, expected = one.choose(logits), other.choose(logits)
        assert token == expected
        if token is not None:
            one.push(token)
            other.push(token)


@given(st.sampled_from(SPECS), st.lists(TOKENS, min_size=1, max_size=6))
def test_nonsense_drafts_change_nothing(spec: dict[str, Any], tokens: list[int]) -> None:
    assert decode([spec], SAMPLED, Chains(tokens)) == decode([spec], SAMPLED)


def test_characters_of_several_tokens(llm: LLM) -> None:
    """One byte a token: the mask has to hold inside a character, and the text has to show it whole."""
    for word in ("日本語", "é😀", "ß" * 5):
        result = llm.generate("x", SamplingParams(grammar={"choice": [word, word + "!"]}))
        assert result.text in (word, word + "!")
        assert "".join(llm.stream("x", SamplingParams(grammar={"choice": [word, word + "!"]}))) == result.text


def test_every_output_has_a_matcher_of_its_own(llm: LLM) -> None:
    """n samples, and a sequence that goes on with another grammar, or none."""
    outputs = llm.generate("x", SAMPLED.replaced(grammar=ABC, n=8)).outputs
    assert len({output.text for output in outputs}) > 1
    assert all(fits(ABC, output.text) for output in outputs)
    engine = Engine(ToyTarget(markov(VOCAB, seed=3), VOCAB, eos_ids=[EOS]))
    first = engine.add(Request((5, 6), GREEDY.replaced(grammar=ABC), grammar=compiled(ABC), keep=True))
    said: list[tuple[int, ...]] = [(), ()]

    def hear(event: Any) -> None:
        said[-1] += event.tokens

    for turn, spec in enumerate((ABC, ABC, ONE, None)):
        if turn:
            said.append(())
            params = GREEDY.replaced(grammar=spec)
            engine.extend(first, [9], params, grammar=None if spec in (ABC, None) else compiled(spec))
        engine.run(hear)
        if spec is not None:
            assert fits(spec, text_of(said[-1]))
    with pytest.raises(ParameterError, match="compiled"):
        engine.extend(first, [9], GREEDY.replaced(grammar=ABC))


def test_an_output_that_ended_without_a_token_goes_on() -> None:
    """The root had been fed, and there was nothing left to feed."""
    engine = Engine(ToyTarget(markov(VOCAB, seed=3), VOCAB, eos_ids=[EOS]))
    params = GREEDY.replaced(grammar=ONE, ignore_eos=True)
    first = engine.add(Request((5, 6), params, grammar=compiled(ONE), keep=True))
    said: list[int] = []
    engine.run(lambda event: said.extend(event.tokens))
    engine.extend(first, [])
    engine.run(lambda event: said.extend(event.tokens))
    assert text_of(said) == "nono"


def test_samples_of_a_choice_follow_the_law(llm: LLM) -> None:
    """A mask that leaves two tokens leaves their odds as they were."""
    sampler_params = SamplingParams(temperature=1.0, grammar={"regex": "[ab]"})
    logits = np.zeros(VOCAB)
    a, b = ids_of("ab")
    logits[a], logits[b], logits[9] = 1.0, 0.0, 50.0
    law = Sampler(sampler_params, seed=0, vocab_size=VOCAB, eos_ids=[EOS], grammar=compiled({"regex": "[ab]"}))
    probabilities = law.probabilities(logits)
    assert probabilities[a] / probabilities[b] == pytest.approx(np.e)
    assert probabilities.sum() == pytest.approx(probabilities[a] + probabilities[b])


def test_without_llguidance_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with pytest.raises(BetokenError, match=r"betoken\[serve\]"):
        Compiler(byte_tokenizer(), VOCAB, [EOS]).compile(GrammarSpec.of(ABC))


def test_white_space_has_an_end() -> None:
    """A small model filled max_tokens with spaces: as JSON has it, there may be any number."""
    matcher = compiled({"json_schema": THING}).matcher([EOS])
    space = ids_of(" ")[0]
    matcher.push(ids_of("{")[0])
    allowed = []
    for _ in range(3):
        allowed.append(bool(matcher.after().allowed[space]))
        matcher.push(space)
    assert allowed[0] and not allowed[-1]
    assert all(one >= two for one, two in pairwise(allowed))
