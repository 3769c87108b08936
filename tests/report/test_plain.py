from dataclasses import replace

import pytest
from climb_fixture import hosted_climb, measurement, one_rung_climb, stopped_climb, synthetic_climb

from rung.climb.budget import TRAINED
from rung.records import Stopped
from rung.report.plain import REASONS, WAYS, in_plain_words
from rung.rungs import LADDER
from rung.scoring.scorers import SCORERS


def shipping(climb, rung, **changes):
    return replace(climb, decision=replace(climb.decision, chosen=rung, **changes))


def with_result(climb, rung, **changes):
    found = tuple(replace(r, **changes) if r.rung == rung else r for r in climb.results)
    return replace(climb, results=found)


def test_every_rung_has_its_words_and_every_untrained_one_a_reason():
    names = {rung.name for rung in LADDER}
    assert WAYS.keys() | set(TRAINED) == names
    assert REASONS.keys() == WAYS.keys()


def test_a_tune_that_ships_pays_and_is_set_beside_the_best_way_without_training():
    assert in_plain_words(synthetic_climb()) == (
        "Fine-tuning pays here: the tuned model is right on 93 of 100 test rows, a small linear model "
        "(head), the best without training, on 86; training took 24 m 12 s."
    )


def test_that_facts_are_lacking_is_said_only_where_the_right_passage_was_seen_to_help():
    climb = synthetic_climb()
    prompt = next(r for r in climb.results if r.rung == "prompt")
    for gap, facts in (("knowledge", True), ("behaviour", False), (None, False)):
        found = replace(prompt, rung="retrieval", gap=gap, test=None)
        said = in_plain_words(shipping(replace(climb, results=(*climb.results, found)), "retrieval"))
        assert ("what the model lacks is facts" in said) == facts
        assert ("what stands in the documents brings as much" in said) == (not facts)


def test_training_took_what_the_tune_below_took_too():
    climb = synthetic_climb()
    sft = next(r for r in climb.results if r.rung == "sft")
    more = replace(sft, rung="preference", order=6, build_s=300.0, upon="sft")
    climb = shipping(replace(climb, results=(*climb.results, more)), "preference")
    assert in_plain_words(climb).endswith("; training took 29 m 12 s.")


def test_a_tune_that_only_beats_the_rung_left_behind_is_not_said_to_pay():
    climb = synthetic_climb()
    won = replace(climb.decision.comparisons[2], cheaper="prompt")
    open_yet = replace(won, cheaper="head", interval=replace(won.interval, low=-0.01), wins=False)
    said = in_plain_words(shipping(climb, "sft", comparisons=(won, open_yet)))
    assert said == (
        "Fine-tuning beats an instruction alone (prompt) here, but isn't shown to beat a small linear model "
        "(head), the best without training: the tuned model is right on 93 of 100 test rows, the other on "
        "86; training took 24 m 12 s."
    )


def test_where_a_cheaper_rung_ships_the_tune_is_said_not_to_pay_and_why():
    climb = shipping(
        with_result(synthetic_climb(), "sft", test=measurement("sft", "test", 400, 0.85)), "head"
    )
    said = in_plain_words(climb)
    assert said.startswith("Fine-tuning doesn't pay here: the rows teach a linear model as much as")
    assert "A small linear model (head) is right on 86 of 100 test rows, the tuned model on 85, at" in said
    assert "no clear gain" not in said


def test_a_tune_that_scores_more_by_chance_is_said_to_be_no_clear_gain():
    assert "the tuned model on 93, no clear gain, at" in in_plain_words(shipping(synthetic_climb(), "head"))


def test_scores_of_test_and_dev_are_never_set_side_by_side():
    climb = shipping(with_result(synthetic_climb(), "sft", test=None), "head")
    assert in_plain_words(climb).count("100 dev rows, the tuned model on 94") == 1


