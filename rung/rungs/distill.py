"""Distillation: a teacher's verified answers on inputs that have none, then the tune on those rows too."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

from pydantic import TypeAdapter

from rung import evaluate
from rung.errors import EngineError, ModelError, TrainingError
from rung.records import Answer, Example, Json, Measurement
from rung.rungs.api import calls_said, cannot_pay, paid_text
from rung.rungs.base import JOURNAL_FILE, Built, Context, Outlook, no_room
from rung.rungs.sft import FEWEST_ROWS, FEWEST_S, answer_forms, tuned, unable
from rung.rungs.teacher import (
    CHUNK_ROWS,
    all_drawn,
    draw_s,
    draws_of,
    hosted_teacher,
    is_system,
    quickest,
    teacher_system,
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
LEAST_S = 2 * FEWEST_S
SCORED_ROWS, SCORING_SHARE = 100, 0.1
"""Dev rows by which a teacher is told to be better or worse than its student, and how much of the rung's time
they may take: fewer of them where its answers are slow."""
REWORDED = ("rouge_l", "judge")
"""Metrics under which a teacher may say the outputs of training rows in other words."""
TAUGHT_FILE = "taught.json"
AS_IT_WAS = "word for word the row's own"
"""Learned already."""


class Distill:
    """Learns what a bigger model knows, as far as its answers can be checked."""

    name = "distill"

    def skip(self, context: Context) -> str | None:
        """A teacher and inputs for it are needed, and rows enough for a tune."""
        if context.task.teacher is None:
            return "no teacher is named: `teacher` in task.yaml takes a hosted model, a local one or a System"
        if reason := no_room(context, learns=True):
            return reason
        rows = inputs(context)
        if not rows:
            return (
                f"no inputs for the teacher: an answer that agrees with a training row's {context.kind} is "
                "that row again; give inputs without outputs as data.unlabelled (`rung synth` writes some)"
            )
        if len(context.train) + len(rows) < FEWEST_ROWS:
            return f"{len(context.train) + len(rows)} rows and inputs; tuning needs at least {FEWEST_ROWS}"
        if reason := unable(context):
            return reason
        model = hosted_teacher(context.task)
        return model and cannot_pay(
            context,
            model,
            lambda: least_usd(context, model, rows[:FEWEST_ASKED], context.dev[:SCORED_ROWS]),
        )

    def outlook(self, context: Context) -> Outlook | None:
        """By the teacher's pace on a few dev rows, and by that of sft's tune.

        None without such a tune, and for a hosted teacher: what it's asked is paid for, and never beforehand.
        """
        from rung.rungs.teaching_time import Lessons, Paces, foreseen, on_policy_alone, pace_of_sft
        from rung.rungs.whitebox import no_white_box

        learned = pace_of_sft(context)
        if hosted_teacher(context.task) is not None or learned is None:
            return None
        if not context.in_time("teach and tune", LEAST_S):
            return None
        teacher = teacher_system(context, str(context.task.teacher))
        if shows_answers(context, teacher):
            return None
        to_score, rows = self._to_score(context, teacher), len(inputs(context))
        known = context.bench.store.load(teacher.digest)
        answered = [e for e in context.dev if e.id in known]
        _, answer_s = evaluate.answers_of(teacher, answered, context.bench)
        forms = answer_forms(context, self.name)
        lessons = Lessons(
            teacher=teacher,
            inputs=rows,
            fewest=min(FEWEST_ASKED, rows),
            scored=max(0, to_score - len(answered)),
            forms=len(forms),
            on_policy=any(no_white_box(context, teacher, spec) is None for spec in forms.values()),
        )
        pace = Paces(teacher_s=answer_s, learn_s=learned[0], answer_s=learned[1])
        start = _to_go_on_from(context, teacher)
        if start is not None and _too_few(context, _in_time(context, teacher, answer_s)):
            return on_policy_alone(context, lessons, pace)
        return foreseen(context, lessons, pace)

    def build(self, context: Context) -> Built:
        """Ask, verify, tune. Raises TrainingError where no answer holds, and as a tune does."""
        if not context.in_time("teach and tune", LEAST_S):
            raise TrainingError(
                f"{max(0.0, context.seconds_left):.0f} s of the budget are left to teach and to tune in, at "
                f"least {LEAST_S:.0f} s are needed; nothing was asked: give more with --budget"
            )
        teacher = teacher_system(context, str(context.task.teacher))
        scored = self._scored(context, teacher)
        made, why = self._from_sft(context, teacher, scored)
        if made is not None:
            found = (f"teacher {context.task.teacher}: {why}", *compared(context, scored, made.system))
            return replace(made, found=found, notes=(*uncounted(context), *made.notes))
        rows, short = self._affordable(context, teacher, scored)
        taught = teach(context, teacher, rows, scored.seconds_per_answer, short)
        spent = context.paid_usd
        context.reporter.say(f"distill: {taught.said}")
        if not taught.rows:
            why = f"; {taught.short}" if taught.short else ""
            raise TrainingError(f"the teacher taught nothing: {taught.said}{why}")
        if (rows_in_all := len(context.train) + len(taught.rows)) < FEWEST_ROWS:
            raise TrainingError(
                f"the teacher taught too little: {taught.said}; with your {len(context.train):,} that makes "
                f"{rows_in_all:,} rows, and tuning needs at least {FEWEST_ROWS}"
                f"{f'; {taught.short}' if taught.short else ''}"
            )
        asked = calls_said(teacher) if teacher.is_hosted else ""
        made = self._made(replace(context, train=(*context.train, *taught.rows)), teacher, context)
        found = (
            f"teacher {context.task.teacher}{asked}: {taught.said}",
            *compared(context, scored, made.system),
        )
        notes = (
            *(text for text in (why, taught.short) if text),
            *((f"the teacher was paid ${spent:.4f}",) if spent else ()),
            *uncounted(context),
            *made.notes,
        )
        what = (
            f"{len(taught.rows):,} rows of {context.task.teacher} beside {len(context.train):,}; {made.what}"
        )
        return replace(made, what=what, found=found, notes=notes, spent_usd=spent)

    def _from_sft(self, context: Context, teacher: System, scored: Measurement) -> tuple[Built | None, str]:
        """What goes on from sft on policy, and why; None where nothing does, and why it failed if it did.

        So where the time allows fewer answers than there are rows: they would hardly add to what sft learned,
        and the tune on all of them would have to be made again.
        """
        from rung.rungs.whitebox import from_sft

        if (start := _to_go_on_from(context, teacher)) is None:
            return None, ""
        answer_s = scored.seconds_per_answer
        fits = context.settled("answers that the time allows", lambda: _in_time(context, teacher, answer_s))
        assert isinstance(fits, int), "written by this function"
        if not _too_few(context, fits):
            return None, ""
        asked = _for_on_policy(context, teacher)
        try:
            why = (
                f"there was time for its answers to about {fits:,} inputs, fewer than the "
                f"{len(context.train):,} rows, so it taught sft's tune by its probabilities alone"
            )
            return from_sft(context, teacher, start, asked), why
        except (TrainingError, ModelError, EngineError) as error:
            return None, f"sft's tune couldn't be gone on from on policy: {error}"

    def _made(self, context: Context, teacher: System, plain: Context) -> Built:
        """The tune on all rows; then on policy, where the student has its teacher's tokens.

        `plain` is the context without the taught rows.
        """
        from rung.rungs.whitebox import (
            FEWEST_S,
            TIME_SHARE,
            answers_alone,
            no_memory,
            no_white_box,
            on_policy,
        )

        # Which form is learned isn't known before: one will do in which the teacher can be read.
        forms = answer_forms(context, self.name).values()
        lacking = [no_white_box(context, teacher, spec) for spec in forms]
        kept_s = context.settled("seconds kept for on policy", lambda: TIME_SHARE * context.seconds_left)
        assert isinstance(kept_s, (int, float)), "written by this function"
        why = None if None in lacking else lacking[0]
        if why is None and kept_s < FEWEST_S:
            why = f"{max(0.0, kept_s):.0f} s could be kept for that, {FEWEST_S:.0f} s are needed"
        asked = _for_on_policy(plain, teacher)
        if why is None and not asked:
            why = "its prompt shows the training rows' own answers, and there are no other inputs"
        if why is None:
            why = no_memory(context, teacher)
        if why is not None:
            made = tuned(context, self.name)
            if teacher.is_hosted:
                return made
            return replace(made, notes=(*made.notes, answers_alone(why)))
        made = tuned(replace(context, deadline=context.deadline - kept_s), self.name)
        return on_policy(context, teacher, made, asked)

    def _affordable(
        self, context: Context, teacher: System, scored: Measurement
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
        kept = _kept(context)
        fits, costs = affordable(context, teacher, rows, 0 if kept is None else kept.asked, scored)
        more = [cost for cost in costs if cost]
        if more and _asks_on(context, kept, fits):
            context.reporter.say(
                f"distill: about ${sum(more):.4f} for {len(more):,} inputs; {paid_text(context)}"
            )
        if fits == len(rows):
            return rows, ""
        return rows[:fits], (
            f"half of the money that was left of ${till.cap_usd:g} is enough for {fits:,} of {len(rows):,} "
            f"inputs; raise {till.raised_by} for more"
        )

    def _scored(self, context: Context, teacher: System) -> Measurement:
        """The teacher on the first dev rows."""
        rows = context.dev[: self._to_score(context, teacher)]
        return context.measure_all(teacher, rows, f"the teacher on {len(rows)} dev rows")

    def _to_score(self, context: Context, teacher: System) -> int:
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


def inputs(context: Context) -> tuple[Example, ...]:
    """What the teacher is asked: inputs without outputs, else training rows to be said in other words."""
    if context.unlabelled:
        return context.unlabelled[:MOST_ASKED]
    return context.train[:MOST_ASKED] if context.bench.metric in REWORDED else ()


def shows_answers(context: Context, teacher: System) -> bool:
    """Whether a teacher that is asked training rows would find the row itself among its nearest examples."""
    return teacher.spec.shots.choice == "nearest" and not context.unlabelled


def _to_go_on_from(context: Context, teacher: System) -> System | None:
    """sft's System, where it can be gone on with by the teacher's probabilities."""
    from rung.rungs.whitebox import no_white_box

    start = context.built.get("sft")
    if start is None or start.adapter is None or no_white_box(context, teacher, start.spec) is not None:
        return None
    return start if _for_on_policy(context, teacher) else None


def _in_time(context: Context, teacher: System, answer_s: float) -> int:
    """To how many inputs there is time for a teacher's answers."""
    each_s = draws_of(teacher) * answer_s
    return int(TEACHING_SHARE * max(0.0, context.seconds_left) / max(each_s, 1e-6))


