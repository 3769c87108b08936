"""Rows of calls as tables hold them: each has every key that one of them has, with null where it has none."""

import json
import time

import pyarrow
import pytest
from pyarrow import parquet

from rung.calling import schema_of
from rung.checks.examine import examined
from rung.checks.rows import prepare
from rung.climb.climb import Options
from rung.data.conversations import asked
from rung.data.sources import conform, read_source
from rung.engines.schema import accepts, tight
from rung.scoring.scorers import SCORERS
from rung.task.calls import call_fault, functions_in, given_calls, settled_calls
from rung.task.nulls import offered
from rung.task.outputs import read_calls
from rung.wording import answer_text
from tests.fixtures_climb import call_rows, write_rows

WEATHER = {
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
            "at": {"type": "object", "properties": {"day": {"type": "string"}, "hour": {"type": "integer"}}},
        },
        "required": ["city"],
    },
}
TICKET = {
    "name": "close_ticket",
    "parameters": {
        "type": "object",
        "properties": {"ticket_id": {"type": "string"}, "why": {"type": "string"}},
        "required": ["ticket_id"],
    },
}


def call(name, **arguments):
    return {"name": name, "arguments": arguments}


def turn(role, content=None, *calls):
    tool_calls = [{"type": "function", "function": one} for one in calls]
    return {"role": role, "content": content, **({"tool_calls": tool_calls} if calls else {})}


ANSWERS = (
    call("get_weather", city="Riga", at={"day": "Monday"}),
    call("close_ticket", ticket_id="7"),
    call("get_weather", city="Paris", unit="F", at={"hour": 5}),
)


def as_table(folder, rows):
    """The rows as Arrow holds them, which is what Hugging Face's datasets write."""
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
    return folder / "rows.parquet"


@pytest.mark.parametrize("as_text", [True, False])
def test_calls_of_a_table_have_their_own_arguments_alone_and_functions_their_own_keys(as_text, tmp_path):
    tools = [{"type": "function", "function": one} for one in (WEATHER, TICKET)]
    rows = [
        {
            "messages": [turn("user", f"question {at}"), turn("assistant", None, one)],
            "tools": json.dumps(tools) if as_text else tools,
        }
        for at, one in enumerate(ANSWERS)
    ]
    path = as_table(tmp_path, rows)
    held = parquet.read_table(path).to_pylist()[0]
    assert held["messages"][1]["tool_calls"][0]["function"]["arguments"]["ticket_id"] is None
    examples = conform(read_source(path).examples, "tool_call")
    for example, answer in zip(examples, ANSWERS, strict=True):
        assert functions_in(example.context) == (WEATHER, TICKET)
        assert isinstance(example.output, list) and example.output == [answer]
        assert call_fault(example.output, (WEATHER, TICKET)) is None
        assert SCORERS["tool_call"].rows([[answer]], [example.output]) == [1]
        assert accepts(tight(schema_of(example.context)), answer_text(example.output, "tool_call"))


def test_earlier_calls_of_a_table_are_those_that_a_request_has(tmp_path):
    rows = [
        {
            "messages": [
                turn("user", "first"),
                turn("assistant", "I look.", one),
                turn("tool", "done"),
                turn("assistant", "It is done."),
            ],
            "tools": json.dumps([WEATHER, TICKET]),
        }
        for one in (call("get_weather", city="Riga"), call("close_ticket", ticket_id="7"))
    ]
    for row, example in zip(rows, read_source(as_table(tmp_path, rows)).examples, strict=True):
        sent = [dict(one) for one in row["messages"][:-1]]
        name, arguments = sent[1]["tool_calls"][0]["function"].values()
        sent[1]["tool_calls"] = [{"function": {"name": name, "arguments": json.dumps(arguments)}}]
        assert "null" not in example.input
        assert asked(sent, [WEATHER, TICKET]).input == example.input


def function(**properties):
    return {"name": "f", "parameters": {"type": "object", "properties": properties, "required": ["must"]}}


@pytest.mark.parametrize(
    ("part", "stays"),
    [
        ({"type": "string"}, False),
        ({"type": ["string", "null"]}, True),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, True),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, False),
        ({"enum": ["a", None]}, True),
        ({"const": None}, True),
        ({"type": "any"}, False),
        ({}, False),
        ({"type": ["string", "null"], "default": None}, False),
    ],
)
def test_a_null_stays_where_the_function_says_that_it_takes_one(part, stays):
    one = function(must={"type": "string"}, x=part)
    wanted = call("f", must="a", **({"x": None} if stays else {}))
    assert settled_calls([call("f", must="a", x=None)], [one]) == [wanted]


