"""The winner's curse against simulation and against known constants."""

import numpy as np
import pytest

from rung.scoring.selection import expected_maximum, optimism


@pytest.mark.parametrize(
    # Order statistics of the normal distribution (Harter 1961, Tables of expected values).
    ("count", "known"),
    [(1, 0.0), (2, 0.56419), (3, 0.84628), (5, 1.16296), (10, 1.53875), (16, 1.76599), (20, 1.86748)],
)
def test_the_expected_maximum_is_the_tabled_one(count, known):
    assert expected_maximum(count) == pytest.approx(known, abs=2e-5)


@pytest.mark.parametrize(("candidates", "shared"), [(4, 0.0), (16, 0.0), (16, 0.5), (6, 0.8)])
def test_the_optimism_is_what_a_simulated_choice_among_equals_gains(candidates, shared):
    """Rows are right with chance .6; a share of them is decided for all candidates alike."""
    dice, n, found, told = np.random.default_rng(0), 200, [], []
    for _ in range(400):
        alike = (dice.random((1, n)) < 0.6).repeat(candidates, 0)
        own = dice.random((candidates, n)) < 0.6
        scores = np.where(dice.random((1, n)) < shared, alike, own).astype(float)
        found.append(scores.mean(axis=1).max() - 0.6)
        told.append(optimism(scores[:, :100], n))
    noise = np.std(found) / np.sqrt(len(found))
    assert np.mean(told) == pytest.approx(np.mean(found), abs=4 * noise + 0.001)


def test_candidates_that_always_answer_alike_leave_nothing_to_luck():
    one = np.random.default_rng(1).random((1, 50))
    assert optimism(one.repeat(8, 0), 50) == pytest.approx(0.0, abs=1e-12)
    assert optimism(one, 50) == 0.0


def test_four_times_the_rows_halve_it():
    scores = (np.random.default_rng(2).random((5, 80)) < 0.5).astype(float)
    assert optimism(scores, 400) == pytest.approx(optimism(scores, 100) / 2)


def test_one_row_tells_of_no_spread():
    with pytest.raises(ValueError, match="needs two rows"):
        optimism(np.ones((3, 1)), 10)
