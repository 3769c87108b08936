import numpy as np
import pytest

from rung.records import Answer, Example
from rung.scoring import paired, stats
from rung.scoring.measure import measurement
from rung.scoring.scorers import SCORERS


def measure(metric, outputs, values, broken=()):
    examples = [Example(id=f"r{at:04}", input=str(at), output=output) for at, output in enumerate(outputs)]
    answers = [
        Answer(text="", value=value, failure="broke" if at in broken else None)
        for at, value in enumerate(values)
    ]
    return measurement(system="s", split="test", metric=metric, examples=examples, answers=answers)


def pair_of(metric, outputs, first, second, groups=None, broken=((), ())):
    targets = {f"r{at:04}": output for at, output in enumerate(outputs)}
    return paired.pair_up(
        measure(metric, outputs, first, broken[0]),
        measure(metric, outputs, second, broken[1]),
        targets=targets,
        groups=groups,
    )


def both_ways(metric, outputs, first, second, groups=None):
    """The pair of two Systems' answers and the same the other way round."""
    targets = {f"r{at:04}": output for at, output in enumerate(outputs)}
    one, two = measure(metric, outputs, first), measure(metric, outputs, second)
    return tuple(paired.pair_up(*some, targets=targets, groups=groups) for some in ((one, two), (two, one)))


RIGHT = ["a"] * 100
BETTER = ["a"] * 80 + ["b"] * 20
WORSE = ["b"] * 12 + ["a"] * 60 + ["b"] * 28


def test_right_and_wrong_rows_get_the_exact_test_and_bonett_price():
    pair = pair_of("accuracy", RIGHT, WORSE, BETTER)
    assert paired.gain(pair) == pytest.approx(0.2)
    assert paired.p_value(pair, 0) == stats.mcnemar_greater(20, 0)
    assert paired.gain_interval(pair, 0) == stats.bonett_price(20, 0, 100)
    assert paired.discordant_share(pair) == 0.2
    assert paired.spread(pair, paired.gain_interval(pair, 0)) == pytest.approx(0.2)


def test_rows_that_either_call_broke_on_are_left_out():
    pair = pair_of("accuracy", RIGHT, WORSE, BETTER, broken=({0, 1}, {1, 2}))
    assert pair.n == 97
    assert paired.gain(pair) == pytest.approx(17 / 97)


def test_less_error_is_a_gain():
    outputs = list(range(60))
    pair = pair_of(
        "mae", outputs, [value + 3 for value in outputs], [value + 1 for value in outputs[:-1]] + [59]
    )
    assert paired.gain(pair) == pytest.approx((59 * 2 + 3) / 60)
    assert paired.p_value(pair, 0) < 0.001
    assert paired.gain_interval(pair, 0).low > 0


def test_graded_rows_get_sign_flips_and_a_graded_interval():
    outputs = [{"a": at, "b": at} for at in range(60)]
    first = [{"a": at, "b": at if at % 2 else -1} for at in range(60)]
    second = [{"a": at, "b": at if at % 3 else -1} for at in range(60)]
    pair = pair_of("field_f1", outputs, first, second)
    differences = (pair.second - pair.first).tolist()
    assert paired.p_value(pair, 4) == stats.sign_flip_greater(differences, 4)
    seen = stats.bca_mean(differences, 4, 0.9)
    assert paired.gain_interval(pair, 4, 0.9) == stats.with_two_more(seen, paired.gain(pair), 60, 1.0)


@pytest.mark.parametrize("metric", ["macro_f1", "spearman"])
def test_set_metrics_are_tested_by_swapping_answers(metric):
    rng = np.random.default_rng(0)
    outputs = rng.integers(0, 5, 150).tolist()
    first, second = (
        np.where(rng.random(150) < keep, outputs, rng.integers(0, 5, 150)) for keep in (0.5, 0.9)
    )
    values = [first.tolist(), second.tolist(), outputs]
    if metric == "macro_f1":
        values = [[str(value) for value in side] for side in values]
    pair, back = both_ways(metric, values[2], values[0], values[1])
    scores = [SCORERS[metric].summary(side, values[2]) for side in values[:2]]
    assert paired.gain(pair) == pytest.approx(scores[1] - scores[0])
    assert paired.p_value(pair, 0) == 0.001
    interval = paired.gain_interval(pair, 0)
    assert 0 < interval.low < paired.gain(pair) < interval.high
    assert paired.p_value(back, 0) > 0.99
    half = (interval.high - interval.low) / 2 / 1.959964
    assert paired.spread(pair, interval) == pytest.approx(150 * half**2 + paired.gain(pair) ** 2, rel=1e-4)


