"""Other programs' logs: the tokens a live run would have had, or an error, never a wrong token."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_models import byte_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from betoken.errors import ModelNotFoundError, TraceError
from betoken.logs import read_any
from betoken.trace import CONTEXT, Conversation, Header, Segment, Trace, write

USER, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "the ho"}
AGAIN, LAST = {"role": "user", "content": "more"}, {"role": "assistant", "content": "ha"}
TURN = "{{ '<' + m['role'] + '>' + m['content'] + '<|end|>\n' }}"
BEGIN = "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
TEMPLATES = {
    "lines": "{% for m in messages %}" + TURN + "{% endfor %}" + BEGIN,
    # Thinking is written in the last turn only.
    "forgets": "{% for m in messages %}{{ '<' + m['role'] + '>' + (m['content'] if loop.last else "
    "m['content'].split('</think>')[-1]) + '<|end|>\n' }}{% endfor %}" + BEGIN,
    # A new answer is opened with a tag that a given one lacks.
    "opens": "{% for m in messages %}" + TURN + "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant><think>\n' }}{% endif %}",
    "last only": "{% for m in messages[-1:] %}" + TURN + "{% endfor %}" + BEGIN,
    "tools": "{% if tools %}{{ tools | length }}{% endif %}{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name + ':' + c.function.arguments.city }}{% endfor %}"
    "{{ '<|end|>' }}{% endfor %}" + BEGIN,
    "silent": "{% for m in messages %}{{ m['role'] }}{% endfor %}",
    "raises": "{{ raise_exception('no such roles') }}",
}
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}


def tokenizer(template: str | None = "lines") -> Any:
    made = copy.deepcopy(byte_tokenizer())
    made.chat_template = None if template is None else TEMPLATES[template]
    return made


def log(folder: Path, *entries: Any, name: str = "log.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def texts(conversation: Conversation) -> list[str]:
    """Context and output in turns, as text; special tokens shown."""
    return [byte_tokenizer().decode(segment.tokens) for segment in conversation.segments]


def test_a_trace_stays_a_trace(tmp_path: Path) -> None:
    """The tokenizer is not even looked for."""
    trace = Trace(Header(), (Conversation("a", "all", (Segment(CONTEXT, (1,)), Segment("output", (2,)))),))
    write(tmp_path / "t.jsonl.gz", trace)
    assert read_any(tmp_path / "t.jsonl.gz", "./nowhere") == trace


@pytest.mark.parametrize("said", ["completion", "response", "output"])
def test_prompts_and_completions(tmp_path: Path, said: str) -> None:
    path = log(tmp_path, {"prompt": "a cat", said: " an", "id": 7, "group": "cats"}, {"prompt": "b", said: "\nc"})
    first, second = read_any(path, tokenizer()).conversations
    assert (first.id, first.category, second.id, second.category) == ("7", "cats", "line-2", "all")
    assert texts(first) == ["a cat", " an"] and texts(second) == ["b", "\nc"]
    assert read_any(path, tokenizer()).vocab_size == len(byte_tokenizer())


def test_a_token_never_spans_prompt_and_completion(tmp_path: Path) -> None:
    """`the` is one token, and " the" too; a model that was fed "t" says "h", "e"."""
    path = log(tmp_path, {"prompt": "t", "completion": "he"}, {"prompt": "an ", "completion": "the"})
    ids = [[len(s.tokens) for s in one.segments] for one in read_any(path, tokenizer()).conversations]
    assert ids == [[1, 2], [2, 1]]


def test_no_space_is_invented(tmp_path: Path) -> None:
    """A SentencePiece tokenizer puts a space before every text: the completion's tokens are not those of it alone."""
    pieces = ["<unk>", "▁", "a", "b", "c", "bc", "\n", "▁c"]
    core = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [("b", "c"), ("▁", "c")], unk_token="<unk>"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    path = log(tmp_path, {"prompt": "ab", "completion": "cb"}, {"prompt": "ab", "completion": "ab"})
    first, second = read_any(path, PreTrainedTokenizerFast(tokenizer_object=core)).conversations
    assert [s.tokens for s in first.segments] == [(1, 2, 3), (4, 3)]
    assert [s.tokens for s in second.segments] == [(1, 2, 3), (2, 3)]


