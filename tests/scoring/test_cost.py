from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rung.records import TokenPrice
from rung.scoring.cost import (
    HOURS_A_MONTH,
    break_even_answers,
    break_even_rented,
    break_even_requests,
    dearest_usd,
    monthly_usd,
    per_1000_correct,
    tokens_usd,
    usd_per_1000,
)

usd = st.floats(0, 1e4)
PRICE = TokenPrice(input_usd_per_m=0.25, output_usd_per_m=2.0, cached_input_usd_per_m=0.025)


def test_machine_time_is_paid_by_the_hour():
    assert usd_per_1000(3.6, 2.0) == pytest.approx(2.0)
    assert usd_per_1000(0.0, 2.0) == 0


def test_tokens_are_paid_by_the_million():
    assert 1000 * tokens_usd(PRICE, 500, 20, 0) == pytest.approx(0.125 + 0.04)


def test_cached_tokens_of_a_prompt_have_a_price_of_their_own():
    assert tokens_usd(PRICE, 1e6, 0, 1e6) == pytest.approx(0.025)
    assert tokens_usd(PRICE, 1e6, 0, 4e5) == pytest.approx(0.6 * 0.25 + 0.4 * 0.025)


def test_tokens_that_a_server_puts_into_its_cache_may_cost_more_than_others():
    dear = replace(PRICE, cache_write_usd_per_m=0.3125)
    assert tokens_usd(dear, 1e6, 0, 0, 1e6) == pytest.approx(0.3125)
    assert tokens_usd(dear, 1e6, 0, 5e5, 4e5) == pytest.approx(0.1 * 0.25 + 0.5 * 0.025 + 0.4 * 0.3125)
    assert tokens_usd(PRICE, 1e6, 0, 0, 1e6) == tokens_usd(PRICE, 1e6, 0, 0) == pytest.approx(0.25)


def test_at_most_a_prompt_costs_what_it_does_where_all_of_it_is_written_if_that_is_more():
    assert dearest_usd(replace(PRICE, cache_write_usd_per_m=0.5), 1e6, 1e6) == pytest.approx(2.5)
    assert dearest_usd(replace(PRICE, cache_write_usd_per_m=0.1), 1e6, 1e6) == pytest.approx(2.25)
    assert dearest_usd(PRICE, 1e6, 1e6) == pytest.approx(2.25)


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


def test_a_tune_of_12_dollars_pays_from_the_month_on_that_saves_one():
    assert break_even_requests(12.0, 1.0, 3.0) == pytest.approx(500)
    assert break_even_requests(0.0, 1.0, 3.0) == 0
    assert break_even_requests(12.0, 3.0, 3.0) is None


def test_a_machine_that_is_on_all_month_has_to_earn_its_rent():
    rent = HOURS_A_MONTH * 0.1
    assert break_even_rented(0.0, 0.1, 0.1, 1.0) == pytest.approx(rent * 1000)
    # A machine's whole capacity of 100 s each costs less hosted than its rent.
    assert break_even_rented(0.0, 100.0, 0.1, 1.0) is None
    assert break_even_rented(0.0, 0.1, 0.1, 0.0) is None


@settings(deadline=None)
@given(st.floats(0, 1e3), st.floats(0, 10), st.floats(0, 10))
@example(build=0.0, here=0.0, there=5e-324)
def test_at_break_even_a_month_costs_the_same_here_and_there(build, here, there):
    requests = break_even_requests(build, here, there)
    if requests is None:
        assert monthly_usd(1e9, here, build) >= monthly_usd(1e9, there)
    elif requests < 1e12:
        assert monthly_usd(requests, here, build) == pytest.approx(
            monthly_usd(requests, there), rel=1e-6, abs=1e-6
        )
        assert monthly_usd(2 * requests + 1, here, build) <= monthly_usd(2 * requests + 1, there)


@settings(deadline=None)
@given(st.floats(0, 500), st.floats(0.05, 60), st.floats(0.01, 2), st.floats(0.001, 20))
def test_the_rented_break_even_is_the_first_volume_at_which_a_step_of_rent_is_no_dearer(
    build, answer_s, hourly, price
):
    capacity = HOURS_A_MONTH * 3600 / answer_s
    found = break_even_rented(build, answer_s, hourly, price)
    # The oracle: machine by machine, whether hosted answers cost as much at the end of what they can answer.
    first = None
    for machines in range(1, 2000):
        here = machines * HOURS_A_MONTH * hourly + build / 12
        if price * machines * capacity / 1000 >= here:
            first = max(1000 * here / price, (machines - 1) * capacity)
            break
    if first is None:
        assert found is None or found > 1999 * capacity * 0.999
    else:
        assert found == pytest.approx(first, rel=1e-9)
