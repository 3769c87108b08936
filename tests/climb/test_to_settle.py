"""What an undecided verdict says of more rows, and where it says nothing of them."""

from dataclasses import replace

import pytest

from rung.climb.decide import decide
from rung.climb.limits import over_limits
from rung.task import Limits
from tests.climb.test_decide import candidate, right, verdict
from tests.report.climb_fixture import measurement


def between(n=500):
    """Zero-shot does well, so that the margin is small: the tune is ahead by more, and by too little."""
    head, prompt = candidate(0, right(n, (0, 462))), candidate(1, right(n, (0, 445)))
    return head, prompt, candidate(3, right(n, (1, 471)))


def test_a_gain_that_is_neither_small_nor_enough_asks_for_no_rows():
    found = verdict(*between())
    assert (found.kind, found.chosen, found.best) == ("undecided", "head", "sft")
    assert found.between and found.rows_needed is None
    assert found.sentence == (
        "Undecided between head (.924) and sft (.940) on 500 test rows: the gain is neither a clear win nor "
        "shown to be under 1.2 points (+1.6 points, +0.2 to +2.9, p = .021); more rows would hardly settle "
        "it while it lies between that and the 2.0 points that win: ship head, the lower rung."
    )


def test_a_smaller_gain_asks_for_rows_that_show_it_to_be_small():
    head, prompt, _ = between()
    found = verdict(head, prompt, candidate(3, right(500, (8, 474))))
    assert found.kind == "undecided" and not found.between
    assert found.rows_needed is not None and found.rows_needed > 100


@pytest.mark.parametrize("rungs", [between(), between()[:1] + (candidate(3, right(500, (20, 486))),)])
def test_on_dev_no_rows_are_asked_for_as_new_ones_would_be_for_the_test(rungs):
    ids = [row.example_id for row in rungs[0].measurement.predictions]
    found = decide(rungs, targets=dict.fromkeys(ids, "a"), groups=None, seed=0, split="dev")
    assert found.kind == "undecided"
    assert found.sentence.endswith("); head is the lower rung.") and "more" not in found.sentence


@pytest.mark.parametrize(
    ("p95_s", "limit", "said"),
    [(0.0053, 5, "5.3"), (0.00501, 5, "5.01"), (0.9, 300, "900"), (0.0061, 5.5, "6")],
)
def test_what_is_over_a_limit_is_told_with_the_decimals_that_show_it(p95_s, limit, said):
    dev = measurement("head", "dev", 50, 0.9)
    (told,) = over_limits(replace(dev, p95_s=p95_s), Limits(p95_ms=limit))
    assert told == f"p95 {said} ms is over {limit:g} ms"
