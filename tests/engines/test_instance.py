import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.engines.instance import smallest
from rung.errors import EngineError

SCHEMAS = [
    ({"type": "object", "properties": {"a": {"type": "string"}, "b": {}}, "required": ["a"]}, {"a": ""}),
    ({"enum": ["yes", "no"]}, "yes"),
    ({"const": 7}, 7),
    ({"type": "array", "items": {"type": "integer", "minimum": 3}, "minItems": 2}, [3, 3]),
    ({"type": "array", "prefixItems": [{"type": "null"}, {"const": 1}], "minItems": 2}, [None, 1]),
    ({"type": "string", "minLength": 3}, "aaa"),
    ({"type": ["integer", "null"]}, 0),
    ({"anyOf": [{"type": "boolean"}, {"type": "string"}]}, False),
    ({"$defs": {"n": {"type": "number", "maximum": -2}}, "$ref": "#/$defs/n"}, -2),
]


@pytest.mark.parametrize(("schema", "expected"), SCHEMAS)
def test_the_smallest_instance_is_valid_and_as_expected(schema, expected):
    assert smallest(schema) == expected


@given(
    st.sampled_from(["integer", "number"]),
    st.sampled_from(["minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"]),
    st.integers(-9, 9),
    st.sampled_from([None, 1, 3]),
)
def test_a_bound_on_a_number_is_kept(kind, keyword, bound, step):
    schema = {"type": kind, keyword: bound, **({} if step is None else {"multipleOf": step})}
    jsonschema.Draft202012Validator(schema).validate(smallest(schema))


def test_a_schema_beyond_the_rule_is_an_error_that_says_where():
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^x+$"}}, "required": ["a"]}
    with pytest.raises(EngineError, match=r"\$\.a"):
        smallest(schema)
