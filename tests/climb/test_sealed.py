"""Which Systems the sealed test is opened for, and what the test's answers may decide: nothing."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rung.checks.examine import examined
from rung.checks.rows import prepare
from rung.climb import sealed
from rung.climb.climb import Options, _Climbing
from rung.climb.decide import decide
from rung.errors import RunError
from rung.records import Answer, Candidate, Example, RungResult
from rung.runs import read_jsonl
from rung.scoring.measure import measurement
from rung.task import DataFiles, Task
from tests.fixtures_climb import write_rows

DEV = tuple(Example(id=f"r{at:03}", input=f"q{at}", output="yes") for at in range(100))
RIGHT = {"prompt": 55, "few_shot": 60, "sft": 80}


def result(order, rung, over_limits=(), broken=0):
    answers = [
        Answer(text="", value="yes" if at < RIGHT[rung] else "no", failure="broke" if at < broken else None)
        for at in range(100)
    ]
    dev = measurement(system=rung, split="dev", metric="accuracy", examples=DEV, answers=answers)
    return RungResult(rung=rung, order=order, system=rung, dev=dev, over_limits=over_limits)


def on_dev(results):
    candidates = [
        Candidate(
            rung=r.rung,
            system=r.rung,
            order=r.order,
            measurement=r.dev,
            usd_per_1000=0.0,
            build_s=0.0,
            over_limits=r.over_limits,
        )
        for r in results
    ]
    return decide(candidates, targets={e.id: e.output for e in DEV}, groups=None, seed=0, split="dev")


@pytest.mark.parametrize(
    ("first", "opened"),
    [
        ({}, ["prompt", "sft"]),
        ({"over_limits": ("p95 900 ms is over 100 ms",)}, ["few_shot", "sft"]),
        ({"broken": 10}, ["few_shot", "sft"]),
    ],
)
def test_the_cheapest_that_is_opened_is_one_that_the_chosen_can_be_compared_with(first, opened):
    results = [result(0, "prompt", **first), result(1, "few_shot"), result(2, "sft")]
    decision = on_dev(results)
    assert decision.chosen == "sft"
    assert sealed.to_open(results, decision, DEV, everything=False) == opened
    assert sealed.to_open(results, decision, DEV, everything=True) == ["prompt", "few_shot", "sft"]


def test_where_no_rung_is_inside_the_limits_the_best_alone_is_opened():
    slow = ("p95 900 ms is over 100 ms",)
    results = [result(order, rung, over_limits=slow) for order, rung in enumerate(RIGHT)]
    decision = on_dev(results)
    assert decision.chosen is None
    assert sealed.to_open(results, decision, DEV, everything=False) == ["sft"]
    assert sealed.to_open(results, decision, DEV, everything=True) == list(RIGHT)


@pytest.mark.parametrize(("over_limits", "opened"), [((), list(RIGHT)), (("p95",), ["sft"])])
def test_where_dev_has_too_few_rows_to_choose_all_are_opened_if_any_may_win(over_limits, opened):
    results = [result(order, rung, over_limits=over_limits) for order, rung in enumerate(RIGHT)]
    few = replace(on_dev(results), kind="no_verdict", chosen=None, best=None)
    assert sealed.to_open(results, few, DEV[:49], everything=False) == opened


def test_where_every_rung_answered_too_few_dev_rows_all_are_opened():
    results = [result(0, "prompt", broken=51), result(1, "few_shot", broken=51), result(2, "sft", broken=51)]
    decision = on_dev(results)
    assert (decision.kind, decision.chosen) == ("no_verdict", None)
    assert sealed.to_open(results, decision, DEV, everything=False) == list(RIGHT)
    assert len(sealed.to_open([*results[:2], result(2, "sft")], decision, DEV, everything=False)) == 1


def test_the_answers_of_a_carved_test_decide_nothing(tmp_path):
    rows = [{"input": f"question {at}", "output": {"name": "a", f"key {at}": at}} for at in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepared = prepare(tmp_path / "rows.jsonl", Options())
    known = prepared.task.output.json_schema["properties"].keys()
    learned = [row for part in (prepared.splits.train, prepared.splits.dev) for row in part]
    assert known == {key for row in learned for key in row.output}
    assert not known & {key for row in prepared.splits.test for key in row.output if key != "name"}
    found = examined(prepared, (), ("rows",)).findings
    assert any("outside the inferred schema: 12 rows" in finding.message for finding in found)


def on_test(order, rung, right):
    answers = [Answer(text="", value="yes" if at < right else "no") for at in range(100)]
    found = measurement(system=rung, split="test", metric="accuracy", examples=DEV, answers=answers)
    return replace(result(order, rung), test=found)


@pytest.mark.parametrize("given", [True, False])
def test_a_climb_knows_whether_one_more_test_row_takes_several_new_ones(given):
    task, splits = Task(data=DataFiles(train=Path("rows.jsonl"))), SimpleNamespace(test_given=given)
    climbing: Any = SimpleNamespace(
        prepared=SimpleNamespace(task=task, splits=splits), rows=lambda split: DEV
    )
    found = _Climbing.decide(climbing, [on_test(0, "prompt", 77), on_test(1, "sft", 80)], "test")
    assert found.kind == "undecided" and "more test rows" in found.sentence
    assert ("new rows" in found.sentence) != given


@pytest.mark.parametrize("lost", ["opening", "system"])
def test_a_look_that_lacks_a_part_is_named_by_its_line_and_none_is_counted_past_it(lost, tmp_path):
    run = tmp_path / "run"
    sealed.count(run, ["one"], "rows")
    (whole,) = read_jsonl(run / sealed.TEST_FILE)
    write_rows(run / sealed.TEST_FILE, [whole, {key: value for key, value in whole.items() if key != lost}])
    for read in (
        lambda: sealed.count(run, ["two"], "rows"),
        lambda: sealed.openings(run, "rows"),
        lambda: sealed.known(run),
        lambda: sealed.own_test(run),
    ):
        with pytest.raises(RunError, match=rf"openings\.jsonl.*line 2: {lost}: .*mend that line or take it"):
            read()


def test_looks_of_before_the_rows_were_named_are_no_look_at_these(tmp_path):
    run = tmp_path / "run"
    write_rows(run / sealed.TEST_FILE, [{"opening": 3, "system": "one"}])
    assert sealed.own_test(run) is None and sealed.openings(run, "rows") == 0
    sealed.count(run, ["one"], "rows")
    assert [line["opening"] for line in read_jsonl(run / sealed.TEST_FILE)] == [3, 4]
    assert sealed.known(run) == {"rows"} and sealed.openings(run, "rows") == 1
