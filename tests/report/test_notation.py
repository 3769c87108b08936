import pytest

from rung.records import Interval
from rung.report.notation import (
    clean,
    count_text,
    memory_text,
    metric_text,
    ms_text,
    opened_text,
    p_text,
    round_count,
    short,
    usd_text,
)
from rung.scoring.notation import (
    duration_text,
    gain_text,
    interval_text,
    passes_text,
    percent_text,
    score_text,
)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.9274, ".927"),
        (1.0, "1.000"),
        (0.0, ".000"),
        (0.99996, "1.000"),
        (-0.25, "−.250"),
        (-0.0001, ".000"),
    ],
)
def test_a_share_is_written_without_its_zero(value, written):
    assert score_text(value, "accuracy") == written


@pytest.mark.parametrize(
    ("value", "written"), [(12.3456, "12.3"), (0.00421, "0.00421"), (12_345.6, "12,346"), (999.7, "1,000")]
)
def test_an_error_in_the_tasks_units_keeps_three_digits(value, written):
    assert score_text(value, "mae") == written


def test_a_score_that_is_not_finite_is_a_dash():
    assert score_text(float("nan"), "accuracy") == "–"


def test_the_direction_is_named_where_less_is_better():
    assert metric_text("mae") == "mean absolute error, lower is better"
    assert metric_text("accuracy") == "accuracy"


def test_an_interval_with_a_negative_bound_has_no_dash_that_could_be_a_minus():
    assert interval_text(Interval(low=0.9, high=0.95), "accuracy") == ".900–.950"
    assert interval_text(Interval(low=-0.1, high=0.2), "spearman") == "−.100 to .200"


def test_a_gain_always_has_its_sign():
    assert [gain_text(v, "accuracy") for v in (0.041, 0.0, -0.02)] == ["+.041", "+.000", "−.020"]


@pytest.mark.parametrize(
    ("usd", "written"),
    [
        (0.0, "$0"),
        (0.0042, "$0.0042"),
        (0.000314, "$0.00031"),
        (4e-7, "< $0.000001"),
        (0.5, "$0.50"),
        (0.999, "$1.00"),
        (12.345, "$12.35"),
        (1234.5, "$1,234"),
    ],
)
def test_a_tiny_amount_of_money_can_be_read(usd, written):
    assert usd_text(usd) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.42, "0.4 s"),
        (9.96, "10 s"),
        (59.6, "1 m 00 s"),
        (252, "4 m 12 s"),
        (3599.7, "1 h 00 m"),
        (3900, "1 h 05 m"),
    ],
)
def test_a_duration_never_shows_sixty_of_a_unit(seconds, written):
    assert duration_text(seconds) == written


def test_what_was_not_measured_is_a_dash_and_not_a_zero():
    assert ms_text(0.0) == memory_text(0.0) == "–"


def test_latencies_and_memory_are_rounded_to_what_can_be_told_apart():
    assert [ms_text(s) for s in (0.0043, 0.041, 1.24)] == ["4.3", "41", "1,240"]
    assert [memory_text(m) for m in (412.4, 1900.0)] == ["412 MiB", "1.9 GiB"]


def test_a_share_short_of_all_never_reads_as_all():
    assert percent_text(1.0) == "100 %"
    assert percent_text(0.9996) == "> 99.9 %"
    assert percent_text(0.14) == "14 %"


def test_a_small_p_is_bounded_and_not_zero():
    assert p_text(0.0004).replace("\u00a0", " ") == "p < .001"
    assert p_text(0.012).replace("\u00a0", " ") == "p = .012"
    assert p_text(1.0).replace("\u00a0", " ") == "p = 1.000"


def test_counts_agree_with_their_noun():
    assert [count_text(n, "row") for n in (1, 400, 0)] == ["1 row", "400 rows", "0 rows"]
    assert [round_count(n) for n in (981_944, 11_481, 63.2)] == ["980,000", "11,000", "64"]


def test_a_second_look_at_the_sealed_test_is_called_out():
    assert opened_text(1) == "opened once"
    assert "too good" in opened_text(2)
    assert opened_text(0) == "not opened"


def test_long_text_is_cut_at_a_space_and_marked():
    assert short("one two three four five", 16) == "one two three…"
    assert len(short("x" * 100_000, 280)) == 280
    assert short("  a\n\n b ", 10) == "a b"


def test_text_past_what_is_looked_at_is_still_marked_as_cut():
    assert short("a" + " " * 5000 + "b", 280) == "a…"


def test_foreign_text_can_neither_drive_the_terminal_nor_fail_to_be_written():
    cleaned = clean("a\x1b[31m\x9b b\u202ec\ud800d\r\n")
    assert cleaned.encode() and not set(cleaned) & set("\x1b\x9b\u202e\r")
    assert clean("क्\u200dष \U0001f469\u200d\U0001f680") == "क्\u200dष \U0001f469\u200d\U0001f680"


@pytest.mark.parametrize(
    ("passes", "said"),
    [(0.0004, "1 % of a pass"), (0.41, "41 % of a pass"), (0.996, "1.0 passes"), (2.34, "2.3 passes")],
)
def test_passes_are_told_as_a_part_of_one_or_by_their_number(passes, said):
    assert passes_text(passes) == f"after {said} through its rows"
