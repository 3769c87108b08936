import random
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from rung.evaluate import LOOK_ROWS
from rung.records import Answer, Example
from rung.rungs.rival import rival
from rung.scoring.measure import measurement

ALPHA, PAIRS = 0.05, 6
LEVEL = ALPHA / PAIRS


def rows(count, group=lambda i: None, asks=str):
    return [Example(id=f"{i:04d}", input=asks(i), output="yes", group=group(i)) for i in range(count)]


def answers(right):
    return [Answer(text="", value="yes" if one else "no") for one in right]


def to_beat(examples, given, metric="accuracy", needed=0.02):
    found = measurement(system="s", split="dev", metric=metric, examples=examples, answers=given)
    made = rival("head", found, examples, needed=needed, level=LEVEL)
    assert made is not None
    return made


def looks(dev):
    return range(LOOK_ROWS, dev, LOOK_ROWS)


def stopped_at(examples, first, second):
    """After how many rows the second is stopped, None if never."""
    bar = to_beat(examples, answers(first))
    given = answers(second)
    return next((n for n in looks(len(examples)) if bar.beyond(examples[:n], given[:n])), None)


def simulated(runs, dev, up, down, seed):
    """Where rungs are stopped that are right alone on a share `up` of the rows, and wrong alone on `down`."""
    dice = np.random.default_rng(seed)
    examples, found = rows(dev), []
    for _ in range(runs):
        kinds = dice.choice(4, size=dev, p=[up, down, 0.6 * (1 - up - down), 0.4 * (1 - up - down)])
        found.append(stopped_at(examples, (kinds == 1) | (kinds == 2), (kinds == 0) | (kinds == 2)))
    return found


@pytest.mark.parametrize("dev", [200, 500])
def test_a_rung_that_is_better_by_five_points_is_hardly_ever_stopped(dev):
    found = simulated(200, dev, up=0.125, down=0.075, seed=dev)
    assert sum(at is not None for at in found) / len(found) < ALPHA / 2


@pytest.mark.parametrize(("up", "down", "mean"), [(0.05, 0.60, 34), (0.05, 0.25, 80), (0.07, 0.17, 210)])
def test_a_hopeless_rung_is_asked_a_part_of_the_rows(up, down, mean):
    found = simulated(100, 500, up=up, down=down, seed=1)
    assert np.mean([at or 500 for at in found]) == pytest.approx(mean, rel=0.15)


def test_one_that_is_as_good_is_mostly_asked_all_rows():
    found = simulated(80, 300, up=0.1, down=0.1, seed=2)
    assert np.mean([at or 300 for at in found]) > 270


