"""A preference tune from start to best adapter: a few rates, a pass each, and what dev says on the way."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rung.engines.packed import packed
from rung.errors import TrainingError
from rung.records import Example
from rung.rungs.base import Context
from rung.rungs.following import Outcome, kept_best
from rung.rungs.length import FEWEST_SCORED, SCORING_SHARE, USED_SHARE
from rung.rungs.margins import Margins, Side, margins, rate_text
from rung.rungs.preferred import LEFT_OUT, Material, material, too_few
from rung.rungs.tune import BEST_FOLDER, Arm, Lesson, Plan, Tune
from rung.rungs.tuning import answer_s, seconds_again
from rung.scoring.notation import percent_text
from rung.system import System
from rung.training.batches import Row, epoch
from rung.training.loop import answer_logprobs
from rung.training.objectives import Judged, Objective, Pairs, mismatched

RATES = (5e-6, 2e-5)
"""A's; B's are `B_RATE` times as high. The first is tried alone where time is short."""
BETA = 0.1
BATCH = 16
WARMUP_SHARE = 0.1
DECAY_SHARE = 0.5
COURSES = ((2, 2), (2, 1), (1, 2), (1, 1))
"""How many rates, and how often each is scored in its pass: the first of these that fits the time."""
BACKWARD_TIMES = 3.5
"""A step takes about so many times as long as reading its rows does."""
MOST_FALL = 0.2
KEEPS = "how long better answers keep their likelihood"
GOOD_MANY = 300


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Log-probabilities under the adapter that is gone on from, of the material's rows in their order.

    `others` are those of `mismatched` rows, where answers were judged. Reading a row took `row_s` seconds.
    """

    items: list[float]
    others: list[float]
    better: list[float]
    worse: list[float]
    row_s: float


@dataclass(frozen=True, kw_only=True)
class Course:
    """So many rates, so many steps of each, and how often and by which dev rows each is scored.

    A step takes `step_s`. All of it takes `tuning_s`; where better answers lose their likelihood at once,
    `soonest_s`.
    """

    rates: int
    evaluations: int
    steps: int
    rows: Sequence[Example]
    tuning_s: float
    closing_s: float
    step_s: float = 0.0
    soonest_s: float = 0.0

    @property
    def stops(self) -> list[int]:
        """The steps after which an arm is scored, the last one among them."""
        return _stops(self.steps, self.evaluations)

    @property
    def decay(self) -> tuple[int, int]:
        """The steps between which the rate falls to nothing."""
        return int(self.steps * (1 - DECAY_SHARE)), self.steps


@dataclass(frozen=True, kw_only=True)
class _Begun:
    """A tune that is ready for its first step, or for the next one."""

    state: Tune
    material: Material
    reference: Reference
    course: Course
    arms: Sequence[Arm]


def prefer(context: Context, start: System, plan: Plan) -> Outcome:
    """Go on from a tuned System by preferences; the best step on dev is kept, the start being one of them.

    Raises TrainingError where no item fits the model, or all of them are judged alike.
    """
    with _begun(context, start, plan) as tune:
        return _prefer(tune)


def foresee(context: Context, start: System, plan: Plan) -> Course:
    """How long `prefer` will take from then on, and a last pass over dev."""
    with _begun(context, start, plan) as tune:
        return tune.course


@contextmanager
def _begun(context: Context, start: System, plan: Plan) -> Iterator[_Begun]:
    """The reference and the course, settled once and kept in the journal."""
    form = start.spec.answer.form
    found = material(context, start.spec)
    if found.desirable and len(set(found.desirable)) == 1:
        which = "desirable" if found.desirable[0] else "undesirable"
        raise TrainingError(
            f"all answers that can be learned from are {which}; add others that fit the model and the task"
        )
    if found.left_out and (few := too_few(found)):
        raise TrainingError(f"{few}; {found.left_out} rows were left out: {LEFT_OUT}")
    lesson = Lesson(
        name="preference",
        items={form: found.items},
        left_out=found.left_out,
        batch=BATCH,
        warmup=_warmup(len(found.items) / BATCH),
        start=start.adapter,
        start_digest=start.digest,
    )
    arms = [Arm(form=form, rate=rate) for rate in RATES]
    with Tune(context, {form: start.spec}, plan, lesson) as state:
        others = _others(found, plan.seed)
        reference = _reference(state, found, others)
        state.objective = _objective(found, others, reference)
        course = _course(state, arms[0], found, reference)
        # Cut short for want of time, a course would be over before the warm-up of a whole pass is.
        state.warmup = _warmup(course.steps)
        yield _Begun(
            state=state, material=found, reference=reference, course=course, arms=arms[: course.rates]
        )


def _warmup(steps: float) -> int:
    return max(1, round(WARMUP_SHARE * steps))


def _others(found: Material, seed: int) -> list[Row]:
    """The rows by which KTO's reference point is drawn, in the batches of the first pass."""
    if not found.desirable:
        return []
    rows = [row for item in found.items for row in item.rows]
    return mismatched(rows, epoch(rows, BATCH, seed, 0))


