"""The server as its clients see it: OpenAI's own client, LangChain, and a strict reader of streams."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from serving import NAME, Served, at_rest, embedded, served

from betoken import SamplingParams

STORY, EDIT = "Once upon a time there was", "The cat sat on the mat. The cat sat on the mat. The cat sat"


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(allowed_origins=("https://chat.example.org",)) as found:
        yield found
        assert at_rest(found)


@pytest.fixture(scope="module")
def client(server: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.v1, api_key="none", max_retries=0)


def events(server: Served, path: str, **body: Any) -> list[Any]:
    """A stream, read strictly: every event is one line `data: JSON`, then a blank line; the last one is [DONE]."""
    with httpx.stream("POST", server.v1 + path, json={"model": NAME, "stream": True, **body}, timeout=60) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        raw = b"".join(answer.iter_raw()).decode("utf-8")
    assert raw.endswith("\n\n")
    lines = raw.removesuffix("\n\n").split("\n\n")
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def text_of(chunks: list[Any], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["text"] if "text" in choice else choice["delta"].get("content") or "" for choice in choices)


def test_a_completion_is_what_the_library_says(client: openai.OpenAI) -> None:
    for temperature, seed in ((0, 1), (1, 5), (0.7, 6)):
        answer = client.completions.create(model=NAME, prompt=STORY, max_tokens=40, temperature=temperature, seed=seed)
        params = SamplingParams(temperature=temperature, max_tokens=40, seed=seed)
        expected = embedded().generate(STORY, params, method="plain")
        assert answer.choices[0].text == expected.text
        assert answer.usage is not None and answer.usage.completion_tokens == len(expected.token_ids)
        assert answer.usage.prompt_tokens == len(expected.prompt_token_ids)
        assert answer.choices[0].finish_reason == "length"


def test_the_same_seed_gives_the_same_text(server: Served, client: openai.OpenAI) -> None:
    """Alone, in a batch of 16 mixed requests, streamed or not, speculative or plain, before and after others cancel."""
    bodies = [
        {
            "prompt": (STORY, EDIT, "def add(a, b):", "1, 2, 3,")[place % 4],
            "temperature": (0.0, 1.0, 0.8)[place % 3],
            "seed": place,
            "max_tokens": 24 + place,
            "top_p": (1.0, 0.9)[place % 2],
            "presence_penalty": (0.0, 0.4)[place % 2],
        }
        for place in range(16)
    ]
    ways: list[dict[str, Any]] = [
        {},
        {"speculation": {"enabled": False}},
        {"speculation": {"method": "ngram:k=6"}},
        {"speculation": {"method": "draft", "max_nodes": 3}},
    ]

    def say(place: int) -> str:
        body = bodies[place]
        more = {"extra_body": ways[place % len(ways)]}
        if place % 2:
            return text_of(events(server, "/completions", **body, **ways[place % len(ways)]))
        return client.completions.create(model=NAME, **body, **more).choices[0].text  # type: ignore[call-overload,no-any-return]

    alone = [client.completions.create(model=NAME, **body).choices[0].text for body in bodies]  # type: ignore[call-overload]
    with ThreadPoolExecutor(20) as pool:
        leaving = [pool.submit(leave, server, bodies[place]) for place in range(4)]
        together = [*pool.map(say, range(16))]
        assert [one.result() for one in leaving] == [None] * 4
    assert together == alone
    assert [say(place) for place in range(4)] == alone[:4]


def leave(server: Served, body: dict[str, Any]) -> None:
    """A client that goes amid its stream."""
    asked = {"model": NAME, "stream": True, **body, "max_tokens": 2000, "ignore_eos": True}
    with httpx.stream("POST", server.v1 + "/completions", json=asked) as answer:
        next(answer.iter_raw())


def test_a_chat(client: openai.OpenAI) -> None:
    messages: Any = [
        {"role": "user", "content": [{"type": "text", "text": "Write a list "}, {"type": "text", "text": "of animals"}]}
    ]
    whole = client.chat.completions.create(model=NAME, messages=messages, max_completion_tokens=20, temperature=0)
    expected = embedded().chat([{"role": "user", "content": "Write a list of animals"}], SamplingParams(max_tokens=20))
    assert whole.choices[0].message.content == expected.text and whole.choices[0].message.role == "assistant"
    stream = client.chat.completions.create(
        model=NAME, messages=messages, max_tokens=20, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = [*stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == expected.text
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1
    assert chunks[0].object == "chat.completion.chunk" and whole.object == "chat.completion"


def test_a_stream_read_strictly(server: Served) -> None:
    chunks = events(
        server, "/chat/completions", messages=[{"role": "user", "content": "Hi"}], max_tokens=9, n=2, temperature=1
    )
    assert [choice["delta"] for chunk in chunks[:2] for choice in chunk["choices"]] == [
        {"role": "assistant", "content": ""}
    ] * 2
    for index in range(2):
        ends = [one["finish_reason"] for chunk in chunks for one in chunk["choices"] if one["index"] == index]
        assert ends[-1] is not None and not any(ends[:-1])
    assert all("usage" not in chunk for chunk in chunks), "nobody asked"
    told = events(server, "/completions", prompt=STORY, max_tokens=3, stream_options={"include_usage": True})
    assert [chunk["usage"] is None for chunk in told] == [True] * (len(told) - 1) + [False]


def test_characters_are_never_split(server: Served) -> None:
    """The embedded vocabulary has bytes: a character of several tokens came in halves."""
    bias = {str(token): 100 for token in embedded().encode("né→😀", special=False)}
    body = {"prompt": "é😀", "max_tokens": 60, "temperature": 2.0, "seed": 3, "logit_bias": bias}
    chunks = events(server, "/completions", **body)
    whole = httpx.post(server.v1 + "/completions", json=body, timeout=60).json()
    assert text_of(chunks) == whole["choices"][0]["text"]


def test_stop_strings_are_held_back(server: Served, client: openai.OpenAI) -> None:
    plain = client.completions.create(model=NAME, prompt=STORY, max_tokens=40, temperature=0).choices[0].text
    stop = plain[20:26]
    chunks = events(server, "/completions", prompt=STORY, max_tokens=40, temperature=0, stop=[stop, "never there"])
    assert text_of(chunks) == plain[: plain.index(stop)]
    last = chunks[-1]["choices"][0]
    assert (last["finish_reason"], last["stop_reason"]) == ("stop", stop)
    kept = events(
        server, "/completions", prompt=STORY, max_tokens=40, temperature=0, stop=stop, include_stop_str_in_output=True
    )
    assert text_of(kept) == plain[: plain.index(stop) + len(stop)]


def test_who_proposed_what(server: Served) -> None:
    """One source a token; their texts are the text; their counts are the stats'."""
    asked: dict[str, Any] = {"prompt": EDIT, "max_tokens": 50, "temperature": 0, "ignore_eos": True}
    asked |= {"return_token_sources": True, "return_speculation_stats": True}
    chunks = events(server, "/completions", **asked, stream_options={"include_usage": True})
    usage, entries = chunks[-1]["usage"], []
    for chunk in chunks[:-1]:
        choice = chunk["choices"][0]
        assert "".join(entry["text"] for entry in choice["sources"]) == choice["text"]
        entries += choice["sources"]
        assert choice["step"]["accepted_tokens"] == sum(entry["source"] != "target" for entry in choice["sources"])
    assert len(entries) == usage["completion_tokens"] == 50
    stats = usage["speculation"]
    assert sum(entry["source"] != "target" for entry in entries) == stats["accepted_tokens"] > 0
    assert sum(chunk["choices"][0]["step"]["draft_tokens"] for chunk in chunks[:-1]) == stats["draft_tokens"]
    assert stats["method"] == ["auto"] and stats["steps"] + 1 == len(chunks) - 1
    whole = httpx.post(server.v1 + "/completions", json={**asked, "seed": 1}, timeout=60).json()
    assert "".join(entry["text"] for entry in whole["choices"][0]["sources"]) == whole["choices"][0]["text"]


