import pytest

from rung.checks.rows import FEWEST_AFFORDED, USUAL_DEV_ROWS, affordable
from rung.records import Example

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
