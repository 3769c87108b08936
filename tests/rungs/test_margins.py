import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.rungs.margins import FALL_FLOOR, Side, margins, rate_text

values = st.lists(
    st.tuples(st.floats(-90, -0.1), st.floats(-90, -0.1), st.integers(1, 40)), min_size=1, max_size=8
)


def side(rows) -> Side:
    return Side(
        now=[now for now, _, _ in rows],
        reference=[before for _, before, _ in rows],
        tokens=[size for _, _, size in rows],
    )


def test_a_worked_example():
    # Gains a token: +0.5 and −1 of the better ones, +0.25 and −2 of the worse ones.
    better = side([(-3.0, -4.0, 2), (-6.0, -3.0, 3)])
    worse = side([(-7.0, -8.0, 4), (-4.0, -2.0, 1)])
    found = margins(better, worse)
    assert (found.pairs, found.right) == (2, 2)
    # Levels a token: −1.5 and −2 against −1.75 and −4.
    assert found.likelier == 2
    # −7/5 a token before, −9/5 now.
    assert found.fell == pytest.approx((9 - 7) / 7)


@given(values, values)
def test_nothing_has_moved_where_the_model_is_the_reference(better, worse):
    sides = [side([(before, before, size) for _, before, size in rows]) for rows in (better, worse)]
    found = margins(*sides)
    assert (found.right, found.fell) == (0, 0.0)
    assert found.pairs == min(len(better), len(worse))


@given(values, values)
def test_rates_are_counts_of_pairs_and_the_fall_is_that_of_the_mean_token(better, worse):
    found = margins(side(better), side(worse))
    pairs = list(zip(better, worse, strict=False))
    assert found.right == sum((b[0] - b[1]) / b[2] > (w[0] - w[1]) / w[2] for b, w in pairs)
    assert found.likelier == sum(b[0] / b[2] > w[0] / w[2] for b, w in pairs)
    tokens = sum(size for *_, size in better)
    before, now = (math.fsum(row[k] for row in better) / tokens for k in (1, 0))
    assert found.fell == pytest.approx((before - now) / max(-before, FALL_FLOOR), abs=1e-9)


def test_certain_answers_may_lose_a_little_and_no_answers_have_not_fallen():
    assert margins(side([(-0.03, -0.01, 10)]), side([])).fell == pytest.approx(0.002 / FALL_FLOOR)
    assert margins(side([]), side([])).fell == 0
    assert margins(side([]), side([])).pairs == 0


def test_a_rate_is_written_with_its_interval():
    assert rate_text(41, 67) == "61.2 % of 67 pairs (49.2 % to 72 %)"
