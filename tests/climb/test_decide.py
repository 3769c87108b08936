import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.climb.decide import decide
from rung.climb.sentence import rounded
from rung.records import Answer, Candidate, Interval, Measurement, Prediction
from rung.scoring.scorers import SCORERS

RUNGS = ("head", "prompt", "few_shot", "sft", "distill")
RIGHT, WRONG = Answer(text="a", value="a"), Answer(text="b", value="b")
BROKEN = Answer(text="", failure="timed out")
POOL = {
    (at, score): Prediction(
        example_id=f"r{at:04}", answer={1.0: RIGHT, 0.0: WRONG, None: BROKEN}[score], score=score
    )
    for at in range(3000)
    for score in (1.0, 0.0, None)
}


def candidate(order, scores, *, rung=None, over_limits=()):
    """A rung with these row scores: 1 right, 0 wrong, None broken."""
    known = [score for score in scores if score is not None]
    return graded(
        order,
        [POOL[at, score] for at, score in enumerate(scores)],
        math.fsum(known) / len(known) if known else 0.0,
        "accuracy",
        rung=rung,
        over_limits=over_limits,
    )


def graded(order, predictions, score, metric, *, rung=None, over_limits=()):
    scored = sum(row.score is not None for row in predictions)
    return Candidate(
        rung=rung or RUNGS[order],
        system=f"system-{order}",
        order=order,
        measurement=Measurement(
            system=f"system-{order}",
            split="test",
            metric=metric,
            score=score,
            interval=Interval(low=0, high=1),
            n=scored,
            failures=len(predictions) - scored,
            predictions=tuple(predictions),
        ),
        usd_per_1000=0.0,
        over_limits=over_limits,
    )


def right(n, *spans):
    """Row scores over n rows, right inside the half-open spans."""
    scores = [0.0] * n
    for start, stop in spans:
        scores[start:stop] = [1.0] * (stop - start)
    return scores


def verdict(*candidates, groups=None, seed=0, targets=None, test_given=True):
    ids = [row.example_id for row in candidates[0].measurement.predictions]
    wanted = targets or dict.fromkeys(ids, "a")
    return decide(candidates, targets=wanted, groups=groups, seed=seed, split="test", test_given=test_given)


def test_a_dearer_rung_with_a_large_proven_gain_is_the_clear_winner():
    found = verdict(candidate(0, right(500, (0, 350))), candidate(3, right(500, (0, 400))))
    assert (found.kind, found.chosen, found.best, found.rows_needed) == ("clear_winner", "sft", "sft", None)
    (comparison,) = found.comparisons
    assert comparison.wins
    assert comparison.gain == pytest.approx(0.1)
    assert (comparison.n, comparison.discordant) == (500, 0.1)
    assert found.sentence == (
        "Ship sft: .800 on 500 test rows; it beats head's .700 (+10.0 points, +7.3 to +12.6, p < .001)."
    )


def test_a_small_lead_on_few_rows_is_undecided_and_says_how_many_rows_would_do():
    found = verdict(candidate(0, right(500, (0, 463))), candidate(3, right(500, (20, 486))))
    assert (found.kind, found.chosen, found.best) == ("undecided", "head", "sft")
    assert found.rows_needed is not None
    assert 100 < found.rows_needed < 5000
    assert found.sentence.startswith(
        "Undecided between head (.926) and sft (.932) on 500 test rows: the gain is neither a clear win nor "
        "shown to be under 2.0 points (+0.6 points, -2.0 to +3.2, p = .380); label about "
    )
    assert found.sentence.endswith("more test rows, or ship head, the lower rung.")


def test_of_a_carved_test_the_verdict_says_how_many_new_rows_that_takes():
    pair = candidate(0, right(500, (0, 463))), candidate(3, right(500, (20, 486)))
    found = verdict(*pair, test_given=False)
    more = rounded(found.rows_needed)
    assert found.sentence.endswith(
        f"label about {more:,} more test rows (some {rounded(5 * more):,} new rows: one in 5 goes to the "
        "test), or ship head, the lower rung."
    )
    assert "new rows" not in verdict(*pair).sentence


