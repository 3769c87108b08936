"""A course of reinforcement: the gate, as many steps as time allows, and what dev says on the way."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from rung.errors import TrainingError
from rung.rungs.base import Context, Outlook
from rung.rungs.coursing import Bounds, Course, settled_course, stretches
from rung.rungs.following import Outcome, kept_best
from rung.rungs.reward_gate import Gate, gate
from rung.rungs.rollouts import GROUP, Prompts, drawn_groups, lesson_of, prompts_to_draw, red_flag, yield_of
from rung.rungs.sft import RESERVE_USED
from rung.rungs.tune import BEST_FOLDER, Arm, Lesson, Plan, Tune
from rung.scoring.notation import percent_text, score_text
from rung.system import System
from rung.training.onpolicy import Drawn, Rewarded

RATE = 1e-5
"""A's; B's is `B_RATE` times as high."""
PROMPTS = 8
"""In a step, with GROUP answers each."""
MOST_STEPS, FEWEST_STEPS = 300, 10
MOST_PASSES = 10
WARMUP = 3
SHOWN_STEPS = 10
"""At the beginning and at the end, over which what was drawn is told."""
STAYS = "how long dev is no worse than at the start"


@dataclass(frozen=True, kw_only=True)
class _Begun:
    """A course that is ready for its first step, or for the next one; none where the gate refused it."""

    state: Tune
    given: Prompts
    arm: Arm
    gate: Gate
    course: Course | None

    @property
    def refusal(self) -> str | None:
        return self.gate.refusal if self.course is None else self.course.refusal


def reinforce(context: Context, start: System, plan: Plan) -> Outcome:
    """Go on from a tuned System by reward; the best step on dev is kept, the start being one of them.

    Raises TrainingError where the gate or the time say that it's no use.
    """
    with _begun(context, start, plan) as tune:
        if tune.refusal is not None or tune.course is None:
            raise TrainingError(str(tune.refusal))
        return _reinforce(tune, tune.course)


def foresee(context: Context, start: System, plan: Plan) -> Outlook:
    """What `reinforce` will take from then on, with a last pass over dev, or why it's no use."""
    with _begun(context, start, plan) as tune:
        if tune.refusal is not None or tune.course is None:
            return Outlook(seconds=0.0, low_s=0.0, high_s=0.0, least_s=0.0, refusal=tune.refusal)
        closing_s = tune.course.closing_s
        seconds = tune.course.tuning_s + closing_s + RESERVE_USED * plan.reserve_s
        # Where dev is soon worse the start is kept: nothing new is proved, raced or asked.
        low_s = min(tune.course.soonest_s, seconds)
        return Outlook(seconds=seconds, low_s=low_s, high_s=seconds, least_s=closing_s, by=STAYS)


@contextmanager
def _begun(context: Context, start: System, plan: Plan) -> Iterator[_Begun]:
    """The gate and the course, settled once and kept in the journal."""
    form = start.spec.answer.form
    given = prompts_to_draw(context, start.spec)
    lesson = Lesson(
        name="reinforce",
        items={form: given.rows},
        left_out=given.left_out,
        batch=PROMPTS,
        warmup=WARMUP,
        start=start.adapter,
        start_digest=start.digest,
    )
    arm = Arm(form=form, rate=RATE)
    bounds = Bounds(most_steps=MOST_STEPS, most_passes=MOST_PASSES, fewest_steps=FEWEST_STEPS)
    with Tune(context, {form: start.spec}, plan, lesson) as state:
        state.objective = Rewarded(lambda batch, step: _draw(state, arm, given, batch, step))
        found = gate(state, arm, given)
        draw_s = PROMPTS * found.asked_s / found.prompts
        course = settled_course(state, arm, bounds, draw_s) if found.refusal is None else None
        yield _Begun(state=state, given=given, arm=arm, gate=found, course=course)


def _draw(state: Tune, arm: Arm, given: Prompts, batch: Sequence[int], step: int) -> tuple[list[Drawn], str]:
    """The answers of a step, and what they were like in a few words; the figures go to the journal.

    Raises TrainingError where they, with those of the steps before, say that it's no use to go on.
    """
    groups = drawn_groups(state, given, batch, f"step {step}")
    known = state.find(kind="rollout", arm=arm.name, step=step)
    if known is None:
        known = state.note({"kind": "rollout", "arm": arm.name, "step": step, **asdict(yield_of(groups))})
    if flag := red_flag([r for r in _rollouts(state, arm) if r["step"] <= step]):
        raise TrainingError(flag)
    said = f"reward {known['reward']:.3f} · {percent_text(known['mixed'])} of groups mixed"
    return lesson_of(state, groups), said


def _rollouts(state: Tune, arm: Arm) -> list[dict]:
    return [r for r in state.records if r["kind"] == "rollout" and r["arm"] == arm.name]


def _reinforce(tune: _Begun, course: Course) -> Outcome:
    state, arm = tune.state, tune.arm
    notes: list[str] = []
    if tune.given.left_out:
        notes.append(f"{tune.given.left_out} rows that don't fit the model were left out of training")
    if len(course.rows) < len(state.context.dev):
        notes.append(f"scored on {len(course.rows)} of {len(state.context.dev)} dev rows on the way")
    start = state.score(arm, 0, course.rows)
    best, trials = kept_best(state, start, stretches(state, arm, course, start, notes))
    last = [r for r in state.records if r["kind"] == "score"][-1]
    rollouts = _rollouts(state, arm)
    found = [tune.gate.said, _drawn_note(rollouts)]
    if len(trials) > 1:
        found.append(_score_note(state, start, last if best is start else best))
    what = f"GRPO, {arm.name}, {best['step']} steps of {PROMPTS} × {GROUP} answers from sft's adapter on"
    return Outcome(
        adapter=None if best is start else state.plan.folder / BEST_FOLDER,
        what=what,
        passes=len(rollouts) * PROMPTS / len(tune.given.rows),
        trials=tuple(trials),
        notes=tuple(notes),
        found=tuple(found),
    )


def _drawn_note(steps: Sequence[dict]) -> str:
    """What answers earned at the beginning and at the end, and what they were like."""
    first, last = steps[:SHOWN_STEPS], steps[-SHOWN_STEPS:]

    def then(name: str, text: Callable[[float], str]) -> str:
        ends = [text(statistics.fmean(one[name] for one in part)) for part in (first, last)]
        return f"{ends[0]}, then {ends[1]}"

    return (
        f"over the first and the last {len(first)} of {len(steps)} steps: mean reward "
        f"{then('reward', '{:.3f}'.format)}; groups with unlike rewards {then('mixed', percent_text)}; "
        f"tokens an answer {then('tokens', '{:.1f}'.format)}; cut off {then('cut', percent_text)}"
    )


def _score_note(state: Tune, start: dict, shown: dict) -> str:
    """The metric, which reads an answer kindly, beside how many are word for word those of the rows."""
    metric = state.context.bench.metric
    scores = [score_text(one["score"], metric) for one in (start, shown)]
    same = [percent_text(one["verbatim"]) for one in (start, shown)]
    return (
        f"dev {metric} {scores[0]} at the start and {scores[1]} after {shown['step']} steps; word for word "
        f"as the row {same[0]} and {same[1]}: where that alone rose the form was learned"
    )
