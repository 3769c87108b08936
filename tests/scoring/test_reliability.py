import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from rung.scoring import stats
from rung.scoring.reliability import (
    Judged,
    binned_ece,
    briers,
    calibration_score,
    ece_by_chance,
    equal_bins,
    judged_table,
    likeness,
    log_losses,
    swept_ece,
)


def answers(rows: int, seed: int = 0, sharper: float = 1.0) -> Judged:
    """Answers of two labels, right as often as their confidence said before it was made `sharper`."""
    dice = np.random.default_rng(seed)
    logits = np.abs(dice.normal(1.5, 1.5, rows))
    true = 1 / (1 + np.exp(-logits))
    return Judged(labels=2, confidence=1 / (1 + np.exp(-sharper * logits)), right=dice.random(rows) < true)


def table(rows: int, labels: int, seed: int = 0) -> Judged:
    dice = np.random.default_rng(seed)
    return judged_table(dice.dirichlet(np.ones(labels), rows), dice.integers(0, labels, rows))


def swept_naively(confidence, right) -> float:
    order, found = np.argsort(confidence, kind="stable"), 0.0
    for count in range(1, min(len(order), 100) + 1):
        bins = np.array_split(order, count)
        shares = [right[at].mean() for at in bins]
        if shares != sorted(shares):
            break
        found = binned_ece(confidence, right, bins)
    return found


def test_the_error_of_15_bins_is_that_of_sklearns_curve_weighed_by_rows():
    one = answers(1500, sharper=1.7)
    share, sure = calibration_curve(one.right, one.confidence, n_bins=15, strategy="quantile")
    found = binned_ece(one.confidence, one.right, equal_bins(one.confidence, 15))
    assert found == pytest.approx(np.abs(share - sure).mean(), abs=1e-12)
    assert found > 0.04


def test_bins_have_as_many_rows_each_as_can_be_and_no_row_twice():
    bins = equal_bins(answers(190).confidence, 15)
    assert {len(at) for at in bins} == {12, 13}
    assert sorted(np.concatenate(bins)) == list(range(190))
    assert len(equal_bins(answers(4).confidence, 15)) == 4


@given(st.integers(1, 60), st.integers(0, 1000))
def test_the_sweep_is_as_it_is_written_in_its_paper(rows, seed):
    one = answers(rows, seed, sharper=2.0)
    assert swept_ece(one.confidence, one.right) == pytest.approx(
        swept_naively(one.confidence, one.right), abs=1e-12
    )


def test_answers_that_are_right_as_often_as_they_say_have_next_to_no_error():
    found = calibration_score(answers(50_000))
    assert found.ece < 0.006 and found.ece_15 < 0.01
    assert calibration_score(answers(50_000, sharper=2.5)).ece == pytest.approx(0.14, abs=0.04)


def test_few_rows_show_an_error_by_chance_and_the_sweep_shows_less_of_it():
    scores = [calibration_score(answers(190, seed)) for seed in range(40)]
    mean = {
        name: np.mean([getattr(s, name) for s in scores]) for name in ("ece", "ece_15", "ece_15_by_chance")
    }
    assert mean["ece_15"] == pytest.approx(mean["ece_15_by_chance"], abs=0.01)
    assert mean["ece"] < 0.7 * mean["ece_15"]


def test_the_error_by_chance_is_the_same_every_time():
    one = answers(100)
    bins = equal_bins(one.confidence, 15)
    assert ece_by_chance(one, bins) == ece_by_chance(one, bins) > 0


def of_draws(draws: int, times: int, seed: int = 0, alike: bool = True) -> Judged:
    """Draws of so many rows each that are as often right as they say, all of one luck or each of its own."""
    one = answers(draws, seed)
    sure = np.repeat(one.confidence, times)
    right = np.repeat(one.right, times)
    if not alike:
        right = np.random.default_rng(seed).random(len(sure)) < sure
    return Judged(labels=2, confidence=sure, right=right, groups=np.repeat(np.arange(draws), times))


def test_the_error_by_chance_of_rows_that_are_drawn_together_is_that_of_their_draws():
    """Where each row has its own luck they are so many rows all the same."""
    for alike, same in ((True, answers(60)), (False, answers(300))):
        scores = [calibration_score(of_draws(60, 5, seed, alike)) for seed in range(20)]
        chance = np.mean([one.ece_15_by_chance for one in scores])
        assert np.mean([one.ece_15 for one in scores]) == pytest.approx(chance, abs=0.015)
        assert calibration_score(same).ece_15_by_chance == pytest.approx(chance, rel=0.25)
    assert calibration_score(answers(60)).ece_15_by_chance > 1.7 * chance