def _too_few(context: Context, answered: int) -> bool:
    """Whether answers to so many inputs would hardly add to what sft learned."""
    return answered < len(context.train) and answered < len(inputs(context))


def _for_on_policy(context: Context, teacher: System) -> tuple[Example, ...]:
    """What a student answers beside its teacher: training rows and the inputs without outputs.

    A teacher that looks up the nearest worked examples is asked the latter alone.
    """
    asked = {e.id: e for e in (*context.train, *inputs(context))}
    if teacher.spec.shots.choice == "nearest":
        known = {e.id for e in context.train}
        asked = {key: e for key, e in asked.items() if key not in known}
    return tuple(asked.values())


def teach(
    context: Context, teacher: System, rows: Sequence[Example], answer_s: float = 0.0, short: str = ""
) -> Taught:
    """Synthetic rows of the teacher's answers that stand up to checking, as far as time and money allow.

    `answer_s` is what one of its answers takes, `short` why the money isn't enough for more rows. Raises
    TrainingError where even a few don't fit the time.

    Settled once they are all there: a call that broke may hold when it's made again, and a tune goes on with
    the rows that it began with. Under a higher cap more are asked where no tune has begun.
    """
    kept = _kept(context)
    if _asks_on(context, kept, len(rows)):
        kept = _taught(context, teacher, rows, answer_s, replace(kept or _Kept(), short=short))
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


