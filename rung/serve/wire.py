"""What clients send, in OpenAI's shapes. What would change the answer and isn't honoured is refused."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    model_validator,
)

from rung.records import Json

MOST_CHOICES = 16
MOST_TOP_LOGPROBS = 20
MOST_PROMPTS = 256
MOST_TEXT = 1 << 20
LARGEST_SEED = 2**63 - 1
NAME = "[A-Za-z0-9][A-Za-z0-9._:-]{0,127}"
"""What requests may call a System."""

Text = Annotated[str, Field(max_length=MOST_TEXT)]


def _no_ids(given: Any) -> Any:
    """The same; raises ValueError for token ids, which some clients send."""
    if isinstance(given, list) and given and isinstance(given[0], int | list):
        raise ValueError(
            "texts are taken here and no token ids, which are of the client's tokenizer and not of this "
            "model's (LangChain sends texts with check_embedding_ctx_length=False)"
        )
    return given


Texts = Annotated[Text | Annotated[list[Text], Field(fail_fast=True)], BeforeValidator(_no_ids)]
Zero = Annotated[float, Field(ge=0, le=0)]


class Body(BaseModel):
    """A request's JSON: unknown fields are refused by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PassedOver(Body):
    """Fields that OpenAI's clients send and that change no answer here."""

    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        """What is sent as null sets nothing: some clients write every field that they know."""
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value is not None or name in cls.model_fields}


class StreamOptions(Body):
    """`include_usage`: a last chunk tells the tokens."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class Sampling(PassedOver):
    """How an answer is drawn. Greedy by default, since that is how a System was scored.

    Above a temperature of 0 a `seed` repeats an answer; without one each is another draw.
    """

    model: Text
    n: int | None = Field(default=None, ge=1, le=MOST_CHOICES)
    stop: Text | Annotated[list[Text], Field(fail_fast=True)] | None = None
    seed: int | None = Field(default=None, ge=-LARGEST_SEED - 1, le=LARGEST_SEED)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    logit_bias: dict[str, float] | None = Field(default=None, max_length=0)

    @property
    def stops(self) -> tuple[str, ...]:
        """The strings that end an answer."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in given if text)

    @model_validator(mode="after")
    def _few_stops(self) -> "Sampling":
        if len(self.stops) > 4:
            raise ValueError("`stop` takes four strings at most")
        return self


class Function(Body):
    """A function that may be called; `parameters` is the JSON Schema of its arguments."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: Text | None = None
    parameters: dict[str, Json] | None = None
    strict: bool | None = None


class Tool(Body):
    """One of `tools`."""

    type: Literal["function"]
    function: Function
    _written: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _as_given(cls, given: Any, read: ModelWrapValidatorHandler["Tool"]) -> "Tool":
        made = read(given)
        if isinstance(given, dict):
            made._written = given
        return made

    @property
    def written(self) -> dict[str, Any]:
        """The tool as the request has it: as a row of the data has its functions."""
        return self._written


class NamedFunction(Body):
    """The function that has to be called."""

    name: str


class NamedTool(Body):
    """`tool_choice` as an object."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(Body):
    """The schema of `response_format`."""

    name: str | None = None
    description: Text | None = None
    schema_: dict[str, Json] = Field(default_factory=dict, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """What an answer has to be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _whole(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("`json_schema` goes with the type json_schema, and only with it")
        return self


class ChatRequest(Sampling):
    """POST /v1/chat/completions."""

    messages: Annotated[list[dict[str, Any]], Field(fail_fast=True)] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MOST_TOP_LOGPROBS)
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(fail_fast=True)] | None = Field(default=None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    modalities: Annotated[list[Literal["text"]], Field(fail_fast=True)] | None = None

    @model_validator(mode="after")
    def _fitting(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("`top_logprobs` goes with `logprobs`: true")
        if isinstance(self.tool_choice, NamedTool):
            names = [tool.function.name for tool in self.tools or []]
            if self.tool_choice.function.name not in names:
                raise ValueError(
                    f"`tool_choice` names {self.tool_choice.function.name!r}, which isn't among `tools`"
                )
        if self.tool_choice == "required" and not self.tools:
            raise ValueError("`tool_choice` is required, but there are no `tools`")
        if self.tools and self.response_format and self.response_format.type != "text":
            raise ValueError("`tools` and a JSON `response_format` exclude each other here")
        return self

    @property
    def limit(self) -> int | None:
        """The most tokens of one answer, where the client says so."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def may_call(self) -> list[Tool]:
        """The functions that the answer may call."""
        return [] if self.tool_choice == "none" else self.tools or []


class CompletionRequest(Sampling):
    """POST /v1/completions: a text, or several, each answered by itself."""

    prompt: Texts
    max_tokens: int | None = Field(default=None, ge=1)
    logprobs: int | None = Field(default=None, ge=0, le=5)
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None

    @property
    def prompts(self) -> list[str]:
        """The texts, in order."""
        return [self.prompt] if isinstance(self.prompt, str) else list(self.prompt)

    @model_validator(mode="after")
    def _some(self) -> "CompletionRequest":
        if not 1 <= len(self.prompts) <= MOST_PROMPTS:
            raise ValueError(f"`prompt` takes from 1 to {MOST_PROMPTS} texts")
        return self


class EmbeddingRequest(PassedOver):
    """POST /v1/embeddings."""

    model: Text
    input: Texts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: None = None

    @property
    def texts(self) -> list[str]:
        """The texts, in order."""
        return [self.input] if isinstance(self.input, str) else list(self.input)

    @model_validator(mode="after")
    def _some(self) -> "EmbeddingRequest":
        if not 1 <= len(self.texts) <= 2048 or not all(self.texts):
            raise ValueError("`input` takes from 1 to 2,048 texts, none of them empty")
        return self


class LoadRequest(Body):
    """POST /v1/systems: serve another System, by its folder or tag; `name` is what requests call it."""

    system: str = Field(min_length=1, max_length=4096)
    name: str | None = Field(default=None, pattern=f"^{NAME}$")
