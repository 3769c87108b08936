"""On how many prompts a tune's engines are compared."""

from pathlib import Path

import pytest

from rung.rungs.proving import FEWEST_PROVED, PROOF_SHARE, to_prove

TEXT = (Path(__file__).parents[2] / "docs" / "tuning.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("prompts", "left_s", "each_s", "count"),
    [
        (200, 60.0, 0.01, 200),  # time for all
        (200, 60.0, 0.3, 100),  # for half
        (200, 60.0, 6.0, 50),  # for too few
        (200, -5.0, 0.3, 50),  # none is left
        (20, -5.0, 0.3, 20),  # fewer than the fewest
    ],
)
def test_the_proof_takes_half_of_the_time_left_and_fifty_prompts_at_least(prompts, left_s, each_s, count):
    assert (PROOF_SHARE, FEWEST_PROVED) == (0.5, 50)
    assert to_prove(prompts, left_s, each_s) == count
    assert f"at least {FEWEST_PROVED} where time is short" in TEXT


@pytest.mark.parametrize(
    ("left_s", "spent_s", "count"),
    [
        (60.0, 20.0, 100),  # 40 of 80 seconds, 20 of which are gone
        (80.0, 0.0, 200),
        (30.0, 30.0, 50),  # the first took it all
        (10.0, 50.0, 50),  # and more
    ],
)
def test_a_second_proof_has_what_the_first_left_of_the_same_half(left_s, spent_s, count):
    assert to_prove(200, left_s, 0.2, spent_s) == count