@pytest.mark.parametrize(("alike", "expected"), [(True, 1.0), (False, 0.0)])
def test_rows_are_as_alike_as_the_luck_that_they_share(alike, expected):
    one = of_draws(2000, 5, alike=alike)
    # Other confidences within a draw: each then is right by its own share of the same luck.
    sure = np.clip(one.confidence * np.tile([0.7, 0.8, 0.9, 1.0, 1.0], 2000), 0.0, 1.0)
    luck = np.random.default_rng(1).random(2000 if alike else 10_000)
    right = (np.repeat(luck, 5) if alike else luck) < sure
    assert likeness(right, sure, one.groups) == pytest.approx(expected, abs=0.05)
    assert likeness(right, sure, np.zeros(10_000, int)) == 1.0
    shuffled = np.random.default_rng(2).permutation(10_000)
    turned = likeness(right[shuffled], sure[shuffled], one.groups[shuffled])
    assert turned == pytest.approx(likeness(right, sure, one.groups))


def test_answers_that_are_too_sure_are_as_alike_as_others():
    dice, groups = np.random.default_rng(5), np.repeat(np.arange(4000), 5)
    shared, together = dice.random((2, 4000))
    right = np.where(together[groups] < 0.3, shared[groups], dice.random(20_000)) < 0.7
    for sure in (0.7, 0.9, 0.99):
        assert likeness(right, np.full(20_000, sure), groups) == pytest.approx(0.3, abs=0.03)


def test_likeness_is_the_sum_over_pairs_that_it_says():
    one = answers(40, 3)
    groups = np.random.default_rng(3).integers(0, 12, 40)
    groups = np.unique(groups, return_inverse=True)[1]
    off, p = one.right - one.confidence, one.confidence
    off = off - off.mean()
    pairs = [(i, j) for i in range(40) for j in range(i) if groups[i] == groups[j]]
    most = sum(min(p[i], p[j]) - p[i] * p[j] for i, j in pairs) * off.var() / (p * (1 - p)).mean()
    count = groups.max() + 1
    seen = sum(off[i] * off[j] for i, j in pairs) * count / (count - 1)
    assert likeness(one.right, p, groups) == pytest.approx(min(max(seen / most, 0), 1))


def test_bins_of_rows_that_are_drawn_together_have_the_intervals_of_their_draws():
    found = calibration_score(of_draws(60, 5)).reliability
    assert [one.rows for one in found] == [20] * 15
    for one, alone in zip(found, calibration_score(answers(60)).reliability, strict=True):
        assert alone.rows == 4 and one.accuracy == alone.accuracy
        assert one.interval.high - one.interval.low >= 0.99 * (alone.interval.high - alone.interval.low)


def test_a_bin_of_a_single_draw_is_one_draw_and_draws_of_one_row_change_nothing():
    one = answers(15)
    together = Judged(
        labels=2,
        confidence=np.repeat(one.confidence, 4),
        right=np.repeat(one.right, 4),
        groups=np.repeat(np.arange(15), 4),
    )
    assert [bin.interval for bin in calibration_score(together).reliability] == [
        stats.wilson(int(right), 1) for right in one.right[np.argsort(one.confidence)]
    ]
    free = answers(100)
    drawn = Judged(labels=2, confidence=free.confidence, right=free.right, groups=np.arange(100))
    assert calibration_score(drawn).reliability == calibration_score(free).reliability


def test_brier_score_and_log_loss_of_all_labels_are_sklearns():
    one = table(400, 5)
    assert briers(one).mean() == pytest.approx(
        brier_score_loss(one.gold, one.table, labels=range(5), scale_by_half=False)
    )
    assert log_losses(one).mean() == pytest.approx(log_loss(one.gold, one.table, labels=range(5)))


def test_brier_score_and_log_loss_of_answers_alone_are_of_whether_they_are_right():
    one = answers(400)
    assert briers(one).mean() == pytest.approx(brier_score_loss(one.right, one.confidence))
    assert log_losses(one).mean() == pytest.approx(log_loss(one.right, one.confidence))


def test_a_label_that_the_system_does_not_have_is_wrong_and_costs_a_lot_but_not_everything():
    one = judged_table(np.array([[0.9, 0.1]]), np.array([-1]))
    assert not one.right[0]
    assert briers(one)[0] == pytest.approx(0.81 + 0.01)
    assert log_losses(one)[0] == pytest.approx(27.63, abs=0.01)


def test_a_reliability_table_holds_every_row_and_rises_in_confidence():
    found = calibration_score(answers(333)).reliability
    assert len(found) == 15 and sum(one.rows for one in found) == 333
    assert [one.confidence for one in found] == sorted(one.confidence for one in found)
    assert all(one.interval.low <= one.accuracy <= one.interval.high for one in found)


def test_all_answers_right_is_no_trouble_and_none_is_no_number():
    sure = Judged(labels=3, confidence=np.full(5000, 0.97), right=np.ones(5000, bool))
    assert calibration_score(sure).ece == pytest.approx(0.03)
    with pytest.raises(ValueError, match="no rows"):
        calibration_score(Judged(labels=3, confidence=np.empty(0), right=np.empty(0, bool)))
