"""Text in, text out, on real small models: results, streams, chats, refusals."""

import contextlib
import copy
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import byte_tokenizer, near_copy, save_pair, tiny_llama
from transformers import PreTrainedTokenizerFast, T5Config

from betoken import LLM, ModelNotFoundError, ParameterError, PromptError, SamplingParams, UnsupportedModelError
from betoken.draft import Draft
from betoken.errors import BetokenError
from betoken.proposers.base import ProposeContext

SHORT = SamplingParams(max_tokens=24, ignore_eos=True)
PROMPT = "the cat and the hat and the "


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM((tiny_llama(), byte_tokenizer()), near_copy(tiny_llama())) as made:
        yield made


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return save_pair(tmp_path_factory.mktemp("pair"))


@pytest.mark.parametrize(
    "params", [SHORT, SHORT.replaced(temperature=1.0, seed=3), SHORT.replaced(top_p=0.8, temperature=2.0, seed=1)]
)
def test_every_method_says_what_plain_decoding_says(llm: LLM, params: SamplingParams) -> None:
    plain = llm.generate(PROMPT, params, method="plain")
    for method in LLM.methods():
        result = llm.generate(PROMPT, params, method=method)
        assert (result.token_ids, result.text) == (plain.token_ids, plain.text), method


def test_options_may_be_written_after_the_method(llm: LLM) -> None:
    written = llm.generate(PROMPT, SHORT, method="draft:k=1").stats
    given = llm.generate(PROMPT, SHORT, method="draft", options={"k": 1}).stats
    assert (written.drafts, written.draft_tokens) == (given.drafts, given.draft_tokens)
    assert written.draft_tokens == written.drafts


def test_plain_is_what_transformers_says(llm: LLM) -> None:
    ids = llm.token_ids(PROMPT)
    theirs = llm.target.model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids)),
        max_new_tokens=24,
        do_sample=False,
        eos_token_id=None,
    )
    assert llm.generate(PROMPT, SHORT).token_ids == tuple(theirs[0, len(ids) :].tolist())


def test_a_list_gives_a_list_in_order_and_one_prompt_gives_one_result(llm: LLM) -> None:
    prompts = ["a", llm.token_ids("the bee"), "an ant"]
    together = llm.generate(prompts, SHORT)
    alone = [llm.generate(prompt, SHORT) for prompt in prompts]
    assert [result.text for result in together] == [result.text for result in alone]
    assert [result.prompt for result in together] == ["a", None, "an ant"]
    assert llm.generate([], SHORT) == []


def test_more_prompts_than_rows() -> None:
    with LLM((tiny_llama(), byte_tokenizer()), method="naive", max_rows=2) as narrow:
        results = narrow.generate([f"{i} the" for i in range(5)], SHORT)
        assert [len(result.token_ids) for result in results] == [24] * 5


def test_only_a_list_of_prompts_is_drained(llm: LLM) -> None:
    """Drafting may know that nobody else comes; after a call, and in a stream, somebody may."""
    seen: dict[str, list[bool]] = {"list": [], "stream": []}
    room = llm._room("ngram", None)
    proposer, now = room.engine.proposer, "list"
    assert proposer is not None
    propose = proposer.propose

    def watched(ctx: ProposeContext) -> list[Draft]:
        seen[now].append(ctx.last)
        return propose(ctx)

    proposer.propose = watched  # type: ignore[method-assign]
    try:
        llm.generate(["the cat", "a hat"], SHORT, method="ngram")
        now = "stream"
        list(llm.stream("the cat", SHORT, method="ngram"))
        with contextlib.closing(llm.steps("the hat", SHORT, method="ngram")) as steps:
            next(steps)
            llm.generate(["the cat", "a hat"], SHORT, method="ngram")  # beside a stream
    finally:
        del proposer.propose
    assert seen["list"].count(True) > 10, "but not while somebody waits, or is read"
    assert seen["stream"] and not any(seen["stream"]) and not room.engine.draining


def test_params_per_prompt(llm: LLM) -> None:
    short, long = llm.generate(["a", "b"], [SHORT.replaced(max_tokens=3), SHORT])
    assert (len(short.token_ids), len(long.token_ids)) == (3, 24)
    with pytest.raises(ParameterError, match="one for all 2 prompts"):
        llm.generate(["a", "b"], [SHORT])


