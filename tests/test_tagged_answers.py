"""Answers in FunctionGemma's form of call: asked for, read, and scored as JSON ones are."""

import json

import pytest

from rung.asking import answer_of_completion, prompts_for, request_for
from rung.calling import AS_JSON, tagged_text
from rung.engines.base import Completion
from rung.models.resolve import resolve
from rung.models.tagged_calls import ASKED, MARKERS, STOPS
from rung.records import Example
from rung.rungs import few_shot, prompt
from rung.rungs.instructions import answer_spec
from rung.serve.tools import read_calls
from rung.spec import AnswerSpec, Spec
from rung.system import Pool, System, ref_to
from rung.task.calls import FUNCTIONS
from rung.wording import Shot
from tests.fixtures_climb import call_rows, make_tiny_gguf, opened, write_rows
from tests.models.test_tagged_calls import TAGGED

FIND = {
    "name": "find",
    "description": "Looks up.",
    "parameters": {"type": "object", "properties": {"topic": {"type": "string"}, "tags": {"type": "array"}}},
}
ROW = Example(id="1", input="the bill", output=None, context=FUNCTIONS + json.dumps([FIND]))
FOUND = "<start_function_call>call:find{topic:<escape>billing<escape>}<end_function_call>"
CALLS = [{"name": "find", "arguments": {"topic": "billing"}}]


@pytest.fixture(scope="module")
def tagged_model(tmp_path_factory):
    path = make_tiny_gguf(tmp_path_factory.mktemp("tagged") / "tiny.gguf", template=TAGGED)
    return path, resolve(str(path))


def spec_of(path, model, **changes):
    fields = {"form": "free", "max_tokens": 20, "written": "tagged"} | changes
    spec = Spec(rung="prompt", task="t", kind="tool_call", engine="llama", answer=AnswerSpec(**fields))
    return spec.model_copy(update={"model": ref_to(model, str(path)), "instruction": f"Look up. {AS_JSON}"})


def test_such_a_model_is_asked_for_its_own_form_and_shown_examples_in_it(tagged_model):
    spec = spec_of(*tagged_model)
    with Pool() as pool:
        chat = pool.chat(tagged_model[1])
        shots = [[Shot(input="a refund", output=json.dumps(CALLS)), Shot(input="hello", output="[]")]]
        (prompt,) = prompts_for(spec, chat, [ROW], shots)
        plain = spec.model_copy(update={"answer": AnswerSpec(form="free")})
        (other,) = prompts_for(plain, chat, [ROW], shots)
    shown, as_json = chat.tokens.decode(prompt), chat.tokens.decode(other)
    assert shown.startswith(f"developer\nLook up.\n{ASKED}<start_function_declaration>declaration:find{{")
    assert f"user\na refund\nmodel\n{FOUND}\nuser\nhello\nmodel\n\nuser\nthe bill\nmodel\n" in shown
    assert "JSON" not in shown and AS_JSON in as_json and json.dumps(CALLS) in as_json
    asked, free = (request_for(one, chat, prompt, ROW.context) for one in (spec, plain))
    assert (asked.stop, free.stop) == (STOPS, ()) and (asked.shown, free.shown) == (MARKERS, ())
    assert asked.stop_ids == free.stop_ids == chat.stop_ids, "the vocabulary has no such token"


@pytest.mark.parametrize(
    ("text", "value", "told"),
    [
        (FOUND, CALLS, json.dumps(CALLS, separators=(",", ":"))),
        ("That is none of them: [].", [], "That is none of them: []."),
        (FOUND.replace("find", "lose"), None, None),
        ("<start_function_call>call:find{tags:[]", None, None),
        ("<start_function_call>call:find{topic:5}<end_function_call>", None, None),
        (FOUND * 3, None, None),
    ],
)
def test_an_answer_in_that_form_is_read_and_held_to_the_functions_when_it_is_there(
    tagged_model, text, value, told
):
    spec = spec_of(*tagged_model, most_calls=2)
    written = Completion(text=text, tokens=(), logprob=0.0, prompt_tokens=1, latency_s=0.0)
    answer = answer_of_completion(spec, written, ROW.context)
    assert answer.value == value
    if told is not None:
        assert answer.text == told
    if value:
        _, served = read_calls(answer.text)
        assert [one["function"]["name"] for one in served] == ["find"]


def test_the_prompting_rungs_try_the_form_that_a_model_was_taught(tagged_model, tmp_path):
    data = write_rows(tmp_path / "calls.jsonl", call_rows(80))
    with opened(tagged_model[0], data, tmp_path) as found:
        for rung, others in ((prompt, ", constrained"), (few_shot, " examples")):
            forms = {variant.name: variant.system.spec.answer for variant in rung._variants(found)[0]}
            (own,) = [name for name in forms if name.endswith(", in its own form of call")]
            assert forms.pop(own).written == "tagged"
            assert all(answer.form == "calls" for name, answer in forms.items() if name.endswith(others))
            assert {answer.written for answer in forms.values()} == {"json"}
    folder = tmp_path / "own"
    spec = spec_of(*tagged_model, max_tokens=8)
    with Pool(models={tagged_model[1].digest: tagged_model[1]}, threads=1) as pool:
        (answer,) = System(folder, spec).answer([ROW], pool)
    assert answer.failure is None


def test_the_token_that_ends_calls_ends_an_answer_where_there_is_one(tmp_path):
    path = make_tiny_gguf(tmp_path / "tiny.gguf", template=TAGGED, marks=4)
    model = resolve(str(path))
    with Pool() as pool:
        chat = pool.chat(model)
        request = request_for(spec_of(path, model), chat, (1,), ROW.context)
        assert request.stop_ids == (*chat.stop_ids, chat.call_end) and chat.call_end not in chat.stop_ids


def test_there_is_room_for_calls_as_they_are_written(tagged_model, tmp_path):
    data = write_rows(tmp_path / "calls.jsonl", call_rows(80))
    with opened(tagged_model[0], data, tmp_path) as found:
        chat = found.pool.chat(found.model)
        written = max(len(chat.call_ids(tagged_text(e.output) or "")) for e in found.train)
        free, held = (answer_spec(found, constrained=constrained) for constrained in (False, True))
        assert written > max(len(chat.answer_ids(found.target(e))) for e in found.train)
        assert free.max_tokens >= written + 8 and free.max_tokens > held.max_tokens