def test_a_tune_that_was_stopped_or_is_over_the_limits_says_so():
    halted = Stopped(rows=64, of=400, rival="head", worse=True)
    climb = shipping(with_result(synthetic_climb(), "sft", stopped=halted, test=None), "head")
    assert "was stopped early, when it could no longer beat a small linear model (head)" in in_plain_words(
        climb
    )
    other = with_result(climb, "sft", stopped=replace(halted, rival="few_shot"))
    assert "could no longer beat an instruction with examples (few_shot)." in in_plain_words(other)
    out = shipping(with_result(synthetic_climb(), "sft", over_limits=("p95 9 ms is over 5 ms",)), "head")
    assert in_plain_words(out) == (
        "Fine-tuning doesn't win here: the tuned model is over the limits that were set (p95 9 ms is over "
        "5 ms)."
    )


def test_a_tune_that_was_cut_short_does_not_pay_in_the_time_it_had():
    cut = with_result(synthetic_climb(), "sft", cut_short=True, passes=0.41, test=None)
    said = in_plain_words(shipping(cut, "head"))
    first = (
        "Fine-tuning doesn't pay here in the time it had: the tuned model isn't clearly better than a small "
        "linear model (head); training ended after 41 % of a pass through its rows, and more time may change "
        "that."
    )
    assert said.startswith(f"{first} A small linear model (head) is right on")
    assert said.endswith(" A longer --budget would tell.")
    halted = Stopped(rows=64, of=400, rival="head", worse=True)
    stopped = in_plain_words(shipping(with_result(cut, "sft", stopped=halted), "head"))
    assert stopped.startswith(f"{first} The tuned model was stopped early")
    assert stopped.endswith(" A longer --budget would tell.")
    open_ = shipping(cut, "head", kind="undecided", best="sft", rows_needed=412)
    ended = (
        "Its training ended for want of time, after 41 % of a pass through its rows, and may have had more "
        "to learn: a longer --budget would tell."
    )
    assert in_plain_words(open_).endswith(f"one in 5 goes to the test) would tell. {ended}")
    assert "ended" not in in_plain_words(shipping(cut, "sft"))


def test_a_rung_that_is_not_above_one_answer_to_every_row_does_not_do_the_job():
    climb = synthetic_climb()
    assert climb.constant is not None
    near = replace(climb.constant, score=0.92, gain=0.01, beaten=False)
    assert in_plain_words(replace(climb, constant=near)) == (
        "Fine-tuning isn't shown to pay here, as what would ship isn't shown to do the job: always giving "
        "one and the same answer is right on 92 of 100 test rows, the tuned model on 93, which may be chance "
        "on these rows."
    )
    limited = with_result(climb, "sft", over_limits=("memory",))
    head = in_plain_words(shipping(replace(limited, constant=near), "head"))
    assert head.endswith("The tuned model is right on 93 of 100 test rows, but is over the limits.")
    above = replace(near, score=0.98, gain=-0.05)
    said = in_plain_words(replace(climb, constant=above))
    assert said.endswith("98 of 100 test rows, the tuned model on 93.")


@pytest.mark.parametrize(("right", "said"), [(400, "100"), (399, "99.8"), (1, "0.2"), (0, "0")])
def test_a_share_short_of_all_rows_never_reads_as_all_of_them(right, said):
    found = measurement("sft", "test", 400, right / 400)
    climb = with_result(synthetic_climb(), "sft", test=found)
    assert f"the tuned model is right on {said} of 100 test rows" in in_plain_words(climb)


def test_an_undecided_verdict_says_how_many_rows_would_tell():
    climb = shipping(synthetic_climb(), "head", kind="undecided", best="sft", rows_needed=412)
    said = in_plain_words(climb)
    assert said.startswith(
        "Whether fine-tuning pays can't be told yet: a small linear model (head) is right on 86"
    )
    assert said.endswith(
        "which may be chance; labelling about 420 more test rows (some 2,100 new rows: one in 5 goes to the "
        "test) would tell."
    )
    given = in_plain_words(replace(climb, test_given=True))
    assert given.endswith("which may be chance; labelling about 420 more test rows would tell.")


