"""What clients may send: OpenAI's fields, vLLM's further ones, ours. Ranges are checked where the values are used.

Fields that are not here are ignored; `unknown` lists them, for the log.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Tokens = list[int]


class Open(BaseModel):
    """Takes any further field."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    @property
    def unknown(self) -> list[str]:
        """Names of fields that nothing is done with."""
        return sorted(self.model_extra or {})


class Closed(BaseModel):
    """Takes no other field."""

    model_config = ConfigDict(extra="forbid")


class StreamOptions(Open):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class SpeculationWish(Closed):
    """Whether anything is drafted, by whom, and how much. It changes no text."""

    enabled: bool = True
    method: Annotated[str | None, Field(description="auto, plain, draft:k=4, ...; null: the server's")] = None
    max_nodes: int | None = None


class Prediction(Open):
    """A text that the answer is expected to repeat mostly."""

    type: Literal["content"] = "content"
    content: str | list[dict[str, Any]]


class JSONSchemaFormat(Open):
    name: str | None = None
    schema_: Annotated[dict[str, Any] | bool | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Open):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JSONSchemaFormat | None = None


class StructuredOutputs(Open):
    """What vLLM has in place of its older `guided_*`."""

    json_: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class Generation(Open):
    """What both kinds of completion take."""

    model: Annotated[str | None, Field(description="by default the one that is served")] = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: int | None = 1
    seed: int | None = None
    stop: str | list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    stop_token_ids: Tokens | None = None
    allowed_token_ids: Tokens | None = None
    bad_words: list[str] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    response_format: ResponseFormat | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    structured_outputs: StructuredOutputs | None = None
    grammar: Annotated[str | None, Field(description="as llama.cpp has it: the same as guided_grammar")] = None
    prediction: Prediction | None = None
    user: str | None = None
    cache_salt: Annotated[str | None, Field(description="nothing is shared with requests of another salt")] = None
    speculation: SpeculationWish | None = None
    return_token_sources: bool | None = False
    return_speculation_stats: bool | None = False


class CompletionRequest(Generation):
    prompt: Annotated[str | list[str] | list[int] | list[list[int]], Field(description="texts, or token ids")]
    logprobs: int | None = None
    echo: bool | None = False
    suffix: str | None = None
    best_of: int | None = None


class Message(Open):
    role: str
    content: str | list[dict[str, Any]] | None = None


class ChatRequest(Generation):
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


class TokenizeRequest(Open):
    """Either a prompt or messages."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool = True


class DetokenizeRequest(Open):
    model: str | None = None
    tokens: Tokens


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """What is answered where something is wrong."""

    error: ErrorDetail


class Tokenized(BaseModel):
    count: int
    max_model_len: int | None
    tokens: Tokens


class Detokenized(BaseModel):
    prompt: str
