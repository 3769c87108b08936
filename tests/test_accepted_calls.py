"""Calls with several right answers, and how many calls one answer may hold."""

import json
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.calling import schema_of
from rung.checks.examine import examined
from rung.checks.rows import prepare
from rung.climb.climb import Options
from rung.data.sources import conform, read_source
from rung.engines.schema import check_schema
from rung.models.resolve import resolve
from rung.records import Example
from rung.rungs.instructions import CALLS_ALLOWED, answer_spec
from rung.scoring.extract import read_answer
from rung.scoring.scorers import SCORERS, secondary
from rung.spec import AnswerSpec, Spec
from rung.system import Pool, System, ref_to
from rung.task.calls import FUNCTIONS, functions_in, settled_calls
from rung.task.outputs import as_calls, read_calls
from rung.wording import answer_text
from tests.fixtures_climb import call_rows, make_tiny_gguf, opened, write_rows

WEATHER = {
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "unit": {"type": "string", "default": "C"},
            "days": {"type": "number"},
            "at": {"type": "object"},
            "tags": {"type": "array"},
        },
        "required": ["city"],
    },
}
TIMER = {"name": "timer", "parameters": {"type": "object", "properties": {}}}


def context(*functions):
    return FUNCTIONS + json.dumps(functions)


def call(name, **arguments):
    return {"name": name, "arguments": arguments}


def score(answer, target, metric="tool_call"):
    return SCORERS[metric].rows([answer], [target])[0]


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        ({"city": "Riga", "days": 5}, True),
        ({"city": "Riga", "days": 5.0}, True),
        ({"city": "Rīga", "days": 5, "unit": "F"}, True),
        ({"city": "Riga"}, True),
        ({"days": 5}, False),
        ({"city": "riga", "days": 5}, False),
        ({"city": "Riga", "days": "5"}, False),
        ({"city": "Riga", "days": 5, "unit": "K"}, False),
        ({"city": "Riga", "days": 5, "tags": []}, False),
    ],
)
def test_an_answer_is_right_when_every_argument_has_an_accepted_value(arguments, right):
    target = call("weather", city="Riga", days=5)
    target |= {"accepted": {"city": ["Rīga"], "unit": ["F"]}, "optional": ["days"]}
    assert score([call("weather", **arguments)], [target]) == float(right)
    assert score([call("timer", **arguments)], [target]) == 0
    assert score([], [target]) == score([call("weather", city="Riga")] * 2, [target]) == 0


def test_each_wanted_call_takes_a_given_one_of_its_own_whatever_their_order():
    either = {**call("f", x=1), "accepted": {"x": [2]}}
    one = call("f", x=1)
    for answer in permutations([call("f", x=1), call("f", x=2)]):
        for target in permutations([either, one]):
            assert score(list(answer), list(target)) == 1
    assert score([call("f", x=2), call("f", x=2)], [either, one]) == 0


def test_a_leaderboards_answers_are_read_with_the_first_value_as_the_one_to_learn():
    written = [
        {"weather": {"city": ["Riga", "Rīga"], "unit": ["", "F"], "days": [5, ""], "tags": [["a"]]}},
        {"timer": {}},
    ]
    read = as_calls(written)
    assert read == [
        {
            **call("weather", city="Riga", days=5, tags=["a"]),
            "accepted": {"city": ["Rīga"], "unit": ["F"]},
            "optional": ["unit", "days"],
        },
        call("timer"),
    ]
    assert as_calls(json.dumps(written)) == as_calls({"calls": written}) == as_calls(read) == read