def test_the_cheaper_rung_is_as_good_where_the_lead_is_shown_to_be_small():
    found = verdict(candidate(0, right(2000, (0, 1800))), candidate(3, right(2000, (0, 1805))))
    assert (found.kind, found.chosen, found.best) == ("tie", "head", "sft")
    assert found.sentence == (
        "Ship head: .900 on 2,000 test rows; sft's .902 isn't better by more than 2.0 points "
        "(+0.2 points, -0.0 to +0.5, p = .031), so the lower rung is as good."
    )


def test_a_significant_gain_under_two_points_does_not_win():
    found = verdict(candidate(0, right(3000, (0, 2400))), candidate(3, right(3000, (0, 2430))))
    assert found.comparisons[0].p_holm < 1e-6
    assert not found.comparisons[0].wins
    assert (found.kind, found.chosen) == ("tie", "head")


def test_a_gain_of_exactly_two_points_can_win():
    found = verdict(candidate(0, right(1000, (0, 700))), candidate(3, right(1000, (0, 720))))
    assert (found.kind, found.chosen) == ("clear_winner", "sft")


def test_the_cheapest_with_the_highest_score_is_a_tie_until_it_is_clearly_best():
    near = verdict(candidate(0, right(100, (0, 80))), candidate(3, right(100, (5, 83))))
    assert (near.kind, near.chosen, near.best) == ("tie", "head", "head")
    assert near.sentence == (
        "Ship head: .800 on 100 test rows; sft's .780 isn't higher (-2.0 points, -8.0 to +4.1), "
        "so the lower rung is as good."
    )
    far = verdict(candidate(0, right(100, (0, 80))), candidate(3, right(100, (0, 50))))
    assert (far.kind, far.chosen) == ("clear_winner", "head")
    assert "cheapest and clearly the best, next is sft's .500 (-30.0 points" in far.sentence


def test_where_no_answer_is_right_the_verdict_says_so():
    none, one = right(100), right(100, (0, 1))
    assert "none of them does this job yet" in verdict(candidate(0, none), candidate(1, none)).sentence
    assert "none of them does this job yet" in verdict(candidate(0, none)).sentence
    assert "does this job" not in verdict(candidate(0, none), candidate(1, one)).sentence


def test_where_only_a_rung_that_is_out_is_ever_right_no_other_is_said_to_be():
    found = verdict(candidate(0, right(100)), candidate(3, right(100, (0, 90)), over_limits=("p95",)))
    assert found.sentence.endswith("No rung that may ship scores above zero: none of them does this job yet.")
    assert "No answer of any rung" not in found.sentence


def test_one_rung_alone_is_shipped():
    found = verdict(candidate(0, right(60, (0, 30))))
    assert (found.kind, found.chosen, found.comparisons) == ("clear_winner", "head", ())
    assert found.sentence == "Ship head: .500 on 60 test rows; no other rung could be compared with it."


def test_under_fifty_rows_there_is_no_verdict_only_scores():
    found = verdict(candidate(0, right(49)), candidate(3, right(49, (0, 49))))
    assert (found.kind, found.chosen, found.best, found.comparisons) == ("no_verdict", None, None, ())
    assert found.sentence == (
        "No verdict: 49 test rows are fewer than the 50 that a verdict needs; scores: head .000, sft 1.000."
    )
    assert verdict(candidate(0, right(50)), candidate(3, right(50, (0, 50)))).chosen == "sft"


def test_a_rung_over_the_limits_cannot_win_but_is_named():
    slow = candidate(3, right(500, (0, 450)), over_limits=("p95 900 ms > 300 ms",))
    found = verdict(candidate(0, right(500, (0, 350))), slow)
    assert (found.chosen, found.comparisons) == ("head", ())
    assert found.sentence.endswith("; over the limits and out: sft (.900, p95 900 ms > 300 ms).")
    alone = verdict(slow)
    assert (alone.kind, alone.chosen) == ("no_verdict", None)
    assert "every rung is over the limits (sft: p95 900 ms > 300 ms)" in alone.sentence


