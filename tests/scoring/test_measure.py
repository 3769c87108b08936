from dataclasses import replace

import numpy as np
import pytest

from rung.errors import EngineError
from rung.records import Answer, Example, Interval
from rung.scoring import stats
from rung.scoring.measure import Timing, measurement, rescored


def rows(outputs, groups=None):
    return [
        Example(
            id=f"r{at}",
            input=str(at),
            output=output,
            group=groups[at] if groups else None,
            where=f"t.jsonl:{at + 1}",
        )
        for at, output in enumerate(outputs)
    ]


def said(values, failures=()):
    return [
        Answer(
            text=str(value),
            value=None if at in failures else value,
            prompt_tokens=10 * at,
            completion_tokens=at,
            failure="timed out" if at in failures else None,
        )
        for at, value in enumerate(values)
    ]


def measure(metric, outputs, answers, groups=None):
    return measurement(
        system="s", split="test", metric=metric, examples=rows(outputs, groups), answers=answers
    )


def test_broken_calls_are_counted_and_unreadable_answers_are_wrong():
    found = measure("accuracy", ["a"] * 5, said(["a", "b", None, "a", "a"], failures={4}))
    assert found.score == 0.5
    assert (found.n, found.failures) == (4, 1)
    assert [row.score for row in found.predictions] == [1.0, 0.0, 0.0, 1.0, None]
    assert [row.example_id for row in found.predictions] == ["r0", "r1", "r2", "r3", "r4"]
    assert found.interval == stats.wilson(2, 4)
    assert dict(found.secondary)["readable"] == 0.75


def test_the_tokens_of_broken_calls_count_which_a_hosted_model_bills():
    found = measure("accuracy", ["a"] * 5, said(["a", "b", None, "a", "a"], failures={4}))
    assert (found.prompt_tokens, found.completion_tokens) == (20.0, 2.0)


def test_a_system_whose_every_call_broke_has_no_score():
    with pytest.raises(EngineError, match=r"all 2 calls on test broke; .*t\.jsonl:1: 'timed out'"):
        measure("accuracy", ["a", "a"], said(["a", "a"], failures={0, 1}))


def test_no_rows_and_missing_answers_raise():
    with pytest.raises(ValueError, match="no rows"):
        measure("accuracy", [], [])
    with pytest.raises(ValueError, match="shorter"):
        measure("accuracy", ["a", "b"], said(["a"]))


def test_times_are_passed_on():
    timing = Timing(seconds_per_answer=1, p50_s=2, p95_s=3, memory_mb=4)
    found = measurement(
        system="s", split="dev", metric="exact", examples=rows(["a"]), answers=said(["a"]), timing=timing
    )
    assert (found.seconds_per_answer, found.p50_s, found.p95_s, found.memory_mb) == (1, 2, 3, 4)
    assert (found.split, found.metric, found.system) == ("dev", "exact", "s")


def test_the_score_of_an_mae_row_is_its_error_and_silence_costs_the_range():
    found = measure("mae", [1, 2, 11], said([2, None, 11]))
    assert [row.score for row in found.predictions] == [1.0, 10.0, 0.0]
    assert found.score == pytest.approx(11 / 3)
    assert found.interval.low >= 0


def test_graded_scores_get_a_graded_interval_inside_the_range():
    outputs = [{"a": 1, "b": at} for at in range(60)]
    answers = said([{"a": 1, "b": at if at % 4 else -1} for at in range(60)])
    found = measure("field_f1", outputs, answers)
    assert found.score == pytest.approx(0.875)
    assert found.interval == stats.bca_mean([row.score or 0.0 for row in found.predictions], seed=0)
    few = measure("field_f1", outputs[:5], answers[:5])
    assert few.interval.high == 1


@pytest.mark.parametrize("metric", ["macro_f1", "spearman"])
def test_set_metrics_have_a_bootstrap_interval_around_the_score(metric):
    rng = np.random.default_rng(0)
    outputs = rng.integers(0, 4, 200).tolist()
    given = [value if keep else 3 - value for value, keep in zip(outputs, rng.random(200) < 0.8, strict=True)]
    if metric == "macro_f1":
        outputs, given = [str(value) for value in outputs], [str(value) for value in given]
    found = measure(metric, outputs, said(given))
    assert found.interval.low < found.score < found.interval.high
    assert 0.03 < found.interval.high - found.interval.low < 0.3
    assert found == measure(metric, outputs, said(given))


