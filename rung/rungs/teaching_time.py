"""How long a teacher of this machine will answer and its student learn, told before either begins."""

from dataclasses import dataclass

from rung.rungs.base import Context, Outlook
from rung.rungs.batching import batch_size
from rung.rungs.closing import closing_rows
from rung.rungs.length import MOST_EPOCHS, PACE_FILE, PROBE_STEPS, USED_SHARE, Speed, sized
from rung.rungs.seeds import ends_of, ranged
from rung.rungs.sft import FEWEST_S, RESERVE_S, RESERVE_SHARE, RESERVE_USED
from rung.rungs.teacher import FIRST_DRAWS, draws_of, is_raced, too_slow
from rung.rungs.teaching_money import TEACHING_SHARE
from rung.rungs.whitebox import FEWEST_S as FEWEST_ON_POLICY_S
from rung.rungs.whitebox import TIME_SHARE
from rung.runs import read_json
from rung.scoring.notation import duration_text
from rung.system import System

HOLDS = "how many of the teacher's answers hold and when dev stops rising"
RACED = "which engine draws faster"
ON_POLICY = "how long the student learns from the teacher's probabilities"


@dataclass(frozen=True, kw_only=True, slots=True)
class Paces:
    """The seconds that the teacher takes for an answer, and the student to learn from a row and to answer."""

    teacher_s: float
    learn_s: float
    answer_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Lessons:
    """A teacher, how many inputs there are for it and how many are asked at least, and its score.

    `scored` dev rows are to be answered for that. The student has so many `forms` of an answer to try.
    `on_policy`: it goes on by the teacher's probabilities afterwards.
    """

    teacher: System
    inputs: int
    fewest: int
    scored: int
    forms: int
    on_policy: bool


def pace_of_sft(context: Context) -> tuple[float, float] | None:
    """How fast sft's tune learned from a row and answered one, as its folder has it; None where it hasn't."""
    sft = context.built.get("sft")
    path = None if sft is None else sft.folder.parent / PACE_FILE
    if path is None or not path.exists():
        return None
    kept = read_json(path)
    return kept["learn_s"], kept["answer_s"]


def foreseen(context: Context, lessons: Lessons, pace: Paces) -> Outlook:
    """The teacher's score, its answers to as many inputs as there is time for, and the tune on those too.

    Refused where the fewest inputs don't fit, or no time is left to tune in; not where engines have yet to
    race, of which the other one may draw many times as fast.
    """
    raced = is_raced(lessons.teacher, lessons.inputs)
    scored_s = lessons.scored * pace.teacher_s
    most = draws_of(lessons.teacher)
    # Of an input with an output of its own the best of all draws is learned.
    least = min(most, FIRST_DRAWS) if context.unlabelled else most
    left_s = context.seconds_left - scored_s
    if not raced and lessons.fewest * most * pace.teacher_s > left_s - FEWEST_S:
        return refused(too_slow(most * pace.teacher_s, lessons.fewest, left_s))
    quick, slow = (_taught_s(lessons, pace, draws, left_s) for draws in (least, most))
    tune_s = left_s - quick[1] - _reserve_s(left_s - quick[1])
    if not raced and tune_s < FEWEST_S:
        return refused(
            f"the teacher's answers would take about {duration_text(quick[1])} and leave "
            f"{duration_text(max(0.0, tune_s))} to tune in; at least {duration_text(FEWEST_S)} are needed: "
            "give more with --budget, or name a quicker teacher"
        )
    kept_s = TIME_SHARE * (left_s - quick[1]) if lessons.on_policy else 0.0
    kept_s = kept_s if kept_s >= FEWEST_ON_POLICY_S else 0.0
    # Where nothing that the teacher says holds the student has its own rows alone.
    none, likely, long = (
        _tuned(context, lessons, pace, learned=learned, before_s=scored_s + taught_s, kept_s=kept_s)
        for learned, taught_s in ((0, 0.0 if raced else quick[1]), quick, slow)
    )
    last = max((none, likely, long), key=lambda one: one.high_s)
    high_s, by = last.high_s, f"{RACED}, {last.by}" if raced else last.by
    if kept_s:
        high_s, by = max(high_s + kept_s, context.seconds_left), f"{HOLDS}, and {ON_POLICY}"
    seconds = likely.seconds + kept_s
    return Outlook(
        seconds=seconds,
        low_s=min(none.low_s, likely.low_s, seconds),
        high_s=max(high_s, seconds),
        least_s=likely.least_s,
        by=by,
    )


def on_policy_alone(context: Context, lessons: Lessons, pace: Paces) -> Outlook:
    """The teacher's score, and sft's tune gone on with by its probabilities as long as there's time."""
    scored_s = lessons.scored * pace.teacher_s
    closing_s = (len(context.dev) + closing_rows(context)) * pace.answer_s
    high_s = max(context.seconds_left, scored_s + closing_s)
    seconds = max(scored_s + closing_s, USED_SHARE * high_s)
    return Outlook(
        seconds=seconds, low_s=scored_s + closing_s, high_s=high_s, least_s=closing_s, by=ON_POLICY
    )


def _taught_s(lessons: Lessons, pace: Paces, draws: int, left_s: float) -> tuple[int, float]:
    """How many inputs are asked, so often each, and the seconds of that."""
    each_s = draws * pace.teacher_s
    count = min(lessons.inputs, int(TEACHING_SHARE * left_s / max(each_s, 1e-6)))
    return count, count * each_s


def _tuned(
    context: Context, lessons: Lessons, pace: Paces, *, learned: int, before_s: float, kept_s: float
) -> Outlook:
    """A tune on the training rows and so many more, as sft would do it in what is left."""
    left_s = context.seconds_left - before_s - kept_s
    reserve_s, rows = _reserve_s(left_s), len(context.train) + learned
    batch = batch_size(rows)
    speed = Speed(
        step_s=batch * pace.learn_s,
        answer_s=pace.answer_s,
        most=MOST_EPOCHS * -(-rows // batch),
        dev=len(context.dev),
        forms=lessons.forms,
        closing=closing_rows(context),
    )
    budget_s, probe_s = left_s - reserve_s, PROBE_STEPS * speed.step_s
    length = sized(speed, PROBE_STEPS, budget_s, budget_s - probe_s)
    return ranged(
        ends_of(length),
        beside_s=before_s + probe_s + length.closing_s + RESERVE_USED * reserve_s,
        least_s=length.closing_s,
        left_s=context.seconds_left - kept_s if context.best is not None else 0.0,
        by=HOLDS,
    )


def _reserve_s(left_s: float) -> float:
    return min(RESERVE_S, RESERVE_SHARE * max(0.0, left_s))


def refused(why: str) -> Outlook:
    """That a rung isn't worth building, and why."""
    return Outlook(seconds=0.0, low_s=0.0, high_s=0.0, least_s=0.0, refusal=why)