def test_the_walk_stops_at_the_cheapest_of_equal_winners():
    found = verdict(
        candidate(0, right(500, (0, 300))),
        candidate(1, right(500, (0, 400))),
        candidate(2, right(500, (0, 400))),
        candidate(3, right(500, (0, 402))),
    )
    assert (found.kind, found.chosen, found.best) == ("clear_winner", "prompt", "sft")
    assert [(one.cheaper, one.dearer) for one in found.comparisons] == [
        ("head", "prompt"), ("head", "few_shot"), ("head", "sft"), ("prompt", "few_shot"), ("prompt", "sft"),
    ]  # fmt: skip
    assert "it beats head's .600" in found.sentence
    assert "and sft's .804 isn't better by more than 2.0 points" in found.sentence


def test_a_rung_passed_over_on_the_way_up_is_shipped_if_it_is_as_good():
    # few_shot scores best but noisily, so the walk goes past it to sft, whose rows nest in head's.
    found = verdict(
        candidate(0, right(200, (0, 140))),
        candidate(2, right(200, (20, 170))),
        candidate(3, right(200, (0, 148))),
    )
    assert (found.kind, found.chosen, found.best) == ("tie", "few_shot", "few_shot")
    assert found.sentence.startswith("Ship few_shot: .750 on 200 test rows; sft's .740 isn't higher")
    assert found.sentence.endswith("so the lower rung is as good.")


def test_the_margin_is_a_quarter_of_what_there_is_to_gain_over_zero_shot():
    prompt = candidate(1, right(2000, (0, 1700)))
    head, sft = candidate(0, right(2000, (0, 1745))), candidate(3, right(2000, (0, 1748)))
    found = verdict(head, prompt, sft)
    assert found.margin == pytest.approx((1748 - 1700) / 2000 / 4)
    assert verdict(head, candidate(1, right(2000, (0, 1710))), sft).margin == 0.02
    assert verdict(head, sft).margin == 0.02
    assert verdict(head, replace(prompt, over_limits=("memory",)), sft).margin == found.margin
    assert verdict(replace(prompt, order=0), candidate(3, right(2000, (0, 1600)))).margin == 0.02


def test_holm_counts_every_dearer_rung():
    # 9 against 2 discordant rows: p = .033 alone, over .05 beside another rung.
    base, lead = right(200, (0, 100)), right(200, (2, 109))
    assert verdict(candidate(0, base), candidate(2, lead)).chosen == "few_shot"
    found = verdict(candidate(0, base), candidate(2, lead), candidate(3, base))
    assert found.chosen == "head"
    assert found.comparisons[0].p_holm == pytest.approx(2 * found.comparisons[0].p)


def test_broken_rows_are_left_out_of_the_pair_and_counted():
    dearer = right(120, (0, 120))
    dearer[:10] = [None] * 10
    cheaper = right(120, (0, 60))
    cheaper[110:] = [None] * 10
    found = verdict(candidate(0, cheaper), candidate(3, dearer))
    assert found.comparisons[0].n == 100
    assert found.comparisons[0].gain == pytest.approx(0.5)


def test_rungs_with_too_few_common_answers_are_not_compared():
    half = [1.0] * 60 + [None] * 60
    other = [None] * 60 + [0.0] * 60
    found = verdict(candidate(0, other), candidate(3, half))
    assert (found.kind, found.chosen, found.best, found.comparisons) == ("undecided", "head", "sft", ())
    assert "too few test rows were answered by both" in found.sentence
    assert found.rows_needed is None
    mostly_broken = candidate(3, [1.0] * 40 + [None] * 80)
    assert verdict(candidate(0, right(120, (0, 60))), mostly_broken).best == "head"
    with_none = verdict(mostly_broken)
    assert with_none.kind == "no_verdict"
    assert "no rung inside the limits answered the 50 test rows" in with_none.sentence


def test_a_beaten_rung_is_not_shipped_for_agreeing_where_the_best_did_not_break():
    head = candidate(0, right(400, (20, 400)))
    sft = candidate(3, right(400, (0, 399)))
    distill = candidate(4, [None] * 20 + [1.0] * 380)
    found = verdict(head, sft, distill)
    assert (found.kind, found.chosen, found.best) == ("clear_winner", "sft", "sft")


