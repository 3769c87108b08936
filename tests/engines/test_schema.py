import json
import re

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.engines import schema as module
from rung.engines.schema import MOST_FAULTS, accepts, check_schema, require_schema, require_small, tight
from rung.errors import EngineError

RECEIPT = {
    "type": "object",
    "properties": {
        "company": {"type": "string", "maxLength": 40},
        "total": {"type": "number"},
        "items": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
    },
    "required": ["company", "total"],
}


def inside(part: dict) -> dict:
    """`part` as a property two levels down."""
    return {"type": "object", "properties": {"a": {"type": "array", "items": part}}}


@pytest.mark.parametrize(
    ("part", "keyword"),
    [
        ({"not": {"type": "string"}}, "not"),
        ({"type": "object", "if": {"required": ["x"]}, "then": {"required": ["y"]}}, "then"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "contains": {"type": "integer"}}, "contains"),
        ({"type": "object", "dependentRequired": {"x": ["y"]}}, "dependentRequired"),
        ({"type": "object", "propertyNames": {"pattern": "^a"}}, "propertyNames"),
        ({"type": "object", "unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"$ref": "https://example.com/x.json"}, "example.com"),
        ({"type": "string", "pattern": "^(?=a)b"}, "look-ahead"),
        ({"type": "string", "format": "money"}, "money"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf"),
    ],
)
def test_what_cannot_be_enforced_is_named_with_its_path(part, keyword):
    (fault,) = check_schema(inside(part))
    assert fault.startswith("#/properties/a/items")
    assert keyword in fault


@pytest.mark.parametrize(
    "schema",
    [
        RECEIPT,
        {"type": "object", "patternProperties": {"^a": {"type": "integer"}}},
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False},
        {"type": "object", "properties": {"a": {"type": "string"}}, "anyOf": [{"required": ["a"]}, {}]},
        {
            "$defs": {"n": {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}}}},
            "$ref": "#/$defs/n",
        },
        {"enum": ["yes", "no"]},
        {"type": "string", "format": "date", "title": "the day", "description": "as printed"},
    ],
)
def test_what_can_be_enforced_passes_plain_and_tight(schema):
    assert check_schema(schema) == ()
    assert check_schema(tight(schema)) == ()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "object", "minProperties": 2}, "minProperties 2: an answer may write a key twice"),
        ({"patternProperties": {"^x": {}}, "additionalProperties": False, "minProperties": 2}, "key twice"),
        ({"type": "number", "exclusiveMinimum": 1, "maximum": 1.5}, "exclusiveMinimum 1: .*let through"),
        ({"type": "number", "minimum": -0.5, "exclusiveMaximum": 0}, "exclusiveMaximum 0: .*let through"),
        ({"type": "number", "minimum": -12.5, "exclusiveMaximum": -12.0}, "exclusiveMaximum -12.0: "),
    ],
)
def test_what_llguidance_takes_and_does_not_keep_is_named_with_its_path(part, message):
    (fault,) = check_schema(inside(part))
    assert fault.startswith("#/properties/a/items: ")
    assert re.search(message, fault)


def test_llguidance_still_lets_through_what_is_refused_here():
    """Once this fails the complaints can go."""
    assert accepts({"type": "object", "minProperties": 2}, '{"a":0,"a":0}')
    assert accepts({"type": "number", "exclusiveMinimum": 1, "maximum": 1.5}, "1")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "minProperties": 1},
        {
            "properties": {"a": {}},
            "required": ["a"],
            "additionalProperties": {"type": "null"},
            "minProperties": 2,
        },
        {"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        {"type": "number", "exclusiveMinimum": 1},
        {"type": "integer", "exclusiveMinimum": 1, "maximum": 2},
        {"type": "number", "exclusiveMinimum": 0.25, "maximum": 0.5},
    ],
)
def test_bounds_and_counts_that_are_kept_pass(schema):
    assert check_schema(schema) == ()


def test_every_fault_is_reported_at_once():
    schema = {
        "type": "object",
        "properties": {"a": {"type": "array", "uniqueItems": True}, "b": {"not": {"type": "string"}}},
    }
    assert [fault.split(":")[0] for fault in check_schema(schema)] == ["#/properties/a", "#/properties/b"]


def test_of_many_faults_the_first_few_are_reported():
    named = {f"p{at}": {"not": {"type": "string"}} for at in range(100)}
    faults = check_schema({"type": "object", "properties": named})
    assert [fault.split(":")[0] for fault in faults] == [f"#/properties/p{at}" for at in range(MOST_FAULTS)]
    bounded = {name: {"type": "number", "exclusiveMinimum": 1, "maximum": 1.5} for name in named}
    assert len(check_schema({"type": "object", "properties": bounded})) == MOST_FAULTS


