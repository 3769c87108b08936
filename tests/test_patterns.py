"""Patterns of schemas: those that can't be read are refused, and a stranger's are matched in linear time."""

import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.errors import TaskError
from rung.task.calls import call_fault
from rung.task.patterns import LONGEST_PATTERN, matches, pattern_fault
from rung.task.schemas import check_schema
from rung.task.signature import signature_fault

READ = (
    "b",
    "^b",
    "b$",
    "^(a|b)+$",
    "^[^b]*$",
    "a.b",
    "\\w\\s",
    "^a{2,3}",
    '"',
    "\\\\",
    "/",
    "^\\S+@",
    "",
    "é+|🎉",
)
ODD = ["\t\n\r\b\f", "\x00", "\x1f", "\x7f", "\x80", "\u2028", "\ufeff", "\uffff", '"', "\\", "/", "🎉"]


def test_a_pattern_that_would_take_long_to_read_is_not_read():
    assert pattern_fault("a" * LONGEST_PATTERN) is None
    assert "more than 10,000 characters" in (pattern_fault("(" * (LONGEST_PATTERN + 1)) or "")


ENDLESS = """
import json
from rung.asking import answer_of_completion
from rung.engines.base import Completion
from rung.models.tagged_calls import spelled
from rung.records import Answer
from rung.spec import AnswerSpec, Spec
from rung.steps import fault_of
from rung.task.calls import FUNCTIONS

PATTERN, LONG = "(a+)+b|c", "a" * 40
PARAMETERS = {"properties": {"x": {"type": "string", "pattern": PATTERN}}, "patternProperties": {PATTERN: {}}}
CONTEXT = FUNCTIONS + json.dumps([{"name": "f", "parameters": PARAMETERS}])
RIGHT = [{"x": LONG + "c"}, {LONG + "c": 1}, {"x": "c", LONG + "c": {"b": 1}}]
WRONG = [{"x": LONG}, {LONG: 1}]

def read(arguments, form, written):
    calls = [{"name": "f", "arguments": arguments}]
    text = spelled(calls) if written == "tagged" else json.dumps(calls)
    answer = AnswerSpec(form=form, max_tokens=60, written=written)
    spec = Spec(rung="prompt", task="t", kind="tool_call", engine="llama", answer=answer)
    done = Completion(text=text, tokens=(), logprob=0.0, prompt_tokens=1, latency_s=0.0)
    found = answer_of_completion(spec, done, CONTEXT)
    return found.value == calls, fault_of(spec, Answer(text=text), CONTEXT)

for form, written in (("calls", "json"), ("free", "json"), ("free", "tagged")):
    told = [read(arguments, form, written) for arguments in RIGHT + WRONG]
    print([fits for fits, _ in told])
    assert written == "tagged" or "does not match" in told[len(RIGHT)][1], told
"""


def test_answers_under_a_strangers_pattern_are_read_at_once():
    done = subprocess.run([sys.executable, "-c", ENDLESS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str([True] * 3 + [False] * 2)] * 3


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(READ), st.text('ab" \\/@é🎉\x7f\t', max_size=6))
def test_a_text_matches_as_python_has_it_where_letters_are_those_of_ascii(pattern, text):
    assert matches(pattern, text) == (re.search(pattern, text, re.ASCII) is not None)


@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_characters_that_json_escapes_are_matched(text):
    assert matches("^[\\s\\S]+$", text) and matches("^[^x]+$", text) and not matches("^[a-z]+$", text)


@pytest.mark.parametrize(
    ("pattern", "text"), [("(", "("), ("\\p{Lu}", "A"), ("(?=a)a", "a"), ("a", "a\ud800")]
)
def test_what_cant_be_read_matches_nothing(pattern, text):
    assert not matches(pattern, text)


@pytest.mark.parametrize(
    "pattern",
    ["a{4294967296}", "a{" + "9" * 5000 + "}", "(" * 3000 + "a" + ")" * 3000],
    ids=["a count", "digits", "depth"],
)
@pytest.mark.parametrize("where", ["pattern", "patternProperties"])
def test_a_pattern_that_is_too_large_is_refused_in_words(where, pattern):
    schema = {where: pattern if where == "pattern" else {pattern: {}}}
    with pytest.raises(TaskError, match="^the schema: pattern .* can't be read") as caught:
        check_schema(schema, "the schema")
    assert len(str(caught.value)) < 250
    fault = signature_fault({"name": "f", "parameters": {"properties": {"a": schema}}})
    assert fault is not None and "can't be read" in fault


def test_a_pattern_of_a_rows_own_function_is_matched_at_once_and_one_that_cant_be_read_is_left_open():
    words = {"properties": {"x": {"pattern": "^(a+)+$"}, "y": {"pattern": "^(?=b)b"}}}
    words["patternProperties"] = {"^(?!c)d": {"type": "string"}}
    function = {"name": "f", "parameters": words}
    assert call_fault([{"name": "f", "arguments": {"x": "a" * 40, "y": "c", "d": 1}}], [function]) is None
    fault = call_fault([{"name": "f", "arguments": {"x": "a" * 40 + "!"}}], [function])
    assert fault is not None and "does not match" in fault[1]


@pytest.mark.parametrize("way", ["allOf", "anyOf"])
def test_references_that_lead_to_ever_more_of_them_are_followed_to_an_end(way):
    parts = {f"a{at}": {way: [{"$ref": f"#/$defs/a{at + 1}"}] * 2} for at in range(40)}
    parts["a40"] = {"type": "string"}
    function = {"name": "f", "parameters": {"properties": {"x": {"$ref": "#/$defs/a0"}}, "$defs": parts}}
    fault = call_fault([{"name": "f", "arguments": {"x": "" if way == "allOf" else 1}}], [function])
    assert fault is not None and (way == "anyOf" or "more than 20,000 references" in fault[1])