def test_among_many_hypotheses_the_p_of_a_set_metric_may_be_as_small_as_one_has_to_be():
    outputs = ["a", "b", "c"] * 40
    pair = pair_of("macro_f1", outputs, ["a"] * 120, outputs)
    found = [paired.p_value(pair, 0, hypotheses) for hypotheses in (1, 24, 56, 500)]
    assert found == [0.001, 0.001, pytest.approx(1 / 2241), 0.0001]


def test_a_set_metric_wins_falsely_at_most_five_times_in_a_hundred(monkeypatch):
    """Of 199 swaps, too, exactly one p in twenty is .05 or less where nothing differs."""
    monkeypatch.setattr(paired, "SWAPS", 199)
    rng = np.random.default_rng(3)
    scorer, runs, false = SCORERS["macro_f1"], 80, 0
    assert scorer.of_set is not None
    for _ in range(runs):
        outputs = rng.integers(0, 3, 100)
        targets = outputs.astype(str).tolist()
        (first, codes), (second, _) = (
            scorer.of_set.encode(side.astype(str).tolist(), targets)
            for side in (np.where(rng.random(100) < 0.7, outputs, rng.integers(0, 3, 100)) for _ in range(2))
        )
        pair = paired.Pair(
            scorer=scorer, n=100, first=first, second=second, targets=codes, groups=None, unit=1.0
        )
        false += paired.p_value(pair, 0, hypotheses=1) <= 0.05
    assert false / runs <= 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5


@pytest.mark.parametrize("metric", ["accuracy", "exact", "macro_f1", "rouge_l", "mae", "spearman"])
def test_systems_that_differ_nowhere_are_not_proven_equal(metric):
    outputs = list(range(50)) if metric in ("mae", "spearman") else ["a", "b"] * 25
    answers = [*outputs[:-1], None]
    pair = pair_of(metric, outputs, answers, answers)
    interval = paired.gain_interval(pair, 0)
    unit = 49 if metric == "mae" else 1
    assert (paired.gain(pair), paired.p_value(pair, 0), paired.discordant_share(pair)) == (0, 1, 0)
    assert interval.high == pytest.approx(stats.bonett_price(0, 0, 50).high * unit)


