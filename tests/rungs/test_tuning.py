"""What a tune decides, against a learner whose curve is known: no model, no clock."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rung.errors import TrainingError
from rung.records import Example, Json
from rung.rungs.below import BARE, TAGGED
from rung.rungs.tune import Arm, Pace
from rung.rungs.tuning import (
    MOST_EPOCHS,
    PROBE_STEPS,
    USED_SHARE,
    _collapsed,
    _settle_length,
    _tune,
)
from rung.scoring.notation import passes_text
from rung.scoring.scorers import SCORERS
from rung.training.methods import METHODS, RATES
from tests.fixtures_learner import BARE_FORM, BATCH, DEV, SURE_RATE, Learner, rising, tuned


@pytest.mark.parametrize("form", ["codes", "words"])
@pytest.mark.parametrize("rate", RATES)
def test_the_best_rate_and_then_the_best_form_go_on(form, rate):
    curves = {f"codes, rate {r:g}": rising(1 if r == rate else 0.5) for r in RATES}
    curves[f"words, rate {rate:g}"] = rising(2 if form == "words" else 0.1)
    learner = Learner(curves=curves)
    outcome = tuned(learner)
    assert outcome.form == form
    assert learner.kept["arm"] == Arm(form=form, rate=rate).name
    longest = max(learner.steps.values())
    assert learner.steps[learner.kept["arm"]] == longest
    assert all(3 * steps <= longest for name, steps in learner.steps.items() if name != learner.kept["arm"])


@pytest.mark.parametrize(("gain", "form"), [(-0.1, "codes"), (0.015, "codes"), (0.03, "words")])
def test_another_form_must_be_better_by_more_than_a_near_tie(gain, form):
    learner = Learner(
        curves={
            f"codes, rate {SURE_RATE:g}": lambda _: 0.7,
            f"words, rate {SURE_RATE:g}": lambda _: 0.7 + gain,
        }
    )
    assert tuned(learner).form == form


@pytest.mark.parametrize(("gain", "form"), [(0.03, "schema"), (0.015, BARE_FORM), (-0.1, BARE_FORM)])
def test_passages_in_the_prompt_must_be_better_by_more_than_a_near_tie(gain, form):
    curves = {
        f"schema, rate {SURE_RATE:g}": lambda _: 0.7 + gain,
        f"{BARE_FORM}, rate {SURE_RATE:g}": lambda _: 0.7,
    }
    assert tuned(Learner(forms=("schema", BARE_FORM), curves=curves)).form == form


@pytest.mark.parametrize(("gain", "form"), [(0.03, TAGGED), (0.015, "calls"), (-0.1, "calls")])
def test_the_form_of_call_that_a_model_was_taught_must_be_better_by_more_than_a_near_tie(gain, form):
    curves = {
        f"{TAGGED}, rate {SURE_RATE:g}": lambda _: 0.7 + gain,
        f"calls, rate {SURE_RATE:g}": lambda _: 0.7,
    }
    assert tuned(Learner(forms=(TAGGED, "calls"), curves=curves)).form == form
    few = Learner(forms=(TAGGED, "calls"), budget_s=60.0, curves=curves)
    assert tuned(few).form == TAGGED and set(few.steps) == {f"{TAGGED}, rate {SURE_RATE:g}"}


def test_of_near_ties_the_one_is_taken_that_is_held_and_reads_nothing():
    forms = (TAGGED, "calls", f"{TAGGED} {BARE}", f"calls {BARE}")
    curves = {f"{form}, rate {SURE_RATE:g}": lambda _: 0.7 for form in forms}
    assert tuned(Learner(forms=forms, curves=curves)).form == f"calls {BARE}"
    curves[f"{TAGGED} {BARE}, rate {SURE_RATE:g}"] = lambda _: 0.73
    assert tuned(Learner(forms=forms, curves=curves)).form == f"{TAGGED} {BARE}"


def test_a_first_form_that_breaks_leaves_the_others():
    name = f"codes, rate {SURE_RATE:g}"
    learner = Learner(curves={name: lambda _: 0.7}, breaks={name: 50})
    assert tuned(learner).form == "words"


@given(
    st.floats(50, 5000),
    st.floats(0.01, 2),
    st.integers(50, 20_000),
    st.sampled_from([("as it is",), ("codes", "words"), ("a", "b", "c")]),
    st.floats(0, 3),
)
@settings(deadline=None)
def test_all_steps_together_fit_the_time_and_the_epochs(budget_s, row_s, n_rows, forms, speed):
    curves = {Arm(form=form, rate=rate).name: rising(speed) for form in forms for rate in RATES}
    learner = Learner(curves=curves, forms=forms, budget_s=budget_s, row_s=row_s, n_rows=n_rows)
    tuned(learner)
    step_s = BATCH * row_s
    assert learner.spent_s <= max(budget_s, 8 * step_s) + step_s
    assert max(learner.steps.values()) <= max(MOST_EPOCHS * -(-n_rows // BATCH), 8)
    if speed > 0.01 and MOST_EPOCHS * n_rows * row_s > budget_s and budget_s > 40 * step_s:
        assert learner.spent_s >= 0.9 * USED_SHARE * budget_s - 4 * step_s


BUDGETS_AND_ROWS = given(
    st.floats(60, 5000),
    st.floats(0.01, 1),
    st.integers(50, 20_000),
    st.sampled_from([("as it is",), ("codes", "words")]),
    st.floats(0, 0.5),
)
"""Of a budget, seconds of a row's learning, rows, forms of an answer, and seconds of an answer."""