@pytest.mark.parametrize(("broken", "best"), [(20, "sft"), (21, "head")])
def test_a_rung_that_breaks_on_many_more_rows_than_another_cannot_win(broken, best):
    head = candidate(0, right(400, (0, 300)))
    sft = candidate(3, [None] * broken + [1.0] * (400 - broken))
    found = verdict(head, sft)
    assert found.chosen == best
    told = "over the limits and out: sft (1.000, 21 of 400 calls broke)"
    assert (told in found.sentence) == (best == "head")
    assert ("20 of its 400 calls broke" in found.sentence) == (best == "sft")


def test_a_given_margin_is_taken():
    head, sft = candidate(0, right(2000, (0, 1900))), candidate(3, right(2000, (0, 1910)))
    targets = {row.example_id: "a" for row in head.measurement.predictions}
    wide, narrow = (
        decide([head, sft], targets=targets, groups=None, seed=0, split="test", margin=margin)
        for margin in (0.02, 0.004)
    )
    assert (wide.kind, wide.margin) == ("tie", 0.02)
    assert (narrow.kind, narrow.margin) == ("undecided", 0.004)


def test_a_higher_rung_that_is_as_good_and_answers_for_less_is_named():
    few_shot = replace(candidate(2, right(400, (0, 300))), usd_per_1000=0.004)
    sft = replace(candidate(3, right(400, (0, 301))), usd_per_1000=0.001)
    assert "; sft, once built, answers for 4.0 times less" in verdict(few_shot, sft).sentence
    dearer = replace(sft, usd_per_1000=0.0039)
    assert "once built" not in verdict(few_shot, dearer).sentence


def test_candidates_measured_on_other_rows_are_refused():
    with pytest.raises(AssertionError):
        verdict(candidate(0, right(60)), candidate(3, right(61)))
    with pytest.raises(ValueError, match="no candidates"):
        decide([], targets={}, groups=None, seed=0, split="test")


