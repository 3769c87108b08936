"""The whole decision on a ladder of eight rungs, by the simulation that the benchmarks publish."""

import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TIMES = 60


@pytest.fixture
def simulated(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module("decision_simulated")
    for name in ("decision_simulated", "common"):
        sys.modules.pop(name, None)


def error(rate):
    return 3 * math.sqrt(rate * (1 - rate) / TIMES)


def test_of_eight_equal_rungs_the_cheapest_ships_and_a_dearer_one_hardly_ever(simulated):
    truths, dice = simulated.TRUTHS["all equal"], np.random.default_rng(0)
    assert len(truths) == 8
    chosen = [simulated.climbed(truths, 500, dice)[0].chosen for _ in range(TIMES)]
    false = sum(one not in (None, "rung 0") for one in chosen)
    assert false / TIMES <= 0.05 + error(0.05)
    assert chosen.count("rung 0") / TIMES >= 0.95 - error(0.95)


def test_a_dearer_rung_that_is_truly_better_ships(simulated):
    truths, dice = simulated.TRUTHS["the fifth better by 10 points"], np.random.default_rng(1)
    chosen = [simulated.climbed(truths, 500, dice)[0].chosen for _ in range(20)]
    assert chosen.count("rung 4") >= 18
