"""Targets in the order of their schema's keys, at any depth: the only one that the grammar writes."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rung.calling import schema_of
from rung.engines.schema import accepts, tight
from rung.task.calls import FUNCTIONS, rejected_calls, settled_calls
from rung.task.order import in_order
from rung.task.schemas import infer_schema
from rung.wording import answer_text

GUEST = {
    "type": "object",
    "properties": {"first": {"type": "string"}, "last": {"type": "string"}},
    "required": ["last"],
}
BOOK = {
    "name": "book",
    "parameters": {"type": "object", "properties": {"guest": {"$ref": "#/$defs/G"}}, "$defs": {"G": GUEST}},
}


def objects(inner):
    """Schemas of objects with named keys, keys by a pattern and all others, of `inner` each."""
    return st.builds(
        lambda named, start, rest: {
            "type": "object",
            "properties": named,
            "patternProperties": {"^k": start},
            "additionalProperties": rest,
        },
        st.lists(st.tuples(st.sampled_from("abcdef"), inner), max_size=4, unique_by=lambda pair: pair[0]).map(
            dict
        ),
        inner,
        inner,
    )


def parts(inner):
    lists = inner.map(lambda item: {"type": "array", "items": item})
    nullable = inner.map(lambda one: {"anyOf": [{"type": "null"}, one]})
    return st.one_of(objects(inner), lists, nullable)


SCHEMAS = objects(
    st.recursive(st.sampled_from([{"type": "integer"}, {"type": "string"}]), parts, max_leaves=8)
)


@st.composite
def values(draw, schema):
    """A value under one of these schemas, with its keys in any order."""
    if "anyOf" in schema:
        return draw(st.none() | values(schema["anyOf"][1]))
    if schema["type"] == "array":
        return draw(st.lists(values(schema["items"]), max_size=2))
    if schema["type"] != "object":
        return draw(st.integers(-9, 9) if schema["type"] == "integer" else st.sampled_from(["", "x"]))
    rules = {
        "k1": schema["patternProperties"]["^k"],
        "k2": schema["patternProperties"]["^k"],
        "y": schema["additionalProperties"],
        "z": schema["additionalProperties"],
        **schema["properties"],
    }
    keys = draw(st.lists(st.sampled_from([*rules]), max_size=4, unique=True))
    return {key: draw(values(rules[key])) for key in keys}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), SCHEMAS)
def test_every_target_can_be_written_under_the_grammar(data, schema):
    value = data.draw(values(schema))
    assert in_order(value, schema) == value
    assert accepts(tight(schema), answer_text(value, "json", schema=schema))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), SCHEMAS)
def test_every_call_that_is_learned_can_be_written_under_the_grammar_of_its_functions(data, parameters):
    functions = [BOOK, {"name": "f", "parameters": parameters}]
    calls = [{"name": "f", "arguments": data.draw(values(parameters))}]
    settled = settled_calls(calls, functions)
    assert settled == calls
    schema = schema_of(FUNCTIONS + json.dumps(functions))
    assert accepts(tight(schema), answer_text(settled, "tool_call"))


def test_keys_within_arguments_stand_as_the_function_has_them_in_chosen_and_rejected_answers():
    calls = [{"name": "book", "arguments": {"guest": {"last": "Kalns", "first": "Anna"}}}]
    told = '[{"name":"book","arguments":{"guest":{"first":"Anna","last":"Kalns"}}}]'
    assert answer_text(settled_calls(calls, [BOOK]), "tool_call") == told
    rejected = rejected_calls(json.dumps(calls), FUNCTIONS + json.dumps([BOOK]))
    assert answer_text(rejected, "tool_call") == told
    assert accepts(tight(schema_of(FUNCTIONS + json.dumps([BOOK]))), told)


def test_rows_with_keys_of_their_own_can_be_written_under_the_schema_that_is_inferred_from_them():
    rows = [
        {f"k{row}_{at}": {"a": 1, "b": 2} if row % 2 else {"b": 2, "a": 1} for at in range(3)}
        for row in range(40)
    ]
    schema = infer_schema(rows)
    assert isinstance(schema["additionalProperties"], dict)
    assert all(accepts(tight(schema), answer_text(row, "json", schema=schema)) for row in rows)


def test_options_that_lead_to_each_other_without_end_are_looked_at_once():
    names = [str(at) for at in range(30)]
    everywhere = {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in names]}
    schema = {"$defs": dict.fromkeys(names, everywhere), "properties": {"b": everywhere, "a": {}}}
    assert list(in_order({"a": 1, "b": {"x": 1}}, schema)) == ["b", "a"]


def test_a_pattern_that_python_cant_read_matches_nothing():
    schema = {"patternProperties": {"^\\p{Lu}": {}}, "additionalProperties": GUEST}
    assert list(in_order({"Xy": {"last": "a", "first": "b"}}, schema)["Xy"]) == ["first", "last"]


def test_an_option_that_is_closed_but_for_a_pattern_is_taken_where_all_other_keys_are_named():
    closed = {
        "properties": {"b": {}, "a": {}},
        "patternProperties": {"^k": GUEST},
        "additionalProperties": False,
    }
    value = {"k": {"last": "x", "first": "y"}, "a": 1, "b": 2}
    found = in_order(value, {"anyOf": [{"type": "null"}, closed]})
    assert (list(found), list(found["k"])) == (["b", "a", "k"], ["first", "last"])


@pytest.mark.parametrize(
    ("part", "value", "text"),
    [
        ({"type": "integer"}, 3.0, "3"),
        ({"type": ["null", "integer"]}, -3.0, "-3"),
        ({"anyOf": [{"type": "null"}, {"type": "integer"}]}, 3.0, "3"),
        ({"anyOf": [{"type": "integer"}, {"type": "number"}]}, 3.5, "3.5"),
        ({"$ref": "#/$defs/whole"}, 3.0, "3"),
        ({"enum": [1.0, 2.5]}, 1.0, "1"),
        ({"enum": [1.0, 2.5]}, 2.5, "2.5"),
        ({"type": "number"}, 3.0, "3.0"),
        ({"type": "number", "minimum": 0, "maximum": 1}, 3e-05, "0.00003"),
        ({"type": "number"}, 1e22, "1" + "0" * 22),
    ],
)
def test_numbers_are_written_as_the_grammar_has_them(part, value, text):
    schema = {
        "$defs": {"whole": {"type": "integer"}},
        "type": "object",
        "properties": {"n": part, "why": {"type": "string"}},
        "required": ["n", "why"],
    }
    written = answer_text({"n": value, "why": '1e-05 "ü'}, "json", schema=schema)
    assert written == f'{{"n":{text},"why":"1e-05 \\"ü"}}'
    assert accepts(tight(schema), written)


def test_whole_arguments_of_a_call_are_written_without_a_fraction():
    function = {"name": "f", "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}}}
    calls = settled_calls([{"name": "f", "arguments": {"n": 5.0}}], [function])
    assert answer_text(calls, "tool_call") == '[{"name":"f","arguments":{"n":5}}]'
