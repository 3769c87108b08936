"""Function calls read off an answer's text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from rung.engines.schema import require_schema
from rung.serve.shapes import new_id
from rung.serve.tools import call_schema, read_calls
from rung.serve.wire import ChatRequest

CALLS = {"calls": [{"name": "a", "arguments": {"x": "é\n"}}, {"name": "b", "arguments": {}}]}


def compact(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def test_an_answer_calls_functions_or_is_in_words():
    words, calls = read_calls(compact(CALLS))
    assert words is None
    assert [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls] == [
        ("a", {"x": "é\n"}),
        ("b", {}),
    ]
    assert len({call["id"] for call in calls}) == 2
    assert read_calls('{"reply":"Hello."}') == ("Hello.", [])


@pytest.mark.parametrize(
    "text", ["", "Hello.", "[1]", "[{}]", "{}", '{"calls":3}', '{"calls":[{"name":1}]}', '{"reply":1}']
)
def test_what_is_no_call_is_text(text):
    assert read_calls(text) == (text, [])


def test_a_list_of_calls_is_calls_too():
    assert read_calls(compact(CALLS["calls"]))[1][0]["function"]["name"] == "a"
    assert read_calls("[]") == ("", [])


def test_an_answer_that_calls_nothing_says_nothing():
    assert read_calls('{"calls":[]}') == ("", [])


@given(st.integers(0, 200))
def test_an_answer_that_was_cut_off_keeps_the_calls_that_are_whole(end):
    whole = compact(CALLS)
    words, calls = read_calls(whole[:end])
    first, second = whole.index('},{"name"') + 1, whole.index("]}")
    assert len(calls) == (end >= first) + (end >= second)
    begun = end >= len('{"calls":[')
    assert words == (None if calls else "" if begun else whole[:end])


@pytest.mark.parametrize("value", [CALLS, CALLS["calls"]])
def test_a_call_that_was_closed_for_the_model_is_none(value):
    whole = compact(value)
    first, second = whole.index('},{"name"') + 1, whole.rindex("}]") + 1
    for own in range(len(whole) + 1):
        words, calls = read_calls(whole, own)
        assert len(calls) == (own >= first) + (own >= second)
        assert words == (None if calls else "")
    assert read_calls('{"reply":"He"}', 12) == ("He", [])


@given(st.text(st.characters(codec="utf-8")), st.booleans(), st.integers(0, 60))
def test_a_reply_that_was_cut_off_is_the_words_so_far(text, ascii_only, end):
    whole = json.dumps({"reply": text}, ensure_ascii=ascii_only, separators=(",", ":"))
    words, calls = read_calls(whole[:end])
    assert calls == [] and words is not None
    if end >= len('{"reply":"'):
        assert text.startswith(words.rstrip("?"))
    else:
        assert words == whole[:end]


def test_half_a_surrogate_pair_is_never_sent():
    for text in (r'{"reply":"a\ud83d"}', r'{"calls":[{"name":"f\ud83d","arguments":{"\ud83d":"\ud83d"}}]}'):
        words, calls = read_calls(text)
        assert compact([words, calls]).encode("utf-8")


def test_ids_are_never_the_same():
    assert len({new_id("x") for _ in range(100)}) == 100


@pytest.mark.parametrize("own_id", [{}, {"$id": "https://example.org/send"}])
@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "function": {"name": "send"}}])
def test_references_in_a_functions_parameters_are_to_these(choice, own_id):
    parameters = {
        **own_id,
        "type": "object",
        "properties": {"to": {"$ref": "#/$defs/Address"}, "then": {"$ref": "#"}},
        "required": ["to"],
        "$defs": {"Address": {"enum": ["Riga", "Rome"]}},
    }
    tools = [
        {"type": "function", "function": {"name": "now"}},
        {"type": "function", "function": {"name": "send", "parameters": parameters}},
    ]
    body = {"model": "m", "messages": [{"role": "user", "content": "a"}], "tools": tools}
    schema = call_schema(ChatRequest.model_validate({**body, "tool_choice": choice}))
    require_schema(schema)
    held = Draft202012Validator(schema)

    def fits(arguments):
        return held.is_valid({"calls": [{"name": "send", "arguments": arguments}]})

    assert fits({"to": "Riga", "then": {"to": "Rome", "then": {"to": "Riga"}}})
    assert not fits({"to": "Oslo"}) and not fits({"to": "Riga", "then": {"to": "Oslo"}})
    assert not fits({"to": "Riga", "then": {"calls": [{"name": "now", "arguments": {}}]}})
