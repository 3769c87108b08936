"""Where a rung will be stopped, foretold by its first rows, and where it is, over many rungs."""

import random
import statistics

import numpy as np
import pytest

from rung.evaluate import LOOK_ROWS
from rung.records import Answer, Example
from rung.rungs.rehearsal import REHEARSALS
from rung.rungs.rival import rival
from rung.scoring.measure import measurement

DEV, PAIRS, RUNGS = 190, 28, 120


def simulated(dice):
    """A rival, dev rows and a rung's answers: how good each is, and how alike, is drawn from wide ranges."""
    likeness, shift = dice.uniform(0.2, 0.8), dice.normal(0.8, 0.9)
    draws = dice.multivariate_normal([0, 0], [[1, likeness], [likeness, 1]], DEV)
    skill = draws + [shift, shift + dice.normal(-0.4, 0.7)]
    values = np.where(skill > 0, "yes", "no").tolist()
    examples = [Example(id=f"{i:04d}", input=str(i), output="yes") for i in range(DEV)]
    first, second = ([Answer(text="", value=row[at]) for row in values] for at in (0, 1))
    found = measurement(system="s", split="dev", metric="accuracy", examples=examples, answers=first)
    bar = rival("head", found, examples, needed=0.02, level=0.05 / PAIRS)
    assert bar is not None
    return bar, examples, second


def stopped(bar, examples, answers):
    looks = range(LOOK_ROWS, DEV, LOOK_ROWS)
    return next((n for n in looks if bar.beyond(examples[:n], answers[:n])), DEV)


def now(bar, examples, answers, dice):
    return bar.foreseen_stop(examples, answers, LOOK_ROWS, dice)


def alike(bar, examples, answers, dice):
    """The stop if gains to come are a sample of the first ones, whatever the rival did on the rows."""
    first = bar._gains(examples[: len(answers)], answers)
    known = dice.choices(list(first.values()), k=len(first))
    gains = {e.id: dice.choice(known) for e in examples} | first
    for end in range(LOOK_ROWS, DEV, LOOK_ROWS):
        if bar._shown(examples[:end], {e.id: gains[e.id] for e in examples[:end]}, bar.needed):
            return end
    return DEV


def foretold(way, bar, examples, answers):
    return statistics.median(way(bar, examples, answers, random.Random(seed)) for seed in range(REHEARSALS))


@pytest.mark.parametrize(("asked", "most"), [(14, 0.8), (32, 0.9)])
def test_a_stop_is_foretold_better_by_what_the_rival_did_on_the_rows_to_come(asked, most):
    dice, errors = np.random.default_rng(7), {now: [], alike: []}
    for _ in range(RUNGS):
        bar, examples, answers = simulated(dice)
        truth = stopped(bar, examples, answers)
        for way, found in errors.items():
            found.append(abs(foretold(way, bar, examples, answers[:asked]) - truth) / DEV)
    assert statistics.fmean(errors[now]) < most * statistics.fmean(errors[alike])


def right(flags):
    return [Answer(text="", value="yes" if one else "no") for one in flags]


def test_the_first_rows_faults_of_a_rival_that_is_seldom_wrong_promise_no_gain():
    """Five of its twelve faults are among the first twenty rows, and mended; five other rows are lost."""
    examples = [Example(id=f"{i:04d}", input=str(i), output="yes") for i in range(DEV)]
    rivals = right([i >= 5 and i % 27 != 26 for i in range(DEV)])
    found = measurement(system="s", split="dev", metric="accuracy", examples=examples, answers=rivals)
    bar = rival("head", found, examples, needed=0.02, level=0.05 / PAIRS)
    assert bar is not None
    first = right([not 5 <= i < 10 for i in range(20)])
    assert foretold(alike, bar, examples, first) == DEV
    assert foretold(now, bar, examples, first) < 0.8 * DEV


def test_what_no_first_row_tells_is_left_to_the_prior():
    """Without a fault of the rival among them, the prior tells what there is to gain."""
    examples = [Example(id=f"{i:04d}", input=str(i), output="yes") for i in range(DEV)]
    rivals = right([i < 20 or i % 2 for i in range(DEV)])
    found = measurement(system="s", split="dev", metric="accuracy", examples=examples, answers=rivals)
    bar = rival("head", found, examples, needed=0.02, level=0.05 / PAIRS)
    assert bar is not None
    good, bad = right([True] * 20), right([False] * 20)
    assert foretold(now, bar, examples, good) == DEV
    assert foretold(now, bar, examples, bad) == LOOK_ROWS