@BUDGETS_AND_ROWS
@settings(deadline=None)
def test_the_seconds_of_a_tune_are_foretold_where_dev_goes_on_rising(
    budget_s, row_s, n_rows, forms, answer_s
):
    curves = {Arm(form=form, rate=rate).name: rising(0.05) for form in forms for rate in RATES}
    learner = Learner(
        curves=curves, forms=forms, budget_s=budget_s, row_s=row_s, n_rows=n_rows, answer_s=answer_s
    )
    length = _settle_length(learner, Arm(form=forms[0], rate=SURE_RATE), forms)  # type: ignore[arg-type]
    begun_s = learner.context.seconds_left
    # Another `Tune` goes on from the journal alone.
    learner.pace = Pace(**[record["pace"] for record in learner.records if "pace" in record][-1])
    tuned(learner)
    took_s, step_s = begun_s - learner.context.seconds_left, BATCH * row_s
    # Ten seconds more or less where there is hardly time for anything.
    assert abs(took_s - length.tuning_s) <= max(0.3 * length.tuning_s, 10.0) + step_s


@BUDGETS_AND_ROWS
@example(budget_s=3119.0, row_s=0.5, n_rows=351, forms=("codes", "words"), answer_s=0.5)
@settings(deadline=None)
def test_the_seconds_of_a_tune_whose_dev_never_rises_are_the_soonest_of_its_ends(
    budget_s, row_s, n_rows, forms, answer_s
):
    learner = Learner(forms=forms, budget_s=budget_s, row_s=row_s, n_rows=n_rows, answer_s=answer_s)
    length = _settle_length(learner, Arm(form=forms[0], rate=SURE_RATE), forms)  # type: ignore[arg-type]
    begun_s = learner.context.seconds_left
    learner.pace = Pace(**[record["pace"] for record in learner.records if "pace" in record][-1])
    tuned(learner)
    took_s, step_s = begun_s - learner.context.seconds_left, BATCH * row_s
    seconds = [s for _, s in length.ends]
    assert abs(took_s - seconds[0]) <= max(0.3 * seconds[0], 10.0) + step_s
    assert seconds[-1] == length.tuning_s and length.step_s == pytest.approx(step_s)
    # Steps are counted anew after each score: there may be more of them than were foretold, in no more time
    # than that of one that goes on rising but for the last score and step.
    assert took_s <= length.tuning_s + length.rows * answer_s + step_s


def test_a_long_tune_may_be_over_at_each_score_from_the_third_on():
    learner = Learner(forms=("as it is",), budget_s=4000.0, n_rows=20_000)
    arm, forms = Arm(form="as it is", rate=SURE_RATE), ["as it is"]
    length = _settle_length(learner, arm, forms)  # type: ignore[arg-type]
    assert len(length.ends) >= 2
    (first, soonest_s), (last, last_s) = length.ends[0], length.ends[-1]
    assert first < last and soonest_s < last_s


