"""How long a tune is said to take: until dev stops rising or its time is over, and with two more seeds."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from rung.climb import budget
from rung.rungs import tuning
from rung.rungs.base import Outlook
from rung.rungs.closing import CLOSING_ROWS, closing_rows
from rung.rungs.length import PACE_FILE, Speed, sized
from rung.rungs.probe import RACE_ROWS, under_each_engine
from rung.rungs.seeds import RISES, End, ranged
from rung.rungs.sft import Sft, answer_forms
from rung.rungs.teaching_time import pace_of_sft
from rung.rungs.tune import Arm, Plan, Tune, outputs_lesson
from rung.runs import read_json
from rung.system import copy
from rung.task.model import Tuning
from tests.fixtures_climb import label_rows, make_tiny_gguf, opened, write_rows
from tests.fixtures_ship import make_gguf

ENDS = [End(seconds=100.0, again_s=50.0), End(seconds=140.0, again_s=80.0)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
def context(tiny, tmp_path):
    path = write_rows(tmp_path / "topics.jsonl", label_rows(160))
    with opened(tiny, path, tmp_path / "run" / "rungs" / "sft") as found:
        yield found


def foretold(left_s: float, ends=ENDS) -> Outlook:
    return ranged(ends, beside_s=10.0, least_s=5.0, left_s=left_s, by=RISES)


@pytest.mark.parametrize(
    ("left_s", "high_s"), [(0.0, 150.0), (209.0, 150.0), (211.0, 210.0), (309.0, 210.0), (311.0, 310.0)]
)
def test_two_more_seeds_are_foreseen_at_each_end_where_there_is_time_for_them(left_s, high_s):
    told = foretold(left_s)
    assert (told.low_s, told.seconds, told.high_s, told.least_s) == (110.0, 150.0, high_s, 5.0)
    assert ("two more seeds" in told.by) == (high_s > 150.0)


def test_an_end_that_keeps_nothing_draws_no_seeds():
    told = foretold(1e9, [End(seconds=100.0, again_s=math.inf), ENDS[1]])
    assert told.high_s == 310.0


def test_the_ends_of_a_tune_are_said_with_what_they_hang_on():
    seeded = budget.forecast(foretold(311.0), most_s=400.0, after_s=1.0)
    assert budget.said("sft", seeded, "head") == (
        "sft: about 2 m 30 s, 1 m 50 s to 5 m 10 s by when dev stops rising, and whether two more seeds are "
        "drawn"
    )
    once = budget.forecast(foretold(0.0), most_s=400.0, after_s=1.0)
    about = "sft: about 2 m 30 s, 1 m 50 s to 2 m 30 s"
    assert budget.said("sft", once, None) == f"{about} by when dev stops rising"
    stopped = replace(once, by="")
    assert budget.said("sft", stopped, "head") == f"{about} by how long it keeps up with head"
    assert budget.said("sft", stopped, None) == about


def test_the_answers_after_a_tune_are_those_of_each_engine_that_races_for_it(tmp_path):
    data = write_rows(tmp_path / "topics.jsonl", label_rows(120))
    gguf = make_gguf(tmp_path / "wide.gguf", kind="f16")
    with opened(gguf, data, tmp_path) as context:
        context.work.mkdir(parents=True)
        racing = under_each_engine(context, "some", answer_forms(context)["codes"], {})
        assert len(racing) == 3 and closing_rows(context) == CLOSING_ROWS + 3 * (1 + RACE_ROWS)
        for method, runners in (("rslora", 3), ("full", 2), ("dora", 0), ("prefix", 0)):
            task = context.task.model_copy(update={"tuning": Tuning(method=method)})
            assert closing_rows(replace(context, task=task)) == CLOSING_ROWS + runners * (1 + RACE_ROWS)
        alone = replace(context, model=replace(context.model, gguf=None))
        assert closing_rows(alone) == CLOSING_ROWS, "nothing races with torch alone"


def test_a_tune_leaves_the_time_for_all_answers_after_it():
    speed = Speed(step_s=1.0, answer_s=0.5, most=10_000, dev=100, forms=1, closing=40)
    few, more = (sized(replace(speed, closing=n), 8, 1000.0, 990.0) for n in (40, 60))
    assert (few.closing_s, more.closing_s) == (70.0, 80.0)
    assert more.tuning_s < few.tuning_s and more.steps < few.steps


def test_sft_foresees_more_seeds_beside_a_rung_that_it_may_hardly_beat(context):
    alone = Sft().outlook(context)
    best: Any = SimpleNamespace(rung="head")
    beside = Sft().outlook(replace(context, best=best))
    assert alone is not None and beside is not None
    assert (beside.low_s, beside.seconds) == (alone.low_s, alone.seconds), "its first steps are done once"
    assert alone.low_s < alone.seconds == alone.high_s < beside.high_s
    assert beside.by == f"{alone.by}, and whether two more seeds are drawn"


def test_what_a_tune_took_is_known_to_the_rungs_above_it(context, monkeypatch):
    monkeypatch.setattr(tuning, "MOST_EPOCHS", 1)
    made = Sft().build(context)
    assert pace_of_sft(context) is None, "it goes on from nothing"
    system = copy(made.system, context.folder / "system")
    above = replace(context, folder=context.folder.parent / "distill", built={"sft": system})
    learn_s, answer_s = pace_of_sft(above) or (0.0, 0.0)
    assert 0 < learn_s < 60 and 0 < answer_s < 60
    assert read_json(context.folder / PACE_FILE) == {"learn_s": learn_s, "answer_s": answer_s}


def test_a_short_last_batch_takes_the_pace_of_a_tune_its_own_seconds(context):
    spec = {"words": answer_forms(context)["words"]}
    lesson = outputs_lesson(context, spec)
    five = replace(lesson, items={"words": lesson.items["words"][:5]}, batch=4)
    plan = Plan(folder=context.work / "training", budget_s=600.0, reserve_s=0.0, seed=0, batch=4)
    with Tune(context, spec, plan, five) as state:
        ticks = state.run(Arm(form="words", rate=1e-3), 4)
        assert [round(tick.rows_per_s * tick.seconds) for tick in ticks] == [4, 1, 4, 1]
        assert state.pace.training_s == pytest.approx(sum(tick.seconds for tick in ticks))