def test_without_a_tune_or_a_verdict_nothing_is_claimed_of_fine_tuning():
    climb = synthetic_climb()
    untuned = shipping(replace(climb, results=climb.results[:3]), "head")
    assert "would do better wasn't seen (no rung that trains was climbed)." in in_plain_words(untuned)
    skipped = with_result(climb, "sft", dev=None, test=None, skipped="40 training rows; tuning needs 50")
    assert "wasn't seen (40 training rows; tuning needs 50)" in in_plain_words(shipping(skipped, "head"))
    none = in_plain_words(one_rung_climb())
    assert none.startswith("Whether fine-tuning pays can't be told from these rows: ")


def of_metric(climb, metric):
    """The climb as if its figures were of another metric."""
    found = tuple(
        replace(
            r, dev=r.dev and replace(r.dev, metric=metric), test=r.test and replace(r.test, metric=metric)
        )
        for r in climb.results
    )
    return replace(climb, results=found, metric=metric)


@pytest.mark.parametrize("metric", sorted(name for name, scorer in SCORERS.items() if not scorer.binary))
def test_a_score_that_isnt_a_share_of_right_answers_is_given_as_it_is(metric):
    said = in_plain_words(of_metric(synthetic_climb(), metric))
    if SCORERS[metric].higher_is_better:
        tuned, best = "scores .930", "a small linear model (head), the best without training, .863"
    else:
        tuned = "is off by 0.93 on average"
        best = "an instruction alone (prompt), the best without training, by 0.613"
    assert f"pays here: the tuned model {tuned} on test rows, {best}; training took" in said


def test_a_stopped_rival_is_named_with_the_rows_it_was_stopped_at():
    climb = stopped_climb()
    only = tuple(r for r in climb.results if r.rung in ("few_shot", "sft"))
    assert "when it was stopped after 64 rows" in in_plain_words(replace(climb, results=only))


def test_what_is_over_the_limits_is_no_rival_of_a_tune():
    climb = with_result(synthetic_climb(), "head", over_limits=("p95 9 ms is over 5 ms",))
    assert "an instruction with examples (few_shot), the best without training, on 74" in in_plain_words(
        climb
    )
    alone = replace(climb, results=tuple(r for r in climb.results if r.rung in ("head", "sft")))
    assert in_plain_words(alone).startswith("Fine-tuning is the only way here that was tried and may ship")


@pytest.mark.parametrize("split", ["dev", "test"])
@pytest.mark.parametrize(("failures", "rival"), [(20, "head"), (21, "few_shot")])
def test_what_broke_on_many_more_rows_than_another_is_no_rival_of_a_tune(failures, rival, split):
    dev = measurement("head", "dev", 400 - failures, 0.95, failures=failures)
    test = replace(dev, split="test") if split == "test" else None
    climb = with_result(synthetic_climb(), "head", dev=dev, test=test)
    assert f"({rival}), the best without training" in in_plain_words(climb)


def test_the_best_without_training_is_so_on_dev_where_all_were_scored():
    lucky = with_result(synthetic_climb(), "prompt", test=measurement("prompt", "test", 400, 0.92))
    assert "a small linear model (head), the best without training" in in_plain_words(lucky)


@pytest.mark.parametrize("kept", [True, False])
def test_the_best_without_training_is_so_with_broken_calls_counted_as_wrong(kept):
    dev = measurement("few_shot", "dev", 384, 0.89, failures=16)
    dev = dev if kept else replace(dev, strict_score=None)  # as in records of earlier versions
    climb = with_result(synthetic_climb(), "few_shot", dev=dev)
    assert "a small linear model (head), the best without training" in in_plain_words(climb)


@pytest.mark.parametrize(
    ("metric", "score", "strict", "best"), [("macro_f1", 0.89, 0.85, "head"), ("mae", 0.6, 0.7, "prompt")]
)
def test_broken_calls_count_against_the_best_without_training_under_every_metric(metric, score, strict, best):
    dev = measurement("few_shot", "dev", 384, score, failures=16)
    climb = with_result(synthetic_climb(), "few_shot", dev=replace(dev, strict_score=strict))
    assert f"({best}), the best without training" in in_plain_words(of_metric(climb, metric))


