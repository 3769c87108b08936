"""Function calls in OpenAI's protocol: names and schemas that providers take, and what answers call."""

import json
import re
from collections.abc import Iterator

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from rung.engines.base import EngineSpec
from rung.engines.endpoint import REASONING_TOKENS, EndpointEngine
from rung.engines.endpoint_calls import LONGEST_DESCRIPTION, offer, sent_names
from rung.engines.endpoint_wire import read_chat, refuses_tools
from rung.errors import EngineError
from rung.task.signature import TYPES
from tests.fixtures_called import FIND, SENT, Caller, checked

ASK = [{"role": "user", "content": "the invoice"}]


@pytest.fixture
def server(monkeypatch) -> Iterator[Caller]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    with Caller() as found:
        yield found


@pytest.fixture
def engine(server) -> Iterator[EndpointEngine]:
    spec = EngineSpec(engine="endpoint", url=server.url, model="oracle", parallel=3)
    found = EndpointEngine(spec, request_limit_s=5.0, attempts=2, backoff_s=0.01)
    yield found
    found.close()


def ask(engine: EndpointEngine, functions: list[dict], **options):
    (found,) = engine.call_many([ASK], [offer(functions)], **{"max_tokens": 40, **options})
    return found


NAMES = st.lists(
    st.one_of(
        st.text(max_size=80),
        st.from_regex(r"[a-z]{1,2}[._ -][a-z]{1,2}", fullmatch=True),
        st.from_regex(r"[a-z._]{60,70}", fullmatch=True),
    ),
    unique=True,
    max_size=12,
)


@given(NAMES)
@settings(deadline=None)
def test_names_are_sent_as_providers_take_them_and_each_leads_back_to_its_own(names):
    sent = sent_names(names)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in sent)
    assert len(set(sent)) == len(names)
    assert all(
        s == own for s, own in zip(sent, names, strict=True) if re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", own)
    )
    made = offer([{"name": name} for name in names])
    assert [made.own[made.sent[name]] for name in names] == names
    calls = [{"name": name, "arguments": {}} for name in names]
    told = json.dumps([{"name": made.sent[name], "arguments": {}} for name in names])
    assert json.loads(made.named(told)) == calls


def test_two_functions_of_one_name_are_sent_as_two_and_both_are_that_one():
    made = offer([{"name": "f"}, {"name": "f"}, {"name": "a.b"}, {"name": "a_b"}])
    names = [tool["function"]["name"] for tool in made.tools]
    assert names == ["f", "f_2", "a_b_2", "a_b"]
    assert [made.own[name] for name in names] == ["f", "f", "a.b", "a_b"]


@pytest.mark.parametrize(
    "text",
    [
        r'{"name": "f", "description": "half \ud800 a pair"}',
        r'{"name": "\ud800"}',
        r'{"name": "f", "parameters": {"properties": {"a": {"description": "half \ud800"}}}}',
        r'{"name": "f", "parameters": {"anyOf": [{"title": "half \ud800"}]}}',
        '{"name": "f", "parameters": {"properties": {"a": {"type": "number", "default": NaN}}}}',
        '{"name": "f", "parameters": {"properties": {"a": {"type": "number", "default": 1e999}}}}',
    ],
)
def test_functions_that_no_request_can_carry_as_they_are_are_told_in_words(server, engine, text):
    server.calls = lambda text, body: [(body["tools"][0]["function"]["name"], "{}")]
    function = json.loads(text)
    found = ask(engine, [function])
    assert found.failure is None and json.loads(found.text) == [{"name": function["name"], "arguments": {}}]
    sent = json.dumps(server.seen[-1]["tools"], ensure_ascii=False)
    assert all(word in sent for word in ("half", "NaN", "Infinity") if word in json.dumps(function))


KINDS = st.sampled_from(
    [*TYPES, "any", "Dict", "object", "array", "string", "number", "integer", ["str", "null"]]
)
PARTS = st.recursive(
    st.fixed_dictionaries(
        {"type": KINDS}, optional={"description": st.text(max_size=5), "default": st.integers()}
    ),
    lambda below: st.one_of(
        st.fixed_dictionaries(
            {"type": st.sampled_from(["dict", "object", "HashMap"])},
            optional={
                "properties": st.dictionaries(st.text(min_size=1, max_size=4), below, max_size=3),
                "required": st.lists(st.text(max_size=4), max_size=2) | st.booleans(),
            },
        ),
        st.fixed_dictionaries({"type": st.sampled_from(["tuple", "list"])}, optional={"items": below}),
        st.fixed_dictionaries({"type": st.just("array"), "items": st.lists(below, max_size=2)}),
        st.fixed_dictionaries({"anyOf": st.lists(below, min_size=1, max_size=2)}),
    ),
    max_leaves=6,
)


