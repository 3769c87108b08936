"""Which of a rung's two buildings stands: by the dev rows that both answered, whatever their order was."""

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest

from rung.climb.rebuilding import came_to
from rung.records import Answer, Example, RungResult
from rung.scoring.measure import measurement, rescored

LABELS = ("billing", "delivery", "refund", "other")
ROWS = [Example(id=f"r{at:02}", input=f"question {at}?", output=LABELS[at % 4]) for at in range(60)]


def built(rows, wrong) -> RungResult:
    """A rung that answered these rows, in that order, and gives another label to some."""
    answers = [Answer(text="", value="none" if row.id in wrong else row.output) for row in rows]
    dev = measurement(system="s", split="dev", metric="accuracy", examples=rows, answers=answers)
    return RungResult(rung="tune", order=0, dev=dev)


def stays(had: RungResult, result: RungResult) -> str | None:
    context = SimpleNamespace(dev=ROWS, pool=SimpleNamespace(till=None), settled=lambda name, made: made())
    return came_to(context, had, result)  # type: ignore[arg-type]


@pytest.mark.parametrize("asked", [60, 40])
@pytest.mark.parametrize("turned", [False, True])
def test_a_result_whose_rows_were_asked_in_another_order_is_not_taken_for_a_worse_one(asked, turned):
    order = ROWS[:]
    random.Random(0).shuffle(order)
    had = built(order[:asked], wrong={"r00", "r01"})
    if turned:
        assert had.dev is not None
        had = replace(had, dev=rescored(had.dev, ROWS))
    worse = built(ROWS[:asked], wrong={row.id for row in ROWS[::5]})
    better = built(ROWS[:asked], wrong=set())
    assert "built on it is worse on dev" in str(stays(had, worse))
    assert stays(had, better) is None


def test_rows_that_one_of_them_did_not_answer_are_no_matter():
    missed = {row.id for row in ROWS[40:]}
    had = built(ROWS[:40], wrong={"r00"})
    assert stays(had, built(ROWS, wrong=missed)) is None
    assert "built on it is worse" in str(stays(had, built(ROWS, wrong={"r00", "r01"})))


def test_those_that_answered_no_row_in_common_are_not_told_apart_by_their_scores():
    assert stays(built(ROWS[:30], wrong=set()), built(ROWS[30:], wrong={"r59"})) is None
