"""One word for each order of a pair, what it amounts to, and how people correct a judge's scores."""

import numpy as np
import pytest

from rung.scoring.verdicts import (
    Groups,
    is_steady,
    pair_score,
    powered_mean,
    read_verdict,
    similar_length,
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A", "A"),
        (" B\n", "B"),
        ("tie", "tie"),
        ('{"verdict": "tie"}', "tie"),
        ('{\n "verdict": "A"}', "A"),
        ("a", None),
        ("Tie", None),
        ("A.", None),
        ("**A**", None),
        ("A is better than B", None),
        ("A or B", None),
        ("", None),
        ('"A"', None),
        ('{"verdict": "a"}', None),
        ('{"verdict": ["A"]}', None),
        ('{"verdict": "A", "why": "longer"}', None),
        ('{"winner": "A"}', None),
        ("[" * 100_000, None),
    ],
)
def test_a_verdict_is_one_of_three_words_and_nothing_else(text, found):
    assert read_verdict(text) == found


@pytest.mark.parametrize(
    ("first", "second", "score", "steady"),
    [
        ("A", "B", 1.0, True),
        ("B", "A", 0.0, True),
        ("tie", "tie", 0.5, True),
        ("A", "A", 0.5, False),
        ("B", "B", 0.5, False),
        ("A", "tie", 0.5, False),
        ("tie", "A", 0.5, False),
    ],
)
def test_orders_that_do_not_agree_make_a_tie(first, second, score, steady):
    assert pair_score(first, second) == score
    assert is_steady(first, second) == steady


def test_texts_are_of_similar_length_up_to_a_quarter_more_words():
    assert similar_length("one two three four", "1 2 3 4 5")
    assert not similar_length("one two three four", "1 2 3 4 5 6")
    assert similar_length("1 2 3 4 5", "one two three four")


def test_the_corrected_mean_is_the_judges_and_how_far_people_are_from_it():
    judged = [1.0, 1.0, 0.5, 1.0, 0.0, 1.0]
    checked = [(0.5, 1.0), (0.0, 1.0), (0.5, 0.5)]
    assert powered_mean(judged, checked, inside=True)[0] == pytest.approx(4.5 / 6 - 0.5)
    mean, _ = powered_mean(judged, checked, known=[0.0, 0.5], inside=True)
    assert mean == pytest.approx(5 / 8 - 6 / 8 * 0.5)


def test_where_every_row_was_checked_the_corrected_mean_is_peoples_own():
    dice = np.random.default_rng(0)
    people, judge = dice.choice([0, 0.5, 1], 80), dice.choice([0, 0.5, 1], 80)
    mean, found = powered_mean(judge, list(zip(people, judge, strict=True)), inside=True)
    assert mean == pytest.approx(people.mean())
    wide = 1.9905 * people.std(ddof=0) / np.sqrt(79)  # Student's t with 79 degrees of freedom
    assert (found.high - found.low) / 2 == pytest.approx(wide, rel=1e-3)


@pytest.mark.parametrize("checked", [[], [(1.0, 1.0)], [(1.0, 1.0)] * 4])
def test_too_few_or_too_many_checked_rows_correct_nothing(checked):
    with pytest.raises(ValueError, match="none to correct by"):
        powered_mean([1.0, 0.0, 0.5], checked, inside=True)


def simulated(seed: int, *, inside: bool, bias: float, runs: int = 600) -> tuple[float, float, float]:
    """How often the interval holds the truth, the mean estimate, and that of the judge alone.

    People score by chance .2, .3, .5 for 0, ½, 1, which is .65; a judge makes losses and ties wins at the
    rate `bias`. A tenth of the rows are known without it, all of them ties.
    """
    dice = np.random.default_rng(seed)
    truth, rows, asked = 0.9 * 0.65 + 0.1 * 0.5, 150, 135
    held, estimates, plain = 0, [], []

    def drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
        people = dice.choice([0, 0.5, 1], count, p=[0.2, 0.3, 0.5])
        return people, np.where(dice.random(count) < bias, 1.0, people)

    for _ in range(runs):
        count = int(dice.binomial(rows, 0.9))
        people, judge = drawn(count)
        others = (people, judge) if inside else drawn(asked)
        pairs = list(zip(*(side[:40] for side in others), strict=True))
        mean, found = powered_mean(judge, pairs, known=[0.5] * (rows - count), inside=inside)
        held += found.low <= truth <= found.high
        estimates.append(mean)
        plain.append((judge.sum() + 0.5 * (rows - count)) / rows)
    return held / runs, float(np.mean(estimates)) - truth, float(np.mean(plain)) - truth


@pytest.mark.parametrize("inside", [True, False])
def test_a_biased_judge_is_corrected_and_the_interval_holds_the_truth(inside):
    held, off, plain = simulated(3, inside=inside, bias=0.4)
    assert plain > 0.1
    assert abs(off) < 0.006  # 3 standard errors of 600 runs
    assert held >= 0.94


def test_a_good_judge_makes_the_interval_narrower_than_peoples_verdicts_alone():
    dice = np.random.default_rng(5)
    people = dice.choice([0.0, 0.5, 1.0], 400)
    judge = np.where(dice.random(400) < 0.05, 0.5, people)
    _, found = powered_mean(judge, list(zip(people[:50], judge[:50], strict=True)), inside=True)
    alone = 2 * 2.0096 * people[:50].std(ddof=1) / np.sqrt(50)
    assert found.high - found.low < 0.7 * alone


def test_the_point_is_that_of_ppi_python_and_the_interval_hardly_wider():
    dice = np.random.default_rng(1)
    judged, people = dice.choice([0, 0.5, 1], 150), dice.choice([0, 0.5, 1], 40)
    seen = np.where(dice.random(40) < 0.6, people, 1.0)
    mean, found = powered_mean(judged, list(zip(people, seen, strict=True)), inside=False)
    # ppi_mean_pointestimate and ppi_mean_ci of ppi-python 0.2.3, lam=1 and alpha=.05, by the normal quantile.
    theirs = (0.2575771, 0.4974229)
    assert mean == pytest.approx(0.3775)
    assert 1 < (found.high - found.low) / (theirs[1] - theirs[0]) < 1.1


@pytest.mark.parametrize("inside", [True, False])
def test_the_interval_holds_the_truth_where_rows_of_a_group_are_alike(inside):
    dice, held = np.random.default_rng(7), 0

    def drawn() -> tuple[np.ndarray, np.ndarray]:
        people = np.repeat(dice.choice([0, 0.5, 1], 40, p=[0.2, 0.3, 0.5]), 5)  # 40 groups of five
        return people, np.where(np.repeat(dice.random(40) < 0.4, 5), 1.0, people)

    for _ in range(400):
        people, judge = drawn()
        other, seen = (people, judge) if inside else drawn()
        names = np.arange(200) // 5
        at = dice.choice(200, 80, replace=False)
        groups = Groups(rows=names.tolist(), checked=(names[at] + (0 if inside else 100)).tolist())
        pairs = list(zip(other[at], seen[at], strict=True))
        _, found = powered_mean(judge, pairs, inside=inside, groups=groups)
        held += found.low <= 0.65 <= found.high
    assert held >= 0.93 * 400


def test_groups_of_one_row_each_are_no_groups():
    judged, checked = [1.0, 1.0, 0.5, 1.0, 0.0, 1.0], [(0.5, 1.0), (0.0, 1.0), (0.5, 0.5)]
    groups = Groups(rows=range(6), checked=range(3))
    assert powered_mean(judged, checked, inside=True, groups=groups) == powered_mean(
        judged, checked, inside=True
    )