def below(schema) -> Iterator[dict]:
    left = [schema]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            yield part
        left += part.values() if isinstance(part, dict) else part if isinstance(part, list) else []


@given(PARTS)
@settings(deadline=None)
def test_what_public_sets_call_a_schema_is_sent_as_one_that_providers_take(parameters):
    (tool,) = offer([{"name": "f", "parameters": parameters}]).tools
    schema = tool["function"]["parameters"]
    Draft202012Validator.check_schema(schema)
    assert schema["type"] == "object" and isinstance(schema["properties"], dict)
    assert not schema.keys() & {"anyOf", "oneOf", "allOf", "not", "enum"}
    arrays = [part for part in below(schema) if part.get("type") == "array"]
    assert all(isinstance(part["items"], (dict, bool)) and part["items"] is not True for part in arrays)
    if isinstance(parameters.get("properties"), dict):
        # Sent once more, as by a server that forwards it, it's the same.
        (again,) = offer([tool["function"]]).tools
        assert json.dumps(again) == json.dumps(tool)
    if not parameters.keys() & {"properties", "anyOf", "required"}:
        assert Draft202012Validator(schema).is_valid({"anything": 1})


def test_types_are_mapped_and_what_is_said_of_arguments_stays():
    (tool,) = offer([FIND]).tools
    function = tool["function"]
    assert (function["name"], function["description"]) == (SENT, "Look a topic up.")
    assert function["parameters"] == {
        "type": "object",
        "properties": {
            "topic": {"type": "string", "description": "What it is about."},
            "most": {"type": "integer", "default": 5},
        },
        "required": ["topic"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "object", "anyOf": [{"required": ["a"]}], "properties": {"a": {"type": "str"}}},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}},
        {"type": "object", "properties": {"a": {"type": "integer", "minimum": "one"}}},
    ],
)
def test_a_schema_that_nobody_takes_is_told_in_words(parameters):
    (tool,) = offer([{"name": "f", "parameters": parameters}]).tools
    schema = tool["function"]["parameters"]
    assert (schema["type"], schema["properties"], schema["additionalProperties"]) == ("object", {}, True)
    assert json.dumps(parameters, separators=(",", ":")) in schema["description"]


def test_a_long_description_is_whole_where_there_is_room_for_it():
    told = "x" * LONGEST_DESCRIPTION + "end"
    (tool,) = offer([FIND | {"description": told}]).tools
    assert len(tool["function"]["description"]) == LONGEST_DESCRIPTION
    assert tool["function"]["parameters"]["description"] == told
    (short,) = offer([{"name": "f", "description": " "}]).tools
    assert "description" not in short["function"]


def test_the_request_is_one_that_the_real_client_makes(server, engine):
    answer = ask(engine, [FIND])
    (sent,) = server.seen
    assert sent["tool_choice"] == "auto" and "response_format" not in sent
    assert json.loads(answer.text) == [{"name": "desk.find", "arguments": {"topic": "billing"}}]
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
        theirs = client.chat.completions.create(**sent)
    assert server.seen[1] == sent
    assert theirs.choices[0].message.tool_calls[0].function.name == SENT
    checked(sent)


def message(calls, content=None) -> dict:
    return {
        "message": {"role": "assistant", "content": content, "tool_calls": calls},
        "finish_reason": "stop",
    }


def call(name, arguments) -> dict:
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}


def read(choice: dict):
    return read_chat({"choices": [choice]}, 0.1, calls=True)