def test_result_carries_what_happened(llm: LLM) -> None:
    result = llm.generate(PROMPT, SHORT.replaced(logprobs=2), method="draft")
    assert result.prompt_token_ids == tuple(llm.token_ids(PROMPT))
    assert result.text == byte_tokenizer().decode(result.token_ids, skip_special_tokens=True)
    assert result.finish_reason == "length"
    assert result.logprobs is not None
    assert [entry.token_id for entry in result.logprobs] == list(result.token_ids)
    assert all(entry.rank == 1 and len(entry.top) == 2 for entry in result.logprobs)
    stats = result.stats
    assert 0 < stats.accepted_tokens < stats.draft_tokens
    assert stats.emitted_tokens == len(result.token_ids) - 1
    assert stats.drafts and stats.mean_acceptance_length == 1 + stats.accepted_tokens / stats.drafts


def test_samples_differ_and_the_returned_seed_repeats_them(llm: LLM) -> None:
    params = SHORT.replaced(temperature=1.5, n=3)
    result = llm.generate(PROMPT, params)
    assert [output.index for output in result.outputs] == [0, 1, 2]
    assert len({output.token_ids for output in result.outputs}) == 3
    again = llm.generate(PROMPT, params.replaced(seed=result.seed), method="plain")
    assert [output.text for output in again.outputs] == [output.text for output in result.outputs]


def test_stream_is_the_text_in_whole_characters(llm: LLM) -> None:
    whole = llm.generate(PROMPT, SHORT)
    assert "".join(llm.stream(PROMPT, SHORT)) == whole.text
    steps = list(llm.steps(PROMPT, SHORT))
    assert tuple(token for step in steps for token in step.token_ids) == whole.token_ids
    assert all(len(step.token_ids) == len(step.sources) for step in steps)
    assert {source for step in steps for source in step.sources} <= {"reference", "mix", "recycling", "draft", "target"}
    assert [step.finish_reason for step in steps] == [None] * (len(steps) - 1) + ["length"]


def test_a_stream_closed_early_leaves_everything_usable(llm: LLM) -> None:
    stream = llm.stream(PROMPT, SHORT, method="naive")
    next(stream)
    with pytest.raises(BetokenError, match="still open"):
        llm.generate(PROMPT, SHORT, method="plain")
    stream.close()
    assert llm.generate(PROMPT, SHORT, method="plain").text == llm.generate(PROMPT, SHORT).text
    abandoned = llm.steps(PROMPT, SHORT, method="naive")
    next(abandoned)
    del abandoned
    assert llm.generate(PROMPT, SHORT, method="plain").finish_reason == "length"


def test_two_streams_in_turns(llm: LLM) -> None:
    prompts = ("one ", "two ")
    streams = [llm.steps(prompt, SHORT) for prompt in prompts]
    said = ["", ""]
    for pair in zip_longest(*streams):
        for place, step in enumerate(pair):
            said[place] += step.text if step else ""
    assert said == [llm.generate(prompt, SHORT).text for prompt in prompts]


def test_stop_strings_and_bad_words(llm: LLM) -> None:
    text = llm.generate(PROMPT, SHORT).text
    letters = [char for char in text if char.isalnum() and char.isascii()]
    if not letters:
        pytest.fail("the tiny model says no letter; choose another seed")
    stopped = llm.generate(PROMPT, SHORT.replaced(stop=letters[0]))
    assert stopped.text == text[: text.index(letters[0])]
    assert (stopped.finish_reason, stopped.outputs[0].stop_reason) == ("stop", letters[0])
    assert letters[0] not in llm.generate(PROMPT, SHORT.replaced(bad_words=letters[0])).text


def test_bad_words_are_banned_with_and_without_a_space(llm: LLM) -> None:
    tokenizer = byte_tokenizer()
    banned = llm._encoder.word_ids("the")
    assert tuple(tokenizer.encode("the")) in banned
    assert tuple(tokenizer.encode(" the")) in banned
    assert llm._encoder.word_ids((3, 4)) == [(3, 4)]


def test_chat_uses_the_template(llm: LLM) -> None:
    messages = [{"role": "user", "content": "hi"}]
    written = byte_tokenizer().apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert llm.chat(messages, SHORT).prompt_token_ids == tuple(byte_tokenizer().encode(written))


