"""The whole decision on a ladder of eight rungs, by the simulation that the benchmarks publish."""

import importlib
import math
import sys
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SEEN, TOO_MANY = 0.037, 0.08
"""The share of false wins that the benchmark measured, and one that must not pass."""
FALSE_ALARM, MISSED = 0.01, 0.05


@pytest.fixture
def simulated(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module("decision_simulated")
    for name in ("decision_simulated", "common"):
        sys.modules.pop(name, None)


def rather_few(false_wins):
    """Wald's sequential test (1945) of `SEEN` against `TOO_MANY`, as many climbs as it takes.

    Of decisions as good as measured it refuses 1 in 100, of those with 8 % of false wins it passes 1 in 20.
    """
    refused, passed = math.log((1 - MISSED) / FALSE_ALARM), math.log(MISSED / (1 - FALSE_ALARM))
    odds = 0.0
    for false in false_wins:
        odds += math.log(TOO_MANY / SEEN if false else (1 - TOO_MANY) / (1 - SEEN))
        if odds >= refused or odds <= passed:
            break
    return odds <= passed


def test_eight_false_wins_in_a_hundred_are_told_from_the_few_that_were_measured():
    dice = np.random.default_rng(0)
    few, many = (
        sum(rather_few(dice.random() < rate for _ in repeat(None)) for _ in range(1000))
        for rate in (SEEN, TOO_MANY)
    )
    assert few >= 980
    assert many <= 60


def test_of_eight_equal_rungs_the_cheapest_ships_and_a_dearer_one_hardly_ever(simulated):
    truths, dice = simulated.TRUTHS["all equal"], np.random.default_rng(1)
    assert len(truths) == 8
    chosen = (simulated.climbed(truths, 200, dice)[0].chosen for _ in repeat(None))
    assert rather_few(one != "rung 0" for one in chosen)


def test_of_equals_that_are_better_than_the_cheapest_the_second_ships_most_often(simulated):
    truths, dice = (
        simulated.TRUTHS["the second and all after it better, and equal"],
        np.random.default_rng(2),
    )
    chosen = [simulated.climbed(truths, 200, dice)[0].chosen for _ in range(40)]
    assert (
        chosen.count("rung 1") >= 26
    )  # 3 standard errors under the 63 % measured; the highest score: 1 in 7
    assert chosen.count("rung 0") <= 9


def test_a_dearer_rung_that_is_truly_better_ships(simulated):
    truths, dice = simulated.TRUTHS["the fifth better by 10 points"], np.random.default_rng(1)
    chosen = [simulated.climbed(truths, 500, dice)[0].chosen for _ in range(12)]
    assert chosen.count("rung 4") >= 11