def test_token_ids_need_no_tokenizer(tmp_path: Path) -> None:
    path = log(tmp_path, {"prompt": [5, 6], "completion": [7]})
    trace = read_any(path)
    assert [s.tokens for s in trace.conversations[0].segments] == [(5, 6), (7,)]
    assert trace.header.vocab_size is None
    assert read_any(path, tokenizer()).header.vocab_size == len(byte_tokenizer())


def test_every_assistant_turn_is_an_output(tmp_path: Path) -> None:
    """The line end after an end of turn is the template's, not the model's."""
    system = {"role": "system", "content": [{"type": "text", "text": "be "}, {"type": "text", "text": "kind"}]}
    path = log(tmp_path, {"messages": [system, USER, ANSWER, AGAIN, LAST], "id": "x"}, {"messages": [USER]})
    (one,) = read_any(path, tokenizer()).conversations
    assert texts(one) == [
        "<system>be kind<|end|>\n<user>hi<|end|>\n<assistant>", "the ho<|end|>",
        "\n<user>more<|end|>\n<assistant>", "ha<|end|>",
    ]  # fmt: skip
    assert [segment.text for segment in one.outputs] == ["the ho", "ha"]
    whole = tokenizer().apply_chat_template([USER, ANSWER], tokenize=False)
    assert byte_tokenizer()(whole.rstrip(), add_special_tokens=False)["input_ids"] == [
        token for segment in read_any(log(tmp_path, {"messages": [USER, ANSWER]}), tokenizer()).conversations[0].segments
        for token in segment.tokens
    ]  # fmt: skip


def test_an_opening_answer_answers_nothing(tmp_path: Path) -> None:
    path = log(tmp_path, {"messages": [ANSWER, USER, LAST]})
    (one,) = read_any(path, tokenizer()).conversations
    assert texts(one) == ["<assistant>the ho<|end|>\n<user>hi<|end|>\n<assistant>", "ha<|end|>"]


def test_a_template_that_forgets_begins_anew(tmp_path: Path) -> None:
    """With its thinking dropped later on, the first answer is no prefix of the second turn's context."""
    thought = {"role": "assistant", "content": "<think>hm</think>ho"}
    path = log(tmp_path, {"messages": [USER, thought, AGAIN, LAST, AGAIN, ANSWER], "id": "x"})
    first, second = read_any(path, tokenizer("forgets")).conversations
    assert (first.id, second.id) == ("x", "x/2")
    assert texts(first) == ["<user>hi<|end|>\n<assistant>", "<think>hm</think>ho<|end|>"]
    assert texts(second)[:2] == ["<user>hi<|end|>\n<assistant>ho<|end|>\n<user>more<|end|>\n<assistant>", "ha<|end|>"]
    assert len(second.outputs) == 2


def test_a_template_that_opens_answers_otherwise(tmp_path: Path) -> None:
    """The context ends where the two ways of writing part."""
    (one,) = read_any(log(tmp_path, {"messages": [USER, ANSWER, AGAIN, LAST]}), tokenizer("opens")).conversations
    assert texts(one)[:2] == ["<user>hi<|end|>\n<assistant>", "the ho<|end|>"]
    assert len(one.outputs) == 2


def test_tool_calls(tmp_path: Path) -> None:
    """Arguments come as a string of JSON; templates want an object. The result is context."""
    called = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "1", "content": "rain"}
    path = log(tmp_path, {"messages": [USER, called, result, LAST], "tools": [{"type": "function"}]})
    (one,) = read_any(path, tokenizer("tools")).conversations
    assert texts(one)[:2] == ["1<user>hi<|end|><assistant>", "weather:Oslo<|end|>"]
    with pytest.raises(TraceError, match=r"1: the chat template does not write tool calls \(weather\)"):
        read_any(path, tokenizer())


