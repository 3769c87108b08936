"""The tight form where several schemas hold for one object: closed to what any of them names."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from rung.engines.schema import accepts, check_schema, tight
from rung.engines.tight import closed
from rung.wording import answer_text

TYPES = {"a": "integer", "b": "integer", "c": "string", "d": "string"}
BASE = {"type": "object", "properties": {"kind": {"type": "string"}}, "required": ["kind"]}
SIZED = {"properties": {"size": {"type": "integer"}}, "required": ["size"]}


@st.composite
def objects(draw, rest=None):
    """A schema of an object that names some properties, each of one type in all of them."""
    names = draw(st.lists(st.sampled_from("abcd"), max_size=3, unique=True))
    made = {"properties": {name: rest or {"type": TYPES[name]} for name in names}}
    made["required"] = [name for name in names if draw(st.booleans())]
    return {"type": "object", **made} if draw(st.booleans()) else made


@st.composite
def together(draw):
    """Several of them for one object, in each way and order that JSON Schema has."""
    own, one, other = draw(objects()), draw(objects()), draw(objects())
    made = draw(
        st.sampled_from(
            [
                {"allOf": [one, other]},
                {"allOf": [one, {"allOf": [other]}], **own},
                {**own, "allOf": [one]},
                {**own, "$ref": "#/$defs/one", "allOf": [{"$ref": "#/$defs/other"}]},
                {"$ref": "#/$defs/one", **own},
                {"allOf": [{"$ref": "#/$defs/one"}, {"$ref": "#/$defs/other"}]},
                {**own, "anyOf": [one, other]},
                {"anyOf": [one, {"$ref": "#/$defs/other"}], **own},
            ]
        )
    )
    return {"$defs": {"one": one, "other": other}, "type": "object", "properties": {"x": made, "y": own}}


def named(schema, part) -> list[set[str]]:
    """The properties that a value may have, for each way through a part's options."""
    own = set(part.get("properties", {}))
    if "$ref" in part:
        own |= set().union(*named(schema, schema["$defs"][part["$ref"].split("/")[-1]]))
    for one in part.get("allOf", []):
        own |= set().union(*named(schema, one))
    options = [one for each in part.get("anyOf", []) for one in named(schema, each)]
    return [own | option for option in options] or [own]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(together(), st.data())
def test_objects_of_several_schemas_can_be_written_as_they_are_named_and_not_otherwise(schema, data):
    assert check_schema(schema) == ()
    names = data.draw(st.sampled_from(named(schema, schema["properties"]["x"])))
    kept = [name for name in data.draw(st.permutations(sorted(names))) if data.draw(st.booleans())]
    whole = {"x": {name: 1 if TYPES[name] == "integer" else "s" for name in kept}}
    validator, grammar = Draft202012Validator(schema), tight(schema)
    assert accepts(grammar, answer_text(whole, "json", schema=schema)) == validator.is_valid(whole)
    if names:
        more = {"x": {**whole["x"], "more": 1}}
        assert not accepts(grammar, answer_text(more, "json", schema=schema))
    wrong = {"x": {**whole["x"], "a": "no integer"}}
    if accepts(grammar, answer_text(wrong, "json", schema=schema)):
        assert validator.is_valid(wrong)


@pytest.mark.parametrize(
    ("schema", "answer"),
    [
        ({"allOf": [BASE, SIZED]}, {"kind": "k", "size": 1}),
        ({"properties": {"note": {}}, **SIZED, "allOf": [BASE]}, {"kind": "k", "size": 1}),
        ({**BASE, "anyOf": [SIZED, {"properties": {"none": {"type": "null"}}}]}, {"size": 1, "kind": "k"}),
        ({"$ref": "#/$defs/base", **SIZED, "$defs": {"base": BASE}}, {"kind": "k", "size": 1}),
    ],
)
def test_an_object_of_several_schemas_admits_no_other_property(schema, answer):
    compact = json.dumps(answer, separators=(",", ":"))
    assert accepts(tight(schema), compact)
    assert not accepts(tight(schema), compact[:-1] + ',"more":1}')
    assert Draft202012Validator(schema).is_valid({**answer, "more": 1})


def test_what_is_closed_elsewhere_isnt_opened_by_a_part_that_joins_schemas():
    both = {"allOf": [BASE, {"minProperties": 1}]}
    schema = {"type": "object", "properties": {"plain": BASE, "both": both}}
    assert accepts(tight(schema), '{"plain":{"kind":"k"},"both":{"kind":"k","more":1}}')
    assert not accepts(tight(schema), '{"plain":{"kind":"k","more":1}}')


@pytest.mark.parametrize("open_ended", ["additionalProperties", "patternProperties", "required"])
def test_an_object_that_may_need_other_properties_stays_open_among_several_schemas(open_ended):
    other = {
        "additionalProperties": {"additionalProperties": True},
        "patternProperties": {"patternProperties": {"^m": {}}},
        "required": {"required": ["more"]},
    }[open_ended]
    assert accepts(tight({"allOf": [BASE, other]}), '{"kind":"k","more":1}')


def test_a_reference_alone_in_allof_is_no_second_schema_and_may_lead_back():
    node = {"type": "object", "properties": {"next": {"allOf": [{"$ref": "#/$defs/node"}], "title": "Next"}}}
    schema = {"$defs": {"node": node}, "$ref": "#/$defs/node"}
    assert check_schema(schema) == check_schema(tight(schema)) == ()
    assert accepts(tight(schema), '{"next":{"next":{}}}') and not accepts(tight(schema), '{"next":{"x":1}}')


def test_options_beside_keys_that_they_need_are_not_shut_out():
    schema = {"type": "object", "required": ["z"], "anyOf": [{"properties": {"a": {"type": "integer"}}}]}
    assert accepts(tight(schema), '{"a":1,"z":2}')


def test_other_servers_are_sent_closed_objects_but_where_several_schemas_hold_for_one():
    found = closed({"type": "object", "properties": {"plain": BASE, "both": {"allOf": [BASE, SIZED]}}})
    assert found["properties"]["plain"]["additionalProperties"] is False
    assert found["properties"]["both"] == {"allOf": [BASE, SIZED]} and "x-guidance" not in found


def test_what_two_schemas_say_of_one_property_stays_open_in_each():
    inner = {"type": "object", "properties": {"q": {"type": "integer"}}, "required": ["q"]}
    deep = {"z": {"properties": {"k": {}}}, **inner["properties"]}
    one = {"properties": {"x": {**inner, "properties": deep}}}
    other = {"properties": {"x": {"properties": {"p": {"type": "integer"}, "z": {"properties": {"m": {}}}}}}}
    schema = {"allOf": [one, other, {"properties": {"alone": inner}}]}
    value = {"x": {"p": 1, "q": 2, "z": {"m": 1, "k": 2}}, "alone": {"q": 1}}
    text = answer_text(value, "json", schema=schema)
    assert text == '{"x":{"z":{"k":2,"m":1},"q":2,"p":1},"alone":{"q":1}}'
    assert accepts(tight(schema), text)
    assert not accepts(tight(schema), '{"alone":{"q":1,"r":1}}')