def test_a_fault_among_many_definitions_is_found_without_trying_each_with_all(monkeypatch):
    defined = {f"d{at}": {"type": "object", "properties": {"a": {"type": "string"}}} for at in range(400)}
    schema = {"$defs": defined, "type": "object", "properties": {"x": {"not": {"type": "string"}}}}
    given, complain = [], module._complaint

    def counted(text):
        given.append(len(text))
        return complain(text)

    monkeypatch.setattr(module, "_complaint", counted)
    assert [fault.split(":")[0] for fault in check_schema(schema)] == ["#/properties/x"]
    assert sum(given) < 2 * module.SEARCHED


def test_a_bound_is_tried_once_however_many_numbers_have_it():
    named = {f"p{at}": {"type": "number", "exclusiveMinimum": 41.125} for at in range(100)}
    before = module._let_through.cache_info().misses
    assert check_schema({"type": "object", "properties": named}) == ()
    assert module._let_through.cache_info().misses <= before + 1


def test_a_bound_that_no_float_holds_is_a_fault():
    (fault,) = check_schema(inside({"type": "number", "exclusiveMinimum": 10**400}))
    assert "out of range" in fault


def test_a_large_schema_is_small_up_to_a_limit():
    named = {f"p{at}": {"type": "string"} for at in range(999)}
    require_small({"properties": named})
    with pytest.raises(EngineError, match="more than 1,000 subschemas"):
        require_small({"properties": {**named, "more": {}}})
    with pytest.raises(EngineError, match="more than 10,000 values"):
        require_small({"enum": [[at] for at in range(5_000)]})


def test_a_schema_that_is_not_enforceable_is_an_error_with_a_way_out():
    with pytest.raises(EngineError, match=r"#/properties/a.*uniqueItems.*finished answer"):
        require_schema({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}})


def test_something_that_is_no_schema_is_named():
    assert check_schema([1]) == ("#: schema must be an object or boolean",)


def test_models_named_by_reference_are_closed_too():
    schema = {
        "$defs": {"line": {"type": "object", "properties": {"name": {"type": "string"}}}},
        "type": "object",
        "properties": {"lines": {"type": "array", "items": {"$ref": "#/$defs/line"}}},
    }
    assert accepts(tight(schema), '{"lines":[{"name":"tea"}]}')
    assert not accepts(tight(schema), '{"lines":[{"name":"tea","more":1}]}')


def test_the_tight_form_takes_no_white_space_and_no_unnamed_property():
    answer = {"company": "ACME", "total": 3.5, "items": [{"name": "tea"}]}
    compact = json.dumps(answer, separators=(",", ":"))
    assert accepts(tight(RECEIPT), compact)
    assert accepts(RECEIPT, json.dumps(answer, indent=2))
    assert not accepts(tight(RECEIPT), json.dumps(answer, indent=2))
    extra = json.dumps({**answer, "more": 1}, separators=(",", ":"))
    assert accepts({**RECEIPT, "x-guidance": {"whitespace_flexible": False}}, extra)
    assert not accepts(tight(RECEIPT), extra)


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"properties": {"a": {}}}, {"required": ["b"]}]},
        {"properties": {"a": {}}, "anyOf": [{"required": ["b"]}, {}]},
        {"$defs": {"d": {"patternProperties": {"b": {}}}}, "$ref": "#/$defs/d", "properties": {"a": {}}},
        {"properties": {"a": {}}, "additionalProperties": {"type": "integer"}},
        {"properties": {"a": {}}, "required": ["z"]},
    ],
)
def test_an_object_that_may_need_other_properties_stays_open(schema):
    assert "additionalProperties" not in tight(schema) or schema.get("additionalProperties") is not None


leaves = st.sampled_from([{"type": "string"}, {"type": "integer"}, {"enum": ["x", 1]}])
schemas = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(
            lambda named: {"type": "object", "properties": named}
        ),
        inner.map(lambda item: {"type": "array", "items": item}),
        st.lists(inner, min_size=1, max_size=2).map(lambda options: {"anyOf": options}),
    ),
    max_leaves=5,
)
values = st.recursive(
    st.sampled_from(["x", 1, None]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=2),
    max_leaves=5,
)


@given(schemas, values)
def test_whatever_satisfies_the_tight_schema_satisfies_the_users(schema, value):
    if jsonschema.Draft202012Validator(tight(schema)).is_valid(value):
        assert jsonschema.Draft202012Validator(schema).is_valid(value)


def test_any_value_at_all_takes_no_white_space_either():
    assert accepts(tight(True), '{"a":[1]}')
    assert not accepts(tight(True), '{"a": [1]}')