@pytest.mark.parametrize("together", [1, 4])
def test_one_that_gains_just_enough_is_stopped_no_oftener_than_stated_however_often_it_is_looked_at(together):
    """Draws of a row, or of four that are won, lost or even as one. On average they gain what is needed."""
    runs, dev, dice = 200, 256, np.random.default_rng(together)
    examples = rows(dev, group=lambda i: str(i // together) if together > 1 else None)
    stopped = 0
    for _ in range(runs):
        kinds = dice.choice(4, size=dev // together, p=[0.26, 0.24, 0.3, 0.2]).repeat(together)
        first, second = (answers((kinds == own) | (kinds == 2)) for own in (1, 0))
        bar = to_beat(examples, first)
        stopped += any(bar.beyond(examples[:n], second[:n]) for n in range(16, dev + 1, 16))
    assert stopped <= binom.ppf(0.999, runs, LEVEL)


@pytest.mark.parametrize("lost", [6, 7])
def test_six_rows_lost_may_be_chance_at_one_in_twenty_and_seven_are_not(lost):
    """After n rows, all lost, the bet is worth (2^(n + 1) - 1) / (n + 1): 18.1 after 6, 31.9 after 7."""
    examples = rows(64)
    second = answers([False] * lost + [True] * (48 - lost) + [False] * 16)
    bar = to_beat(examples, answers([True] * 48 + [False] * 16), needed=0.0)
    worth = (2 ** (lost + 1) - 1) / (lost + 1)
    for level, shown in ((1 / 20, lost == 7), (1.01 / worth, True), (0.99 / worth, False)):
        at = replace(bar, level=level)
        assert at.beyond(examples[:32], second[:32]) is shown
        assert at.stopped(examples[:32], second[:32], 64).worse is shown


def test_a_rival_without_a_fault_leaves_nothing_to_gain():
    right = [True] * 300
    assert stopped_at(rows(300), right, right) == 32
    assert stopped_at(rows(300), [*right[:-1], False], right) is None


OBJECTS = [Example(id=f"{i:04d}", input=str(i), output={"k": str(i)}) for i in range(200)]


@pytest.mark.parametrize("lost", [0, 3, 20])
@pytest.mark.parametrize("kind", ["graded", "binary", "grouped"])
def test_a_tie_with_a_rival_without_a_fault_is_not_recorded_as_worse(kind, lost):
    """Three rows of 32 may be chance, as for right and wrong; twenty aren't."""
    examples = (
        OBJECTS
        if kind == "graded"
        else rows(200, (lambda i: str(i // 2)) if kind == "grouped" else lambda i: None)
    )
    given = [Answer(text="", value=e.output) for e in examples]
    bar = to_beat(examples, given, metric="field_f1" if kind == "graded" else "accuracy")
    first, wrong = (64, 2 * lost) if kind == "grouped" else (32, lost)
    second = [Answer(text="", value={"k": "?"} if kind == "graded" else "no")] * wrong + given[wrong:]
    assert bar.beyond(examples[:first], second[:first])
    assert bar.stopped(examples[:first], second[:first], 200).worse is (lost == 20)


def test_rows_on_which_either_call_broke_say_nothing():
    examples = rows(64)
    bar = to_beat(examples, answers([True] * 40 + [False] * 24))
    broken = [Answer(text="", failure="refused")] * 32
    assert not bar.beyond(examples[:32], broken)


def test_rows_that_are_drawn_together_count_as_one_draw():
    """Groups or questions of 16 rows, each wholly lost or even: 64 rows are four draws and show nothing."""
    first, second = answers([True] * 240 + [False] * 240), answers([False] * 480)
    grouped = rows(480, group=lambda i: str(i // 16))
    asked_again = rows(480, asks=lambda i: f"{'Which' if i % 2 else 'WHICH '} {i // 16}?")
    for examples, shown in ((rows(480), True), (grouped, False), (asked_again, False)):
        assert to_beat(examples, first).beyond(examples[:64], second[:64]) is shown
        foreseen = to_beat(examples, first).foreseen_stop(examples, second[:18], 32, random.Random(0))
        assert foreseen == 32 if shown else foreseen > 64


@pytest.mark.parametrize("wrong", [3, 24])
def test_what_the_first_look_shows_is_known_before_it(wrong):
    examples = rows(480)
    second = answers([False] * wrong + [True] * (32 - wrong))
    bar = to_beat(examples, answers([True] * 440 + [False] * 40))
    found = {bar.foreseen_stop(examples, second, 32, random.Random(seed)) for seed in range(20)}
    assert bar.beyond(examples[:32], second) is (found == {32})
    assert len(found) > 2 or wrong == 24, "later looks depend on the rows to come"


def test_a_draw_is_counted_once_all_its_rows_were_asked():
    """Of pairs of a group and its question, the last of which is asked with half of it."""
    examples = rows(128, group=lambda i: str(i // 2) if i % 4 else None, asks=lambda i: str(i // 2))
    bar = to_beat(examples, answers([True, False] * 64))
    for end, draws in ((32, 16), (33, 16), (34, 17)):
        gains = bar._gains(examples[:end], answers([True] * end))
        assert bar._short(examples[:end], gains, 0.25) == [0.5 - 1.0] * draws


def test_rows_that_repeat_what_the_rival_has_right_do_not_keep_a_hopeless_rung_going():
    """A question that is asked forty times could win forty rows at once, if the rival hadn't them right."""
    examples = [*rows(200), *(Example(id=f"hi{n}", input="hi", output="yes") for n in range(40))]
    second = answers([False, False, False, True] * 50 + [True] * 40)
    for right, stopped in ((True, True), (False, False)):
        bar = to_beat(examples, answers([True, True, False, True] * 50 + [right] * 40))
        found = any(bar.beyond(examples[:n], second[:n]) for n in range(LOOK_ROWS, 200, LOOK_ROWS))
        assert found is stopped


@pytest.mark.parametrize("broken", [0, 9])
def test_no_draw_wins_more_than_bets_are_made_for(broken):
    """Ten rows of one question, of which the rival has one wrong. A call that breaks takes a row out."""
    examples = [*rows(54), *(Example(id=f"hi{n}", input="hi", output="yes") for n in range(10))]
    bar = to_beat(examples, answers([True] * 63 + [False]))
    given = answers([True] * 64)
    given[54 : 54 + broken] = [Answer(text="", failure="refused")] * broken
    for needed in (0.0, 0.02):
        least = min(bar._short(examples, bar._gains(examples, given), needed))
        assert -bar._most_above(needed) <= least < 0


@pytest.mark.parametrize(("errors", "stops"), [(5.0, True), (0.5, False)])
def test_errors_in_units_are_compared_too(errors, stops):
    dice = random.Random(0)
    examples = [Example(id=f"{i:04d}", input=str(i), output=float(i % 10)) for i in range(200)]
    first = [Answer(text="", value=float(str(e.output)) + dice.uniform(-1, 1)) for e in examples]
    second = [Answer(text="", value=float(str(e.output)) + dice.uniform(-errors, errors)) for e in examples]
    bar = to_beat(examples, first, metric="mae", needed=0.18)
    assert any(bar.beyond(examples[:n], second[:n]) for n in looks(200)) is stops


def test_a_metric_of_the_whole_set_is_never_stopped():
    examples = rows(60)
    found = measurement(
        system="s", split="dev", metric="macro_f1", examples=examples, answers=answers([True] * 60)
    )
    assert rival("head", found, examples, needed=0.02, level=LEVEL) is None


def test_the_record_says_whether_the_rung_was_shown_to_be_worse():
    examples = rows(300)
    bar = to_beat(examples, answers([True] * 270 + [False] * 30))
    lost = bar.stopped(examples[:32], answers([False] * 32), 300)
    assert (lost.rows, lost.of, lost.rival, lost.worse) == (32, 300, "head", True)
    assert not bar.stopped(examples[:32], answers([True] * 30 + [False] * 2), 300).worse


def test_an_unreadable_answer_costs_what_it_does_over_all_dev_rows_from_the_first_look_on():
    """The first targets are all 1000, which says nothing of how far apart all of them are."""
    examples = [Example(id=f"{i:04d}", input=str(i), output=1000.0 + (i >= 64) * (i % 5)) for i in range(200)]
    first = [Answer(text="", value=1000.0) for _ in examples]
    second = [Answer(text="", value=None if i % 16 == 0 else 1000.0) for i in range(200)]
    bar = to_beat(examples, first, metric="mae", needed=0.0)
    assert bar.worst == 4.0
    gains = bar._gains(examples[:32], second[:32])
    assert min(gains.values()) == -4.0 and sum(gains.values()) == -8.0