def test_nothing_is_drafted_where_nobody_wants_it(server: Served) -> None:
    asked = {"prompt": EDIT, "max_tokens": 20, "temperature": 0, "ignore_eos": True, "return_speculation_stats": True}
    off = httpx.post(server.v1 + "/completions", json={**asked, "speculation": {"enabled": False}}, timeout=60).json()
    stats = off["usage"]["speculation"]
    assert (stats["method"], stats["drafts"], stats["steps"]) == (["off"], 0, 19)
    plain = httpx.post(
        server.v1 + "/completions", json={**asked, "speculation": {"method": "plain"}}, timeout=60
    ).json()
    assert plain["usage"]["speculation"]["drafts"] == 0
    small = httpx.post(
        server.v1 + "/completions", json={**asked, "speculation": {"method": "suffix", "max_nodes": 2}}, timeout=60
    ).json()
    stats = small["usage"]["speculation"]
    assert 0 < stats["draft_tokens"] <= 2 * stats["steps"] and stats["method"] == ["suffix, at most 2 nodes a draft"]
    assert {one["choices"][0]["text"] for one in (off, plain, small)} == {off["choices"][0]["text"]}


def test_a_prediction_is_drafted_from(server: Served, client: openai.OpenAI) -> None:
    """A speed-up, never another text; what came of it is counted as OpenAI counts."""
    messages: Any = [{"role": "user", "content": "Tell me a story about a cat."}]
    plain = client.chat.completions.create(model=NAME, messages=messages, max_tokens=60, temperature=0)
    said = plain.choices[0].message.content or ""
    guided = client.chat.completions.create(
        model=NAME, messages=messages, max_tokens=60, temperature=0, prediction={"type": "content", "content": said},
        extra_body={"speculation": {"method": "reference"}},
    )  # fmt: skip
    assert guided.choices[0].message.content == said
    details = guided.usage and guided.usage.completion_tokens_details
    assert details is not None and (details.accepted_prediction_tokens or 0) > 30
    wrong = client.chat.completions.create(
        model=NAME,
        messages=messages,
        max_tokens=60,
        temperature=0,
        prediction={"type": "content", "content": "xyz " * 20},
    )
    assert wrong.choices[0].message.content == said
    details = wrong.usage and wrong.usage.completion_tokens_details
    assert (
        details is not None
        and details.accepted_prediction_tokens == 0
        and (details.rejected_prediction_tokens or 0) > 20
    )


