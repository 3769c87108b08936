"""What a teacher is asked, and what of its answers is kept: the rows that its students learn from."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter

from rung import evaluate
from rung.errors import EngineError, TrainingError
from rung.records import Answer, Example, Json, Measurement
from rung.rungs.api import calls_said, cannot_pay, paid_text
from rung.rungs.base import JOURNAL_FILE, Built, Context
from rung.rungs.sft import FEWEST_S
from rung.rungs.teacher import (
    CHUNK_ROWS,
    all_drawn,
    draw_s,
    draws_of,
    hosted_teacher,
    is_system,
    quickest,
    too_slow,
)
from rung.rungs.teaching_money import TEACHING_SHARE, affordable, draw_usd, least_usd
from rung.rungs.verified import verified, verified_by_gold
from rung.runs import read_json, write_json
from rung.scoring.notation import score_text
from rung.system import System
from rung.task.tables import with_tables

MOST_ASKED = 2000
"""Inputs, however many there are."""
FEWEST_ASKED = 20
SCORED_ROWS, SCORING_SHARE = 100, 0.1
"""Dev rows by which a teacher is told to be better or worse than its student, and how much of the rung's time
they may take: fewer of them where its answers are slow."""
REWORDED = ("rouge_l", "judge")
"""Metrics under which a teacher may say the outputs of training rows in other words."""
TAUGHT_FILE, HEAD_FOLDER = "taught.json", "distill_head"
AS_IT_WAS = "word for word the row's own"
"""Learned already."""


def affordable_inputs(
    context: Context, teacher: System, scored: Measurement
) -> tuple[tuple[Example, ...], str]:
    """The inputs to ask, and why they aren't all: as many as the teacher's share of the money pays for.

    Raises TrainingError where its prompt would show it the answers.
    """
    rows, till = inputs(context), context.pool.till
    if shows_answers(context, teacher):
        raise TrainingError(
            "the teacher's prompt shows the training rows' own answers, and there are no other inputs; "
            "give inputs without outputs as data.unlabelled (`rung synth` writes some)"
        )
    if till is None or not draw_usd(context, scored):
        return rows, ""
    for other in _others(context, teacher).values():
        if other.short and other.cap_usd == till.cap_usd and other.asked < len(rows):
            return rows[: other.asked], other.short  # two students of the same answers take no more than one
    kept = _kept(context)
    fits, costs = affordable(context, teacher, rows, 0 if kept is None else kept.asked, scored)
    more = [cost for cost in costs if cost]
    if more and _asks_on(context, kept, fits):
        context.reporter.say(
            f"the teacher: about ${sum(more):.4f} for {len(more):,} inputs; {paid_text(context)}"
        )
    if fits == len(rows):
        return rows, ""
    return rows[:fits], (
        f"half of the money that was left of ${till.cap_usd:g} is enough for {fits:,} of {len(rows):,} "
        f"inputs; raise {till.raised_by} for more"
    )


def scored_on_dev(context: Context, teacher: System) -> Measurement:
    """The teacher on the first dev rows."""
    rows = context.dev[: to_score(context, teacher)]
    return context.measure_all(teacher, rows, f"the teacher on {len(rows)} dev rows")


def to_score(context: Context, teacher: System) -> int:
    """On how many dev rows the teacher is scored: as its pace on a few of them allows. Settled once."""

    def count() -> int:
        share_s = SCORING_SHARE * max(0.0, context.seconds_left)
        pace = evaluate.pace(teacher, context.dev, context.bench, share_s)
        _, answer_s = evaluate.answers_of(teacher, context.dev[: pace.asked], context.bench)
        return max(pace.asked, int(share_s / max(answer_s + context.bench.judging_s, 1e-6)))

    bar = context.reporter.begin("the teacher: how fast it answers", None)
    try:
        fits = context.settled("dev rows to score the teacher on", count)
    finally:
        context.reporter.end(bar)
    assert isinstance(fits, int), "written by this function"
    return min(fits, SCORED_ROWS, len(context.dev))


@dataclass(frozen=True, kw_only=True)
class Taught:
    """Verified rows, how many inputs were asked, and how many were dropped for which reason.

    `short` says why the money was not enough for more.
    """

    rows: tuple[Example, ...]
    asked: int
    dropped: Counter[str]
    short: str = ""

    @property
    def said(self) -> str:
        """In a sentence."""
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.dropped.items()))
        lost = f"; dropped: {reasons}" if reasons else ""
        return f"{self.asked:,} inputs asked, {len(self.rows):,} answers kept{lost}"


def untaught(context: Context) -> str | None:
    """Why there is no teacher, or nothing to ask it; None where there is."""
    if context.task.teacher is None:
        return "no teacher is named: `teacher` in task.yaml takes a hosted model, a local one or a System"
    if inputs(context):
        return None
    return (
        f"no inputs for the teacher: an answer that agrees with a training row's {context.kind} is that row "
        "again; give inputs without outputs as data.unlabelled (`rung synth` writes some)"
    )


def unpaid(context: Context) -> str | None:
    """Why a hosted teacher can't be paid, or asked; None where it can, and for one of this machine."""
    model = hosted_teacher(context.task)
    return model and cannot_pay(
        context,
        model,
        lambda: least_usd(context, model, inputs(context)[:FEWEST_ASKED], context.dev[:SCORED_ROWS]),
    )