def test_chat_without_a_template_says_so() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer().backend_tokenizer, eos_token="<|endoftext|>")
    with (
        LLM((tiny_llama(), tokenizer), method="plain") as bare,
        pytest.raises(PromptError, match="has no chat template"),
    ):
        bare.chat([{"role": "user", "content": "hi"}])


def test_tensors_of_token_ids_are_prompts(llm: LLM) -> None:
    ids = torch.tensor([llm.token_ids(PROMPT)])
    one, many = llm.generate(ids[0], SHORT), llm.generate(ids, SHORT)  # type: ignore[call-overload]
    assert [one.token_ids] == [result.token_ids for result in many]


@pytest.mark.parametrize("prompt", ["", [-1], [10**6], [True], ["a", 3], 5, None])
def test_what_is_no_prompt(llm: LLM, prompt: Any) -> None:
    with pytest.raises(PromptError):
        llm.generate(prompt, SHORT)
    assert llm.generate("a", SHORT).finish_reason == "length"


def test_loading_from_folders_is_silent(folders: tuple[Path, Path], capfd: pytest.CaptureFixture[str]) -> None:
    target, draft = folders
    with LLM(target, draft) as loaded, LLM((tiny_llama(), byte_tokenizer()), method="plain") as memory:
        assert loaded.method == loaded.info.method == "auto"
        assert loaded.info.dtype == "float32"
        assert loaded.generate(PROMPT, SHORT).text == memory.generate(PROMPT, SHORT).text
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_loaded_says_why(folders: tuple[Path, Path], tmp_path: Path) -> None:
    target, _ = folders
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text((target / "config.json").read_text())
    T5Config().save_pretrained(tmp_path / "t5")
    (tmp_path / "t5" / "model.safetensors").write_bytes(b"")
    for name, error, words in (
        (tmp_path / "nowhere", ModelNotFoundError, "does not exist"),
        ("./nowhere", ModelNotFoundError, "does not exist"),
        (tmp_path / "empty", ModelNotFoundError, "no config.json"),
        (tmp_path / "bare", ModelNotFoundError, "no weights"),
        (tmp_path / "t5", UnsupportedModelError, "encoder-decoder"),
        (42, ParameterError, "a folder, a hub name"),
    ):
        with pytest.raises(error, match=words):
            LLM(name, method="plain")  # type: ignore[arg-type]