def test_logprobs(client: openai.OpenAI) -> None:
    expected = embedded().generate(STORY, SamplingParams(max_tokens=6, logprobs=3), method="plain").logprobs
    assert expected is not None
    old = client.completions.create(model=NAME, prompt=STORY, max_tokens=6, temperature=0, logprobs=3).choices[0]
    assert old.logprobs is not None and "".join(old.logprobs.tokens or ()) == old.text
    assert old.logprobs.token_logprobs == pytest.approx([one.logprob for one in expected], abs=1e-4)
    assert old.logprobs.text_offset is not None and old.logprobs.text_offset[0] == 0
    messages: Any = [{"role": "user", "content": "Hi"}]
    kwargs: Any = {
        "model": NAME,
        "messages": messages,
        "max_tokens": 6,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 2,
    }
    chat = client.chat.completions.create(**kwargs).choices[0]
    assert chat.logprobs is not None and chat.logprobs.content is not None
    for token in chat.logprobs.content:
        assert token.logprob <= 0 and len(token.top_logprobs) == 2
        assert token.bytes == [*token.token.encode()] and token.top_logprobs[0].logprob >= token.logprob
    streamed = [piece for chunk in client.chat.completions.create(**kwargs, stream=True) for piece in _logprobs(chunk)]
    assert [one.logprob for one in streamed] == pytest.approx([one.logprob for one in chat.logprobs.content], abs=1e-4)
    none = client.chat.completions.create(**{**kwargs, "top_logprobs": 0}).choices[0].logprobs
    assert none is not None and none.content is not None and none.content[0].top_logprobs == []


def _logprobs(chunk: Any) -> list[Any]:
    found = chunk.choices and chunk.choices[0].logprobs
    return found.content if found else []


