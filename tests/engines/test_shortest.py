import json
import re

import jsonschema
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from benchmarks.made_schemas import FORMATS, made_schema
from rung.engines.closing import Closings
from rung.engines.examples import endings_of
from rung.engines.schema import byte_grammar, check_schema, tight
from rung.engines.shortest import END, Hints, Known, Place, completes, shortest
from rung.engines.spelling import Vocabulary

BYTES = Vocabulary([bytes([byte]) for byte in range(255)])
closings = Closings(lambda: BYTES.spellings)


def test_the_end_of_a_text_is_where_llguidance_has_it():
    from llguidance import LLTokenizer

    assert LLTokenizer("byte").eos_tokens == [END]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", Place()),
        ("12", Place(length=2)),
        ('"a\\"', Place(inside=True, length=3)),
        ('"a\\', Place(inside=True, escaped=True, length=2)),
        ('"\\\\"', Place()),
        ('{"a":[1,2,34', Place(counts=(0, 2), length=2)),
        ('{"a":[1],"b', Place(counts=(1,), inside=True, length=1)),
        ('{"a}]":{"b":7', Place(counts=(0, 0), length=1)),
        ("[[],{},", Place(counts=(2,))),
    ],
)
def test_a_place_is_known_by_what_is_open(text, place):
    assert Place().after(text.encode()) == place
    for size in range(len(text)):
        assert Place().after(text[:size].encode()).after(text[size:].encode()) == place


def least(schema) -> str:
    tokens = closings.closer(schema, 9999).closing
    return bytes(tokens).decode()


@pytest.mark.parametrize(
    "pattern",
    [
        "ing",
        "^[A-Z]{3}-\\d{4}$",
        "(foo|bar).*(baz|qux)\\.com",
        "^\\w+@\\w+\\.com$",
        "^[^x]*xyz+$",
        "^a{2,3}\\.b$",
        "^(?:red|green)!$",
        "x\\$y",
    ],
)
def test_a_string_is_found_for_a_pattern_from_wherever_the_answer_was_cut(pattern):
    schema = {"type": "string", "pattern": pattern}
    found = json.loads(least(schema))
    assert re.search(pattern, found)
    for size in range(len(found)):
        begun = json.dumps(found[:size])[:-1].encode()
        closed = closings.closed(schema, tuple(begun), 60)
        assert closed.own == len(begun)
        assert re.search(pattern, json.loads(closed.text))


@pytest.mark.parametrize("name", FORMATS)
def test_a_string_is_found_for_every_format(name):
    checked = jsonschema.Draft202012Validator.FORMAT_CHECKER
    found = json.loads(least({"type": "string", "format": name}))
    jsonschema.validate(found, {"type": "string", "format": name}, format_checker=checked)


def test_long_strings_and_many_items_are_found_soon():
    assert len(json.loads(least({"type": "string", "minLength": 700}))) == 700
    assert json.loads(least({"type": "array", "items": {"type": "integer"}, "minItems": 400})) == [0] * 400
    line = {"type": "object", "properties": {"day": {"format": "date"}, "n": {}}, "required": ["day", "n"]}
    assert len(json.loads(least({"type": "array", "items": line, "minItems": 60}))) == 60


def test_of_two_objects_the_one_that_asks_for_less_is_found():
    long = {"properties": {name: {"type": "string"} for name in ("kind", *"abcdef")}}
    long["properties"]["kind"] = {"const": "a"}
    short = {"properties": {"kind": {"const": "longer"}}, "required": ["kind"], "type": "object"}
    schema = {"anyOf": [{**long, "type": "object", "required": list(long["properties"])}, short]}
    assert least(schema) == '{"kind":"longer"}'


def test_no_end_is_longer_than_the_limit():
    matcher = byte_grammar(tight({"enum": ["abcdef", "abcd"]}))
    found = shortest(BYTES, matcher, Place(), limit=6, hints=Hints())
    assert found is not None
    assert found.text == b'"abcd"'
    assert shortest(BYTES, matcher, Place(), limit=5, hints=Hints()) is None
    assert completes(matcher, found.text), "the matcher is as it was"


def test_a_known_end_is_gone_on_with_where_a_value_is_over():
    schema = {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}, "minItems": 2}
    known = Known(BYTES.spell(b"0],[]]"), Place().after(b"[["))
    matcher = byte_grammar(tight(schema))
    matcher.consume_tokens([*b"[[17"])
    rest = known.rest(matcher, Place().after(b"[[17"))
    assert rest is not None
    assert rest.text == b"],[]]"
    matcher.consume_tokens([*b"],[5"])
    rest = known.rest(matcher, Place().after(b"[[17],[5"))
    assert rest is not None
    assert rest.text == b"]]"
    assert known.rest(matcher, Place(inside=True)) is None


made = st.randoms(use_true_random=False).map(made_schema)


@settings(deadline=None, max_examples=60)
@given(schema=made, dice=st.randoms(use_true_random=False), more=st.integers(0, 40))
def test_what_the_grammar_allows_is_refused_only_where_no_end_fits_behind_it(schema, dice, more):
    assume(not check_schema(schema))
    limit = closings.least_tokens(schema) + more
    closer = closings.closer(schema, limit)
    matcher = byte_grammar(tight(schema))
    text = b""
    while len(text) < limit:
        allowed = int.from_bytes(matcher.compute_bitmask(), "little")
        options = [byte for byte in range(255) if allowed >> byte & 1]
        if not options:
            return
        byte = dice.choice(options)
        matcher.consume_token(byte)
        text += bytes([byte])
        if not closer.take(byte):
            break
    else:
        return
    hints = Hints(endings=endings_of(tight(schema), BYTES, 99))
    end = shortest(BYTES, matcher, Place().after(text), limit=limit - len(text), hints=hints)
    assert end is None, f"{end.text} fits behind {text}"