def test_a_hub_name_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError, match=r"hf download nobody/nothing"):
        LLM("nobody/nothing", method="plain")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dtype": "float8"}, "auto, float32"),
        ({"device": "tpu"}, "auto, cpu, cuda"),
        ({"device": "cuda:99"}, "this torch sees none such"),
        ({"method": "telepathy"}, "one of plain"),
        ({"acceptance": "typical"}, "exact"),
        ({"method": "naive:k"}, "name:option=value"),
        ({"method": "naive:k=0"}, "from 1 to"),
        ({"method": "naive", "options": {"k": 0}}, "from 1 to"),
        ({"method": "naive", "options": {"window": 3}}, "an option of naive"),
    ],
)
def test_settings_that_do_not_exist(folders: tuple[Path, Path], settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        LLM(folders[0], **{"method": "plain", **settings})


def test_a_draft_with_another_vocabulary_names_both_sizes() -> None:
    with pytest.raises(BetokenError, match=r"264.*300|300.*264"):
        LLM((tiny_llama(), byte_tokenizer()), tiny_llama(vocab=300))


def test_close_gives_the_model_back() -> None:
    model = tiny_llama().train()
    before = copy.deepcopy(model.state_dict())
    with LLM((model, byte_tokenizer()), method="naive") as llm:
        llm.generate(PROMPT, SHORT)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    copy.deepcopy(model)


def test_streams_take_one_sample(llm: LLM) -> None:
    with pytest.raises(ParameterError, match="use generate"):
        llm.steps(PROMPT, SHORT.replaced(n=2))


def test_importing_the_package_loads_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, betoken; betoken.SamplingParams(); sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_residual_mode_has_its_own_default_and_refuses_auto(llm: LLM) -> None:
    """auto keeps nodes by their value, which would change the residual law; that came out at the first step."""
    pair = (tiny_llama(), byte_tokenizer())
    with LLM(pair, near_copy(tiny_llama()), acceptance="residual") as drafting:
        assert drafting.method == "draft"
        with pytest.raises(ParameterError, match="auto keeps nodes by value"):
            drafting.generate(PROMPT, SHORT, method="auto:nodes=8")
    with LLM(pair, acceptance="residual") as alone:
        assert alone.method == "ngram"
    with LLM(pair, reproducible=True) as chains:
        assert chains.method == "ngram"
    with pytest.raises(ParameterError, match="auto keeps nodes by value"):
        LLM("./nowhere", method="auto", acceptance="residual")


def test_what_was_measured_is_kept_and_measured_again_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The curve is on disk after the first load, read by the second, and written anew by `recalibrate`."""
    monkeypatch.setenv("BETOKEN_CACHE", str(tmp_path))
    times = []
    for settings in ({}, {}, {"recalibrate": True}):
        with LLM((tiny_llama(), byte_tokenizer()), max_rows=1, **settings) as made:  # type: ignore[arg-type]
            assert made.curve().measured
        (file,) = tmp_path.iterdir()
        times.append(file.stat().st_mtime_ns)
    assert times[0] == times[1] < times[2]


def test_residual_acceptance_is_greedy_where_greedy_and_repeats_with_its_seed() -> None:
    model, draft = tiny_llama(), near_copy(tiny_llama())
    with LLM((model, byte_tokenizer()), draft, acceptance="residual") as llm:
        assert llm.generate(PROMPT, SHORT).text == llm.generate(PROMPT, SHORT, method="plain").text
        params = SHORT.replaced(temperature=1.0, seed=2)
        assert llm.generate(PROMPT, params).token_ids == llm.generate(PROMPT, params).token_ids


def test_progress_goes_to_standard_error(llm: LLM, capfd: pytest.CaptureFixture[str]) -> None:
    quietly = llm.generate([PROMPT, "a"], SHORT)
    shown = llm.generate([PROMPT, "a"], SHORT, progress=True)
    assert [result.text for result in shown] == [result.text for result in quietly]
    assert capfd.readouterr().out == ""


def test_steps_closed_in_the_middle_are_over(llm: LLM) -> None:
    """They went on asking an empty engine for ever."""
    steps = llm.steps(PROMPT, SHORT)
    next(steps)
    steps.close()
    assert list(steps) == []


def test_a_closed_llm_says_so() -> None:
    model = tiny_llama()
    llm = LLM((model, byte_tokenizer()), method="naive")
    steps = llm.steps(PROMPT, SHORT)
    next(steps)
    llm.close()
    llm.close()
    assert list(steps) == []
    with pytest.raises(BetokenError, match="is closed"):
        llm.generate(PROMPT, SHORT)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_llms_may_share_a_model(order: tuple[int, int]) -> None:
    """The second close failed on what the first had undone."""
    model = tiny_llama()
    alone = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=8, do_sample=False)
    pair = [LLM((model, byte_tokenizer()), method="naive"), LLM((model, byte_tokenizer()), model)]
    for place in order:
        pair[place].close()
        assert torch.equal(model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=8, do_sample=False), alone)
    assert not any("forward" in module.__dict__ for module in model.modules())


@pytest.mark.parametrize(
    "call",
    [
        lambda llm: llm.generate("half \ud800"),
        lambda llm: llm.chat("hi"),
        lambda llm: llm.chat([1]),
        lambda llm: llm.generate(["a"], 5),
        lambda llm: llm.generate(["a"], [None]),
        lambda llm: llm.stream("a", 5),
        lambda llm: llm.generate("a", method=5),
        lambda llm: llm.generate("a", options=5),
        lambda llm: llm.generate("a", method="draft:width=100000"),
        lambda llm: llm.generate("a", method="draft:k=100000"),
    ],
)
def test_what_makes_no_sense_is_a_readable_error(llm: LLM, call: Any) -> None:
    with pytest.raises(BetokenError):
        call(llm)
    assert llm.generate("a", SHORT).finish_reason == "length"


@pytest.mark.parametrize("settings", [{"max_rows": None}, {"max_rows": "3"}, {"max_context": 0}, {"max_context": 1.5}])
def test_limits_are_whole_numbers(settings: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="at least 1"):
        LLM((tiny_llama(), byte_tokenizer()), method="plain", **settings)


def test_dtypes_and_devices_may_be_torchs_own(folders: tuple[Path, Path]) -> None:
    with LLM(folders[0], method="plain", dtype=torch.bfloat16, device=torch.device("cpu")) as llm:
        assert (llm.info.dtype, llm.info.device) == ("bfloat16", "cpu")