def test_several_prompts_and_samples(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=NAME, prompt=[STORY, EDIT], n=3, max_tokens=8, temperature=1, seed=4)
    expected = [
        embedded().generate(prompt, SamplingParams(temperature=1, n=3, seed=4, max_tokens=8))
        for prompt in (STORY, EDIT)
    ]
    assert [choice.text for choice in answer.choices] == [output.text for one in expected for output in one.outputs]
    assert [choice.index for choice in answer.choices] == [*range(6)]
    ids = embedded().token_ids(STORY)
    by_ids = client.completions.create(model=NAME, prompt=ids, max_tokens=8, temperature=0, echo=True)
    assert by_ids.choices[0].text.startswith(STORY)


def test_every_parameter_has_an_effect(server: Served) -> None:
    """A field that is taken and forgotten is worse than one that is refused."""
    base = {"prompt": STORY, "max_tokens": 64, "temperature": 0.6, "seed": 11, "ignore_eos": True}
    usual = httpx.post(server.v1 + "/completions", json=base, timeout=60).json()["choices"][0]["text"]
    first = embedded().encode(usual, special=False)[0]
    for more in (
        {"top_k": 1}, {"top_p": 0.05}, {"min_p": 0.9}, {"repetition_penalty": 3.0}, {"presence_penalty": 2.0},
        {"frequency_penalty": 2.0}, {"logit_bias": {str(first): -100}}, {"bad_words": [usual.split()[0]]},
        {"allowed_token_ids": [5, 6, 7]}, {"stop_token_ids": [first]}, {"stop": usual[2:5]}, {"seed": 12}, {"max_tokens": 3},
        {"temperature": 0},
    ):  # fmt: skip
        answer = httpx.post(server.v1 + "/completions", json={**base, **more}, timeout=60).json()
        assert answer["choices"][0]["text"] != usual, more
    ended = httpx.post(
        server.v1 + "/completions", json={**base, "stop_token_ids": [first], "min_tokens": 9}, timeout=60
    )
    assert ended.json()["usage"]["completion_tokens"] >= 9


def test_a_second_turn_is_read_from_where_it_is_new(server: Served, client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "Tell me a long story about a dog. " * 12}]
    salted: Any = {"extra_body": {"cache_salt": "turns"}}
    first = client.chat.completions.create(model=NAME, messages=messages, max_tokens=30, temperature=0, **salted)
    messages += [
        {"role": "assistant", "content": first.choices[0].message.content},
        {"role": "user", "content": "And then?"},
    ]
    again = client.chat.completions.create(model=NAME, messages=messages, max_tokens=30, temperature=0, **salted)
    cold = client.chat.completions.create(
        model=NAME, messages=messages, max_tokens=30, temperature=0, extra_body={"cache_salt": "others"}
    )
    assert again.choices[0].message.content == cold.choices[0].message.content
    kept, none = (one.usage and one.usage.prompt_tokens_details for one in (again, cold))
    assert kept is not None and first.usage is not None and (kept.cached_tokens or 0) >= first.usage.prompt_tokens - 8
    assert none is not None and none.cached_tokens == 0, "nothing is shared with another salt"