@pytest.mark.parametrize(
    ("calls", "text"),
    [
        ([call("f", '{"a": 1.50}')], [{"name": "f", "arguments": {"a": 1.5}}]),
        (
            [call("f", "{}"), call("g", '{"b":"é"}')],
            [call_ for call_ in ({"name": "f", "arguments": {}}, {"name": "g", "arguments": {"b": "é"}})],
        ),
        ([call("f", "")], [{"name": "f", "arguments": {}}]),
        ([call("f", None)], [{"name": "f", "arguments": {}}]),
        ([call("f", {"a": [1]})], [{"name": "f", "arguments": {"a": [1]}}]),
        ([call("f", '{"a": ')], [{"name": "f", "arguments": '{"a": '}]),
        ([call("f", "[" * 100_000)], [{"name": "f", "arguments": "[" * 100_000}]),
        ([call("f", "9" * 5000)], [{"name": "f", "arguments": "9" * 5000}]),
        ([call(None, "{}")], [{"name": None, "arguments": {}}]),
        (["call", {"type": "custom"}, call("f", "{}")], [None, None, {"name": "f", "arguments": {}}]),
        ([], []),
        (None, []),
        ("odd", []),
    ],
)
def test_calls_are_read_in_order_and_words_beside_them_are_passed_over(calls, text):
    for content in (None, "", 'I call it now: [{"name": "g", "arguments": {}}]'):
        found = read(message(calls, content))
        assert found.failure is None and json.loads(found.text) == text


def test_an_answer_that_was_cut_is_no_answer_that_calls_nothing():
    cut = read({**message(None, "Let me"), "finish_reason": "length"})
    assert (cut.text, cut.truncated, cut.failure) == ("Let me", True, None)
    silent = read({**message([], None), "finish_reason": "length"})
    assert silent.failure is not None and silent.truncated
    filtered = read({**message([call("f", "{}")]), "finish_reason": "content_filter"})
    assert "content_filter" in filtered.failure


def test_a_call_of_no_function_that_was_offered_keeps_its_name(server, engine):
    server.calls = lambda text, body: [("desk.find", "{}"), ("delete_all", "{}"), (SENT, "{")]
    assert json.loads(ask(engine, [FIND]).text) == [
        {"name": "desk.find", "arguments": {}},
        {"name": "delete_all", "arguments": {}},
        {"name": "desk.find", "arguments": "{"},
    ]


def test_a_question_without_functions_calls_nothing_and_is_not_sent(server, engine):
    found = engine.call_many([ASK] * 3, [offer([]), offer([FIND]), offer([])], max_tokens=40)
    assert [one.text for one in found[::2]] == ["[]", "[]"] and json.loads(found[1].text)
    assert all((one.failure, one.prompt_tokens, one.completion_tokens) == (None, 0, 0) for one in found[::2])
    (sent,) = server.seen
    assert len(sent["tools"]) == 1, "no empty list, which servers refuse"


def test_thoughts_that_take_all_the_room_are_given_more_here_too(server, engine):
    def thinks(body: dict):
        answer = server.completion(body)
        if body["max_tokens"] < REASONING_TOKENS:
            answer["choices"][0] |= {
                "message": {"role": "assistant", "content": None},
                "finish_reason": "length",
            }
        return 200, answer, {}

    server.whole = thinks
    assert json.loads(ask(engine, [FIND]).text)[0]["name"] == "desk.find"
    assert [body["max_tokens"] for body in server.seen] == [40, 40 + REASONING_TOKENS]


UNREAD = (
    "Failed to parse tools: [json.exception.out_of_range.403] key 'description' not found; tools = "
    '[{"type":"function","function":{"name":"desk_find"}}]'
)


@pytest.mark.parametrize(
    "refusal",
    [
        (400, {"error": {"message": "oracle does not support tools"}}, {}),
        (404, {"error": {"message": "No endpoints found that support tool use."}}, {}),
        (422, {"error": {"message": "tools: extra fields not permitted"}}, {}),
        (500, {"error": {"code": 500, "message": "tools param requires --jinja flag"}}, {}),
        (500, {"code": 500, "message": "Unsupported param: tools", "type": "server_error"}, {}),
        (500, {"error": {"message": "Unknown filter at row 57, column 84:\n{{ tools | tojson(1) }}"}}, {}),
        (
            500,
            {"error": {"message": "While executing a loop at line 5, column 3 in source: for tool in tools"}},
            {},
        ),
        (500, {"error": {"message": "Jinja Exception: no tool calls here"}}, {}),
        (500, {"error": {"code": 500, "message": UNREAD, "type": "server_error"}}, {}),
    ],
)
def test_a_server_that_takes_no_tools_says_so_at_once_and_for_good(server, engine, refusal):
    server.refusal = refusal
    found = ask(engine, [FIND])
    assert found.final and f"status {refusal[0]}: " in found.failure and "tool" in found.failure
    assert len(server.seen) == 1