def _objective(found: Material, others: Sequence[Row], reference: Reference) -> Objective:
    if not found.desirable:
        return Pairs(found.items, reference.items, beta=BETA)
    return Judged(found.desirable, reference.items, others, reference.others, beta=BETA)


def _reference(state: Tune, found: Material, others: Sequence[Row]) -> Reference:
    """Read all rows with the adapter that is gone on from; once, before the first step."""
    known = state.find(kind="reference")
    if known is None:
        rows = [row for item in found.items for row in item.rows]
        parts = {"items": rows, "others": others, "better": found.better, "worse": found.worse}
        reporter, made = state.context.reporter, packed(state.model)
        total, before = sum(map(len, parts.values())), 0
        bar = reporter.begin("preference: reading the answers", total)
        begun = time.perf_counter()
        kept = {}
        try:
            # One by one, as they are read later on: in bf16 what shares a batch moves the last digits.
            for name, part in parts.items():
                kept[name] = answer_logprobs(
                    state.model, part, made, lambda done, b=before: reporter.advance(bar, b + done)
                ).tolist()
                before += len(part)
        finally:
            reporter.end(bar)
        row_s = (time.perf_counter() - begun) / total
        known = state.note({"kind": "reference", "row_s": row_s, **kept})
    return Reference(**{key: value for key, value in known.items() if key != "kind"})


