"""A course on policy: as many steps as time allows, with dev scored a few times on the way."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from rung.errors import TrainingError
from rung.records import Example
from rung.rungs.length import FEWEST_SCORED, SCORING_SHARE, USED_SHARE
from rung.rungs.tune import Arm, Tune
from rung.rungs.tuning import answer_s
from rung.scoring.notation import duration_text

PROBE_STEPS = 2
"""They come before the first score of a course, however short it is."""
LEARNING_TIMES = 3.0
"""A step takes about so many times as long as drawing its answers alone."""
LOOKS = 6
DECAY_SHARE = 0.5
PATIENCE = 3
"""Scores in a row under the start's, after which it's no use to go on."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How many steps a course may have, and passes through its prompts, and how many it must."""

    most_steps: int
    most_passes: int
    fewest_steps: int


@dataclass(frozen=True, kw_only=True)
class Course:
    """So many steps, of which `fewest` are needed, and the dev rows by which they are scored on the way.

    The inputs are enough for `allowed` steps, whatever the time. All of it takes `tuning_s`; where dev is
    worse than at the start from the first look on, `soonest_s`. `missing_s` are the seconds that the fewest
    would take beyond those that are left.
    """

    steps: int
    fewest: int
    allowed: int
    rows: Sequence[Example]
    tuning_s: float
    closing_s: float
    soonest_s: float = 0.0
    missing_s: float = 0.0

    @property
    def stops(self) -> list[int]:
        """The steps after which dev is scored, the last one among them."""
        return _stops(self.steps)

    @property
    def refusal(self) -> str | None:
        """Why it's no use to begin; None where it is."""
        if self.steps >= self.fewest:
            return None
        if self.allowed < self.fewest:
            return (
                f"the inputs are enough for {self.allowed} steps, and fewer than {self.fewest} teach next to "
                "nothing; more inputs are needed, not more time"
            )
        return (
            f"{self.steps} steps fit the time that is left, and fewer than {self.fewest} teach next to "
            f"nothing; about {duration_text(self.missing_s)} more are needed here: raise --budget"
        )


def settled_course(state: Tune, arm: Arm, bounds: Bounds, draw_s: float = 0.0) -> Course:
    """How many steps fit the time, from the speed of a few of them and of a few answers; settled once.

    The start is scored first: the steps that are timed are those of the course, and answers are foretold by
    those, many at once. Drawing the answers of a step took `draw_s`, as far as that is known.
    """
    context = state.context
    looks = state.find(kind="looks")
    if looks is None:
        row_s = answer_s(state, arm)
        closing_s = (len(context.dev) + state.closing_rows) * row_s
        scoring_s = SCORING_SHARE * (context.seconds_left - state.plan.reserve_s - closing_s)
        rows = min(len(context.dev), max(FEWEST_SCORED, int(scoring_s / (LOOKS + 1) / row_s)))
        looks = state.note({"kind": "looks", "rows": rows})
    state.score(arm, 0, context.dev[: looks["rows"]])
    allowed = bounds.most_passes * state.trainer(arm).steps_per_epoch
    known = state.find(kind="course")
    if known is None:
        row_s = state.pace.answer_s
        step_s = _step_s(state, arm, draw_s)
        scoring_s = LOOKS * looks["rows"] * row_s
        closing_s = (len(context.dev) + state.closing_rows) * state.pace.served_s
        left_s = USED_SHARE * (context.seconds_left - state.plan.reserve_s - closing_s)
        steps = min(bounds.most_steps, allowed, PROBE_STEPS + max(0, int((left_s - scoring_s) / step_s)))
        tuning_s = (steps - PROBE_STEPS) * step_s + scoring_s
        looked = _stops(steps)[:PATIENCE]
        soonest_s = (looked[-1] - PROBE_STEPS) * step_s + len(looked) * looks["rows"] * row_s
        needed_s = (bounds.fewest_steps - PROBE_STEPS) * step_s + scoring_s
        missing_s = max(0.0, needed_s - left_s) / USED_SHARE
        course = {"steps": steps, "tuning_s": tuning_s, "soonest_s": soonest_s, "closing_s": closing_s}
        course |= {"missing_s": missing_s}
        known = state.note({"kind": "course", **course, "pace": asdict(state.pace)})
    return Course(
        steps=known["steps"],
        fewest=bounds.fewest_steps,
        allowed=allowed,
        rows=context.dev[: looks["rows"]],
        tuning_s=known["tuning_s"],
        # Earlier versions didn't note it.
        soonest_s=known.get("soonest_s", known["tuning_s"]),
        closing_s=known["closing_s"],
        missing_s=known["missing_s"],
    )


def _stops(steps: int) -> list[int]:
    even = (-(-steps * turn // LOOKS) for turn in range(1, LOOKS + 1))
    return sorted({max(PROBE_STEPS, stop) for stop in even})


def _step_s(state: Tune, arm: Arm, draw_s: float) -> float:
    """Seconds that a step takes, drawing and learning, by the first ones."""
    for step in range(PROBE_STEPS):
        for tick in state.run(arm, step + 1):
            state.note({"kind": "probe", "step": tick.step, "seconds": tick.seconds})
    seconds = [record["seconds"] for record in state.records if record["kind"] == "probe"]
    # None where the program was killed between each of these steps and its line.
    return statistics.median(seconds) if seconds else max(1.0, LEARNING_TIMES * draw_s)


def stretches(
    state: Tune, arm: Arm, course: Course, start: dict, notes: list[str]
) -> Iterator[tuple[Arm, dict]]:
    """Train from stop to stop; the record of the score at each. Ends early where it's no use to go on."""
    worse = 0
    for stop in course.stops:
        if _late(state, arm, stop, course):
            notes.append(f"ended before step {stop}, for want of time")
            return
        try:
            ticks = state.run(arm, stop, decay=(int(course.steps * (1 - DECAY_SHARE)), course.steps))
        except TrainingError as error:
            notes.append(f"ended early: {error}")
            return
        losses = [tick.loss for tick in ticks if tick.loss is not None]
        if losses:
            loss = statistics.fmean(losses)
            state.note({"kind": "stretch", "arm": arm.name, "step": stop, "loss": loss})
        found = state.score(arm, stop, course.rows)
        yield arm, found
        worse = worse + 1 if found["value"] < start["value"] else 0
        if worse == PATIENCE and stop < course.steps:
            notes.append(
                f"stopped after {stop} steps: dev was worse than at the start {PATIENCE} times in a row"
            )
            return


def _late(state: Tune, arm: Arm, stop: int, course: Course) -> bool:
    """Whether nothing but the last pass over dev fits the time when a stretch is due; settled once."""
    known = state.find(kind="late", arm=arm.name, step=stop)
    if known is None:
        left_s = state.context.seconds_left - state.plan.reserve_s - course.closing_s
        known = state.note({"kind": "late", "arm": arm.name, "step": stop, "late": left_s < 0})
    return known["late"]