def inputs(context: Context) -> tuple[Example, ...]:
    """What the teacher is asked: inputs without outputs, else training rows to be said in other words."""
    if context.unlabelled:
        return context.unlabelled[:MOST_ASKED]
    return context.train[:MOST_ASKED] if context.bench.metric in REWORDED else ()


def shows_answers(context: Context, teacher: System) -> bool:
    """Whether a teacher that is asked training rows would find the row itself among its nearest examples."""
    return teacher.spec.shots.choice == "nearest" and not context.unlabelled


def teach(
    context: Context,
    teacher: System,
    rows: Sequence[Example],
    answer_s: float = 0.0,
    short: str = "",
    learn_s: float = FEWEST_S,
) -> Taught:
    """Synthetic rows of the teacher's answers that stand up to checking, as far as time and money allow.

    `answer_s` is what one of its answers takes, `short` why the money isn't enough for more rows, `learn_s`
    the least time that learning from them takes. Raises TrainingError where even a few don't fit the time.

    Settled once they are all there: a call that broke may hold when it's made again, and a tune goes on with
    the rows that it began with. Under a higher cap more are asked where no tune has begun.
    """
    kept = _kept(context)
    if _asks_on(context, kept, len(rows)):
        before = replace(kept or _Kept(), short=short, teacher=teacher.digest)
        kept = _taught(context, teacher, rows, answer_s, before, learn_s)
        if kept.answers:
            write_json(context.folder / TAUGHT_FILE, asdict(kept))
    assert kept is not None, "what isn't kept is asked"
    made = [
        replace(row, id=_taught_id(row), output=kept.answers[_taught_id(row)], synthetic=True)
        for row in inputs(context)
        if _taught_id(row) in kept.answers
    ]
    return Taught(
        rows=tuple(with_tables(made, context.bench.metric, context.task.data.database)),
        asked=kept.asked,
        dropped=Counter(kept.dropped),
        short=kept.short,
    )


def taught_by(context: Context, teacher: System, scored: Measurement, learn_s: float = FEWEST_S) -> Taught:
    """What is learned of as many inputs as money and time allow, by `teach`. TrainingError for none."""
    rows, short = affordable_inputs(context, teacher, scored)
    taught = teach(context, teacher, rows, scored.seconds_per_answer, short, learn_s)
    context.reporter.say(f"{context.folder.name}: {taught.said}")
    if not taught.rows:
        why = f"; {taught.short}" if taught.short else ""
        raise TrainingError(f"the teacher taught nothing: {taught.said}{why}")
    return taught


