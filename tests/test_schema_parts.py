"""References of a JSON Schema: by anchors, by ids, dynamic; what they lead to, or that they lead nowhere."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from rung.calling import schema_of
from rung.engines.schema import accepts, tight
from rung.engines.schema import check_schema as faults_of
from rung.errors import TaskError
from rung.task.calls import FUNCTIONS, call_fault, settled_calls
from rung.task.parts import by_pointers, named_part, over_parts, pointing
from rung.task.schemas import check_schema
from rung.task.validator import validator_of
from rung.wording import answer_text

GUEST = {"type": "object", "properties": {"first": {"type": "string"}, "last": {"type": "string"}}}
OLD = "http://json-schema.org/draft-07/schema#"
NAMED = {
    "an anchor": {"$defs": {"g": {"$anchor": "guest", **GUEST}}, "properties": {"a": {"$ref": "#guest"}}},
    "a dynamic anchor": {
        "$defs": {"g": {"$dynamicAnchor": "guest", **GUEST}},
        "properties": {"a": {"$ref": "#guest"}},
    },
    "a dynamic reference": {
        "$defs": {"g": {"$dynamicAnchor": "guest", **GUEST}},
        "properties": {"a": {"$dynamicRef": "#guest", "description": "who"}},
    },
    "an id": {"$defs": {"g": {"$id": "guest", **GUEST}}, "properties": {"a": {"$ref": "guest"}}},
    "an id of a root that has one": {
        "$id": "https://example.com/book",
        "$defs": {"g": {"$id": "guest", **GUEST}},
        "properties": {"a": {"$ref": "/guest"}},
    },
    "the root's own address": {
        "$id": "https://example.com/book",
        "$defs": {"g": GUEST},
        "properties": {"a": {"$ref": "https://example.com/book#/$defs/g"}},
    },
    "a pointer in a part with an id": {
        "$defs": {
            "m": {"$id": "m", "$defs": {"g": GUEST}, "properties": {"a": {"$ref": "#/$defs/g"}}},
            "g": {"type": "integer"},
        },
        "$ref": "m",
    },
    "an anchor in a part with an id": {
        "$defs": {
            "m": {"$id": "m", "$defs": {"g": {"$anchor": "g", **GUEST}}},
            "n": {"$anchor": "g", "type": "integer"},
        },
        "properties": {"a": {"$ref": "m#g"}},
    },
    "an anchor as draft 7 has it": {
        "$schema": OLD,
        "definitions": {"g": {"$id": "#guest", **GUEST}},
        "properties": {"a": {"$ref": "#guest"}},
    },
    "names that a URI escapes": {
        "$defs": {'a b/c~"ü': {"$anchor": "guest", **GUEST}},
        "properties": {"a": {"$ref": "#guest"}},
    },
    "both kinds of reference": {
        "$defs": {
            "g": {"$dynamicAnchor": "guest", "type": "object", "properties": {"last": {"type": "string"}}},
            "f": {"$anchor": "first", "properties": {"first": {"type": "string"}}},
        },
        "properties": {"a": {"$dynamicRef": "#guest", "$ref": "#first"}},
    },
}


@pytest.mark.parametrize("schema", NAMED.values(), ids=NAMED.keys())
def test_a_reference_by_a_name_leads_where_a_validator_follows_it(schema):
    asked = {"type": "object", "required": ["a"], **schema}
    made = check_schema(asked, "it")
    assert faults_of(made) == () and "$anchor" not in json.dumps(made)
    whole, wrong = {"a": {"last": "K", "first": "A"}}, {"a": {"last": 1}}
    for checked in (asked, made):
        assert validator_of(checked).is_valid(whole) and not validator_of(checked).is_valid(wrong)
    text = answer_text(whole, "json", schema=made)
    assert text == '{"a":{"first":"A","last":"K"}}'
    assert accepts(tight(made), text)
    for outside in ('{"a":{"last":1}}', '{"a":{"middle":"x"}}', '{"a":1}'):
        assert not accepts(tight(made), outside)


@pytest.mark.parametrize("schema", NAMED.values(), ids=NAMED.keys())
def test_functions_may_refer_by_a_name_too(schema):
    function = {"name": "book", "parameters": {"type": "object", **schema, "required": ["a"]}}
    calls = [{"name": "book", "arguments": {"a": {"last": "K", "first": "A"}}}]
    assert call_fault(calls, [function]) is None
    settled = answer_text(settled_calls(calls, [function]), "tool_call")
    held = schema_of(FUNCTIONS + json.dumps([function, {"name": "other"}]))
    assert accepts(tight(held), settled)
    assert not accepts(tight(held), '[{"name":"book","arguments":{"a":{"last":1}}}]')
    assert call_fault([{"name": "book", "arguments": {"a": {"last": 1}}}], [function]) is not None


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"$ref": "https://example.com/x"}, "$ref 'https://example.com/x' points outside the schema"),
        ({"properties": {"a": {"$ref": "other.json#/x"}}}, "'other.json#/x' points outside"),
        ({"properties": {"a": {"$ref": "#nobody"}}}, "$ref '#nobody' leads nowhere"),
        ({"properties": {"a": {"$dynamicRef": "#nobody"}}}, "$dynamicRef '#nobody' leads nowhere"),
        ({"properties": {"a": {"$ref": "http://["}}}, "$ref 'http://[' "),
        (
            {
                "$dynamicAnchor": "T",
                "$defs": {"list": {"$id": "list", "$dynamicAnchor": "T", "items": {"$dynamicRef": "#T"}}},
                "$ref": "list",
            },
            "$dynamicRef '#T' leads to another part by each way to it",
        ),
    ],
)
def test_a_reference_that_cant_be_followed_is_named_in_a_line(schema, said):
    with pytest.raises(TaskError) as caught:
        check_schema(schema, "task.yaml: output.schema")
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert pointing(schema) is schema


def test_a_schema_that_refers_by_pointers_alone_is_left_as_it_is():
    named = {"$id": {"$ref": "#/$defs/g"}}
    schema = {"$id": "https://example.com/x", "$defs": {"g": GUEST}, "properties": named}
    assert by_pointers(schema, "it") is schema and pointing(True) is True


def test_a_value_that_looks_like_a_name_is_none():
    schema = {
        "$defs": {"g": {"$anchor": "g", **GUEST}},
        "enum": [{"$anchor": "g", "$ref": "https://example.com"}],
        "properties": {"$anchor": {"$ref": "#g"}},
    }
    made = by_pointers(schema, "it")
    assert made["enum"] == schema["enum"] and made["properties"] == {"$anchor": {"$ref": "#/$defs/g"}}


def test_a_part_that_stands_in_two_places_is_named_apart_in_each():
    part = {"$id": "p", "properties": {"x": {"$ref": "#/$defs/v"}}, "$defs": {"v": {"type": "integer"}}}
    schema = {"properties": {"a": part, "b": {"$ref": "p"}}, "$defs": {"again": {"x": part}, "v": {}}}
    made = by_pointers(schema, "it")
    assert named_part(made["properties"]["b"]["$ref"], made)["properties"]["x"]["$ref"].endswith("/$defs/v")


def test_schemas_nested_without_end_are_refused_and_not_followed():
    schema = {"$anchor": "top"}
    for _ in range(200):
        schema = {"items": schema}
    with pytest.raises(TaskError, match="nested deeper than 64"):
        by_pointers(schema, "it")


@st.composite
def linked(draw):
    """Some definitions with ids and anchors that refer to each other in each way there is."""
    defined = {}
    for name in ("x", "y", "z"):
        part = {"type": "object", "properties": {}}
        if draw(st.booleans()):
            part["$id"] = f"id-{name}"
        if draw(st.booleans()):
            part[draw(st.sampled_from(["$anchor", "$dynamicAnchor"]))] = f"is-{name}"
        if draw(st.booleans()):
            part["properties"]["leaf"] = {"type": draw(st.sampled_from(["integer", "string"]))}
        defined[name] = part
    ways = {
        name: [
            f"#/$defs/{name}",
            *([part["$id"]] if "$id" in part else []),
            *(f"{part.get('$id', '')}#{part[key]}" for key in ("$anchor", "$dynamicAnchor") if key in part),
        ]
        for name, part in defined.items()
    }
    for part in defined.values():
        for key in draw(st.lists(st.sampled_from("pq"), max_size=2, unique=True)):
            target = draw(st.sampled_from("xyz"))
            usable = [way for way in ways[target] if not ("$id" in part and way.startswith("#"))]
            if usable:
                part["properties"][key] = {"$ref": draw(st.sampled_from(usable))}
    top = {key: {"$ref": draw(st.sampled_from(ways[name]))} for key, name in (("a", "x"), ("b", "y"))}
    return {"$defs": defined, "type": "object", "properties": top, "additionalProperties": False}


VALUES = st.recursive(
    st.sampled_from([1, "s"]),
    lambda inner: st.dictionaries(st.sampled_from(["leaf", "p", "q"]), inner, max_size=2),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(linked(), st.dictionaries(st.sampled_from("ab"), VALUES, max_size=2))
def test_pointers_lead_where_the_names_led(schema, value):
    made = check_schema(schema, "it")
    valid = Draft202012Validator(schema).is_valid(value)
    assert Draft202012Validator(made).is_valid(value) == valid
    left = [made]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            assert "$ref" not in part or named_part(part["$ref"], made) is not None
            over_parts(part, left.append)
    if faults_of(made) == () and accepts(tight(made), answer_text(value, "json", schema=made)):
        assert valid