def test_a_perfect_score_on_few_rows_keeps_its_doubt():
    for metric, outputs in (
        ("macro_f1", ["a", "b"] * 10),
        ("field_f1", [{"a": 1}] * 20),
        ("exact", ["a"] * 20),
    ):
        found = measure(metric, outputs, said(outputs))
        assert found.interval == stats.wilson(20, 20)
    alike = measure("field_f1", [{"a": 1, "b": 2}] * 20, said([{"a": 1, "b": 3}] * 20))
    assert alike.score == 0.5 and alike.interval == stats.wilson(10, 20)
    third = measure("field_f1", [{"a": 1, "b": 2, "c": 3}] * 7, said([{"a": 1, "b": 3, "c": 4}] * 7))
    assert third.interval.low < 0.3 < 0.4 < third.interval.high
    grouped = measure("exact", ["a"] * 20, said(["a"] * 20), [str(at // 2) for at in range(20)])
    assert grouped.interval == stats.wilson(10, 10)


@pytest.mark.parametrize("metric", ["accuracy", "field_f1", "macro_f1", "mae", "spearman"])
@pytest.mark.parametrize("rows_of", [100, 1])
def test_one_group_or_one_row_says_little_of_a_score(metric, rows_of):
    outputs, wrong = [at % 4 for at in range(rows_of)], -1
    if metric in ("accuracy", "macro_f1"):
        outputs, wrong = [str(value) for value in outputs], "?"
    if metric == "field_f1":
        outputs, wrong = [{"a": 1, "b": value} for value in outputs], {"a": 1, "b": -1}
    given = [wrong if at % 3 == 0 else value for at, value in enumerate(outputs)]
    found = measure(metric, outputs, said(given), ["g"] * rows_of)
    assert found.interval.low <= found.score <= found.interval.high
    assert found.interval.high - found.interval.low > 0.7


def test_rows_of_one_group_count_as_less_than_rows_apart():
    outputs = ["a"] * 100
    answers = said(["a" if at // 10 % 2 else "b" for at in range(100)])
    apart = measure("accuracy", outputs, answers, [str(at) for at in range(100)])
    grouped = measure("accuracy", outputs, answers, [str(at // 10) for at in range(100)])
    assert apart.score == grouped.score == 0.5
    assert apart.interval == stats.wilson(50, 100)
    assert grouped.interval.high - grouped.interval.low > 2 * (apart.interval.high - apart.interval.low)


@pytest.mark.parametrize(
    ("metric", "outputs", "answers", "score", "strict"),
    [
        ("accuracy", ["a", "b", "a", "b"], ["a", "b", "a", "b"], 1.0, 3 / 4),
        ("macro_f1", ["a", "b", "a", "b"], ["a", "b", "a", "b"], 1.0, (1 + 2 / 3) / 2),
        ("mae", [0, 10, 10, 5], [1, 10, 10, 5], 1 / 3, 11 / 4),
    ],
)
def test_the_strict_score_takes_broken_calls_for_unreadable_answers(metric, outputs, answers, score, strict):
    found = measure(metric, outputs, said(answers, failures={3}))
    assert (found.score, found.strict_score) == (pytest.approx(score), pytest.approx(strict))
    assert measure(metric, outputs, said(answers)).strict_score is None


@pytest.mark.parametrize("metric", ["accuracy", "field_f1", "macro_f1", "spearman", "mae"])
def test_two_groups_that_score_alike_say_little_of_others(metric):
    outputs, wrong = [at % 4 for at in range(60)], 3
    if metric in ("accuracy", "macro_f1"):
        outputs, wrong = [str(value) for value in outputs], "?"
    if metric == "field_f1":
        outputs, wrong = [{"a": 1, "b": value} for value in outputs], {"a": 1, "b": -1}
    given = [wrong if at % 20 == 0 else value for at, value in enumerate(outputs)]
    found = measure(metric, 2 * outputs, said(2 * given), [str(at // 60) for at in range(120)])
    assert found.interval.low <= found.score <= found.interval.high
    assert found.interval.high - found.interval.low > 0.3


@pytest.mark.parametrize("groups", [2, 3, 8])
@pytest.mark.parametrize(("a", "b"), [(4, 1), (12, 3), (5, 5)])
def test_the_interval_by_few_groups_covers_the_score_of_all_groups(groups, a, b):
    """Each group has a share of its own, as customers do; a sample has twenty rows of each."""
    rng = np.random.default_rng(groups)
    runs, inside = 200, 0
    names = [str(group) for group in range(groups) for _ in range(20)]
    for _ in range(runs):
        right = rng.random((groups, 20)) < rng.beta(a, b, groups)[:, None]
        answers = said(["a" if one else "b" for one in right.ravel()])
        found = measure("exact", ["a"] * len(names), answers, names).interval
        inside += found.low <= a / (a + b) <= found.high
    assert inside / runs >= 0.9


def test_the_interval_by_many_groups_that_do_not_differ_is_that_of_the_rows():
    rng = np.random.default_rng(0)
    answers = said(["a" if one else "b" for one in rng.random(600) < 0.8])
    apart = measure("exact", ["a"] * 600, answers)
    pairs = measure("exact", ["a"] * 600, answers, [str(at // 2) for at in range(600)])
    ends = [(one.interval.low, one.interval.high) for one in (pairs, apart)]
    assert ends[0] == pytest.approx(ends[1], abs=0.01)


@pytest.mark.parametrize("groups", [None, [str(at // 2) for at in range(8)]])
@pytest.mark.parametrize("off", [0.0, 1.0, 1 / 3])
def test_errors_that_are_all_alike_on_a_few_rows_keep_their_doubt(off, groups):
    """As wide as if one row more were wrong by the whole range: 4 of these, and of four groups."""
    ratings = [1, 2, 3, 4, 5, 4, 3, 2]
    found = measure("mae", ratings, said([value + off for value in ratings]), groups)
    more = 1.96 * 2**0.5 * 4 / (10 if groups is None else 6)
    assert found.score == pytest.approx(off)
    assert found.interval.high == pytest.approx(off + more, rel=1e-4)
    assert found.interval.low == pytest.approx(max(0.0, off - more), abs=1e-4)
    many = measure("mae", ratings * 100, said([value + off for value in ratings * 100]))
    assert off < many.interval.high < off + 0.02 and many.interval.low >= max(0.0, off - 0.02)


def test_errors_that_differ_have_the_interval_that_they_had():
    ratings = [1, 2, 3, 4, 5, 4, 3, 2]
    found = measure("mae", ratings, said([*ratings[:-1], 3]))
    assert found.interval == replace(stats.bca_mean([0.0] * 7 + [1.0], seed=0), low=0.0)


@pytest.mark.parametrize(
    ("metric", "outputs", "values"),
    [
        ("exact", ["a", "b", "c", "d"] * 10, ["a", "b", "x", "y"] * 10),
        ("macro_f1", ["a", "b"] * 20, ["a", "b", "a", "a"] * 10),
        ("mae", [1, 2, 3, 9] * 10, [2, 2, 5, 5] * 10),
        ("spearman", [1, 2, 3, 9] * 10, [2, 1, 5, 6] * 10),
        (
            "field_f1",
            [{"k": k, "l": 1} for k in (0, 1, 2, 0)] * 10,
            [{"k": 0, "l": other} for other in (0, 1)] * 20,
        ),
    ],
)
def test_rows_that_ask_the_same_thing_are_one_draw_as_rows_of_a_group_are(metric, outputs, values):
    plain = rows(outputs)
    grouped = rows(outputs, [f"g{at // 4}" for at in range(40)])
    asking = [
        replace(row, input=f"{'which' if at % 2 else 'Which '} {at // 4}?") for at, row in enumerate(plain)
    ]
    found, by_group, by_row = (
        measurement(system="s", split="dev", metric=metric, examples=some, answers=said(values, {7}))
        for some in (asking, grouped, plain)
    )
    assert found == by_group and found.interval != by_row.interval
    assert replace(found, interval=by_row.interval) == by_row
    for one, some in ((found, asking), (by_row, plain)):
        assert rescored(one, some) == one
        assert rescored(replace(one, interval=Interval(low=0.0, high=0.1)), some) == one
        assert rescored(replace(one, predictions=one.predictions[::-1]), some) == one