def with_lesson(
    context: Context, teacher: System, scored: Measurement, taught: Taught, student: Built
) -> Built:
    """The student, with what the report says of the lesson, of its cost, and of how the two sides compare."""
    asked = calls_said(teacher) if teacher.is_hosted else ""
    spent = taught_usd(context, teacher)
    count = f"{len(taught.rows):,} rows of {context.task.teacher} beside {len(context.train):,}"
    return replace(
        student,
        what=f"{count}; {student.what}",
        found=(
            f"teacher {context.task.teacher}{asked}: {taught.said}",
            *compared(context, scored, student.system),
        ),
        notes=(
            *((taught.short,) if taught.short else ()),
            *((f"the teacher was paid ${spent:.4f}",) if spent else ()),
            *uncounted(context),
            *student.notes,
        ),
        spent_usd=spent,
    )


@dataclass(frozen=True)
class _Kept:
    """As `Taught`, on disk: the answers by the ids of the rows that are made of them.

    They were asked under a cap of `cap_usd`, of the System of a digest.
    """

    asked: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    answers: dict[str, Json] = field(default_factory=dict)
    short: str = ""
    cap_usd: float = 0.0
    teacher: str = ""


def _kept(context: Context) -> _Kept | None:
    path = context.folder / TAUGHT_FILE
    return _read(path) if path.exists() else None


def _read(path: Path) -> _Kept:
    return TypeAdapter(_Kept).validate_python(read_json(path))


def _others(context: Context, teacher: System) -> dict[str, _Kept]:
    """What other rungs of this run were taught by the same System, asked alike, by their folders' names."""
    paths = sorted(context.folder.parent.glob(f"*/{TAUGHT_FILE}"))
    found = {path.parent.name: _read(path) for path in paths if path.parent != context.folder}
    return {name: kept for name, kept in found.items() if kept.teacher == teacher.digest}


def _asks_on(context: Context, kept: _Kept | None, inputs: int) -> bool:
    """Whether the teacher is asked: nothing is kept yet, or fewer inputs, under a lower cap, for no tune."""
    if kept is None:
        return True
    more = inputs > kept.asked and _cap_usd(context) > kept.cap_usd
    return more and not any(context.work.rglob(JOURNAL_FILE))


def _cap_usd(context: Context) -> float:
    return context.pool.till.cap_usd if context.pool.till is not None else 0.0


def _taught_id(row: Example) -> str:
    return f"{row.id}-taught"


def _taught(
    context: Context,
    teacher: System,
    rows: Sequence[Example],
    answer_s: float,
    before: _Kept,
    learn_s: float,
) -> _Kept:
    """What was kept `before`, and the answers to the rows that weren't asked then."""
    first = asked = before.asked
    after = f", {first} being asked" if first else ""

    def seconds(question: str, share: float) -> float:
        found = context.settled(f"{question}{after}", lambda: share * context.seconds_left)
        return TypeAdapter(float).validate_python(found)

    kept_s = seconds("seconds kept for the tune", 1 - TEACHING_SHARE)
    dropped, found, short = Counter(before.dropped), dict(before.answers), before.short
    teacher = quickest(context, teacher, rows, answer_s)
    each_s = draws_of(teacher) * draw_s(context, answer_s)
    begun_s = seconds("seconds left when the teacher begins", 1.0)
    bar = context.reporter.begin("the teacher answers", len(rows), first)
    try:
        while asked < len(rows):
            chunk = rows[asked : asked + _fitting(context, asked, len(rows), each_s, kept_s, learn_s)]
            if not chunk:
                short = ""  # it was the time
                break
            draws = all_drawn(context, teacher, chunk)
            asked += len(chunk)
            for row, answers in zip(chunk, draws, strict=True):
                value, reason = _checked(context, row, answers)
                if reason is not None:
                    dropped[reason] += 1
                else:
                    found[_taught_id(row)] = value
            each_s = (begun_s - context.seconds_left) / (asked - first)
            context.reporter.advance(bar, asked)
    except EngineError as error:
        if context.pool.till is None or context.pool.till.raised_by not in str(error):
            raise
        short = f"the teacher was asked no more: {error}"
    finally:
        context.reporter.end(bar)
    return replace(
        before, asked=asked, dropped=dict(dropped), answers=found, short=short, cap_usd=_cap_usd(context)
    )


