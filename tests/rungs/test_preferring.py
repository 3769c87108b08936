"""What a preference tune decides, against a learner whose scores and margins are known."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.errors import TrainingError
from rung.rungs.preferred import Material
from rung.rungs.preferring import BATCH, MOST_FALL, RATES, Course, Reference, _Begun, _prefer
from rung.rungs.tune import BEST_FOLDER, Arm, Pace, Plan
from rung.training.batches import Row

STEPS = 20
DEV = list(range(40))
ROWS = [Row(prompt=(1,), answer=(2, 3)) for _ in range(10)]
LOW, HIGH = (Arm(form="free", rate=rate).name for rate in RATES)


@dataclass
class Learner:
    """Stands where `Tune` does: values by arm and step (0.5 at the start), and how far answers fell."""

    values: dict[tuple[str, int], float] = field(default_factory=dict)
    falls: dict[tuple[str, int], float] = field(default_factory=dict)
    breaks: dict[str, int] = field(default_factory=dict)

    def __post_init__(self):
        self.context: Any = SimpleNamespace(dev=DEV)
        self.plan = Plan(folder=Path("nowhere"), budget_s=1.0, reserve_s=1.0, seed=0)
        self.specs, self.lesson, self.objective, self.warmup, self.pace = {}, None, None, 1, Pace()
        self.ran: list[tuple[str, int, tuple[int, int] | None]] = []
        self.scored: list[tuple[str, int]] = []
        self.kept: list[tuple[str, int]] = []

    def run(self, arm, until, decay=None):
        if until >= self.breaks.get(arm.name, until + 1):
            raise TrainingError("the loss became nan")
        self.ran.append((arm.name, until, decay))

    def find(self, *, kind, arm, step):
        assert kind == "margins" and self.ran[-1][:2] == (arm, step)
        fell = self.falls.get((arm, step), 0.0)
        return {"kind": kind, "pairs": 10, "right": 7, "likelier": 6, "fell": fell}

    def score(self, arm, step, rows):
        self.scored.append((arm.name, step))
        value = self.values.get((arm.name, step), 0.4) if step else 0.5
        return {"arm": arm.name, "step": step, "n": len(rows), "score": value, "value": value, "loss": 1.0}

    def keep(self, arm, step):
        self.kept.append((arm.name, step))


def preferred(learner: Learner, *, rates: int = 2, evaluations: int = 2, items: int = 320):
    course = Course(rates=rates, evaluations=evaluations, steps=STEPS, rows=DEV, tuning_s=1.0, closing_s=1.0)
    material = Material(items=ROWS * (items // 10), desirable=(), better=ROWS, worse=ROWS, left_out=0)
    flat = [-4.0] * 10
    reference = Reference(items=[], others=[], better=flat, worse=flat, row_s=0.1)
    arms = [Arm(form="free", rate=rate) for rate in RATES[:rates]]
    begun: Any = _Begun(state=learner, material=material, reference=reference, course=course, arms=arms)  # type: ignore[arg-type]
    return _prefer(begun)


def test_the_start_is_kept_where_no_step_is_better():
    learner = Learner(values={(HIGH, 20): 0.5})
    outcome = preferred(learner)
    assert outcome.adapter is None and not learner.kept
    assert learner.scored == [(LOW, 0), (LOW, 10), (LOW, 20), (HIGH, 10), (HIGH, 20)]
    assert any("after the last step tried: in 70 % of 10 pairs" in told for told in outcome.found)


@pytest.mark.parametrize("best", [(LOW, 10), (LOW, 20), (HIGH, 10), (HIGH, 20)])
def test_the_best_step_of_all_arms_is_kept_and_told(best):
    learner = Learner(values={best: 0.6, (LOW, 10): 0.55} | {best: 0.6})
    outcome = preferred(learner)
    assert outcome.adapter == Path("nowhere") / BEST_FOLDER
    assert learner.kept[-1] == best
    assert f"{best[0]}, {best[1]} steps of {BATCH} from sft's adapter on" in outcome.what
    assert outcome.passes == STEPS * BATCH / 320
    assert any("preference accuracy on dev now: in 70 % of 10 pairs" in told for told in outcome.found)


@given(st.dictionaries(st.tuples(st.sampled_from([LOW, HIGH]), st.sampled_from([10, 20])), st.floats(0, 1)))
def test_whatever_the_scores_what_is_kept_is_better_than_the_start_and_all_others(values):
    learner = Learner(values=values)
    outcome = preferred(learner)
    scores = {key: values.get(key, 0.4) for key in learner.scored[1:]}
    if max(scores.values()) <= 0.5:
        assert outcome.adapter is None
    else:
        assert scores[learner.kept[-1]] == max(scores.values())


def test_an_arm_whose_better_answers_fell_ends_there_unscored_and_the_next_one_is_tried():
    learner = Learner(falls={(LOW, 10): MOST_FALL + 0.01}, values={(LOW, 10): 0.9, (HIGH, 20): 0.6})
    outcome = preferred(learner)
    assert learner.scored == [(LOW, 0), (HIGH, 10), (HIGH, 20)]
    assert learner.kept == [(HIGH, 20)]
    (note,) = [note for note in outcome.notes if "stopped after" in note]
    assert f"{LOW} stopped after 10 steps" in note and "fell by 21 %, more than 20 %" in note
    assert not any("stopped" in note for note in preferred(Learner(falls={(LOW, 10): MOST_FALL})).notes)


def test_an_arm_that_breaks_leaves_what_was_best_before():
    learner = Learner(values={(LOW, 10): 0.6}, breaks={LOW: 20, HIGH: 10})
    outcome = preferred(learner)
    assert learner.kept == [(LOW, 10)] and outcome.adapter is not None
    assert [note for note in outcome.notes if "ended early" in note] == [
        f"{LOW} ended early: the loss became nan",
        f"{HIGH} ended early: the loss became nan",
    ]


def test_the_rate_decays_over_the_second_half_of_every_arm():
    learner = Learner()
    preferred(learner)
    assert {decay for _, _, decay in learner.ran} == {(10, 20)}


def test_a_small_set_and_a_course_cut_short_are_said():
    notes = preferred(Learner(), rates=1, items=100).notes
    assert any("fewer than 300" in note for note in notes)
    assert any(f"no time for more than the rate {RATES[0]:g}" in note for note in notes)
    assert not any("less than one pass" in note for note in notes)
    plenty = preferred(Learner(), items=400).notes
    assert not any("fewer than" in note for note in plenty)
    assert f"{STEPS} steps of {BATCH}: less than one pass, for want of time" in plenty


@given(st.integers(1, 50), st.sampled_from([1, 2]))
def test_the_stops_end_with_the_last_step(steps, evaluations):
    course = Course(rates=1, evaluations=evaluations, steps=steps, rows=[], tuning_s=0.0, closing_s=0.0)
    assert course.stops[-1] == steps and len(course.stops) == min(steps, evaluations)
    assert all(0 < stop <= steps for stop in course.stops)