def test_requests_and_responses(tmp_path: Path) -> None:
    """Earlier answers in a request are context; each choice is a conversation; failed requests have nothing to replay."""
    request = {"model": "m", "messages": [USER, ANSWER, AGAIN], "temperature": 0.7}
    response = {"choices": [{"message": LAST}, {"message": ANSWER}]}
    path = log(
        tmp_path,
        {"request": request, "response": response},
        {"custom_id": "c", "request": {"body": request}, "response": {"status_code": 200, "body": response}},
        {"custom_id": "d", "request": {"body": request}, "response": None, "error": {"code": "x"}},
        {"request": {"prompt": "a"}, "response": {"choices": [{"text": "b"}]}},
    )
    told = read_any(path, tokenizer()).conversations
    assert [(one.id, one.sample) for one in told] == [
        ("line-1", 0), ("line-1#2", 1), ("c", 0), ("c#2", 1), ("line-4", 0),
    ]  # fmt: skip
    context = "<user>hi<|end|>\n<assistant>the ho<|end|>\n<user>more<|end|>\n<assistant>"
    assert texts(told[0]) == [context, "ha<|end|>"] == texts(told[2])
    assert texts(told[4]) == ["a", "b"]


BAD: dict[str, tuple[Any, str | None, str]] = {
    "no tokenizer": ({"prompt": "a", "completion": "b"}, "none", ":1: text, and texts need a tokenizer: give --tokenizer"),
    "no tokenizer for a chat": ({"messages": [USER, ANSWER]}, "none", "give --tokenizer"),
    "no template": ({"messages": [USER, ANSWER]}, None, ":1: a chat, and the tokenizer has no chat template"),
    "no answers": ({"messages": [USER]}, "lines", " is a log with no assistant turn"),
    "unknown": ({"question": "a"}, "lines", ":1: no kind of log"),
    "no message": ({"messages": ["hi"]}, "lines", ":1: message 'hi'"),
    "messages as text": ({"messages": "hi"}, "lines", ":1: no messages"),
    "a picture": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ANSWER]}, "lines", "'image_url'"),
    "refused": ({"messages": [USER, ANSWER]}, "raises", ":1: the chat template refuses these messages: no such roles"),
    "no request": ({"custom_id": "a", "response": {"body": {"choices": []}}}, "lines", ":1: no request"),
    "another role": ({"request": {"messages": [USER]}, "response": {"choices": [{"message": USER}]}}, "lines", "role"),
    "choices": ({"request": {"messages": [USER]}, "response": {"choices": "a"}}, "lines", "choices are"),
    "ids and text": ({"prompt": "a", "completion": [1]}, "lines", ":1: 'a'; expected both as text"),
    "ids beyond": ({"prompt": [5], "completion": [999]}, "lines", ":1: token id '999'"),
    "empty prompt": ({"prompt": [], "completion": [1]}, "lines", ":1: the prompt is empty"),
    "half a character": ({"prompt": "a\ud800", "completion": "b"}, "lines", "half a character"),
    "another question": ({"messages": [USER, ANSWER]}, "last only", ":1: the chat template writes the question otherwise"),
    "another answer": ({"messages": [USER, ANSWER]}, "silent", ":1: the chat template does not write the answer that"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_logs_are_named_by_line(tmp_path: Path, kind: str) -> None:
    entry, template, words = BAD[kind]
    with pytest.raises(TraceError) as caught:
        read_any(log(tmp_path, entry), None if template == "none" else tokenizer(template))
    assert str(caught.value).startswith(str(tmp_path / "log.jsonl")) and words in str(caught.value)


def test_the_line_is_the_right_one(tmp_path: Path) -> None:
    path = log(tmp_path, {"prompt": [1], "completion": [2]}, {"prompt": [1], "completion": [2]}, {"prompt": [1]})
    with pytest.raises(TraceError, match=":3: expected"):
        read_any(path)
    path.write_text("")
    with pytest.raises(TraceError, match="is empty"):
        read_any(path)


def test_a_tokenizer_by_name(tmp_path: Path) -> None:
    """A folder with a tokenizer alone will do; until it is needed nothing large is imported."""
    tokenizer().save_pretrained(tmp_path / "words")
    path = log(tmp_path, {"messages": [USER, ANSWER]})
    code = (
        "import sys; from pathlib import Path; from betoken.logs import read_any; assert not {'torch', 'transformers'} & {*sys.modules};"
        f"trace = read_any(Path({str(path)!r}), {str(tmp_path / 'words')!r}); assert trace.vocab_size == {len(byte_tokenizer())}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    for name, words in (("nowhere", "gave no tokenizer|no folder"), ("log.jsonl", "no folder")):
        with pytest.raises(ModelNotFoundError, match=words):
            read_any(path, str(tmp_path / name))