def _checked(context: Context, row: Example, answers: Sequence[Answer]) -> tuple[Json, str | None]:
    """What is learned of an input's draws, or why nothing is; the output that it may have is the measure."""
    if row.output is None:
        kept = verified(answers, context.kind)
    else:
        kept = verified_by_gold(answers, row.output, context.bench.metric)
    as_it_was = kept.reason is None and row.output is not None and kept.value == row.output
    return kept.value, AS_IT_WAS if as_it_was else kept.reason


def _fitting(context: Context, asked: int, inputs: int, each_s: float, kept_s: float, learn_s: float) -> int:
    """How many more of the inputs are asked together: what fits the time, a chunk at most. Settled once.

    Raises TrainingError where not even the fewest fit at first, with as little time to learn as can be.
    """
    fewest = min(FEWEST_ASKED, inputs)

    def count() -> int:
        fits = int(min(CHUNK_ROWS, max(0.0, context.seconds_left - kept_s) / max(each_s, 1e-6)))
        if asked or fits >= fewest:
            return fits
        return fewest if fewest * each_s <= context.seconds_left - learn_s else 0

    fits = context.settled(f"inputs asked together after {asked}", count)
    assert isinstance(fits, int), "written by this function"
    if not fits and not asked:
        raise TrainingError(too_slow(each_s, fewest, context.seconds_left))
    return fits


def taught_usd(context: Context, teacher: System) -> float:
    """What was paid for the answers that a rung learned from, by another too that asked the same before."""
    till, names = context.pool.till, {context.folder.name, *_others(context, teacher)}
    return 0.0 if till is None else sum(till.spent_for.get(name, 0.0) for name in names)


def is_paid(context: Context) -> bool:
    """Whether hosted models were paid for a rung's answers, or for those of a head that it may learn from."""
    till = context.pool.till
    by_head = context.folder.name == "distill" and till is not None and HEAD_FOLDER in till.spent_for
    return by_head or context.paid_usd > 0


def uncounted(context: Context) -> tuple[str, ...]:
    """That building a teacher's System is no part of what this rung cost, where one teaches.

    Its folder doesn't say what that took, and the climb that does may be gone: a tag outlives it.
    """
    if not is_system(str(context.task.teacher)):
        return ()
    return ("what it took to build the teacher isn't counted",)


def compared(context: Context, teacher: Measurement, student: System) -> tuple[str, ...]:
    """The teacher's dev score beside those of its student and of the tune without it, on the same rows."""
    rows = {e.id: e for e in context.dev[:SCORED_ROWS]}
    told = [f"the teacher scores {score_text(teacher.score, teacher.metric)} on {teacher.n:,} dev rows"]
    others = {"the student": student} | {n: s for n, s in context.built.items() if n == "sft"}
    worse = False
    for name, system in others.items():
        kept = context.bench.store.load(system.digest)
        both = [p for p in teacher.predictions if p.example_id in kept and p.score is not None]
        held = [p for p in both if kept[p.example_id].answer.failure is None]
        if not held:
            continue
        same = [rows[p.example_id] for p in held]
        ours = evaluate.score_of(same, [kept[e.id].answer for e in same], context.bench)
        theirs = evaluate.score_of(same, [p.answer for p in held], context.bench)
        told.append(f"{name} {score_text(ours, teacher.metric)} on {len(held):,} of the same")
        worse |= context.sign * theirs < context.sign * ours
    said = "; ".join(told)
    return (f"{said}: the teacher is worse than what it teaches" if worse else said,)
