from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from rung.records import CalibrationMap
from rung.scoring.calibration import (
    FITS,
    before_and_after,
    calibrated,
    calibrated_confidence,
    cross_fitted,
    fitted,
    folds,
    recalibrated,
)
from rung.scoring.reliability import FLOOR, Judged, calibration_score, judged_table

MAPS = st.one_of(
    st.builds(lambda t: CalibrationMap(method="temperature", temperature=t), st.floats(0.1, 10)),
    st.builds(
        lambda a, b: CalibrationMap(method="platt", slope=a, intercept=b), st.floats(0, 4), st.floats(-4, 4)
    ),
    st.just(CalibrationMap(method="isotonic", knots=((0.2, 0.1), (0.6, 0.3), (0.9, 0.95)))),
    st.just(CalibrationMap()),
)


def rows(count: int, labels: int = 4, sharper: float = 1.0, seed: int = 0) -> Judged:
    """Rows whose labels are drawn from softmax(z), and the probabilities softmax(sharper · z)."""
    dice = np.random.default_rng(seed)
    z = dice.normal(0, 2, (count, labels))
    true, shown = softmax(z), softmax(sharper * z)
    gold = np.array([dice.choice(labels, p=row) for row in true])
    return judged_table(shown, gold)


def softmax(z):
    raised = np.exp(z - z.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def alone(judged: Judged) -> Judged:
    return replace(judged, table=None, gold=None)


def logit(p):
    return np.log(p / (1 - p))


@pytest.mark.parametrize("sharper", [0.5, 1.7, 4.0])
def test_a_temperature_undoes_a_distortion_of_known_size(sharper):
    by, _ = fitted(rows(1500, sharper=sharper))
    assert by.method == "temperature"
    assert by.temperature == pytest.approx(sharper, rel=0.1)
    before, after = before_and_after(rows(4000, sharper=sharper, seed=9), by)
    assert after.ece < 0.02 < 0.08 < before.ece
    assert after.log_loss < before.log_loss and after.brier < before.brier


def test_a_temperature_is_the_one_that_scipy_finds_for_the_same_loss():
    judged = rows(60, sharper=2.0)

    def loss(t):
        shares = softmax(np.log(judged.table) / np.exp(t[0]))
        return -np.log(shares[np.arange(60), judged.gold]).sum() + t[0] ** 2 / 2

    best = minimize(loss, [0.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10})
    assert FITS["temperature"](judged).temperature == pytest.approx(np.exp(best.x[0]), rel=1e-4)


class Scores(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose score is its only feature."""

    classes_ = np.array([False, True])

    def fit(self, features, targets):
        self.fitted_ = True
        return self

    def decision_function(self, features):
        return features[:, 0]

    def predict(self, features):
        return features[:, 0] > 0


def by_sklearn(method: str, scores, right):
    model = CalibratedClassifierCV(FrozenEstimator(Scores().fit(None, None)), method=method, ensemble=False)
    return model.fit(scores[:, None], right).predict_proba(scores[:, None])[:, 1]


def test_platts_line_is_sklearns():
    judged = rows(400, sharper=2.5)
    by = FITS["platt"](judged)
    found = 1 / (1 + np.exp(-(by.slope * logit(judged.confidence) + by.intercept)))
    assert found == pytest.approx(by_sklearn("sigmoid", logit(judged.confidence), judged.right), abs=1e-3)
    assert by.slope < 0.7


def test_isotonic_regression_is_sklearns_but_for_zero_and_one():
    judged = rows(400, sharper=2.5)
    found = calibrated_confidence(FITS["isotonic"](judged), judged.confidence, 1000)
    expected = np.clip(by_sklearn("isotonic", judged.confidence, judged.right), 1 / 402, 401 / 402)
    assert found == pytest.approx(expected, abs=1e-9)
    assert found.max() == 401 / 402


@given(MAPS, st.integers(2, 9), st.integers(0, 1000))
def test_no_map_changes_an_answer_or_the_order_of_labels_and_rows_sum_to_one(by, labels, seed):
    table = rows(6, labels, seed=seed).table
    found = calibrated(by, table)
    assert found.sum(1) == pytest.approx(1.0)
    assert (found.argmax(1) == table.argmax(1)).all()
    ranked = np.take_along_axis(found, np.argsort(table, 1), 1)
    assert (np.diff(ranked, axis=1) >= -1e-12).all()


# Of one of its rows two labels are within .00005 of each other.
@example(CalibrationMap(method="platt", slope=0.0, intercept=1.0), 5, 148)
@given(MAPS.filter(lambda by: by.method != "temperature"), st.integers(2, 9), st.integers(0, 1000))
def test_an_answers_probability_is_the_same_with_and_without_the_other_labels(by, labels, seed):
    table = rows(6, labels, seed=seed).table
    known = calibrated(by, table).max(1)
    assert known == pytest.approx(calibrated_confidence(by, table.max(1), labels), abs=0.01)


def test_probabilities_of_zero_and_one_are_no_trouble():
    table = np.array([[1.0, 0.0, 0.0], [1 - 1e-15, 1e-15, 0.0]])
    for by in (
        CalibrationMap(method="temperature", temperature=3.0),
        CalibrationMap(method="platt", slope=0.3, intercept=-1.0),
    ):
        found = calibrated(by, table)
        assert np.isfinite(found).all() and found.sum(1) == pytest.approx(1.0)
        assert (found[:, 0] < 1).all()


def test_a_temperature_needs_all_labels():
    with pytest.raises(ValueError, match="all labels"):
        calibrated_confidence(CalibrationMap(method="temperature", temperature=2.0), np.array([0.5]), 3)


def test_calibrated_probabilities_stay_about_as_they_are():
    for seed in range(3):
        judged = rows(300, seed=seed)
        found = recalibrated(fitted(judged)[0], judged)
        assert np.abs(found.table - judged.table).max() < 0.08


def test_rows_that_are_all_right_do_not_make_everything_certain():
    table = np.tile([0.8, 0.15, 0.05], (30, 1))
    by, _ = fitted(judged_table(table, np.zeros(30, int)))
    assert 0.1 < by.temperature < 0.8
    assert calibrated(by, table).max() < 1 - 1e-4


def test_the_fewer_rows_the_stiffer_the_map_and_it_is_said():
    few, why = fitted(rows(19, sharper=5.0))
    assert few == CalibrationMap() and "19 rows are too few" in why
    some, why = fitted(rows(49, sharper=5.0))
    assert some.method == "temperature" and "only map for fewer than 50" in why
    none, why = fitted(alone(rows(49, sharper=5.0)))
    assert none == CalibrationMap() and "50 are needed" in why
    assert "isotonic" not in fitted(rows(299))[1] and "isotonic" in fitted(rows(300))[1]


def test_a_map_that_bends_more_is_taken_where_it_is_clearly_better():
    dice = np.random.default_rng(0)
    sure = dice.uniform(0.34, 0.999, 900)
    right = dice.random(900) < np.where(sure > 0.7, 0.95, 0.35)
    table = np.stack([sure, (1 - sure) * 0.6, (1 - sure) * 0.4], 1)
    by, why = fitted(judged_table(table, np.where(right, 0, 1)))
    assert by.method == "isotonic" and "none" in why
    assert [k for k, _ in by.knots] == sorted(k for k, _ in by.knots)


def together(one: Judged, times: int) -> Judged:
    """Each row so many times, as one draw."""
    table, gold = np.repeat(one.table, times, 0), np.repeat(one.gold, times)
    return judged_table(table, gold, np.repeat(np.arange(one.rows), times))


def test_a_map_that_bends_more_is_not_taken_for_what_few_draws_of_many_rows_show():
    found = [fitted(together(rows(20, seed=seed), 20))[0].method for seed in range(30)]
    assert found.count("isotonic") + found.count("platt") <= 1
    dice = np.random.default_rng(0)
    sure = dice.uniform(0.34, 0.999, 900)
    right = dice.random(900) < np.where(sure > 0.7, 0.95, 0.35)
    table = np.stack([sure, (1 - sure) * 0.6, (1 - sure) * 0.4], 1)
    bent = judged_table(table, np.where(right, 0, 1))
    assert fitted(together(bent, 2))[0].method == "isotonic"


def test_answers_alone_are_calibrated_by_platts_line():
    judged = alone(rows(600, sharper=3.0))
    by, why = fitted(judged)
    assert by.method == "platt" and "temperature" not in why
    before, after = before_and_after(alone(rows(4000, sharper=3.0, seed=5)), by)
    assert after.ece < 0.03 < 0.15 < before.ece


def test_a_surer_answer_never_gets_less():
    dice = np.random.default_rng(0)
    sure = dice.uniform(0.3, 0.99, 200)
    judged = Judged(labels=3, confidence=sure, right=dice.random(200) < 1 - sure)
    assert FITS["platt"](judged).slope == 0.0


def test_every_row_is_outside_of_one_fold_and_groups_stay_together():
    judged = rows(200)
    parts = folds(judged)
    assert len(parts) == 5
    assert sorted(np.concatenate([outside for _, outside in parts])) == list(range(200))
    assert all(not set(inside) & set(outside) for inside, outside in parts)
    groups = np.arange(200) // 7
    for inside, outside in folds(replace(judged, groups=groups)):
        assert not set(groups[inside]) & set(groups[outside])


@pytest.mark.parametrize("sizes", [(300, 200), (320,), (60, 40), (2,)])
def test_no_map_is_fitted_on_nothing_however_few_groups_there_are(sizes):
    judged = replace(rows(sum(sizes)), groups=np.repeat(np.arange(len(sizes)), sizes))
    for inside, outside in folds(judged):
        held = judged.only(inside)
        assert len(inside) and sorted((*inside, *outside)) == list(range(judged.rows))
        assert held.rows < 2 or all(len(within) for within, _ in folds(held))
    assert np.isfinite(cross_fitted(judged).confidence).all()
    chosen, why = fitted(judged.only(np.arange(sizes[0])))
    assert sizes[0] < 50 or "in 5 folds" in why
    assert before_and_after(judged, chosen)[1].n == judged.rows


def test_cross_fitted_scores_do_not_flatter():
    """Confidences that mean nothing: a map fitted on the rows themselves seems better than it is."""
    inside, across = [], []
    for seed in range(2):
        dice = np.random.default_rng(seed)
        table = dice.dirichlet([0.4] * 3, 320)
        judged = judged_table(table, dice.integers(0, 3, 320))
        inside.append(calibration_score(recalibrated(fitted(judged)[0], judged)).log_loss)
        across.append(calibration_score(cross_fitted(judged)).log_loss)
    assert np.mean(across) > np.mean(inside)


def test_rows_of_unknown_labels_count_as_wrong_but_do_not_bend_the_temperature():
    judged = rows(300, sharper=2.0)
    gold = np.concatenate([judged.gold, np.full(100, -1)])
    more = judged_table(np.concatenate([judged.table, judged.table[:100]]), gold)
    assert FITS["temperature"](more).temperature == pytest.approx(FITS["temperature"](judged).temperature)
    assert calibration_score(more).log_loss > calibration_score(judged).log_loss + 0.2 * -np.log(FLOOR)
