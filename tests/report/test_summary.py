from dataclasses import replace

import pytest
from climb_fixture import (
    calibrated_climb,
    calibration,
    comparison,
    curve_climb,
    measurement,
    one_rung_climb,
    result,
    stopped_climb,
    synthetic_climb,
)

from rung.records import Answer, Disagreement, Parity, Prediction
from rung.report import summary


def row_of(climb, rung):
    return next(row for row in summary.rows(climb) if row.rung == rung)


def test_every_rung_is_a_row_in_the_order_of_the_ladder():
    climb = synthetic_climb()
    shuffled = replace(climb, results=climb.results[::-1])
    assert [row.rung for row in summary.rows(shuffled)] == [
        "head",
        "prompt",
        "few_shot",
        "optimise",
        "sft",
        "distill",
    ]


def test_skipped_and_failed_rungs_give_their_reason():
    climb = synthetic_climb()
    assert row_of(climb, "distill").state == "skipped"
    assert row_of(climb, "distill").what == "no teacher is named in the task"
    assert row_of(climb, "optimise").state == "failed"
    assert "out of memory" in row_of(climb, "optimise").what


def test_the_price_of_correct_answers_counts_the_right_ones_only():
    climb = synthetic_climb()
    right = sum(p.score for p in climb.results[1].test.predictions) / 400
    assert right == 0.6125
    assert row_of(climb, "prompt").usd_correct == f"${0.0008 / right:.4f}"


def test_the_price_of_correct_answers_is_left_out_where_the_metric_cannot_tell():
    found = measurement("head", "test", 40, 0.5, metric="mae")
    climb = synthetic_climb()
    errors = replace(climb, metric="mae", results=(replace(climb.results[0], dev=found, test=found),))
    assert row_of(errors, "head").usd_correct == "–"


def test_broken_calls_stand_beside_the_score():
    climb = synthetic_climb()
    broken = replace(climb.results[0], test=measurement("head", "test", 390, 0.9, failures=10))
    row = row_of(replace(climb, results=(broken,)), "head")
    assert row.faults == "10 calls broke, counted beside the score"


def test_rows_on_which_nothing_differs_show_no_smallest_gain():
    same = replace(comparison("head", "sft", 0.5), discordant=0.0, smallest_detectable_gain=0.0)
    assert summary.detectable_text(same, "accuracy").startswith("can't be told: on no row")


def test_answers_that_their_limit_of_tokens_ended_are_counted():
    climb = synthetic_climb()
    found = measurement("head", "test", 40, 0.5, failures=1)
    first, *others = found.predictions
    cut = replace(found, predictions=(replace(first, answer=replace(first.answer, cut=True)), *others))
    row = row_of(replace(climb, results=(replace(climb.results[0], test=cut),)), "head")
    assert row.faults == (
        "1 call broke, counted beside the score; 1 of 40 test answers were cut off at the most tokens that "
        "one may have"
    )


def test_a_rung_over_the_limits_says_which():
    climb = synthetic_climb()
    over = replace(climb.results[2], over_limits=("p95 339 ms is over 300 ms",))
    row = row_of(replace(climb, results=(over, climb.results[4])), "few_shot")
    assert row.state == "over limits"
    assert row.what.endswith("Over the limits: p95 339 ms is over 300 ms.")


def test_an_unsettled_choice_is_marked_as_one_for_now():
    climb = synthetic_climb()
    undecided = replace(climb, decision=replace(climb.decision, kind="undecided"))
    assert row_of(climb, "sft").mark == "ship"
    assert row_of(undecided, "sft").mark == "for now"


def test_a_rung_without_a_test_score_is_judged_by_its_dev_score():
    climb = one_rung_climb()
    (found,) = summary.measured(climb)
    assert found[1].split == "dev"
    assert summary.rows(climb)[0].test == ("–", "")


def test_a_p_value_stands_beside_a_gain_and_not_beside_a_loss():
    (found,) = [c for c in synthetic_climb().decision.comparisons if c.dearer == "sft" and c.gain > 0][:1]
    loss = replace(found, gain=-0.04, interval=replace(found.interval, low=-0.09, high=-0.01))
    assert summary.comparison_text(found, "accuracy").endswith("after Holm")
    assert summary.comparison_text(loss, "accuracy") == "−.040 (−.090 to −.010)"


