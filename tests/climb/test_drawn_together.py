"""Rows that ask the same thing are one draw to all that a climb says of its rungs, as rows of a group are."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rung.checks.rows import prepare
from rung.climb.calibrating import judged
from rung.climb.climb import Options, climb
from rung.climb.corrected import _corrected
from rung.climb.curve import nested, told
from rung.climb.decide import decide
from rung.climb.floor import floor
from rung.climb.sentence import rounded
from rung.records import Answer, Candidate, CurvePoint, Example, LearningCurve, RungResult
from rung.rungs.seeds import why_close
from rung.scoring.measure import measurement, rescored
from rung.task.draws import drawn_with, question
from tests.climb.test_climb import Always, with_ladder
from tests.fixtures_climb import Log, label_rows, write_rows

REPEATS = 5


def asked(questions, repeats=REPEATS, group=False):
    """Rows with several right answers to each question, which differ in what is no matter to it."""
    return [
        Example(
            id=f"r{question:03}-{at}",
            input=f"How do I  say number {question}?" if at % 2 else f"how do I say NUMBER {question}?",
            output=f"so {at}",
            group=f"g{question}" if group else None,
        )
        for question in range(questions)
        for at in range(repeats)
    ]


def measured(rows, right, rung="head"):
    """A System that is right on every row of these questions."""
    answers = [
        Answer(text="", value=e.output if int(e.id[1:4]) in right else "no idea", probability=0.9)
        for e in rows
    ]
    return measurement(system=rung, split="test", metric="exact", examples=rows, answers=answers)


def decided(rows, head, sft, *, groups, test_given=True):
    ladder = [
        Candidate(rung=rung, system=rung, order=at, measurement=measured(rows, right, rung), usd_per_1000=0.0)
        for at, (rung, right) in enumerate([("head", head), ("sft", sft)])
    ]
    targets = {e.id: e.output for e in rows}
    return decide(ladder, targets=targets, groups=groups, seed=0, split="test", test_given=test_given)


ROWS = asked(12)
HEAD, SFT = set(range(8, 12)), set(range(8))
"""Four questions and eight others: of sixty rows twenty and forty."""


def test_a_gain_on_rows_of_a_few_questions_is_no_gain_on_many_rows():
    by_row = decided(ROWS, HEAD, SFT, groups=None)
    assert by_row.chosen == "sft" and by_row.comparisons[0].p < 0.01
    found = decided(ROWS, HEAD, SFT, groups=drawn_with(ROWS))
    assert (found.kind, found.chosen) == ("undecided", "head")
    assert found.comparisons[0].p == pytest.approx(794 / 4096), "eight or more heads of twelve"
    grouped = asked(12, group=True)
    assert found == decided(grouped, HEAD, SFT, groups=drawn_with(grouped))
    width, before = (one.comparisons[0].interval for one in (found, by_row))
    assert width.high - width.low > 1.5 * (before.high - before.low)
    least, before = (one.comparisons[0].smallest_detectable_gain for one in (found, by_row))
    assert least > 1.5 * before


@pytest.mark.parametrize("test_given", [True, False])
def test_the_verdict_says_how_many_questions_its_rows_are_and_how_many_more_it_takes(test_given):
    found = decided(ROWS, HEAD, SFT, groups=drawn_with(ROWS), test_given=test_given)
    assert found.rows_needed is not None and found.rows_needed > 60
    more, draws = rounded(found.rows_needed), rounded(math.ceil(found.rows_needed / REPEATS))
    told = f"label about {more:,} more test rows of some {draws:,} other groups or questions"
    assert told in found.sentence and (f"{told}, or ship head" in found.sentence) is test_given
    assert found.sentence.endswith(
        "; the test rows are of 12 groups or questions, each of which counts as one draw."
    )
    times = math.ceil((60 + found.rows_needed) / 60)
    rows = asked(12 * times)
    many = [{n + 12 * at for at in range(times) for n in right} for right in (HEAD, SFT)]
    assert decided(rows, *many, groups=drawn_with(rows)).chosen == "sft"


def test_a_few_repeats_are_no_news():
    rows = [*asked(95, 1), *(replace(row, id=f"{row.id}-2") for row in asked(5, 1))]
    found = decided(rows, set(range(20)), set(range(60)), groups=drawn_with(rows))
    assert found.chosen == "sft" and "question" not in found.sentence


def test_a_score_of_rows_that_ask_the_same_has_the_interval_of_rows_of_a_group():
    found, grouped = measured(ROWS, HEAD), measured(asked(12, group=True), HEAD)
    assert found.interval == grouped.interval and found.score == pytest.approx(1 / 3)
    width, less = (one.interval.high - one.interval.low for one in (found, measured(apart(ROWS), HEAD)))
    assert width > 1.5 * less


def apart(rows):
    """The same rows, as if each asked something else."""
    return [replace(row, input=row.id) for row in rows]


def test_the_floor_takes_a_question_for_one_draw():
    """The constant is right on the first row of each question: 12 of 60, where the rung is on 40."""
    train = [Example(id="t", input="t", output="so 0")]
    found = [
        floor(RungResult(rung="sft", order=0, test=measured(rows, SFT)), train, {"test": rows}, 0)
        for rows in (ROWS, apart(ROWS))
    ]
    by_question, by_row = found
    assert by_question is not None and by_row is not None
    assert by_question.gain == by_row.gain == pytest.approx(28 / 60)
    assert by_row.p < 1e-5 < 1 / 2**12 < by_question.p
    grouped = asked(12, group=True)
    again = floor(RungResult(rung="sft", order=0, test=measured(grouped, SFT)), train, {"test": grouped}, 0)
    assert again == by_question


def test_a_learning_curve_takes_a_question_for_one_draw():
    for rows, helps in ((ROWS, False), (apart(ROWS), True)):
        half, whole = measured(rows, HEAD), measured(rows, SFT)
        point = CurvePoint(rows=9, score=whole.score, interval=whole.interval, n=60, seconds=1.0)
        context: Any = SimpleNamespace(seed=0, dev=rows)
        found = told(LearningCurve(rung="sft", points=(point,), sentence=""), half, whole, context)
        assert ("more rows would probably help" in found.sentence) is helps


def test_a_gain_on_a_few_questions_may_be_that_of_a_lucky_seed():
    rows = asked(20)
    for some, close in ((rows, True), (apart(rows), False)):
        context: Any = SimpleNamespace(seed=0, dev=some)
        why = why_close(context, measured(some, set(range(8))), measured(some, set()), "head")
        assert (why is not None) is close


def test_all_rows_of_a_question_are_on_one_side_of_a_calibrations_folds():
    one = judged(("so 0", "no idea"), ROWS, _labelled(ROWS), {})
    assert one.groups is not None and len(set(one.groups)) == 12


def _labelled(rows):
    answers = [Answer(text="so 0", value="so 0", probability=0.9) for _ in rows]
    return measurement(system="s", split="dev", metric="exact", examples=rows, answers=answers)


def test_a_score_that_people_correct_takes_a_question_for_one_draw():
    rows = {e.id: replace(e, output=f"reply {e.id}") for e in asked(8)}
    answers = [Answer(text=f"text {name}", value=1.0) for name in rows]
    found = measurement(system="s", split="dev", metric="judge", examples=[*rows.values()], answers=answers)
    people = {name: (float(int(name[1:4]) % 2), 1.0) for name in [*rows][:30]}
    grouped = {e.id: replace(rows[e.id], group=e.group) for e in asked(8, group=True)}
    lone = dict(zip(rows, apart(rows.values()), strict=True))
    by_question, by_group, by_row = (_corrected(found, some, people, some) for some in (rows, grouped, lone))
    assert by_question == by_group != by_row and by_question.score == by_row.score
    assert by_question.high - by_question.low > 1.3 * (by_row.high - by_row.low)


def test_half_of_the_rows_to_train_on_are_half_of_the_questions():
    order = nested(asked(40), seed=0)
    assert not {e.id[:4] for e in order[:100]} & {e.id[:4] for e in order[100:]}
    assert nested(asked(40)[::-1], 0) == order


def test_dev_rows_of_a_question_are_asked_one_after_the_other(tmp_path):
    """A draw is counted when all its rows were asked: those of many rows would come late, and never first."""
    dev = prepare(repeated_task(tmp_path), Options()).splits.dev
    order = [question(row) for row in dev]
    assert len(order) == 3 * len(set(order)) > 50
    assert sum(one != other for one, other in pairwise(order)) == len(set(order)) - 1
    assert order != sorted(order)


def repeated_task(folder, count=100):
    """Each question thrice: once as it is, twice in other letters and with blanks."""
    rows = label_rows(count)
    more = [{**row, "input": change(row["input"])} for row in rows for change in (str.upper, " {} ".format)]
    return write_rows(folder / "topics.jsonl", [*rows, *more])


def test_a_climb_counts_questions_and_one_that_an_earlier_version_began_does_too(tiny, tmp_path, monkeypatch):
    names = with_ladder(monkeypatch, Always("one"), Always("two"))
    options = Options(models=(str(tiny),), out=tmp_path / "run", rungs=names, budget_s=600)
    task = repeated_task(tmp_path)
    first, run = climb(task, options, Log())
    dev = first.results[0].dev
    assert dev is not None and dev.n == 3 * (dev.n // 3)
    assert f"the dev rows are of {dev.n // 3} groups or questions" in first.decision.sentence
    rows = prepare(task, options).splits.dev
    assert rescored(dev, rows) == dev
    by_row = rescored(dev, apart(rows))
    assert by_row.interval != dev.interval and replace(by_row, interval=dev.interval) == dev
    (run / "climb.json").unlink()
    path = run / "rungs" / "one" / "result.json"
    kept = json.loads(path.read_text(encoding="utf-8"))
    kept["dev"]["interval"] = {"low": by_row.interval.low, "high": by_row.interval.high, "level": 0.95}
    path.write_text(json.dumps(kept), encoding="utf-8")
    second, _ = climb(task, options, Log())
    assert second.results[0].dev == dev
    assert (second.decision, second.dev_decision) == (first.decision, first.dev_decision)


def test_what_equals_no_other_row_is_decided_as_ever():
    """Neither groups nor questions: each figure is that of the rows, to the last digit."""
    dice = np.random.default_rng(0)
    rows = asked(300, 1)
    head, sft = ({int(n) for n in dice.choice(300, count, replace=False)} for count in (180, 210))
    assert drawn_with(rows) == {}
    assert decided(rows, head, sft, groups=drawn_with(rows)) == decided(rows, head, sft, groups=None)
