"""Pairs of function calls: a rejected one is settled as the chosen one is, and has to be worse."""

import json
from dataclasses import replace

import pytest

from rung.checks.examine import examined
from rung.checks.rows import prepare
from rung.climb.climb import Options
from rung.rungs.preferred import material
from rung.rungs.rendered import rendered, rendered_rejected
from rung.rungs.sft import answer_forms
from rung.spec import AnswerSpec
from rung.task.calls import FUNCTIONS
from tests.fixtures_climb import call_rows, make_tiny_gguf, opened, preferred, write_rows


def calls(name, **arguments):
    return json.dumps({"calls": [{"name": name, "arguments": arguments}]})


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calls")
    model = make_tiny_gguf(folder / "tiny.gguf", context=2048)
    with opened(model, write_rows(folder / "calls.jsonl", preferred(call_rows(100))), folder) as found:
        yield found


def test_a_rejected_call_is_spelled_as_a_chosen_one_and_one_that_cannot_be_made_is_left_out(context):
    (spec,) = answer_forms(context).values()
    (row, *_) = [e for e in context.train if e.output[0]["name"] == "find"]
    spelled = [
        calls("find", most=5, topic="login"),
        json.dumps([{"function": {"name": "find", "arguments": '{"topic": "login"}'}}]),
        calls("find", topic="weather"),
        calls("lose", topic="login"),
    ]
    found = rendered_rejected(context, spec, [replace(row, rejected=text) for text in spelled])
    (wanted,) = rendered(
        context, spec, [replace(row, output=json.loads(calls("find", topic="login"))["calls"])]
    )
    assert [one and one.answer for one in found] == [wanted.answer, wanted.answer, None, None]


def test_a_rejected_call_can_be_made_where_its_function_is_left_open_and_not_beside_too_many(context):
    (spec,) = answer_forms(context).values()
    broken = FUNCTIONS + json.dumps([{"name": "find", "parameters": {"properties": {"topic": "text"}}}])
    row = replace(context.train[0], context=broken)
    one = json.loads(calls("find", topic="weather"))["calls"]
    many = one * ((spec.answer.most_calls or 0) + 1)
    told = [replace(row, rejected=json.dumps(some)) for some in (one, many)]
    assert [found is None for found in rendered_rejected(context, spec, told)] == [False, True]


def test_a_rejected_call_that_is_as_right_as_the_chosen_one_is_no_pair(context):
    (spec,) = answer_forms(context).values()
    (row, *_) = [e for e in context.train if e.output == [{"name": "find", "arguments": {"topic": "login"}}]]
    kinder = [{**row.output[0], "accepted": {"topic": ["billing"]}}]
    rows = (
        replace(row, rejected=calls("find", topic="login", most=5)),
        replace(row, rejected=calls("find", topic="billing")),
        replace(row, output=kinder, rejected=calls("find", topic="billing")),
    )
    assert len(material(replace(context, train=rows), spec).items) == 1


def test_an_answer_in_words_is_worse_than_the_right_one_to_call_nothing(context):
    (form,) = answer_forms(context).values()
    free = form.model_copy(update={"answer": AnswerSpec(form="free")})
    rows = (replace(context.train[0], output=[], rejected="It is 20 °C in Riga"),)
    assert len(material(replace(context, train=rows), free).items) == 1


def test_pairs_of_equal_calls_are_found_however_they_are_spelled(tmp_path):
    rows = preferred(call_rows(60))
    (call,) = rows[1]["chosen"][0]["tool_calls"]
    given = json.loads(call["function"]["arguments"]) | {"most": 5}
    rows[1]["rejected"] = [
        {
            "role": "assistant",
            "tool_calls": [{"function": {**call["function"], "arguments": json.dumps(given)}}],
        }
    ]
    prepared = prepare(write_rows(tmp_path / "calls.jsonl", rows), Options())
    found = [f for f in examined(prepared, (), ("rows",)).findings if f.check == "preferences"]
    (equal,) = [f for f in found if "are equal" in f.message]
    assert equal.rows == ("calls.jsonl:2",)