def test_a_gain_over_a_smaller_error_is_called_one():
    climb = synthetic_climb()
    found = comparison("head", "sft", 0.0004)
    assert summary.comparison_text(found, "mae").startswith("a gain of +0.069 (+0.035 to ")
    assert summary.comparison_text(found, "accuracy").startswith("+.069 (")
    assert climb.constant is not None
    assert "; sft against it a gain of +0.621 (" in summary.constant_text(climb.constant, "sft", "mae")


def test_the_facts_name_the_step_that_decided():
    facts = dict(summary.facts(synthetic_climb()))
    assert facts["Score of sft"] == ".930 (.899–.956), accuracy on test"
    assert facts["sft against head"].startswith("+.069 (+.035 to +.103)")
    assert facts["Test"] == "400 rows, carved from the rows, sealed; opened once"
    assert facts["Smallest detectable gain"] == ".051 with these rows"
    assert facts["Always one answer"] == (
        "“billing” to every row scores .310 (.267–.357) on test; sft against it +.621 (+.570 to +.660)"
    )


def test_an_unsettled_verdict_says_how_many_rows_would_settle_it():
    carved = one_rung_climb()
    some = replace(carved, decision=replace(carved.decision, rows_needed=412))
    assert [dict(summary.facts(climb))["To settle it"] for climb in (carved, some)] == [
        "label about 10 more test rows (some 50 new rows: one in 5 goes to the test)",
        "label about 420 more test rows (some 2,100 new rows: one in 5 goes to the test)",
    ]
    given = replace(some, test_given=True)
    assert dict(summary.facts(given))["To settle it"] == "label about 420 more test rows"


def test_a_cheap_choice_is_compared_with_the_best_score():
    climb = synthetic_climb()
    head = replace(climb, decision=replace(climb.decision, chosen="head", best="sft"))
    deciding = summary.decisive(head)
    assert deciding is not None
    assert (deciding.cheaper, deciding.dearer) == ("head", "sft")


def test_break_even_counts_the_building():
    climb = synthetic_climb()
    lines = summary.break_even(climb)
    assert lines[0] == "head costs less than sft from the first answer on, building included."
    # 1,380.5 s more to build at $0.10 an hour, against $0.00334 less per 1,000 answers.
    assert lines[2].startswith("sft costs less than few_shot after about 11,000 answers, building included:")
    assert lines[2].endswith("in the first month at your volume.")
    assert "9.8 months" in lines[1]


def test_building_a_rung_that_goes_on_from_another_includes_that_one():
    climb = synthetic_climb()
    sft = replace(result("sft", 4, "", 0.01, 0.001, 3600.0), upon="head")
    head = replace(result("head", 0, "", 0.01, 0.002, 360.0), spent_usd=0.5)
    more = replace(sft, rung="preference", order=6, build_s=300.0, upon="sft")
    decision = replace(climb.decision, chosen="preference", best="preference")
    found = replace(climb, results=(head, sft, more), decision=decision)
    assert summary.build_usd(found, more) == pytest.approx(0.5 + 0.10 * (360 + 3600 + 300) / 3600)
    assert summary.break_even(found)[1] == (
        "sft costs less than preference from the first answer on, building included."
    )


def test_break_even_of_equal_costs_is_said_so():
    climb = synthetic_climb()
    twins = (result("head", 0, "", 0.01, 0.001, 5.0), result("sft", 4, "", 0.01, 0.001, 5.0))
    assert summary.break_even(replace(climb, results=twins)) == ["sft and head cost the same."]


def test_answers_are_marked_right_wrong_partly_or_broken_in_words():
    row = Disagreement(
        where="r:1",
        input="i",
        target="t",
        answers=(("a", "x", 1.0), ("b", "x", 0.0), ("c", "x", 0.5), ("d", "", None)),
    )
    words = [shown[3] for shown in summary.disagreement_answers(row, "field_f1")]
    assert words == ["right", "wrong", "partly right, .500", "call broke"]
    assert summary.disagreement_answers(row, "mae")[2][3] == "off by 0.5"
    judged = [shown[3] for shown in summary.disagreement_answers(row, "judge")]
    assert judged == ["better than the output", "worse", "as good", "call broke"]


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("macro_f1", ["right", "wrong", "call broke"]),
        ("spearman", ["right", "other than wanted", "call broke"]),
        ("style", ["right", "other than wanted", "call broke"]),
        ("rouge_l", ["right", "ROUGE-L .000", "call broke"]),
    ],
)
def test_what_is_not_the_output_is_called_wrong_only_where_the_metric_says_so(metric, words):
    answers = (("a", "x", 1.0), ("b", "x", 0.0), ("c", "", None))
    row = Disagreement(where="r:1", input="i", target="t", answers=answers)
    assert [shown[3] for shown in summary.disagreement_answers(row, metric)] == words


