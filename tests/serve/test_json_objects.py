"""`response_format: json_object`: taken where a System's own schema is of objects, and refused elsewhere."""

import json

import openai
import pytest

from rung.serve.completions import _of_objects
from rung.spec import AnswerSpec
from rung.system import save
from tests.fixtures_serve import SCHEMA, also, said

OBJECT = {"type": "json_object"}
DIGITS = {"type": "integer", "minimum": 0, "maximum": 99}
LIST = {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2}
OWN = {"number": ("number", DIGITS), "list": ("json", LIST), "object": ("json", SCHEMA)}


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny, tiny_systems):
    folder = tmp_path_factory.mktemp("held")
    base = tiny_systems["json"].spec
    form = AnswerSpec(form="schema", max_tokens=64)
    systems = {}
    for name, (kind, schema) in OWN.items():
        spec = base.model_copy(update={"kind": kind, "schema_": schema, "answer": form})
        systems[name] = save(folder / name, spec, {}).folder
    free = base.model_copy(update={"kind": "number", "schema_": DIGITS, "answer": AnswerSpec(form="free")})
    systems["free"] = save(folder / "free", free, {}).folder
    with also(tiny, systems) as found:
        yield found


@pytest.mark.parametrize("name", ["number", "list"])
def test_a_system_whose_answers_are_no_objects_does_not_promise_one(server, name):
    with pytest.raises(openai.BadRequestError, match="its own JSON Schema") as refused:
        server.user.chat.completions.create(model=name, messages=said("help"), response_format=OBJECT)
    assert refused.value.param == "response_format"


@pytest.mark.parametrize("name", list(OWN))
def test_its_own_schema_is_taken_whatever_it_is_of(server, name):
    own = {"type": "json_schema", "json_schema": {"name": "answer", "schema": OWN[name][1]}}
    found = server.user.chat.completions.create(model=name, messages=said("help"), response_format=own)
    kind = {"number": int, "list": list, "object": dict}[name]
    assert isinstance(json.loads(found.choices[0].message.content), kind)


def test_a_system_that_answers_in_free_text_is_held_to_what_is_asked_for(server):
    own = {"type": "json_schema", "json_schema": {"name": "answer", "schema": DIGITS}}
    for form, kind in ((OBJECT, dict), (own, int)):
        found = server.user.chat.completions.create(
            model="free", messages=said("help"), response_format=form, max_tokens=64
        )
        assert isinstance(json.loads(found.choices[0].message.content), kind)


def test_an_object_is_promised_where_the_schema_is_of_objects(server):
    found = server.user.chat.completions.create(model="object", messages=said("help"), response_format=OBJECT)
    assert isinstance(json.loads(found.choices[0].message.content), dict)


@pytest.mark.parametrize(
    ("schema", "of_objects"),
    [
        (SCHEMA, True),
        ({"properties": {"a": {"type": "integer"}}}, True),
        ({"$ref": "#/$defs/a", "$defs": {"a": SCHEMA}}, True),
        ({"$ref": "#a", "$defs": {"b": {**SCHEMA, "$anchor": "a"}}}, True),
        ({"anyOf": [SCHEMA, {"type": "object"}]}, True),
        ({"anyOf": [SCHEMA, LIST]}, False),
        ({"type": ["object", "null"]}, False),
        ({"$ref": "#/$defs/a", "$defs": {"a": LIST}}, False),
        ({"enum": [1, 2]}, False),
        (DIGITS, False),
        ({}, False),
        (True, False),
        (None, False),
    ],
)
def test_what_a_schema_is_of_is_seen_through_references_and_options(schema, of_objects):
    assert _of_objects(schema) is of_objects