def test_calls_that_broke_are_no_lack_of_gain():
    broken = measurement("sft", "test", 360, 0.95, failures=40)
    climb = shipping(with_result(synthetic_climb(), "sft", test=broken), "head")
    assert "the tuned model on 95, but 40 of its calls broke, at" in in_plain_words(climb)


def test_no_more_rows_are_asked_for_where_nobody_said_how_many():
    climb = shipping(synthetic_climb(), "head", kind="undecided", best="sft", rows_needed=None)
    assert "the tuned model on 93, but" in in_plain_words(climb) and "labelling" not in in_plain_words(climb)


def test_a_hosted_model_is_not_said_to_do_better_than_a_tune_that_scores_more():
    better = with_result(hosted_climb(), "sft", test=measurement("sft", "test", 400, 0.96))
    said = in_plain_words(shipping(better, "api"))
    assert "doesn't pay here: asking a bigger model brings as much as training a small one does." in said
    assert "does better" not in said


def test_a_dearer_way_that_scores_more_than_the_tune_is_named_with_its_price_and_not_as_what_it_beats():
    climb = with_result(hosted_climb(), "api", test=measurement("api", "test", 400, 0.94))
    climb = with_result(climb, "api", dev=measurement("api", "dev", 400, 0.95))
    compared = climb.decision.comparisons
    above = replace(compared[2], cheaper="sft", dearer="api", gain=0.01, wins=False)
    assert in_plain_words(shipping(climb, "sft", comparisons=(*compared, above))) == (
        "Fine-tuning pays here: the tuned model is right on 93 of 100 test rows, a small linear model "
        "(head), the best cheaper way without training, on 86; training took 24 m 12 s. A hosted model (api) "
        "is right on 94 of 100 test rows, no clear gain, at 1316 times the price of an answer."
    )
    alone = replace(climb, results=tuple(r for r in climb.results if r.rung in ("sft", "api")))
    assert in_plain_words(shipping(alone, "sft", comparisons=(above,))) == (
        "Fine-tuning pays here: the tuned model is right on 93 of 100 test rows, a hosted model (api), the "
        "best without training, on 94, no clear gain, at 1316 times the price of an answer; training took "
        "24 m 12 s."
    )
    distill = replace(next(r for r in climb.results if r.rung == "sft"), rung="distill", order=5)
    more = replace(climb, results=(*(r for r in climb.results if r.rung != "distill"), distill))
    passed = replace(above, cheaper="distill")
    said = in_plain_words(shipping(more, "sft", kind="tie", best="distill", comparisons=(*compared, passed)))
    assert "a small linear model (head), the best cheaper way without training, on 86" in said


def test_a_dearer_way_without_a_test_score_leaves_the_others_theirs():
    climb = with_result(hosted_climb(), "api", test=None, dev=measurement("api", "dev", 400, 0.9))
    above = replace(climb.decision.comparisons[2], cheaper="sft", dearer="api", gain=-0.04, wins=False)
    said = in_plain_words(shipping(climb, "sft", comparisons=(*climb.decision.comparisons, above)))
    assert "93 of 100 test rows, a small linear model (head), the best cheaper way" in said
    assert "A hosted model (api) is right on 90 of 100 dev rows, where the tuned model is right on" in said


def test_an_open_verdict_beside_the_floor_is_said_to_be_open():
    climb = synthetic_climb()
    assert climb.constant is not None
    climb = replace(climb, constant=replace(climb.constant, score=0.86, gain=0.0, beaten=False))
    said = in_plain_words(shipping(climb, "head", kind="undecided", best="sft", rows_needed=412))
    assert "isn't shown to pay" not in said and "Whether fine-tuning pays can't be told yet" in said