MISREAD = "[json.exception.parse_error.101] parse error at line 1, column 1: "
PASSING = [
    {"error": {"code": 500, "message": "the worker that was writing with tools died"}},
    {"error": {"message": "internal error", "request": {"tools": [{"function": {"name": "unsupported"}}]}}},
    "<html><body>Internal error: tools are not supported by this proxy's error page</body></html>",
    {"error": {"message": "unsupported operand in the scheduler"}},
    {"error": {"code": 500, "message": MISREAD + "attempting to parse an empty input"}},
    {"error": {"message": MISREAD + "syntax error while parsing value; last read: 'desk_find'"}},
    {"error": {"message": "the device doesn't support this function"}},
]


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_is_no_refusal_of_tools(server, engine, fault):
    server.faults = [(500, fault, {})]
    assert ask(engine, [FIND]).failure is None and len(server.seen) == 2
    server.refusal = (500, fault, {})
    found = ask(engine, [FIND])
    assert found.failure is not None and not found.final and "(tried 2 times)" in found.failure


GONE = [
    {"error": {"code": "model_not_found", "message": "The model `oracle` does not exist"}},
    {"error": {"message": "No endpoints found that support tool use."}},
    "Not Found",
]


@pytest.mark.parametrize("said", GONE)
def test_a_model_that_vanishes_amid_its_calls_ends_the_batch_as_it_does_in_words(server, engine, said):
    assert ask(engine, [FIND]).failure is None
    server.whole = lambda body: (404, said, {})
    with pytest.raises(EngineError) as calls:
        engine.call_many([ASK] * 20, [offer([FIND])] * 20, max_tokens=40)
    assert len(server.seen) <= 1 + 3, "those in flight, and no other"
    with pytest.raises(EngineError, match=r"is not there: check .* \(status 404: ") as words:
        engine.chat([("user", "the invoice")], max_tokens=40)
    assert str(calls.value) == str(words.value)
    told = said if isinstance(said, str) else said["error"]["message"]
    assert told in str(calls.value), "what to do about it the server may know better"


def test_a_server_that_repeats_the_key_where_the_model_is_gone_gives_none_away(server, engine):
    server.whole = lambda body: (404, "no such model for sk-none", {})
    with pytest.raises(EngineError, match="no such model for …"):
        ask(engine, [FIND])


def test_a_model_that_was_never_there_is_told_from_one_that_takes_no_tools(server, engine):
    server.whole = lambda body: (404, GONE[0], {})
    with pytest.raises(EngineError, match="is not there"):
        ask(engine, [FIND])
    server.whole = None
    engine.chat([("user", "the invoice")], max_tokens=40)
    server.refusal = (404, GONE[2], {})
    assert ask(engine, [FIND]).final, "what answers in words refuses tools"


REFUSED_SO = [
    "No endpoints found that support the provided 'tool_choice' value. To learn more, visit the docs.",
    "Function calling isn't supported by this model",
    "this model takes no functions",
]


@pytest.mark.parametrize("said", REFUSED_SO)
def test_words_of_functions_refuse_them_though_they_are_the_first_that_is_heard(server, engine, said):
    server.refusal = (404, {"error": {"code": 404, "message": said}}, {})
    found = ask(engine, [FIND])
    assert found.final and said in found.failure


def test_a_model_that_is_named_after_functions_may_be_gone(server, engine):
    server.whole = lambda body: (404, {"error": {"message": "model 'functiongemma:270m' not found"}}, {})
    with pytest.raises(EngineError, match="is not there.*functiongemma"):
        ask(engine, [FIND])


def test_an_answer_is_not_looked_through_for_a_refusal():
    body = httpx.ByteStream(b'{"error": {"message": "unsupported tools"}}')
    assert not refuses_tools(httpx.Response(200, stream=body)), "what isn't read can't be parsed"
    assert refuses_tools(httpx.Response(500, content=b'{"error": {"message": "unsupported tools"}}'))