@dataclass(frozen=True)
class _Kept:
    """As `Taught`, on disk: the answers by the ids of the rows that are made of them.

    They were asked under a cap of `cap_usd`.
    """

    asked: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    answers: dict[str, Json] = field(default_factory=dict)
    short: str = ""
    cap_usd: float = 0.0


def _kept(context: Context) -> _Kept | None:
    path = context.folder / TAUGHT_FILE
    return TypeAdapter(_Kept).validate_python(read_json(path)) if path.exists() else None


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
    context: Context, teacher: System, rows: Sequence[Example], answer_s: float, before: _Kept
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
            chunk = rows[asked : asked + _fitting(context, asked, len(rows), each_s, kept_s)]
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
    return _Kept(asked=asked, dropped=dict(dropped), answers=found, short=short, cap_usd=_cap_usd(context))


def _checked(context: Context, row: Example, answers: Sequence[Answer]) -> tuple[Json, str | None]:
    """What is learned of an input's draws, or why nothing is; the output that it may have is the measure."""
    if row.output is None:
        kept = verified(answers, context.kind)
    else:
        kept = verified_by_gold(answers, row.output, context.bench.metric)
    as_it_was = kept.reason is None and row.output is not None and kept.value == row.output
    return kept.value, AS_IT_WAS if as_it_was else kept.reason


def _fitting(context: Context, asked: int, inputs: int, each_s: float, kept_s: float) -> int:
    """How many more of the inputs are asked together: what fits the time, a chunk at most. Settled once.

    Raises TrainingError where not even the fewest fit at first, the time to tune in being as short as can be.
    """
    fewest = min(FEWEST_ASKED, inputs)

    def count() -> int:
        fits = int(min(CHUNK_ROWS, max(0.0, context.seconds_left - kept_s) / max(each_s, 1e-6)))
        if asked or fits >= fewest:
            return fits
        return fewest if fewest * each_s <= context.seconds_left - FEWEST_S else 0

    fits = context.settled(f"inputs asked together after {asked}", count)
    assert isinstance(fits, int), "written by this function"
    if not fits and not asked:
        raise TrainingError(too_slow(each_s, fewest, context.seconds_left))
    return fits


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