def test_a_null_stays_where_a_reference_leads_to_one_and_where_something_is_needed():
    one = function(must={"type": "string"}, x={"$ref": "#/$defs/maybe"})
    one["parameters"]["$defs"] = {"maybe": {"type": ["integer", "null"]}}
    assert settled_calls([call("f", x=None)], [one]) == [call("f", x=None)]
    assert settled_calls([call("f", must=None)], [one]) == [call("f", must=None)]
    assert call_fault([call("f", must=None)], [one]) is not None


def test_nulls_of_arguments_that_no_function_names_go_and_a_maps_own_stay():
    assert settled_calls([call("now", a=None)], [{"name": "now"}]) == [call("now")]
    spot = {"type": "object", "properties": {"lat": {"type": "number"}, "far": {"type": ["null", "number"]}}}
    by = {"patternProperties": {"^k": spot}}
    one = function(spots={"type": "array", "items": spot}, more={"type": "object"}, by=by)
    given = call(
        "f",
        spots=[{"lat": 1, "far": None, "city": None}, {"lat": None}, None],
        more={"a": None},
        by={"k": {"lat": None}},
    )
    assert settled_calls([given], [one]) == [
        call("f", spots=[{"lat": 1, "far": None}, {}, None], more={"a": None}, by={"k": {"lat": None}})
    ]


def test_what_else_is_accepted_may_be_null_for_arguments_of_other_rows():
    said = {**call("get_weather", city="Riga"), "accepted": {"city": ["Rīga"], "ticket_id": None}}
    assert read_calls([said]) == [{**call("get_weather", city="Riga"), "accepted": {"city": ["Rīga"]}}]
    assert read_calls([{**said, "accepted": {"ticket_id": None}}]) == [call("get_weather", city="Riga")]
    either = {**call("get_weather", city="Riga", unit="F"), "accepted": {"unit": [None]}}
    (target,) = settled_calls([either], [WEATHER])
    for answer in ({"unit": None}, {}, {"unit": "F"}):
        read = settled_calls([call("get_weather", city="Riga", **answer)], [WEATHER])
        assert SCORERS["tool_call"].rows([read], [[target]]) == [1]


def test_a_default_of_null_stays_unless_a_table_wrote_it():
    part = {"type": "string", "default": None}
    named = {"default": {"type": "string", "enum": None}, "const": None, "x": part}
    whole = {"name": "f", "strict": None, "parameters": {"properties": {"x": part}, "required": None}}
    assert offered([{"name": "f", "parameters": {"properties": {"x": part}}}]) == [
        {"name": "f", "parameters": {"properties": {"x": part}}}
    ]
    assert offered([whole]) == [{"name": "f", "parameters": {"properties": {"x": {"type": "string"}}}}]
    assert offered([{"name": "f", "parameters": {"properties": named}}]) == [
        {"name": "f", "parameters": {"properties": {"default": {"type": "string"}, "x": {"type": "string"}}}}
    ]
    values = {"type": ["string", "null"], "default": None, "enum": ["a", None], "title": None}
    kept = {"type": ["string", "null"], "default": None, "enum": ["a", None]}
    assert offered([{"name": "f", "parameters": {"properties": {"x": values}}}]) == [
        {"name": "f", "parameters": {"properties": {"x": kept}}}
    ]


def test_rows_whose_calls_had_nulls_are_told_of_and_are_no_fault(tmp_path):
    rows = call_rows(60)
    clean = prepare(write_rows(tmp_path / "calls.jsonl", rows), Options())
    for row in rows[2:4]:
        said = row["messages"][-1]["tool_calls"][0]["function"]
        said["arguments"] = json.loads(said["arguments"]) | {"elsewhere": None}
    prepared = prepare(write_rows(tmp_path / "calls.jsonl", rows), Options())
    (told,) = [note for note in prepared.inferred if "null" in note]
    assert told.startswith("2 rows call functions with null for what these take no null for, such as ")
    assert "calls.jsonl:3;" in told and not [note for note in clean.inferred if "null" in note]
    assert prepared.splits.digest == clean.splits.digest
    assert not [f for f in examined(prepared, (), ("rows",)).findings if f.check == "targets"]


def test_earlier_calls_of_a_stranger_are_looked_through_in_no_more_time_than_they_are_long():
    options = {"anyOf": [{"type": "string"}] * 20_000}
    one = {"name": "f", "parameters": {"properties": {"a": options}, "additionalProperties": options}}
    calls = [call("f", a=None, **{str(at): None}) for at in range(20_000)]
    begun = time.perf_counter()
    assert given_calls(calls, [one]) == [call("f")] * 20_000
    assert time.perf_counter() - begun < 10