def _course(state: Tune, arm: Arm, found: Material, reference: Reference) -> Course:
    """How many rates, steps and scores fit the time, from the speed of reading and of a few answers."""
    context = state.context
    known = state.find(kind="course")
    if known is None:
        row_s, steps = answer_s(state, arm), -(-len(found.items) // BATCH)
        closing_s = (len(context.dev) + state.closing_rows) * row_s
        left_s = USED_SHARE * (context.seconds_left - state.plan.reserve_s - closing_s)
        reads = BACKWARD_TIMES * len(found.items[0].rows) + (1 if found.desirable else 0)
        step_s = BATCH * reads * reference.row_s
        look_s = (len(found.better) + len(found.worse)) * reference.row_s

        def seconds(rates: int, scores: int, steps: int, rows: int) -> float:
            return rows * row_s + rates * (steps * step_s + scores * (rows * row_s + look_s))

        rows = len(context.dev)
        rates, scores = next((c for c in COURSES if seconds(*c, steps, rows) <= left_s), COURSES[-1])
        if seconds(rates, scores, steps, rows) > left_s:
            rows = min(rows, max(FEWEST_SCORED, int(SCORING_SHARE * left_s / row_s)))
            steps = min(steps, max(1, int((left_s - seconds(rates, scores, 0, rows)) / step_s)))
        course = {"rates": rates, "evaluations": scores, "steps": steps, "rows": rows}
        tuning_s, first = seconds(rates, scores, steps, rows), _stops(steps, scores)[0]
        # Where better answers have lost likelihood at the first look, no rate gets any further.
        soonest_s = rows * row_s + rates * (first * step_s + look_s)
        course |= {"tuning_s": tuning_s, "closing_s": closing_s, "step_s": step_s, "soonest_s": soonest_s}
        known = state.note({"kind": "course", **course, "pace": asdict(state.pace)})
    return Course(
        rates=known["rates"],
        evaluations=known["evaluations"],
        steps=known["steps"],
        rows=context.dev[: known["rows"]],
        tuning_s=known["tuning_s"],
        closing_s=known["closing_s"],
        # Earlier versions didn't note when else a course may end.
        step_s=known.get("step_s", 0.0),
        soonest_s=known.get("soonest_s", known["tuning_s"]),
    )


def _stops(steps: int, evaluations: int) -> list[int]:
    return sorted({-(-steps * turn // evaluations) for turn in range(1, evaluations + 1)})


def _prefer(tune: _Begun) -> Outcome:
    state, course = tune.state, tune.course
    notes = _first_notes(tune)
    # Whichever arm: at step 0 each of them is the start.
    start = state.score(tune.arms[0], 0, course.rows)
    seen: dict[tuple[str, int], Margins] = {}
    scored = ((arm, found) for arm in tune.arms for found in _stretches(tune, arm, seen, notes))
    best, trials = kept_best(state, start, scored)
    shown = seen.get((best["arm"], best["step"])) or next(reversed(seen.values()), None)
    last = max((step for _, step in seen), default=0)
    kind = "KTO" if tune.material.desirable else "DPO, sigmoid_norm"
    what = f"{kind}, β {BETA:g}, {best['arm']}, {best['step']} steps of {BATCH} from sft's adapter on"
    arm = next((one for one in tune.arms if one.name == best["arm"] and best is not start), None)
    return Outcome(
        adapter=None if arm is None else state.plan.folder / BEST_FOLDER,
        what=what,
        passes=last * BATCH / len(tune.material.items),
        trials=tuple(trials),
        notes=tuple(notes),
        found=_margins_found(tune, shown, gained=arm is not None),
        again=None if arm is None else _again(tune, arm, best["step"]),
        again_s=seconds_again(state, best["step"]),
    )


def _again(tune: _Begun, arm: Arm, step: int) -> Callable[[int], Path]:
    """What trains the same steps at the same rate once more, with another seed for the order of its items.

    What the start makes of the answers is known from the first time, and so are the answers by which judged
    ones are set apart.
    """
    state, decay = tune.state, tune.course.decay
    context, specs, lesson, seed = state.context, state.specs, state.lesson, state.plan.seed
    objective, warmup = state.objective, state.warmup

    def trained(number: int) -> Path:
        folder = context.work / f"seed-{number}"
        plan = Plan(folder=folder, budget_s=0.0, reserve_s=0.0, seed=seed + number)
        with Tune(context, specs, plan, lesson) as other:
            other.objective, other.warmup = objective, warmup
            other.run(arm, step, decay=decay)
            other.keep(arm, step)
        return folder / BEST_FOLDER

    return trained


def _stretches(
    tune: _Begun, arm: Arm, seen: dict[tuple[str, int], Margins], notes: list[str]
) -> Iterator[dict]:
    """Train an arm from stop to stop; the record of its score at each. Ends where better answers fell."""
    state, course = tune.state, tune.course
    for stop in course.stops:
        try:
            state.run(arm, stop, decay=course.decay)
        except TrainingError as error:
            notes.append(f"{arm.name} ended early: {error}")
            return
        found = seen[arm.name, stop] = _look(tune, arm, stop)
        if found.fell > MOST_FALL:
            fell, most = percent_text(found.fell), percent_text(MOST_FALL)
            notes.append(
                f"{arm.name} stopped after {stop} steps: the log-probability of better answers on dev fell "
                f"by {fell}, more than {most}"
            )
            return
        yield state.score(arm, stop, course.rows)


def _look(tune: _Begun, arm: Arm, step: int) -> Margins:
    """What dev's answers say after a step, from the journal when it's there."""
    state = tune.state
    known = state.find(kind="margins", arm=arm.name, step=step)
    if known is None:
        made = state.trainer(arm).packed
        better = answer_logprobs(state.model, tune.material.better, made).tolist()
        worse = answer_logprobs(state.model, tune.material.worse, made).tolist()
        found = asdict(_margins(tune, better, worse))
        known = state.note({"kind": "margins", "arm": arm.name, "step": step, **found})
    return Margins(**{key: known[key] for key in ("pairs", "right", "likelier", "fell")})


def _margins(tune: _Begun, better: Sequence[float], worse: Sequence[float]) -> Margins:
    """By the log-probabilities of dev's answers."""
    material, reference = tune.material, tune.reference
    lengths = [[len(row.answer) for row in rows] for rows in (material.better, material.worse)]
    return margins(
        Side(now=better, reference=reference.better, tokens=lengths[0]),
        Side(now=worse, reference=reference.worse, tokens=lengths[1]),
    )


def _first_notes(tune: _Begun) -> list[str]:
    found, course = tune.material, tune.course
    count = len(found.items)
    said = f"{sum(found.desirable)} desirable answers and {count - sum(found.desirable)} others"
    notes = [f"learned from {said if found.desirable else f'{count} pairs'}"]
    if count < GOOD_MANY:
        notes.append(f"from fewer than {GOOD_MANY} preferences a gain is rare; more of them would help most")
    if found.left_out:
        notes.append(f"{found.left_out} rows were left out of training: {LEFT_OUT}")
    if course.steps < -(-count // BATCH):
        notes.append(f"{course.steps} steps of {BATCH}: less than one pass, for want of time")
    if course.rates < len(RATES):
        notes.append(f"no time for more than the rate {RATES[0]:g}")
    if len(course.rows) < len(tune.state.context.dev):
        notes.append(f"scored on {len(course.rows)} of {len(tune.state.context.dev)} dev rows on the way")
    return notes


def _margins_found(tune: _Begun, shown: Margins | None, *, gained: bool) -> tuple[str, ...]:
    """Preference accuracy, and likelihoods before and after, of the chosen step.

    Where the start is kept they are those of the last step that was looked at.
    """
    if shown is None or not shown.pairs:
        return ("preference accuracy can't be told: dev has no pairs of a better and a worse answer",)
    where = "now" if gained else "after the last step tried"
    before = _margins(tune, tune.reference.better, tune.reference.worse)
    moved = "fell" if shown.fell > 0 else "rose"
    return (
        f"preference accuracy on dev {where}: in {rate_text(shown.right, shown.pairs)} the better answer "
        "gained more over sft than the worse one",
        f"the better answer is the likelier one, per token, in {rate_text(before.likelier, before.pairs)} "
        f"before and in {rate_text(shown.likelier, shown.pairs)} {where}; the log-probability of better "
        f"answers {moved} by {percent_text(abs(shown.fell))}",
    )
