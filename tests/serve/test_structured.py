"""Answers held to a JSON Schema, and function calls, through the openai package's own client."""

import json
from typing import Literal

import openai
import pytest
from jsonschema import validate
from pydantic import BaseModel, Field

from tests.fixtures_climb import make_tiny_gguf
from tests.fixtures_serve import SCHEMA, also, said

QUESTION = "The invoice of yesterday is wrong, please help within 3 days."
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Paris", "Rome"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}


class Ticket(BaseModel):
    topic: Literal["billing", "delivery"]
    urgent: bool
    days: int = Field(ge=0, le=99)


def ask(server, model, **options):
    return server.user.chat.completions.create(
        **{"model": model, "messages": said(QUESTION), "max_tokens": 40, **options}
    )


def tool(name, parameters=WEATHER):
    return {"type": "function", "function": {"name": name, "description": name, "parameters": parameters}}


def as_format(schema, **more):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **more}}


def refusal(server, model, **options):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(server, model, **options)
    return caught.value


pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def long(tiny, tmp_path_factory):
    """The server with a model that writes at random, for prompts of up to 2,000 tokens, as `long`."""
    gguf = make_tiny_gguf(tmp_path_factory.mktemp("long") / "long.gguf", context=2048)
    with also(tiny, {"long": gguf}) as server:
        yield server


def test_a_class_is_what_a_base_model_answers_with(real):
    found = real.user.chat.completions.parse(
        model="base", messages=said(QUESTION), response_format=Ticket, max_tokens=60
    )
    message = found.choices[0].message
    assert isinstance(message.parsed, Ticket) and message.refusal is None
    assert json.loads(message.content) == message.parsed.model_dump()
    assert list(json.loads(message.content)) == ["topic", "urgent", "days"]


def test_a_class_is_streamed_too(real):
    with real.user.chat.completions.stream(
        model="base", messages=said(QUESTION), response_format=Ticket, max_tokens=60
    ) as stream:
        stream.until_done()
        found = stream.get_final_completion()
    assert isinstance(found.choices[0].message.parsed, Ticket)


def test_a_json_object_is_an_object(real):
    content = ask(real, "base", response_format={"type": "json_object"}).choices[0].message.content
    assert content.startswith('{"')


def test_drawn_answers_keep_to_the_schema_too(long):
    found = ask(long, "long", response_format=as_format(SCHEMA), n=4, temperature=2, seed=1, max_tokens=160)
    contents = [choice.message.content for choice in found.choices]
    assert len(set(contents)) > 1
    for content in contents:
        validate(json.loads(content), SCHEMA)


def test_a_text_system_takes_a_schema(real):
    found = ask(real, "text", response_format=as_format(SCHEMA))
    validate(json.loads(found.choices[0].message.content), SCHEMA)


def test_a_json_system_takes_its_own_schema_and_no_other(real):
    own = ask(real, "json").choices[0].message.content
    validate(json.loads(own), SCHEMA)
    described = {**SCHEMA, "title": "Ticket", "description": "What is asked."}
    for form in (as_format(SCHEMA), as_format(described, strict=True), {"type": "json_object"}):
        assert ask(real, "json", response_format=form).choices[0].message.content == own
    other = {**SCHEMA, "required": ["topic"]}
    error = refusal(real, "json", response_format=as_format(other))
    assert error.param == "response_format" and "JSON Schema" in error.message


@pytest.mark.parametrize("form", [as_format(SCHEMA), {"type": "json_object"}])
def test_a_system_of_labels_takes_no_schema(real, tiny, form):
    for server, model in ((real, "words"), (tiny, "desk")):
        error = refusal(server, model, response_format=form)
        assert error.param == "response_format" and "labels" in error.message


def test_a_system_takes_no_choice_of_a_tool(real):
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        error = refusal(real, "text", tools=[tool("weather")], tool_choice=choice)
        assert error.param == "tool_choice"


def test_a_schema_without_a_finite_answer_is_the_clients_to_mend(real):
    endless = {
        "$defs": {"a": {"type": "object", "properties": {"x": {"$ref": "#/$defs/a"}}, "required": ["x"]}},
        "$ref": "#/$defs/a",
    }
    error = refusal(real, "base", response_format=as_format(endless))
    assert error.param == "response_format" and "requires itself" in error.message


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"type": "object", "properties": {"a": {"not": {"type": "string"}}}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "nonsense"}, "nonsense"),
        ({"type": "string", "pattern": "a{4294967296}"}, "pattern"),
        ({"patternProperties": {"a{4294967296}": {}}}, "pattern"),
        ({"$ref": "http://127.0.0.1:1/schema"}, "127.0.0.1"),
        ({"type": "object", "required": "a"}, "required"),
    ],
)
def test_a_schema_that_answers_cant_be_held_to_is_refused_by_its_keyword(real, schema, keyword):
    for options in ({"response_format": as_format(schema)}, {"tools": [tool("f", schema)]}):
        error = refusal(real, "base", **options)
        assert keyword in error.message and error.param in options


