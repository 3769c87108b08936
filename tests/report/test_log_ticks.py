"""What a log axis marks: round values, so many as have room."""

import pytest

from rung.report.charts import log_ticks


@pytest.mark.parametrize(
    ("low", "high", "most", "marked"),
    [
        (0.9, 6, 9, [1, 2, 5]),
        (0.01, 500, 7, [0.01, 0.1, 1, 10, 100]),
        (0.01, 2, 7, [0.01, 0.03, 0.1, 0.3, 1]),
        (3, 2000, 2, [10, 100, 1000]),
    ],
)
def test_few_decades_have_more_steps_each_and_many_have_one(low, high, most, marked):
    assert log_ticks(low, high, most) == pytest.approx(marked)
