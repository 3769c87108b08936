"""Functions whose schema refers to its own parts, or can't be followed: what is held to it and said."""

import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rung.calling import schema_of
from rung.checks.examine import examined
from rung.checks.rows import prepare
from rung.climb.climb import Options
from rung.engines.schema import accepts, check_schema, tight
from rung.scoring.extract import read_answer
from rung.task.calls import FUNCTIONS, call_fault, settled_calls
from rung.task.signature import parameters_of, signature_fault
from rung.wording import answer_text
from tests.fixtures_climb import call_rows, write_rows

WEATHER = {
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
ITEM = {"type": "object", "properties": {"sku": {"type": "str"}, "n": {"type": "int"}}, "required": ["sku"]}


def of(name="f", **parameters):
    return {"name": name, "parameters": {"type": "object", **parameters}}


def held(*functions):
    return schema_of(FUNCTIONS + json.dumps(functions))


def taken(schema, name, **arguments):
    """Whether the grammar lets a call through; the reader of answers has to say the same."""
    text = json.dumps([{"name": name, "arguments": arguments}], separators=(",", ":"))
    read = read_answer(text, kind="tool_call", schema=schema) is not None
    assert accepts(tight(schema), text) == read
    return read


@pytest.mark.parametrize("key", ["$defs", "definitions"])
@pytest.mark.parametrize(
    "draft", [{}, {"$schema": "http://json-schema.org/draft-07/schema#", "$id": "http://x/y"}]
)
@pytest.mark.parametrize("others", [(), (WEATHER,)])
def test_a_function_with_definitions_of_its_own_is_held_to_them_and_so_are_the_others(key, draft, others):
    order = of(
        "order",
        properties={"item": {"$ref": f"#/{key}/Item"}},
        required=["item"],
        **{key: {"Item": ITEM}},
        **draft,
    )
    schema = held(*others, order)
    assert taken(schema, "order", item={"sku": "a", "n": 1})
    assert not taken(schema, "order", item={"sku": 1}) and not taken(schema, "order", item={"n": 1})
    assert not taken(schema, "order")
    if others:
        assert taken(schema, "weather", city="Riga")
        assert not taken(schema, "weather", town=5)


def test_definitions_of_one_name_are_each_functions_own():
    first = of("first", properties={"x": {"$ref": "#/$defs/T"}}, **{"$defs": {"T": {"type": "integer"}}})
    other = of("other", properties={"x": {"$ref": "#/$defs/T"}}, **{"$defs": {"T": {"type": "boolean"}}})
    schema = held(first, other)
    assert taken(schema, "first", x=1) and not taken(schema, "first", x=True)
    assert taken(schema, "other", x=True) and not taken(schema, "other", x=1)


def test_references_to_the_function_itself_and_to_names_with_slashes_are_followed():
    tree = of(
        "tree",
        properties={"left": {"$ref": "#"}, "n": {"$ref": "#/$defs/a~1b"}},
        **{"$defs": {"a/b": {"type": "integer"}}},
    )
    schema = held(WEATHER, tree)
    assert taken(schema, "tree", left={"left": {"n": 1}})
    assert not taken(schema, "tree", left={"left": {"n": "1"}})


def test_only_the_arguments_of_the_function_that_is_more_than_an_engine_holds_are_left_open():
    hard = of("hard", properties={"a": {"not": {"type": "string"}}})
    schema = held(hard, WEATHER)
    assert check_schema(schema) == ()
    assert taken(schema, "hard", z="x") and not taken(schema, "weather", town=5)


def test_patterns_of_texts_and_of_keys_are_held_as_the_grammar_holds_them():
    rules = {
        "properties": {"id": {"type": "string", "pattern": "^[A-Z]{2}$"}},
        "patternProperties": {"^k[0-9]$": {"type": "integer"}},
    }
    schema = held(of("f", **rules), WEATHER)
    assert taken(schema, "f", id="AB", k1=1) and taken(schema, "f")
    for wrong in ({"id": "ab"}, {"id": "ABC"}, {"k1": "x"}, {"k10": 1}, {"other": 1}):
        assert not taken(schema, "f", **wrong)
    schema = held(of("f", **rules, additionalProperties={"type": "boolean"}))
    assert taken(schema, "f", id="AB", k1=1, other=True)
    for wrong in ({"k1": True}, {"other": 1}):
        assert not taken(schema, "f", **wrong)


BROKEN = {
    "a pattern": {"type": "string", "pattern": "^\\p{Lu}"},
    "no schema": "string",
    "values that are no list": {"enum": "a"},
    "a bound that is text": {"minimum": "0"},
    "nothing behind it": {"$ref": "#/$defs/missing"},
    "something elsewhere": {"$ref": "http://x/y"},
    "no schema behind it": {"$ref": "#/required"},
    "an anchor": {"$ref": "#name"},
    "itself": {"$ref": "#/properties/a"},
    "itself by an option": {"anyOf": [{"type": "null"}, {"allOf": [{"$ref": "#/properties/a"}]}]},
    "itself by a negation": {"not": {"$ref": "#/properties/a"}},
}


@pytest.mark.parametrize("part", BROKEN.values(), ids=BROKEN.keys())
def test_a_schema_that_cant_be_followed_is_named_and_leaves_its_functions_arguments_open(part):
    function = of("find", properties={"a": part}, required=["a"])
    fault = call_fault([{"name": "find", "arguments": {"a": "Anna"}}], [function])
    assert fault is not None and not fault[0] and fault[1].startswith("the schema of 'find': ")
    schema = held(WEATHER, function)
    assert taken(schema, "find", a="Anna") and taken(schema, "find", b=1)
    assert not taken(schema, "weather", town=5)
    assert call_fault([{"name": "weather", "arguments": {"city": "Riga"}}], [WEATHER, function]) is None


def test_what_only_describes_an_argument_breaks_nothing():
    described = {"type": "string", "description": None, "title": 5, "examples": "x", "$comment": {}}
    function = of(
        "find", properties={"a": described, "title": {"type": "str"}}, required=["a", "a", ["a"], "b"]
    )
    assert signature_fault(function) is None and parameters_of(function)["required"] == ["a"]
    schema = held(function)
    assert taken(schema, "find", a="Anna", title="x") and not taken(schema, "find", a=1)
    assert not taken(schema, "find", a="Anna", title=1)


def test_tuples_as_older_drafts_write_them_are_held():
    function = of(
        "at", properties={"place": {"type": "tuple", "items": [{"type": "float"}, {"type": "str"}]}}
    )
    schema = held(function)
    assert taken(schema, "at", place=[1.5, "N"]) and not taken(schema, "at", place=["N", 1.5])
    assert call_fault([{"name": "at", "arguments": {"place": [1.5, 2]}}], [function]) is not None


@pytest.mark.parametrize("part", [BROKEN["a pattern"], BROKEN["nothing behind it"], BROKEN["no schema"]])
def test_rows_whose_functions_cant_be_followed_are_warned_of(part, tmp_path):
    rows = call_rows(60)
    for row in rows:
        for tool in row["tools"]:
            properties = tool["function"]["parameters"]["properties"]
            properties |= dict.fromkeys(properties, part)
    prepared = prepare(write_rows(tmp_path / "calls.jsonl", rows), Options())
    (found,) = [f for f in examined(prepared, (), ("rows",)).findings if f.check == "targets"]
    assert found.severity == "warn" and "the schema of '" in found.message


VALUES = st.recursive(
    st.sampled_from(["x", 1, 0.29, None, True]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
ODD = st.one_of(
    st.sampled_from(
        [None, 5, "string", "a", [], ["a"], {}, {"$ref": "#/$defs/d"}, {"$ref": "#"}, {"a": 1}, True]
    ),
)
SCHEMAS = st.recursive(
    ODD
    | st.sampled_from([{"type": "string"}, {"type": "number", "multipleOf": 0.01}, {"type": ["dict", 3]}]),
    lambda inner: (
        st.dictionaries(
            st.sampled_from(
                ["type", "enum", "items", "anyOf", "required", "pattern", "minimum", "$ref", "default"]
            ),
            inner,
            max_size=3,
        )
        | st.builds(
            lambda named, more: {"type": "object", "properties": named, **more},
            st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
            st.dictionaries(
                st.sampled_from(["required", "$defs", "patternProperties", "additionalProperties", "allOf"]),
                inner
                | st.dictionaries(st.sampled_from("ad"), inner, max_size=2)
                | st.lists(inner, max_size=2),
                max_size=2,
            ),
        )
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SCHEMAS, st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3))
@example({"properties": ["a"]}, {"a": 1})
@example({"properties": {"a": {"default": 1}}, "required": "a"}, {"a": 1})
def test_whatever_a_function_says_of_its_arguments_calls_of_it_are_read_and_checked(parameters, arguments):
    function = {"name": "f", "parameters": parameters}
    calls = [{"name": "f", "arguments": arguments}]
    call_fault(calls, [function])
    schema = held(function, WEATHER)
    assert check_schema(schema) == ()
    settled = settled_calls(calls, [function])
    assert [one["name"] for one in settled] == ["f"]
    read_answer(answer_text(settled, "tool_call"), kind="tool_call", schema=schema)
    assert taken(schema, "weather", city="Riga") and not taken(schema, "weather", town=5)