def test_groups_weaken_what_rows_seem_to_prove():
    head, sft = candidate(0, right(200, (0, 100))), candidate(3, right(200, (0, 120)))
    ids = [row.example_id for row in head.measurement.predictions]
    assert verdict(head, sft).chosen == "sft"
    blocks = {row: str(at // 20) for at, row in enumerate(ids)}
    assert verdict(head, sft, groups=blocks).chosen == "head"


def test_rows_of_one_group_decide_nothing_and_the_verdict_says_why():
    head, sft = candidate(0, right(120, (0, 60))), candidate(3, right(120, (0, 105)))
    ids = [row.example_id for row in head.measurement.predictions]
    found = verdict(head, sft, groups=dict.fromkeys(ids, "one"))
    assert (found.kind, found.chosen, found.best, found.rows_needed) == ("undecided", "head", "sft", None)
    assert found.comparisons[0].p == 1
    assert found.sentence.endswith(
        "(+37.5 points, -100.0 to +100.0, p = 1.000); label rows of 5 other groups or questions at least, or "
        "ship head, the lower rung; all test rows are of one group or question, and one alone shows no gain."
    )
    back = verdict(replace(sft, order=0), replace(head, order=3), groups=dict.fromkeys(ids, "one"))
    assert back.kind == "tie" and "are of one group" in back.sentence
    assert "of one group" not in verdict(head, groups=dict.fromkeys(ids, "one")).sentence
    assert verdict(head, sft).kind == "clear_winner"


def test_equal_systems_measured_on_one_group_are_never_a_clear_winner():
    """Each group has its own difference of ±15 points between them, of which the rows of one tell nothing."""
    dice, groups = np.random.default_rng(0), {f"r{at:04}": "g" for at in range(120)}
    for _ in range(40):
        shares = np.clip(0.7 + np.array([-0.5, 0.5]) * dice.normal(0, 0.15), 0, 1)
        first, second = ((dice.random(120) < share).astype(float).tolist() for share in shares)
        assert verdict(candidate(0, first), candidate(3, second), groups=groups).chosen == "head"


@pytest.mark.parametrize(("n", "every"), [(120, 120), (200, 100)])
def test_where_a_small_gain_stays_open_more_than_a_row_is_asked_for(n, every):
    """A hundred rows would find a gain of two points, but there is none of that size."""
    dearer = right(n, (0, n))
    cheaper = [0.0 if at % every == 0 else 1.0 for at in range(n)]
    found = verdict(candidate(0, cheaper), candidate(3, dearer))
    assert found.kind == "undecided" and found.rows_needed is not None
    times = math.ceil((n + found.rows_needed) / n)
    assert times > 1 and verdict(candidate(0, times * cheaper), candidate(3, times * dearer)).kind == "tie"


def numbers(order, errors, *, metric="mae"):
    """A rung for a number task: row `at` has the target `at % 101`."""
    answers = [at % 101 + error for at, error in enumerate(errors)]
    targets = [at % 101 for at in range(len(errors))]
    scorer = SCORERS[metric]
    predictions = [
        Prediction(example_id=f"r{at:04}", answer=Answer(text=str(value), value=value), score=score)
        for at, (value, score) in enumerate(zip(answers, scorer.rows(answers, targets), strict=True))
    ]
    wanted = {row.example_id: target for row, target in zip(predictions, targets, strict=True)}
    return graded(order, predictions, scorer.summary(answers, targets), metric), wanted


def test_less_error_wins_and_the_least_gain_is_in_units_of_the_target_range():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, 400)
    (head, targets), (sft, _) = numbers(0, noise + 10), numbers(3, noise + 5)
    found = verdict(head, sft, targets=targets)
    assert (found.kind, found.chosen, found.margin) == ("clear_winner", "sft", 2.0)
    assert found.comparisons[0].gain == pytest.approx(5, abs=0.01)
    assert "it beats head's 9.96 (gain +5, +4.91 to +5.09, p < .001)" in found.sentence
    swapped = verdict(replace(head, order=3, rung="sft"), replace(sft, order=0, rung="head"), targets=targets)
    assert (swapped.kind, swapped.chosen, swapped.best) == ("clear_winner", "head", "head")
    (closer, _) = numbers(3, noise + 9)
    small = verdict(head, closer, targets=targets)
    assert small.comparisons[0].p < 0.001
    assert (small.kind, small.chosen, small.best) == ("tie", "head", "sft")


def test_large_errors_and_gains_are_written_out():
    (head, targets), (sft, _) = numbers(0, [35_120.0] * 400), numbers(3, [20_431.0] * 400)
    said = verdict(head, sft, targets=targets).sentence
    assert "it beats head's 35,120 (gain +14,689, +14,447 to +14,931, p < .001)" in said
    noise = np.random.default_rng(1).normal(0, 40_000, 160)
    (head, targets), (sft, _) = numbers(0, noise[:80]), numbers(3, 0.8 * noise[80:])
    open_ = decide([head, sft], targets=targets, groups=None, seed=0, split="test", margin=1_234.6)
    assert "shown to be under 1,235 (gain +" in open_.sentence and "e+" not in open_.sentence


def test_a_larger_error_is_said_not_to_be_lower():
    (head, targets), (sft, _) = numbers(0, [1.0] * 400), numbers(3, [1.0] * 397 + [2.0] * 3)
    found = verdict(head, sft, targets=targets)
    assert (found.kind, found.chosen) == ("tie", "head")
    assert "; sft's 1.01 isn't lower (gain \N{MINUS SIGN}0.0075, " in found.sentence


@pytest.mark.parametrize("metric", ["mae", "spearman"])
def test_an_undecided_number_task_says_how_many_rows_it_needs(metric):
    noise = np.random.default_rng(1).normal(0, 40, 160)
    (head, targets), (sft, _) = (
        numbers(order, errors, metric=metric) for order, errors in ((0, noise[:80]), (3, 0.8 * noise[80:]))
    )
    found = verdict(head, sft, targets=targets)
    assert (found.kind, found.chosen) == ("undecided", "head")
    assert found.rows_needed is not None
    assert 80 < found.rows_needed < 100_000


def classes(order, answers, targets):
    predictions = [
        Prediction(
            example_id=f"r{at:04}", answer=Answer(text=value, value=value), score=float(value == target)
        )
        for at, (value, target) in enumerate(zip(answers, targets, strict=True))
    ]
    return graded(order, predictions, SCORERS["macro_f1"].summary(answers, targets), "macro_f1")


def test_a_set_metric_is_decided_on_the_set():
    # Both are right equally often; only sft finds the rare class.
    targets = ["rare"] * 30 + ["often"] * 270
    head = classes(0, ["often"] * 300, targets)
    sft = classes(3, ["rare"] * 55 + ["often"] * 245, targets)
    found = verdict(head, sft, targets={f"r{at:04}": value for at, value in enumerate(targets)})
    assert (found.kind, found.chosen) == ("clear_winner", "sft")
    assert found.comparisons[0].gain > 0.3


outcomes = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=60, max_size=90)