def test_nested_values_of_a_leaderboard_are_written_out():
    at = {"lat": [1, 1.5], "name": ["x", ""]}
    (read,) = read_calls([{"weather": {"at": [at], "tags": [[{"a": [1, 2]}, {"b": [3]}]]}}])
    found = [read["arguments"]["at"], *read["accepted"]["at"]]
    assert found == [{"lat": 1, "name": "x"}, {"lat": 1}, {"lat": 1.5, "name": "x"}, {"lat": 1.5}]
    assert [read["arguments"]["tags"], *read["accepted"]["tags"]] == [
        [{"a": 1}, {"b": 3}],
        [{"a": 2}, {"b": 3}],
    ]
    with pytest.raises(ValueError, match="'at' of 'f' has 257 accepted values, and 256 at most"):
        read_calls([{"f": {"at": [{str(key): [1, 2] for key in range(40)}]}}])


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"accepted": ["F"]}, r"accepted of the call of 'weather' is \['F'\]; write an object"),
        ({"accepted": {"unit": "F"}}, r"'unit' of 'weather' are 'F'; write a list"),
        ({"accepted": {"unit": []}}, r"'unit' of 'weather' are \[\]; write a list"),
        ({"accepted": {"unit": [1] * 300}}, "has 300 accepted values"),
        ({"optional": "unit"}, "optional of the call of 'weather' is 'unit'; write a list"),
    ],
)
def test_what_else_is_accepted_is_checked_at_the_door_with_the_row_and_the_reason(more, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        read_calls([{**call("weather", city="Riga"), **more}])
    rows = call_rows(60)
    rows[3]["messages"][-1]["tool_calls"][0] |= more
    rows[3]["messages"][-1]["tool_calls"][0]["function"]["name"] = "weather"
    prepared = prepare(write_rows(tmp_path / "calls.jsonl", rows), Options())
    assert prepared.task.output.kind == "tool_call"
    (found,) = [f for f in examined(prepared, (), ("rows",)).findings if f.check == "broken_rows"]
    assert found.severity == "block" and found.rows == ("calls.jsonl:4",)
    assert prepared.task.metric == "tool_call" and reason.split(";")[0].strip("\\")[:12] in found.message


def test_accepted_values_that_a_function_does_not_take_are_warned_of(tmp_path):
    rows = call_rows(60)
    rows[1]["messages"][-1]["tool_calls"][0]["accepted"] = {"topic": ["nothing of the kind"]}
    prepared = prepare(write_rows(tmp_path / "calls.jsonl", rows), Options())
    (found,) = [f for f in examined(prepared, (), ("rows",)).findings if f.check == "targets"]
    assert (found.severity, found.rows) == ("warn", ("calls.jsonl:2",))


def test_chat_rows_and_plain_rows_say_what_else_is_accepted(tmp_path):
    more = {"accepted": {"city": ["Rīga"]}, "optional": ["days"]}
    answer = {"function": {"name": "weather", "arguments": '{"city": "Riga", "days": 2}'}, **more}
    turns = [{"role": "user", "content": "rain?"}, {"role": "assistant", "tool_calls": [answer]}]
    chat = {"messages": turns, "tools": [{"type": "function", "function": WEATHER}]}
    plain = {
        "input": "rain?",
        "context": context(WEATHER),
        "output": [{**call("weather", city="Riga", days=2), **more}],
    }
    for name, row in (("chat", chat), ("plain", plain)):
        source = read_source(write_rows(tmp_path / f"{name}.jsonl", [row]))
        (read,) = conform(source.examples, "tool_call")
        assert read.output == plain["output"]
        assert "accepted" not in answer_text(read.output, "tool_call") + read.input


def test_a_default_among_the_accepted_values_may_be_left_out_and_what_is_required_is_not():
    target = {**call("weather", city="Riga", unit="F"), "accepted": {"unit": ["C"]}}
    (settled,) = settled_calls([target], (WEATHER,))
    assert settled["optional"] == ["unit"]
    for answer in ([call("weather", city="Riga")], [call("weather", city="Riga", unit="C")]):
        assert score(settled_calls(answer, (WEATHER,)), [settled]) == 1
    (read,) = settled_calls(read_calls([{"weather": {"city": ["", "Riga"]}}]), (WEATHER,))
    assert read["arguments"] == {"city": "Riga"}


values = st.one_of(
    st.integers(-3, 3),
    st.booleans(),
    st.sampled_from(["a", "b", "é", ""]),
    st.lists(st.integers(0, 2), max_size=2),
)
accepted = st.lists(values, min_size=1, max_size=3)
leaderboard = st.lists(
    st.builds(
        lambda name, listed: {name: listed},
        st.sampled_from(["weather", "timer"]),
        st.dictionaries(st.sampled_from(["city", "unit", "days", "tags"]), accepted, max_size=4),
    ),
    max_size=4,
)


@settings(max_examples=200, deadline=None)
@given(leaderboard, st.randoms())
def test_the_answer_that_is_learned_scores_full_marks_by_both_metrics(written, dice):
    source = Example(id="1", input="?", output=written, context=context(WEATHER, TIMER))
    (row,) = conform([source], "tool_call")
    assert conform([row], "tool_call") == (row,)
    text = answer_text(row.output, "tool_call")
    gold = settled_calls(read_answer(text, kind="tool_call"), functions_in(row.context))
    assert score(gold, row.output) == score(gold, row.output, "exact") == 1
    assert dict(secondary("exact", [gold], [row.output]))["field_f1"] == 1
    assert dict(secondary("tool_call", [gold], [row.output])) == {"names_right": 1, "readable": 1}
    # Any other way to answer: of each argument one of the values that were written, or none for "".
    made = []
    for one in read_calls(written):
        ways = {k: list(v) for k, v in one.get("accepted", {}).items()}
        for key, value in one["arguments"].items():
            ways.setdefault(key, []).append(value)
        free = set(one.get("optional", ()))
        given_ = {k: dice.choice(v) for k, v in ways.items() if k not in free or dice.random() < 0.5}
        made.append({"name": one["name"], "arguments": given_})
    dice.shuffle(made)
    if all("city" in m["arguments"] for m in made if m["name"] == "weather"):
        assert score(settled_calls(made, functions_in(row.context)), row.output) == 1


@pytest.mark.parametrize("engine", ["llama", "torch"])
def test_an_answer_holds_so_many_calls_at_most(engine, tmp_path):
    path = make_tiny_gguf(tmp_path / "tiny.gguf")
    model = resolve(str(path))
    assert check_schema(schema_of(context(TIMER, {"name": "now"}), 2)) == ()
    counts = {}
    rows = [
        Example(id=str(at), input=f"question {at}", output=None, context=context(TIMER)) for at in range(12)
    ]
    with Pool(models={model.digest: model}, threads=1, parallel=4) as pool:
        for most in (1, 2, None):
            answer = AnswerSpec(form="calls", max_tokens=120, most_calls=most)
            spec = Spec(rung="prompt", task="t", kind="tool_call", engine=engine, answer=answer)
            spec = spec.model_copy(update={"model": ref_to(model, str(path)), "instruction": "Call."})
            found = System(tmp_path, spec).answer(rows, pool)
            counts[most] = [len(one.value) for one in found]
    assert max(counts[1]) == 1 and max(counts[2]) == 2 < max(counts[None])


def test_the_cap_is_what_training_rows_hold_and_not_under_a_floor(tmp_path):
    path, rows = make_tiny_gguf(tmp_path / "tiny.gguf"), call_rows(80)
    with opened(path, write_rows(tmp_path / "one.jsonl", rows), tmp_path / "a") as found:
        assert answer_spec(found, constrained=True).most_calls == CALLS_ALLOWED
        assert answer_spec(found, constrained=False).most_calls is None
    for row in rows:
        row["messages"][-1]["tool_calls"] *= 6
    with opened(path, write_rows(tmp_path / "six.jsonl", rows), tmp_path / "b") as found:
        assert answer_spec(found, constrained=True).most_calls == 6


def test_a_cap_is_part_of_what_names_a_system_and_no_cap_is_not():
    def digest(**changes):
        answer = AnswerSpec(form="calls", **changes)
        return Spec(rung="prompt", task="t", kind="tool_call", engine="llama", answer=answer).digest

    assert len({digest(), digest(most_calls=1), digest(most_calls=2)}) == 3
    assert digest() == digest(most_calls=None)