def test_models_tokens_and_the_rest(server: Served, client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == NAME and client.models.retrieve(NAME).id == NAME
    own = httpx.get(server.v1 + "/models").json()["data"][0]
    assert own["max_model_len"] == 4096 and "auto" in own["betoken"]["methods"] and own["betoken"]["draft"] is True
    for text in (STORY, "", "é😀\n"):
        ids = httpx.post(server.url + "/tokenize", json={"prompt": text}).json()
        assert ids["tokens"] == embedded().token_ids(text) and ids["count"] == len(ids["tokens"])
        assert httpx.post(server.url + "/detokenize", json={"tokens": ids["tokens"]}).json()["prompt"] == text
    chat = httpx.post(server.url + "/tokenize", json={"messages": [{"role": "user", "content": "Hi"}]}).json()
    assert chat["tokens"] == embedded().chat_prompt([{"role": "user", "content": "Hi"}])
    assert httpx.get(server.url + "/health").json() == {"status": "ok"}
    assert "version" in httpx.get(server.url + "/version").json()
    assert httpx.get(server.url + "/health", headers={"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert httpx.get(server.url + "/health", headers={"X-Request-ID": "a b\tc"}).headers["x-request-id"] != "a b\tc"


def test_what_is_counted(server: Served, client: openai.OpenAI) -> None:
    def counted() -> dict[str, float]:
        lines = httpx.get(server.url + "/metrics").text.splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line and line[0] != "#"}

    before = counted()
    answer = httpx.post(
        server.v1 + "/completions",
        json={"prompt": EDIT, "max_tokens": 30, "temperature": 0, "ignore_eos": True, "return_speculation_stats": True},
        timeout=60,
    ).json()
    after, usage = counted(), answer["usage"]
    more = {name: value - before.get(name, 0) for name, value in after.items()}
    label, stats = f'{{model_name="{NAME}"}}', usage["speculation"]
    assert more[f"betoken:generation_tokens_total{label}"] == 30
    assert more[f"betoken:prompt_tokens_total{label}"] == usage["prompt_tokens"]
    assert more[f"betoken:spec_decode_num_drafts_total{label}"] == stats["drafts"]
    assert more[f"betoken:spec_decode_num_draft_tokens_total{label}"] == stats["draft_tokens"]
    assert more[f"betoken:spec_decode_num_accepted_tokens_total{label}"] == stats["accepted_tokens"]
    per_position = f'betoken:spec_decode_num_accepted_tokens_per_pos_total{{model_name="{NAME}",position="0"}}'
    assert more[per_position] == stats["accepted_per_position"][0]
    assert more[f"betoken:e2e_request_latency_seconds_count{label}"] == 1
    assert more[f"betoken:time_to_first_token_seconds_count{label}"] == 1


def test_langchain(server: Served) -> None:
    """Another real client."""
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    chat = ChatOpenAI(
        model=NAME,
        base_url=server.v1,
        api_key=SecretStr("none"),
        temperature=0,
        max_completion_tokens=12,
        streaming=False,
    )
    said = chat.invoke("Write a list of animals").content
    assert said and "".join(str(chunk.content) for chunk in chat.stream("Write a list of animals")) == said


def test_answers_that_are_left_are_counted(server: Served) -> None:
    name = f'betoken:request_success_total{{finished_reason="abort",model_name="{NAME}"}}'

    def left() -> float:
        found = [line for line in httpx.get(server.url + "/metrics").text.splitlines() if line.startswith(name)]
        return float(found[0].rsplit(" ", 1)[1]) if found else 0.0

    before = left()
    endless = {
        "prompt": STORY,
        "max_tokens": 3000,
        "ignore_eos": True,
        "stream": True,
        "speculation": {"enabled": False},
    }
    with httpx.stream("POST", server.v1 + "/completions", json=endless, timeout=60) as answer:
        next(answer.iter_raw())
    assert at_rest(server) and left() == before + 1


def test_usage_may_come_with_every_chunk(server: Served) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = events(server, "/completions", prompt=STORY, max_tokens=20, temperature=0, stream_options=options)
    counted = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counted == sorted(counted) and counted[-1] == 20 and 0 < counted[0] < 20
    assert len({chunk["usage"]["prompt_tokens"] for chunk in chunks}) == 1


def test_the_last_message_may_be_gone_on_with(server: Served) -> None:
    """What the model says of an answer that was begun is what it says to the same tokens."""
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "The little owl"}]
    llm = embedded()
    text = llm.tokenizer.apply_chat_template(messages, tokenize=False, continue_final_message=True)
    expected = llm.generate(llm.encode(text, special=False), SamplingParams(max_tokens=12), method="plain").text
    asked = {"messages": messages, "max_tokens": 12, "temperature": 0, "continue_final_message": True}
    for more in ({}, {"add_generation_prompt": False}):
        answer = httpx.post(server.v1 + "/chat/completions", json={**asked, **more}, timeout=60).json()
        assert answer["choices"][0]["message"]["content"] == expected


def test_pages_elsewhere_may_ask_where_they_are_allowed(server: Served) -> None:
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    for origin, allowed in (("https://chat.example.org", True), ("https://evil.example.org", False)):
        before = httpx.options(server.v1 + "/chat/completions", headers={"Origin": origin, **asks})
        after = httpx.get(server.v1 + "/models", headers={"Origin": origin})
        assert (before.status_code == 200) is allowed and after.status_code == 200
        for answer in (before, after):
            assert (answer.headers.get("access-control-allow-origin") == origin) is allowed
    assert httpx.get(server.url + "/ping").status_code == 200
