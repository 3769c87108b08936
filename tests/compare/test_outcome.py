"""What a comparison says of two Measurements, beside exact sums and beside itself turned round."""

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.compare.outcome import Outcome, outcome, row_change
from rung.records import Answer, Example
from rung.scoring import stats
from rung.scoring.measure import measurement


def measured(metric, outputs, values, broken=()):
    examples = [Example(id=f"r{at:04}", input=str(at), output=output) for at, output in enumerate(outputs)]
    answers = [
        Answer(text=str(value), value=value, failure="broke" if at in broken else None)
        for at, value in enumerate(values)
    ]
    return measurement(system="s", split="dev", metric=metric, examples=examples, answers=answers)


def compared(metric, outputs, first, second, groups=None, broken=((), ())) -> Outcome:
    return outcome(
        measured(metric, outputs, first, broken[0]),
        measured(metric, outputs, second, broken[1]),
        targets={f"r{at:04}": output for at, output in enumerate(outputs)},
        groups=groups,
        seed=0,
    )


def right_and_wrong(both, second_only, first_only, neither) -> Outcome:
    first = ["a"] * both + ["b"] * second_only + ["a"] * first_only + ["b"] * neither
    second = ["a"] * both + ["a"] * second_only + ["b"] * first_only + ["b"] * neither
    return compared("accuracy", ["a"] * len(first), first, second)


def tail(successes: int, of: int) -> float:
    """P(at least so many heads), summed exactly."""
    return float(Fraction(sum(math.comb(of, k) for k in range(successes, of + 1)), 2**of))


counts = st.integers(0, 60)


@settings(max_examples=60, deadline=None)
@given(counts, counts, counts, counts)
def test_both_ps_are_the_exact_tails_of_a_fair_coin(both, up, down, neither):
    if both + up + down + neither == 0:
        return
    found = right_and_wrong(both, up, down, neither)
    n = both + up + down + neither
    assert found.n == n and found.gain == pytest.approx((up - down) / n)
    assert found.p_second == pytest.approx(tail(up, up + down), rel=1e-9)
    assert found.p_first == pytest.approx(tail(down, up + down), rel=1e-9)
    assert found.interval == stats.bonett_price(up, down, n)
    assert found.narrow == stats.bonett_price(up, down, n, 0.9)
    assert found.discordant == pytest.approx((up + down) / n)


@settings(max_examples=60, deadline=None)
@given(counts, counts, counts, counts)
def test_turned_round_everything_is_turned_round(both, up, down, neither):
    if both + up + down + neither == 0:
        return
    here, there = right_and_wrong(both, up, down, neither), right_and_wrong(both, down, up, neither)
    assert there.gain == pytest.approx(-here.gain)
    assert (there.p_first, there.p_second) == pytest.approx((here.p_second, here.p_first))
    assert (there.interval.low, there.interval.high) == pytest.approx(
        (-here.interval.high, -here.interval.low)
    )
    turned = {"first_better": "second_better", "second_better": "first_better"}
    assert there.found == turned.get(here.found, here.found)
    assert there.rows_needed == here.rows_needed
    assert there.smallest_detectable_gain == pytest.approx(here.smallest_detectable_gain)


@settings(max_examples=60, deadline=None)
@given(counts, counts, counts, counts)
def test_what_is_said_follows_from_the_numbers(both, up, down, neither):
    n = both + up + down + neither
    if n == 0:
        return
    found = right_and_wrong(both, up, down, neither)
    if n < 50:
        assert found.found == "too_few"
    elif tail(up, up + down) <= 0.025:
        assert found.found == "second_better"
    elif tail(down, up + down) <= 0.025:
        assert found.found == "first_better"
    else:
        inside = -0.02 < found.narrow.low and found.narrow.high < 0.02
        assert found.found == ("alike" if inside else "open")
    assert (found.rows_needed is not None) == (found.found == "open")


@pytest.mark.parametrize(
    ("cells", "found"),
    [
        ((200, 30, 5, 40), "second_better"),
        ((200, 5, 30, 40), "first_better"),
        ((2000, 4, 4, 100), "alike"),
        ((60, 6, 2, 10), "open"),
        ((30, 10, 0, 9), "too_few"),
        ((300, 0, 0, 0), "alike"),
    ],
)
def test_each_finding(cells, found):
    assert right_and_wrong(*cells).found == found


def test_as_many_more_rows_as_are_asked_for_settle_it():
    few = right_and_wrong(120, 12, 5, 20)
    assert few.found == "open" and few.rows_needed is not None
    times = math.ceil((few.n + few.rows_needed) / few.n)
    assert right_and_wrong(*(times * cell for cell in (120, 12, 5, 20))).found == "second_better"


def test_less_error_is_better_and_rows_on_which_a_call_broke_are_left_out():
    outputs = [float(at) for at in range(80)]
    worse, better = [value + 4 for value in outputs], [value + 1 for value in outputs]
    found = compared("mae", outputs, worse, better, broken=({0}, {1, 2}))
    assert (found.n, found.found) == (77, "second_better") and found.gain == pytest.approx(3.0)
    assert found.least == pytest.approx(0.02 * 76)
    assert row_change(4.0, 1.0, "mae") == "up" and row_change(1.0, 4.0, "mae") == "down"
    assert row_change(None, 4.0, "mae") == row_change(4.0, 4.0, "mae") == "none"


@pytest.mark.parametrize("metric", ["macro_f1", "accuracy"])
def test_groups_are_one_draw_each(metric):
    outputs = ["a", "b"] * 60
    first = ["b"] * 40 + outputs[40:]
    alone = compared(metric, outputs, first, outputs)
    grouped = compared(
        metric, outputs, first, outputs, groups={f"r{at:04}": str(at // 40) for at in range(120)}
    )
    assert grouped.gain == alone.gain and alone.found == "second_better"
    assert grouped.p_second > 0.025 and grouped.found == "open"


def test_rows_of_one_group_settle_nothing():
    outputs = ["a", "b"] * 60
    found = compared(
        "accuracy", outputs, ["b"] * 120, outputs, groups={f"r{at:04}": "g" for at in range(120)}
    )
    assert (found.found, found.one_group, found.rows_needed) == ("open", True, None)
    assert found.p_first == found.p_second == 1


@pytest.mark.parametrize("metric", ["macro_f1", "style", "rouge_l", "accuracy", "mae", "spearman"])
def test_one_common_row_is_too_few_whatever_the_metric(metric):
    target, other = (3.0, 4.0) if metric in ("mae", "spearman") else ("a b", "b c")
    found = compared(metric, [target], [target], [other])
    assert (found.found, found.n) == ("too_few", 1)


@pytest.mark.parametrize("n", [120, 160])
def test_where_a_small_gain_stays_open_as_many_rows_are_asked_for_as_show_how_small_it_is(n):
    few = right_and_wrong(n - 1, 1, 0, 0)
    assert few.found == "open" and few.rows_needed is not None and few.rows_needed > 20
    times = math.ceil((n + few.rows_needed) / n)
    assert right_and_wrong(times * (n - 1), times, 0, 0).found == "alike"


def test_without_a_common_row_there_is_nothing_to_say():
    found = compared("accuracy", ["a", "a"], ["a", "a"], ["a", "a"], broken=({0}, {1}))
    assert (found.found, found.n) == ("too_few", 0)