def test_a_call_that_broke_costs_what_it_took_and_is_no_right_answer():
    found = measurement("head", "test", 2, 1.0)
    broken = Prediction(example_id="x", answer=Answer(text="", failure="timeout"), score=None)
    only = replace(
        synthetic_climb().results[0],
        usd_per_1000=1.0,
        test=replace(found, predictions=(*found.predictions, broken), failures=1),
    )
    climb = replace(synthetic_climb(), results=(only,))
    assert (row_of(climb, "head").usd, row_of(climb, "head").usd_correct) == ("$1.00", "$1.50")


def test_parity_short_of_all_rows_tells_near_ties_from_the_rest():
    found = Parity(
        rows=64,
        max_difference=0.2,
        mean_difference=0.01,
        agreement=0.99,
        agreement_rows=200,
        clear_disagreements=0,
    )
    assert summary.parity_text(found).startswith(
        "same answer on 99 % of 200 prompts, none of the others beyond"
    )
    assert ", 1 of the others beyond a near-tie;" in summary.parity_text(
        replace(found, clear_disagreements=1)
    )
    assert "others" not in summary.parity_text(replace(found, agreement=1.0))


def test_a_stopped_rung_says_on_how_few_rows_its_score_rests():
    row = row_of(stopped_climb(), "few_shot")
    assert row.state == "stopped"
    assert row.what.startswith("stopped after 64 of 400 dev rows: can't beat head any more; 8 nearest")
    assert (row.test[0], row.p50_ms, row.memory) == ("–", "–", "–")


def test_what_was_predicted_stands_beside_what_it_took_and_the_peak_of_memory():
    climb = stopped_climb()
    assert row_of(climb, "prompt").took == "predicted 58 s, took 1 m 03 s, peak memory 412 MiB"
    assert row_of(climb, "few_shot").took == (
        "predicted 22 s (12 s to 1 m 35 s), took 31 s, peak memory 412 MiB"
    )
    assert row_of(climb, "head").took == (
        "no time predicted, at most 3 m 20 s, took 8.0 s, peak memory 96 MiB"
    )
    assert row_of(climb, "sft").took == "peak memory 1.9 GiB"
    assert row_of(climb, "distill").took == ""


def test_the_most_memory_of_reading_of_curves_and_of_the_test_is_one_line():
    climb = curve_climb()
    assert summary.peaks_text(climb) == ""
    head, *others = climb.curves
    peaks = zip(head.points, (1200.0, 1900.0, 0.0), strict=True)
    head = replace(head, points=tuple(replace(point, peak_mb=peak) for point, peak in peaks))
    climb = replace(climb, curves=(head, *others), test_peak_mb=2100.0)
    assert summary.peaks_text(climb) == "learning curves 1.9 GiB, test 2.1 GiB"


def test_the_shipped_rungs_calibration_is_one_line_with_its_rows():
    told = dict(summary.facts(calibrated_climb()))
    assert told["Calibration"] == "ECE .041 → .018 on 400 test rows, temperature 1.7"
    assert "Calibration" not in dict(summary.facts(synthetic_climb()))


def test_a_calibration_says_what_it_rests_on():
    none, dev = calibration("none"), calibration("platt", on_test=False)
    assert summary.calibration_text(none) == "ECE .041 on 400 test rows, probabilities left as they come"
    assert summary.calibration_text(dev).startswith("ECE .041 → .018 on 400 dev rows, Platt scaling")
    few = replace(none, dev=None, test=None, note="12 rows are too few to calibrate on")
    assert summary.calibration_text(few) == "12 rows are too few to calibrate on"


def test_every_calibration_is_a_row_and_one_figure_stands_where_nothing_was_changed():
    head, few_shot, sft = summary.calibrations(calibrated_climb())
    assert (head.rung, head.ece, head.rows) == ("head", (".041",), "400 test")
    assert (few_shot.rows, few_shot.ece) == ("400 dev", (".041", ".018"))
    assert few_shot.how.endswith("answers alone")
    assert (sft.ece_15, sft.brier, sft.log_loss) == ((".060", ".035"), (".151", ".139"), (".402", ".331"))
    assert sft.by_chance == ".031"


def test_the_shipped_rungs_reliability_is_a_table():
    assert summary.reliability(calibrated_climb())[0] == ("100", ".500", ".480", ".400–1.000")
    assert summary.reliability(synthetic_climb()) == []
    assert summary.reliability(one_rung_climb()) == []
