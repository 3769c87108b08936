import random

import pytest

from rung.checks.rows import FEWEST_AFFORDED, USUAL_DEV_ROWS, affordable, prepare
from rung.climb.climb import Options
from rung.records import Example
from tests.fixtures_climb import write_rows

RECEIPT = {"company": "A shop with a name", "total": "12.50", "date": "1 May 2026", "address": "Street 5"}


def rows(length, output):
    return [Example(id=str(i), input="x" * length, output=output) for i in range(40)]


@pytest.mark.parametrize(
    ("examples", "kind", "budget_s", "expected"),
    [
        (rows(5000, "yes"), "label", 60, USUAL_DEV_ROWS),
        (rows(700, RECEIPT), "json", 1200, FEWEST_AFFORDED),
        (rows(60, 3.5), "number", 1800, USUAL_DEV_ROWS),
    ],
)
def test_dev_takes_as_many_rows_as_the_rungs_can_answer_in_time(examples, kind, budget_s, expected):
    assert affordable(examples, kind, budget_s) == expected


def test_a_longer_budget_affords_more_dev_rows_and_longer_answers_fewer():
    found = [affordable(rows(700, RECEIPT), "json", budget_s) for budget_s in (60, 3600, 7200, 10**6)]
    assert found == sorted(found) and found[0] == FEWEST_AFFORDED < found[1] < found[2] < found[3]
    assert found[3] == USUAL_DEV_ROWS
    assert affordable(rows(700, "x" * 400), "text", 7200) < found[2]


def test_the_sealed_test_is_the_same_under_any_budget_any_dev_rows_and_for_any_number_of_models(tmp_path):
    dice = random.Random(0)
    made = [
        {"input": " ".join(f"{dice.random():.6f}" for _ in range(80)), "output": RECEIPT | {"total": str(n)}}
        for n in range(400)
    ]
    data = write_rows(tmp_path / "receipts.jsonl", made)
    usual = prepare(data, Options(budget_s=10**6)).splits
    few = (Options(budget_s=1200), Options(budget_s=10**6, dev_rows=30), Options(models=("a", "b", "c")))
    found = [prepare(data, options).splits for options in few]
    assert all(len(one.dev) < len(usual.dev) and one.test == usual.test for one in found)