def test_what_an_earlier_version_noted_of_a_length_is_gone_on_with():
    whole = Learner()
    tuned(whole)
    (plan,) = [record for record in whole.records if record["kind"] == "plan"]
    again = Learner()
    again.records = [{key: value for key, value in plan.items() if key not in ("ends", "step_s")}]
    again.steps, again.pace = {f"codes, rate {SURE_RATE:g}": PROBE_STEPS}, Pace(**plan["pace"])
    assert tuned(again).step > PROBE_STEPS


@pytest.mark.parametrize("cold", [0.3, 1.0, 4.0])
def test_a_cold_start_neither_wastes_nor_overdraws_the_time(cold):
    curves = {Arm(form=form, rate=rate).name: rising(0.1) for form in ("codes", "words") for rate in RATES}
    learner = Learner(curves=curves, cold=cold, n_rows=5000)
    tuned(learner)
    assert 0.75 * learner.budget_s <= learner.budget_s + 60 - learner.context.seconds_left <= learner.budget_s


@pytest.mark.parametrize("answer_s", [0.01, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("forms", [("as it is",), ("codes", "words")])
def test_slow_answers_leave_time_to_train_and_for_the_last_look_at_dev(answer_s, forms):
    curves = {Arm(form=form, rate=rate).name: rising(0.1) for form in forms for rate in RATES}
    learner = Learner(curves=curves, forms=forms, answer_s=answer_s, n_rows=5000)
    tuned(learner)
    last_look_s = len(DEV) * answer_s
    left_s = learner.context.seconds_left - learner.plan.reserve_s - last_look_s
    assert -0.01 * learner.budget_s <= left_s <= 0.3 * learner.budget_s
    assert learner.spent_s >= 0.4 * (learner.budget_s - last_look_s)
    scored = [r for r in learner.records if r["kind"] == "score"]
    assert len(scored) >= 2 and scored[-1]["step"] == max(learner.steps.values())


@pytest.mark.parametrize(("too_long", "learns_to_end"), [(2.0, 20), (5.0, 20), (10.0, 16)])
@pytest.mark.parametrize("budget_s", [150.0, 500.0])
def test_answers_that_run_on_at_first_take_no_time_to_train_from_a_tune(too_long, learns_to_end, budget_s):
    curves = {f"as it is, rate {rate:g}": rising(0.1) for rate in RATES}
    learner = Learner(
        curves=curves,
        forms=("as it is",),
        answer_s=0.1,
        too_long=too_long,
        learns_to_end=learns_to_end,
        budget_s=budget_s,
        n_rows=5000,
    )
    tuned(learner)
    last_look_s = len(DEV) * learner.answer_s
    left_s = learner.context.seconds_left - learner.plan.reserve_s - last_look_s
    assert -0.01 * budget_s <= left_s <= 0.3 * budget_s
    assert learner.spent_s >= 0.4 * (budget_s - last_look_s)


@pytest.mark.parametrize("learns_to_end", [60, 10**9])
def test_answers_that_stay_too_long_hardly_overdraw_the_time(learns_to_end):
    curves = {f"as it is, rate {rate:g}": rising(0.1) for rate in RATES}
    learner = Learner(
        curves=curves,
        forms=("as it is",),
        answer_s=0.1,
        too_long=4.0,
        learns_to_end=learns_to_end,
        n_rows=5000,
    )
    tuned(learner)
    left_s = learner.context.seconds_left - learner.plan.reserve_s - len(DEV) * learner.pace.answer_s
    assert left_s >= -0.05 * learner.budget_s


def test_where_dev_stops_rising_the_rate_decays_early_over_as_many_steps_as_were_done():
    curves = {f"as it is, rate {SURE_RATE:g}": lambda steps: min(0.9, steps / 100)}
    learner = Learner(forms=("as it is",), curves=curves, budget_s=800.0)
    tuned(learner)
    planned = [r["steps"] for r in learner.records if r["kind"] == "fitted"][-1]
    (begin, end) = learner.decays[0]
    assert begin < 0.47 * planned and end == 2 * begin
    assert learner.steps[f"as it is, rate {SURE_RATE:g}"] == end


def test_the_best_score_is_kept_even_when_it_comes_early():
    learner = Learner(
        forms=("as it is",), curves={f"as it is, rate {SURE_RATE:g}": lambda s: 0.9 if s < 300 else 0.6}
    )
    tuned(learner)
    assert learner.kept["step"] < 300


def test_the_passes_are_those_of_all_its_steps_though_an_early_score_was_the_best():
    learner = Learner(curves={"codes, rate 0.0005": lambda steps: 0.9 - steps / 1e5})
    found = _tune(learner)
    trained = learner.steps["codes, rate 0.0005"]
    assert learner.kept["step"] < trained
    assert found.passes == trained * BATCH / learner.n_rows


def test_a_tune_whose_time_ends_while_dev_rises_says_so():
    name = f"as it is, rate {SURE_RATE:g}"
    short = Learner(forms=("as it is",), curves={name: rising(0.1)}, n_rows=5000)
    found = tuned(short)
    assert found.cut_short
    assert found.passes == short.steps[name] * BATCH / 5000
    assert f"the time ended before dev stopped rising, {passes_text(found.passes)}" in found.notes


def test_a_tune_that_had_fallen_when_its_time_ended_was_not_cut_short():
    name = f"as it is, rate {SURE_RATE:g}"
    curves = {name: lambda steps: 0.6 if steps < 20 else 0.55}
    found = tuned(Learner(forms=("as it is",), curves=curves, budget_s=100.0, answer_s=0.2, n_rows=5000))
    assert found.step < 20 <= found.passes * 5000 / BATCH
    assert not found.cut_short


def test_a_tune_whose_loss_broke_was_not_cut_short_by_its_time():
    name = f"as it is, rate {SURE_RATE:g}"
    broken = Learner(forms=("as it is",), curves={name: rising(0.1)}, n_rows=5000, breaks={name: 300})
    found = tuned(broken)
    assert not found.cut_short and any("ended early" in note for note in found.notes)


@pytest.mark.parametrize(
    ("curve", "n_rows"), [(lambda steps: min(0.9, steps / 50), 5000), (lambda steps: steps / 1e4, 100)]
)
def test_a_tune_that_stopped_rising_or_had_all_its_passes_was_not_cut_short(curve, n_rows):
    arms = {f"as it is, rate {rate:g}": curve for rate in RATES}
    found = tuned(Learner(forms=("as it is",), curves=arms, n_rows=n_rows))
    assert not found.cut_short
    assert not any("time ended" in note for note in found.notes)


def test_no_search_where_the_steps_are_few():
    learner = Learner(budget_s=100.0, row_s=0.2)
    outcome = tuned(learner)
    assert set(learner.steps) == {f"codes, rate {SURE_RATE:g}"}
    assert any("too few" in note for note in outcome.notes)


@pytest.mark.parametrize("row_s", [0.5, 1.0, 1.2, 2.0, 50.0])
def test_slow_steps_leave_a_short_tune_that_is_scored_as_it_is(row_s):
    learner = Learner(budget_s=100.0, row_s=row_s)
    outcome = tuned(learner)
    assert f"{learner.kept['step']} steps" in outcome.what
    assert learner.kept["step"] >= PROBE_STEPS


def test_a_tune_with_no_time_for_a_step_after_the_probe_was_cut_short():
    learner = Learner(budget_s=100.0, row_s=50.0)
    outcome = tuned(learner)
    assert learner.kept["step"] == PROBE_STEPS
    assert outcome.cut_short and any("the time ended before dev stopped rising" in n for n in outcome.notes)


def test_a_rate_that_breaks_is_left_out_and_named():
    learner = Learner(
        curves={f"codes, rate {r:g}": rising(r * 1000) for r in RATES},
        breaks={f"codes, rate {RATES[-1]:g}": 10},
    )
    outcome = tuned(learner)
    assert learner.kept["arm"] == f"codes, rate {RATES[-2]:g}"
    assert any(f"rate {RATES[-1]:g} left out" in note for note in outcome.notes)


def test_a_tune_in_which_every_rate_breaks_ends_with_the_reason():
    learner = Learner(breaks={f"codes, rate {r:g}": 10 for r in RATES})
    with pytest.raises(TrainingError, match=f"codes, rate {RATES[-1]:g} broke"):
        tuned(learner)


def test_a_collapsed_tune_is_tried_again_at_a_third_of_its_rate():
    rate = RATES[-1]
    curves = {f"codes, rate {rate:g}": lambda steps: 0.3, f"codes, rate {rate / 3:g}": rising(1)}
    curves |= {f"codes, rate {r:g}": lambda steps: 0.2 for r in RATES[:2]}
    curves[f"words, rate {rate:g}"] = lambda steps: 0.1
    learner = Learner(curves=curves)
    outcome = tuned(learner)
    assert learner.kept["arm"] == Arm(form="codes", rate=rate / 3).name
    assert any("collapsed" in note for note in outcome.notes)


def test_a_third_of_a_rate_that_the_search_tried_is_gone_on_with_from_there():
    low, high = "as it is, rate 0.001", "as it is, rate 0.003"
    learner = Learner(forms=("as it is",), budget_s=300.0, answer_s=0.02)
    learner.method = METHODS["prefix"]
    learner.curves |= {high: lambda steps: 0.9 if steps <= 20 else 0.3, low: lambda steps: 0.6}
    outcome = tuned(learner)
    assert Arm(form="as it is", rate=outcome.rate).name == low and outcome.step >= 20
    assert learner.find(kind="begun", arm=low, step=20)
    assert all(r["step"] >= 20 for r in learner.records if r["kind"] == "score" and r["arm"] == low)
    scores = [r for r in learner.records if r["kind"] == "score" and r["arm"] == high]
    assert {r["step"] for r in scores} > {20}, "it was the best, and collapsed later"


def test_a_tune_that_collapses_twice_is_given_up():
    with pytest.raises(TrainingError, match="collapsed twice: 96% of its answers are the same"):
        tuned(Learner(commonest=0.96))


def test_a_collapsed_tune_that_has_no_time_for_a_lower_rate_says_so():
    learner = Learner(budget_s=300.0, answer_s=0.15, commonest=0.96)
    for form in learner.forms:
        learner.curves |= {f"{form}, rate {r:g}": lambda steps: 0.2 + steps / 1e4 for r in RATES}
    with pytest.raises(TrainingError, match="collapsed: 96% .* a lower rate had no time: .* --budget"):
        tuned(learner)
    assert learner.context.seconds_left > 0, "nothing was done after its time"


def test_a_score_that_tells_rows_apart_is_before_one_answer_to_everything():
    """No call at all is right on a third of the rows: for a while a tune that calls scores less than that."""
    learner = Learner()
    learner.context.kind = "tool_call"
    for form in learner.forms:
        learner.curves |= {
            f"{form}, rate {r:g}": lambda steps: 0.33 if steps < 300 else 0.1 + steps / 9000 for r in RATES
        }
    whole = learner.score

    def score(arm, step, rows):
        return whole(arm, step, rows) | {"commonest": 1.0 if step < 300 else 0.1}

    learner.score = score
    outcome = tuned(learner)
    assert learner.kept["step"] > 300 and outcome.step == learner.kept["step"]
    assert max(learner.steps.values()) > 600, "it went on though nothing scored as much as the one answer"
    assert not any("collapsed" in note for note in outcome.notes)


def test_a_form_that_tells_rows_apart_goes_on_before_a_first_one_that_gives_one_answer_to_all():
    rate = f"{RATES[0]:g}"
    learner = Learner(curves={f"words, rate {rate}": lambda steps: 0.45})
    learner.context.kind = "tool_call"
    learner.curves |= {f"codes, rate {r:g}": lambda steps: 0.46 for r in RATES}
    whole = learner.score

    def score(arm, step, rows):
        return whole(arm, step, rows) | {"commonest": 1.0 if arm.form == "codes" else 0.3}

    learner.score = score
    assert tuned(learner).form == "words"


def test_a_tune_a_little_below_the_commonest_label_is_kept_as_it_is():
    learner = Learner()
    for form in ("codes", "words"):
        learner.curves |= {f"{form}, rate {r:g}": lambda steps: 0.48 for r in RATES}
    outcome = tuned(learner)
    assert not any("collapsed" in note for note in outcome.notes)
    clearly = {"commonest": 0.6, "score": 0.42}
    context = SimpleNamespace(kind="label", bench=SimpleNamespace(metric="accuracy"))
    said = _collapsed(context, clearly, DEV)
    assert said == "it scores 0.420 where always giving the commonest label scores 0.500"
    assert _collapsed(context, clearly | {"score": 0.44}, DEV) is None


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_a_tune_of_rows_that_mostly_have_one_label_has_not_collapsed_where_it_tells_the_others(metric):
    targets = ["ham"] * 188 + ["spam"] * 12
    rows = [Example(id=str(i), input="x", output=label) for i, label in enumerate(targets)]
    context = SimpleNamespace(kind="label", bench=SimpleNamespace(metric=metric))

    def collapsed(answers):
        share = max(map(answers.count, set(answers))) / len(answers)
        score = SCORERS[metric].summary(answers, targets)
        return _collapsed(context, {"commonest": share, "score": score}, rows)

    careful = ["ham"] * 191 + ["spam"] * 9
    assert not collapsed(careful), "95.5 % of the answers are the same"
    assert collapsed(["ham"] * 200) and collapsed(["spam"] * 200)
    assert not collapsed(targets)


def test_calls_that_most_rows_do_without_have_not_collapsed_where_the_others_are_made():
    call: Json = [{"name": "book", "arguments": {"at": 9}}]
    targets: list[Json] = [[]] * 94 + [call] * 6
    rows = [Example(id=str(i), input="x", output=wanted) for i, wanted in enumerate(targets)]
    context = SimpleNamespace(kind="tool_call", sign=1, bench=SimpleNamespace(metric="tool_call"))
    assert _collapsed(context, {"commonest": 0.96, "score": 0.97}, rows) is None
    assert _collapsed(context, {"commonest": 1.0, "score": 0.94}, rows)
    texts = [replace(row, output=f"answer {row.id}") for row in rows]
    written = SimpleNamespace(kind="text", sign=1, bench=SimpleNamespace(metric="rouge_l"))
    said = _collapsed(written, {"commonest": 0.96, "score": 0.6}, texts)
    assert said == "96% of its answers are the same and it scores 0.600", "no output is common"


def test_fewer_rows_a_step_are_learned_from_at_lower_rates():
    lora = METHODS["lora"]
    assert lora.rates_for(32) == lora.rates_for(64) == RATES
    assert lora.rates_for(8) == (1.25e-4, 2.5e-4, 5e-4) and lora.rates_for(4) == (8.84e-5, 1.77e-4, 3.54e-4)
    assert METHODS["full"].rates_for(4) == METHODS["full"].rates
    learner = Learner(method=lora, n_rows=100)
    outcome = tuned(learner)
    assert {arm.split("rate ")[1] for arm in learner.steps} <= {f"{rate:g}" for rate in lora.rates_for(10)}
    assert outcome.rate in lora.rates_for(10)


def test_what_an_earlier_version_began_goes_on_at_the_rates_that_it_had():
    lora = METHODS["lora"]
    whole = Learner()
    tuned(whole)
    old = [record for record in whole.records if record["kind"] != "rates"]
    for cut in range([record["kind"] for record in old].index("plan") + 1, len(old)):
        again = Learner(method=lora)
        again.records = old[:cut]
        tuned(again)
        assert again.kept["arm"] == whole.kept["arm"]


def test_a_tune_that_was_killed_takes_the_same_decisions_again():
    curves = {f"codes, rate {r:g}": rising(r * 1000) for r in RATES}
    curves[f"words, rate {RATES[-1]:g}"] = rising(0.1)
    whole = Learner(curves=curves)
    tuned(whole)
    planned = [record["kind"] for record in whole.records].index("plan")
    for cut in range(len(whole.records)):
        again = Learner(curves=curves, row_s=0.1 if cut <= planned else 0.3)
        again.records = whole.records[:cut]
        tuned(again)
        assert again.records[:cut] == whole.records[:cut]
        assert again.kept["arm"] == whole.kept["arm"]
        assert not any(again.records.count(record) > 1 for record in again.records)