def test_rows_of_one_group_prove_less():
    groups = {f"r{at:04}": str(at // 10) for at in range(100)}
    apart = pair_of("accuracy", RIGHT, WORSE, BETTER)
    grouped = pair_of("accuracy", RIGHT, WORSE, BETTER, groups)
    assert paired.p_value(grouped, 0) > 1000 * paired.p_value(apart, 0)
    interval = paired.gain_interval(grouped, 0)
    assert interval.low < paired.gain_interval(apart, 0).low
    assert paired.spread(grouped, interval) > 2 * paired.spread(apart, paired.gain_interval(apart, 0))


ALL_ONE = {f"r{at:04}": "g" for at in range(100)}


@pytest.mark.parametrize("metric", ["accuracy", "rouge_l", "macro_f1", "style", "mae", "spearman"])
@pytest.mark.parametrize("groups", [ALL_ONE, None])
def test_one_group_or_one_row_alone_shows_no_gain(metric, groups):
    rows = 1 if groups is None else 100
    outputs = [2 + at % 5 for at in range(rows)] if metric in ("mae", "spearman") else RIGHT[:rows]
    worse = [0.5 if metric in ("mae", "spearman") else "b"] * rows
    pair, reversed_ = both_ways(metric, outputs, worse, outputs, groups)
    there, back = paired.p_value(pair, 0), paired.p_value(reversed_, 0)
    assert (there, back) == (1, 1) if groups else min(there, back) >= 0.5
    interval = paired.gain_interval(pair, 0)
    assert interval.low < 0 < paired.gain(pair) <= interval.high
    assert groups is None or interval.low == -interval.high
    assert not stats.non_inferior(paired.gain_interval(pair, 0, level=0.9), 0.02 * pair.unit)


def graded(n, every):
    """Objects of five fields, of which the first System has three right in one row of `every`."""
    outputs = [dict.fromkeys("abcde", str(at)) for at in range(n)]
    first = [row | ({"a": "?", "b": "?"} if at % every == 0 else {}) for at, row in enumerate(outputs)]
    return "field_f1", outputs, first, outputs


def binary(n, every):
    return "accuracy", ["a"] * n, ["b" if at % every == 0 else "a" for at in range(n)], ["a"] * n


@pytest.mark.parametrize("made", [graded, binary])
@pytest.mark.parametrize("grouped", [False, True])
def test_the_rows_that_are_said_to_show_sameness_do_and_a_part_of_them_does_not(made, grouped):
    """Rows like those that were seen, in their shares: a gain of .67 points."""

    def high(n):
        groups = {f"r{at:04}": str(at // 3) for at in range(n)} if grouped else None
        return paired.gain_interval(pair_of(*made(n, every), groups), 0, level=0.9).high

    every = 60 if made is graded else 150
    groups = {f"r{at:04}": str(at // 3) for at in range(300)} if grouped else None
    needed = paired.rows_for_sameness(pair_of(*made(300, every), groups), 0, 0.02)
    assert high(max(needed // 300, 1) * 300 + 300) < 0.02
    assert high(needed // 3) > 0.02


@pytest.mark.parametrize("made", [graded, binary])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_loss_takes_fewer_rows_to_be_shown_no_gain_than_a_small_gain_does(made, grouped):
    metric, outputs, first, second = made(300, 60 if made is graded else 150)
    groups = {f"r{at:04}": str(at // 3) for at in range(300)} if grouped else None
    gains = pair_of(metric, outputs, first, second, groups)
    loses = pair_of(metric, outputs, second, first, groups)
    assert paired.gain(gains) == -paired.gain(loses) > 0
    assert paired.rows_for_sameness(loses, 0, 0.02) < 0.8 * paired.rows_for_sameness(gains, 0, 0.02)


@pytest.mark.parametrize(
    ("metric", "outputs", "wrong", "groups", "most"),
    [
        ("field_f1", [{"a": at} for at in range(60)], [{"b": 1}] * 60, None, 1),
        ("accuracy", ["a"] * 60, ["b"] * 60, {f"r{at:04}": str(at % 6) for at in range(60)}, 1),
        ("spearman", list(range(60)), list(range(60, 0, -1)), None, 2),
    ],
)
def test_an_interval_ends_where_a_gain_does(metric, outputs, wrong, groups, most):
    pair, back = both_ways(metric, outputs, wrong, outputs, groups)
    interval = paired.gain_interval(pair, 0)
    assert paired.gain(pair) == pytest.approx(most)
    assert 0.5 < interval.low < interval.high == most
    mirrored = paired.gain_interval(back, 0)
    assert -most == mirrored.low < mirrored.high < -0.5
    # What sample sizes are worked out from is no smaller for the cut.
    whole = (most - interval.low) / stats.normal_quantile(0.975)
    if metric != "field_f1":
        assert paired.spread(pair, interval) == pytest.approx(pair.n * whole**2 + most**2)


def test_rows_for_a_gain_are_those_of_groups_enough_for_its_p():
    groups = {f"r{at:04}": str(at // 34) for at in range(100)}
    pair = pair_of("accuracy", RIGHT, ["b"] * 100, RIGHT, groups)
    needed = paired.rows_for_gain(pair, paired.gain_interval(pair, 0), 1.0, 0.05 / 4)
    assert needed == 234, "of three groups with 100 rows it takes seven: 1 / 2^7 is under .0125"


def test_a_hair_of_a_difference_proves_no_more_than_none():
    outputs = ["one two three four five six seven"] * 50
    other = [*outputs[:-1], "one two three four five six"]
    same, near = pair_of("rouge_l", outputs, outputs, outputs), pair_of("rouge_l", outputs, other, outputs)
    assert paired.gain(near) > 0
    assert paired.gain_interval(near, 0).high >= paired.gain_interval(same, 0).high


@pytest.mark.parametrize("n", [60, 150, 300])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_loss_above_the_margin_is_rarely_shown_to_be_under_it(n, grouped, monkeypatch):
    """Graded rows, one in forty lost whole and the others alike but for noise: a loss of 2.5 points.

    A quarter of the bootstrap's resamples finds the end of an interval to a twentieth of its width.
    """
    monkeypatch.setattr(stats, "_BOOTSTRAP_RESAMPLES", 499)
    rng = np.random.default_rng(n)
    runs, falsely = 100, 0
    for _ in range(runs):
        first = np.where(rng.random(n) < 0.025, 0.0, 1.0)
        second = np.where(rng.random(n) < 0.05, 0.999, 1.0)
        gain = paired.Pair(
            scorer=SCORERS["rouge_l"],
            n=n,
            first=first,
            second=second + (1 - second.mean()),
            targets=None,
            groups=np.arange(n) // 2 if grouped else None,
            unit=1.0,
        )
        falsely += stats.non_inferior(paired.gain_interval(gain, 0, level=0.9), 0.02)
    assert falsely / runs <= 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5


def test_one_group_alone_leaves_all_that_a_correlation_can_gain_or_lose_open():
    outputs = list(range(30))
    pair = pair_of(
        "spearman", outputs, outputs, outputs[1:] + outputs[:1], {f"r{n:04}": "g" for n in range(30)}
    )
    found = paired.gain_interval(pair, 0)
    assert (found.low, found.high) == (-2.0, 2.0)
