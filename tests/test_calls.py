"""Function calls as a kind of answer: read, held to the row's own functions, scored."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from rung.asking import prompts_for
from rung.calling import schema_of
from rung.checks.examine import examined
from rung.checks.rows import prepare
from rung.climb.climb import Options
from rung.engines.schema import check_schema
from rung.models.resolve import resolve
from rung.records import Example
from rung.rungs.prompt import Prompt
from rung.scoring.scorers import SCORERS, secondary
from rung.spec import AnswerSpec, Spec
from rung.system import Pool, System, ref_to
from rung.task.calls import (
    FUNCTIONS,
    call_fault,
    call_schema,
    functions_in,
    settled_calls,
    without_functions,
)
from rung.task.outputs import as_calls, as_kind, read_json
from tests.fixtures_climb import CHATML, call_rows, make_tiny_gguf, opened, write_rows

WEATHER = {
    "name": "weather",
    "description": "How it is outside.",
    "parameters": {
        "type": "dict",
        "properties": {
            "city": {"type": "string", "description": "Where."},
            "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
            "days": {"type": "integer", "default": 1},
        },
        "required": ["city"],
    },
}
TIMER = {
    "name": "timer",
    "parameters": {"type": "object", "properties": {"minutes": {"type": "float"}}, "required": ["minutes"]},
}
BOTH = (WEATHER, TIMER)


def context(*functions, before=""):
    return before + FUNCTIONS + json.dumps(functions)


def call(name, **arguments):
    return {"name": name, "arguments": arguments}


def fits(calls, functions=BOTH):
    return Draft202012Validator(call_schema(functions)).is_valid(calls)


def test_functions_are_found_at_the_end_of_a_context_and_taken_from_it():
    assert functions_in(context(*BOTH, before="Be brief.\n\n")) == BOTH
    assert without_functions(context(*BOTH, before="Be brief.\n\n")) == "Be brief."
    assert without_functions(context(WEATHER)) is None
    for plain in (None, "", "Be brief.", FUNCTIONS + "[{", FUNCTIONS + "[1]", FUNCTIONS + '{"name": "a"}'):
        assert functions_in(plain) == () and without_functions(plain) == plain


def test_functions_of_a_question_that_is_too_long_for_an_answer_are_not_kept():
    long = context({**WEATHER, "description": "x" * 1_000_000})
    assert functions_in(long)[0]["name"] == "weather" and without_functions(long) is None
    assert functions_in(long) is not functions_in(long), "read anew each time"
    assert functions_in(context(WEATHER)) is functions_in(context(WEATHER))


@pytest.mark.parametrize(
    "written",
    [
        [call("timer", minutes=5)],
        {"calls": [call("timer", minutes=5)]},
        json.dumps([call("timer", minutes=5)]),
        [{"id": "1", "type": "function", "function": {"name": "timer", "arguments": '{"minutes": 5}'}}],
        [{"name": "timer", "arguments": '{"minutes": 5}', "id": "x"}],
    ],
)
def test_calls_are_read_in_every_form_that_they_are_written_in(written):
    assert as_calls(written) == [call("timer", minutes=5)]


@pytest.mark.parametrize(
    "written",
    [
        None,
        "call timer",
        5,
        {"a": 1},
        [1],
        [{"name": "timer"}],
        [{"name": "", "arguments": {}}],
        [{"name": "timer", "arguments": "{"}],
        [call("timer", minutes=5), None],
    ],
)
def test_what_is_no_list_of_calls_is_none(written):
    assert as_calls(written) is None
    assert as_calls([]) == as_calls({"calls": []}) == []


@pytest.mark.parametrize(
    ("calls", "fit"),
    [
        ([], True),
        ([call("weather", city="Riga")], True),
        ([call("weather", city="Riga", unit="F"), call("timer", minutes=2.5)], True),
        ([call("timer", minutes=1), call("timer", minutes=1)], True),
        ([call("weather")], False),
        ([call("weather", city=5)], False),
        ([call("weather", city="Riga", unit="K")], False),
        ([call("weather", city="Riga", place="x")], False),
        ([call("timer", city="Riga")], False),
        ([call("alarm", minutes=1)], False),
        ([{"name": "timer"}], False),
        ({}, False),
    ],
)
def test_the_schema_of_an_answer_admits_calls_of_the_rows_functions_alone(calls, fit):
    assert fits(calls) == fit
    if isinstance(calls, list) and all("arguments" in one for one in calls):
        assert (call_fault(calls, BOTH) is None) == fit
    assert check_schema(call_schema(BOTH)) == ()


def test_without_functions_nothing_can_be_called():
    assert fits([], ()) and not fits([call("timer", minutes=1)], ())
    assert call_fault([call("timer", minutes=1)], ()) == (
        True,
        "'timer' isn't among the row's functions (it has none)",
    )


def test_types_of_other_languages_are_read_and_unknown_ones_admit_everything():
    odd = {
        "name": "f",
        "parameters": {
            "type": "dict",
            "properties": {
                "a": {"type": "HashMap", "properties": {"x": {"type": "long"}}},
                "b": {"type": "tuple", "items": {"type": "float"}},
                "c": {"type": "any"},
                "type": {"type": "String"},
            },
            "required": ["a", "missing"],
        },
    }
    assert fits([call("f", a={"x": 1}, b=[1, 2.5], c=None, type="t")], (odd,))
    assert not fits([call("f", a={"x": "1"})], (odd,)) and not fits([call("f", a={}, b=["1"])], (odd,))
    assert not fits([call("f", a={}, type=5)], (odd,)) and not fits([call("f")], (odd,))


def test_arguments_are_left_open_where_no_engine_could_hold_an_answer_to_them():
    hard = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"not": {"type": "string"}}}}}
    schema = schema_of(context(hard))
    assert check_schema(call_schema((hard,))) and not check_schema(schema)
    assert Draft202012Validator(schema).is_valid([call("f", z=1)])
    assert not Draft202012Validator(schema).is_valid([call("g")])


def test_a_default_that_is_given_and_one_that_is_left_out_are_the_same_call():
    short = [call("weather", city="Riga")]
    assert settled_calls([call("weather", days=1, unit="C", city="Riga")], BOTH) == short
    assert settled_calls([call("weather", city="Riga", days=2)], BOTH) == [
        call("weather", city="Riga", days=2)
    ]
    assert settled_calls([call("weather", city="Riga", unit="F")], BOTH) != short
    needed = {**WEATHER, "parameters": {**WEATHER["parameters"], "required": ["city", "days"]}}
    assert settled_calls([call("weather", city="Riga", days=1)], (needed,)) == [
        call("weather", city="Riga", days=1)
    ]
    ordered = settled_calls([call("weather", days=3, city="Riga")], BOTH)[0]
    assert list(ordered["arguments"]) == ["city", "days"]
    assert settled_calls([call("other", a=1)], BOTH) == [call("other", a=1)]


values = st.one_of(st.integers(-3, 3), st.booleans(), st.none(), st.sampled_from(["a", "b", ""]))
arguments = st.dictionaries(st.sampled_from(["x", "y", "z"]), st.one_of(values, st.lists(values, max_size=2)))
some_calls = st.lists(
    st.builds(lambda name, given: {"name": name, "arguments": given}, st.sampled_from("fg"), arguments),
    max_size=4,
)


def as_multiset(calls):
    """Each call as a text; the texts sorted."""
    return sorted(json.dumps(one, sort_keys=True) for one in calls)


@settings(max_examples=200, deadline=None)
@given(some_calls, some_calls, st.randoms())
def test_the_metric_is_equality_of_multisets_of_calls(answer, target, dice):
    scorer = SCORERS["tool_call"]
    (score,) = scorer.rows([answer], [target])
    assert score == float(as_multiset(answer) == as_multiset(target))
    shuffled = dice.sample(target, len(target))
    turned = [
        {"arguments": dict(reversed(one["arguments"].items())), "name": one["name"]} for one in shuffled
    ]
    assert scorer.rows([turned], [target]) == [1.0]
    beside = dict(secondary("tool_call", [answer], [target]))
    names = sorted(one["name"] for one in answer) == sorted(one["name"] for one in target)
    assert beside == {"names_right": float(names), "readable": 1.0}


def test_numbers_are_equal_as_numbers_and_no_answer_is_wrong():
    scorer = SCORERS["tool_call"]
    assert scorer.rows([[call("t", m=5.0)], [call("t", m=True)], None], [[call("t", m=5)]] * 3) == [1, 0, 0]
    assert dict(secondary("tool_call", [None], [[call("t", m=5)]])) == {"names_right": 0.0, "readable": 0.0}


def test_rows_of_calls_with_functions_make_a_task_of_calls_and_faults_are_named(tmp_path):
    rows = call_rows(60)
    prepared = prepare(write_rows(tmp_path / "calls.jsonl", rows), Options())
    assert (prepared.task.output.kind, prepared.task.metric) == ("tool_call", "tool_call")
    assert not [f for f in examined(prepared, (), ("rows",)).findings if f.check == "targets"]
    rows[3]["messages"][-1]["tool_calls"][0]["function"]["name"] = "alarm"
    rows[5]["messages"][-1]["tool_calls"][0]["function"]["arguments"] = json.dumps({"at": 5})
    prepared = prepare(write_rows(tmp_path / "calls.jsonl", rows), Options())
    found = [f for f in examined(prepared, (), ("rows",)).findings if f.check == "targets"]
    assert [(f.severity, f.count) for f in found] == [("block", 1), ("warn", 1)]
    assert "'alarm' isn't among the row's functions" in found[0].message


@pytest.mark.parametrize("engine", ["llama", "torch"])
def test_every_answer_is_held_to_the_functions_of_its_own_row(engine, tmp_path):
    path = make_tiny_gguf(tmp_path / "tiny.gguf")
    model = resolve(str(path))
    answer = AnswerSpec(form="calls", max_tokens=60)
    spec = Spec(rung="prompt", task="t", kind="tool_call", engine=engine, answer=answer)
    spec = spec.model_copy(update={"model": ref_to(model, str(path)), "instruction": "Call."})
    offers = [(WEATHER,), (TIMER,), BOTH, (), ({"name": "now"},)]
    rows = [
        Example(id=str(at), input=f"question {at}", output=None, context=context(*offers[at % 5]))
        for at in range(10)
    ]
    with Pool(models={model.digest: model}, threads=1, parallel=4) as pool:
        answers = System(tmp_path, spec).answer(rows, pool)
    for row, found in zip(rows, answers, strict=True):
        functions = functions_in(row.context)
        assert found.failure is None and isinstance(found.value, list)
        assert Draft202012Validator(call_schema(functions)).is_valid(json.loads(found.text))
        assert {one["name"] for one in found.value} <= {one["name"] for one in functions}
    assert any(found.value for found in answers)


TOOLED = "{% if tools %}{% for t in tools %}{{ t.function | tojson }}\n{% endfor %}{% endif %}" + CHATML


def test_functions_stand_in_the_prompt_once_where_the_template_has_a_place_for_them(tmp_path):
    path = make_tiny_gguf(tmp_path / "tiny.gguf")
    model = resolve(str(path))
    spec = Spec(rung="prompt", task="t", kind="tool_call", engine="llama", instruction="Call.")
    row = Example(id="1", input="rain?", output=None, context=context(WEATHER, before="Be brief.\n\n"))
    with Pool() as pool:
        plain = pool.chat(model)
        tooled = pool.chat(replace(model, digest="other", template=TOOLED))
    shown = []
    for chat in (plain, tooled):
        (prompt,) = prompts_for(spec, chat, [row], [[]])
        shown.append(chat.tokens.decode(prompt))
    assert all(text.count('"name": "weather"') == 1 and text.count("Be brief.") == 1 for text in shown)
    assert FUNCTIONS in shown[0] and FUNCTIONS not in shown[1]
    assert shown[1].index("weather") < shown[1].index("Call.")


def test_a_prompt_on_rows_of_calls_is_built_and_scored(tmp_path):
    path = make_tiny_gguf(tmp_path / "tiny.gguf")
    data = write_rows(tmp_path / "calls.jsonl", call_rows(80))
    with opened(path, data, tmp_path) as found:
        made = Prompt().build(found)
        assert made.system.spec.kind == "tool_call"
        trials = {trial.name: trial for trial in made.trials}
        assert {"plain instruction, constrained", "plain instruction, free"} <= trials.keys()
        measured = found.measure(made.system, found.dev, "again")
    assert measured.metric == "tool_call" and dict(measured.secondary).keys() == {"names_right", "readable"}


def test_an_argument_that_is_given_twice_among_very_many_is_named_at_once():
    keys = [*map(str, range(100_000)), "99999"]
    written = "{" + ",".join(f'"{key}":0' for key in keys) + "}"
    with pytest.raises(ValueError, match="key '99999' twice"):
        read_json(written)


def test_many_digits_that_are_no_number_are_read_once():
    assert as_kind("1" * 500_000 + "x", "number") is None
    assert [as_kind(text, "number") for text in ("1.", ".5", "1.5e3", "-2")] == [1.0, 0.5, 1500.0, -2.0]
