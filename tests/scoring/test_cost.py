import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.scoring.cost import break_even_answers, per_1000_correct, usd_per_1000, usd_per_1000_by_token

usd = st.floats(0, 1e4)


def test_machine_time_is_paid_by_the_hour():
    assert usd_per_1000(3.6, 2.0) == pytest.approx(2.0)
    assert usd_per_1000(0.0, 2.0) == 0


def test_tokens_are_paid_by_the_million():
    assert usd_per_1000_by_token(500, 20, 0.25, 2.0) == pytest.approx(0.125 + 0.04)


def test_correct_answers_cost_more_the_rarer_they_are():
    assert per_1000_correct(2.0, 0.5) == 4.0
    assert per_1000_correct(2.0, 0.0) is None


def test_break_even_is_where_both_have_cost_the_same():
    assert break_even_answers(0, 3.0, 10, 1.0) == pytest.approx(5000)
    assert break_even_answers(10, 1.0, 0, 3.0) == pytest.approx(5000)


def test_there_is_no_break_even_where_one_is_never_dearer():
    assert break_even_answers(0, 1.0, 10, 1.0) is None
    assert break_even_answers(0, 1.0, 10, 2.0) is None
    assert break_even_answers(5, 1.0, 5, 2.0) is None


@settings(deadline=None)
@given(usd, usd, usd, usd)
def test_at_break_even_the_bills_are_equal(build_a, run_a, build_b, run_b):
    answers = break_even_answers(build_a, run_a, build_b, run_b)
    if answers is not None and answers < 1e12:
        assert answers > 0
        bills = build_a + answers * run_a / 1000, build_b + answers * run_b / 1000
        assert bills[0] == pytest.approx(bills[1], rel=1e-6, abs=1e-6)