def test_a_function_that_has_to_be_called_is_called(long):
    options = {"tools": [tool("weather"), tool("trains")], "tool_choice": "required", "max_tokens": 400}
    found = ask(long, "long", **options).choices[0]
    assert found.finish_reason == "tool_calls" and found.message.content is None
    for call in found.message.tool_calls:
        assert call.function.name in ("weather", "trains") and call.id.startswith("call_")
        validate(json.loads(call.function.arguments), WEATHER)


def test_the_function_that_is_named_is_called(real):
    named = {"type": "function", "function": {"name": "trains"}}
    found = ask(
        real, "base", tools=[tool("weather"), tool("trains")], tool_choice=named, parallel_tool_calls=False
    )
    assert [call.function.name for call in found.choices[0].message.tool_calls] == ["trains"]


def test_one_function_is_called_where_several_at_once_are_not_wanted(long):
    options = {"tools": [tool("weather"), tool("trains")], "tool_choice": "required", "max_tokens": 160}
    found = ask(long, "long", parallel_tool_calls=False, temperature=2, seed=1, n=2, **options)
    assert [len(choice.message.tool_calls) for choice in found.choices] == [1, 1]


def test_a_model_that_may_call_answers_in_words_or_calls(real):
    found = ask(real, "base", tools=[tool("weather")], temperature=1.5, seed=0, n=2)
    for choice in found.choices:
        for call in choice.message.tool_calls or []:
            validate(json.loads(call.function.arguments), WEATHER)
        assert choice.message.tool_calls or not choice.message.content.startswith("{")
    never = ask(real, "base", tools=[tool("weather")], tool_choice="none", max_tokens=5).choices[0]
    assert never.message.tool_calls is None and never.message.content


def test_calls_are_streamed_as_the_client_puts_them_together(real):
    options = {"tools": [tool("weather")], "tool_choice": "required", "parallel_tool_calls": False}
    whole = ask(real, "base", **options).choices[0].message.tool_calls[0].function
    chunks = list(ask(real, "base", stream=True, stream_options={"include_usage": True}, **options))
    calls = [c for chunk in chunks if chunk.choices for c in chunk.choices[0].delta.tool_calls or []]
    assert [(c.index, c.function.name, c.function.arguments) for c in calls] == [
        (0, whole.name, whole.arguments)
    ]
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "tool_calls"
    with real.user.chat.completions.stream(
        model="base", messages=said(QUESTION), max_tokens=60, **options
    ) as stream:
        stream.until_done()
        (made,) = stream.get_final_completion().choices[0].message.tool_calls
    assert made.function.arguments == whole.arguments


def test_what_a_function_gave_goes_on_in_the_chat(long):
    options = {"tools": [tool("weather")], "parallel_tool_calls": False, "max_tokens": 160}
    first = ask(long, "long", tool_choice="required", **options).choices[0].message
    call = first.tool_calls[0]
    turns = [
        *said(QUESTION),
        first.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": '{"degrees": 21}'},
    ]
    silent = {"tools": options["tools"], "tool_choice": "none"}
    second = ask(long, "long", messages=turns, **silent)
    assert second.choices[0].message.content
    assert second.usage.prompt_tokens > ask(long, "long", **silent).usage.prompt_tokens


def test_functions_without_parameters_are_called_with_none(real):
    bare = {"type": "function", "function": {"name": "ping"}}
    options = {"tools": [bare], "tool_choice": "required", "parallel_tool_calls": False}
    (call,) = ask(real, "base", **options).choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("ping", {})


@pytest.mark.parametrize(
    ("options", "said_of_it"),
    [
        ({"tool_choice": "required"}, "no `tools`"),
        ({"tools": [tool("f")], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "'g'"),
        ({"tools": [tool("f")], "response_format": {"type": "json_object"}}, "exclude each other"),
        ({"tools": [tool("a b")]}, "tools.0.function.name"),
        ({"tools": [{"type": "retrieval"}]}, "tools.0"),
        ({"response_format": {"type": "json_schema"}}, "json_schema"),
        ({"response_format": as_format(SCHEMA), "stop": "x"}, "stop"),
    ],
)
def test_what_cant_be_asked_for_together_is_refused(real, options, said_of_it):
    assert said_of_it in refusal(real, "base", **options).message