@settings(deadline=None, max_examples=50)
@given(outcomes, st.data())
def test_another_right_answer_never_costs_a_rung_its_win(pairs, data):
    cheap = [float(one) for one, _ in pairs]
    dear = [float(other) for _, other in pairs]
    before = verdict(candidate(0, cheap), candidate(3, dear))
    more = data.draw(st.lists(st.integers(0, len(pairs) - 1), max_size=5))
    for at in more:
        dear[at] = 1.0
    after = verdict(candidate(0, cheap), candidate(3, dear))
    assert before.chosen == "head" or after.chosen == "sft"


@settings(deadline=None, max_examples=30)
@given(outcomes, st.randoms(use_true_random=False))
def test_the_order_of_rows_and_of_candidates_does_not_matter(pairs, random):
    head, sft = (candidate(order, [float(pair[side]) for pair in pairs]) for side, order in ((0, 0), (1, 3)))
    mixed = []
    for one in (sft, head):
        rows = list(one.measurement.predictions)
        random.shuffle(rows)
        mixed.append(replace(one, measurement=replace(one.measurement, predictions=tuple(rows))))
    groups = {row.example_id: row.example_id[:-1] for row in head.measurement.predictions}
    assert verdict(head, sft) == verdict(*mixed)
    assert verdict(head, sft, groups=groups) == verdict(*mixed, groups=groups)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=50, max_size=80), st.integers(0, 9))
def test_every_verdict_is_consistent_with_itself(table, seed):
    rungs = [candidate(at, [float(row[at]) for row in table]) for at in range(5)]
    found = verdict(*rungs, seed=seed)
    scores = {one.rung: one.measurement.score for one in rungs}
    assert found.best is not None
    assert scores[found.best] == max(scores.values())
    assert (found.rows_needed is not None or found.between) == (found.kind == "undecided")
    assert found.rows_needed is None or not found.between
    assert found.rows_needed is None or found.rows_needed > 1
    assert found.chosen in RUNGS
    if found.kind == "undecided":
        assert scores[found.best] > scores[found.chosen or ""]
    for one in found.comparisons:
        assert RUNGS.index(one.cheaper) < RUNGS.index(one.dearer)
        assert one.p <= one.p_holm <= 1
        assert not one.wins or (one.p_holm <= 0.05 and one.gain >= 0.0199)
        assert one.interval.low <= one.gain <= one.interval.high
    assert found == verdict(*rungs, seed=seed)


def chosen_by(truth, n, runs, seed):
    """Which rung is chosen how often, where the rungs' outcomes are correlated at .6 (Gaussian copula)."""
    from scipy.stats import norm

    rng = np.random.default_rng(seed)
    edge = norm.ppf(truth)
    counts = dict.fromkeys(RUNGS, 0)
    for _ in range(runs):
        latent = math.sqrt(0.6) * rng.normal(size=(n, 1)) + math.sqrt(0.4) * rng.normal(size=(n, len(truth)))
        scores = (latent < edge).astype(float)
        found = verdict(*(candidate(at, scores[:, at].tolist()) for at in range(len(truth))))
        counts[found.chosen or ""] += 1
    return {rung: count / runs for rung, count in counts.items()}


@pytest.mark.parametrize(("n", "runs"), [(100, 300), (500, 200)])
def test_of_equal_rungs_the_cheapest_is_chosen(n, runs):
    share = chosen_by([0.8] * 5, n, runs, seed=n)["head"]
    assert share >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / runs)
    assert share >= 0.95


def test_of_equally_better_rungs_the_cheapest_is_chosen():
    assert chosen_by([0.7, 0.8, 0.8, 0.8, 0.8], 500, 200, seed=1)["prompt"] >= 0.95


def test_the_one_better_rung_is_found_however_dear():
    assert chosen_by([0.70, 0.72, 0.74, 0.76, 0.85], 500, 120, seed=2)["distill"] >= 0.95
