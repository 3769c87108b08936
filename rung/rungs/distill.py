"""Distillation: a teacher's verified answers on inputs that have none, then the tune on those rows too."""

from dataclasses import replace

from rung import evaluate
from rung.errors import EngineError, ModelError, TrainingError
from rung.records import Example, Measurement
from rung.rungs.base import Built, Context, Outlook, no_room
from rung.rungs.sft import FEWEST_ROWS, FEWEST_S, answer_forms, tuned, unable
from rung.rungs.taught import (
    FEWEST_ASKED,
    compared,
    inputs,
    scored_on_dev,
    shows_answers,
    taught_by,
    to_score,
    uncounted,
    unpaid,
    untaught,
    with_lesson,
)
from rung.rungs.teacher import draws_of, hosted_teacher, teacher_system
from rung.rungs.teaching_money import TEACHING_SHARE
from rung.system import System

LEAST_S = 2 * FEWEST_S


class Distill:
    """Learns what a bigger model knows, as far as its answers can be checked."""

    name = "distill"

    def skip(self, context: Context) -> str | None:
        """A teacher and inputs for it are needed, and rows enough for a tune."""
        if context.task.teacher is not None and (reason := no_room(context, learns=True)):
            return reason
        count = len(context.train) + len(inputs(context))
        few = f"{count} rows and inputs; tuning needs at least {FEWEST_ROWS}" if count < FEWEST_ROWS else None
        return untaught(context) or few or unable(context) or unpaid(context)

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
        to_ask, rows = to_score(context, teacher), len(inputs(context))
        known = context.bench.store.load(teacher.digest)
        answered = [e for e in context.dev if e.id in known]
        _, answer_s = evaluate.answers_of(teacher, answered, context.bench)
        forms = answer_forms(context, self.name)
        lessons = Lessons(
            teacher=teacher,
            inputs=rows,
            fewest=min(FEWEST_ASKED, rows),
            scored=max(0, to_ask - len(answered)),
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
        scored = scored_on_dev(context, teacher)
        made, why = self._from_sft(context, teacher, scored)
        if made is not None:
            found = (f"teacher {context.task.teacher}: {why}", *compared(context, scored, made.system))
            return replace(made, found=found, notes=(*uncounted(context), *made.notes))
        taught = taught_by(context, teacher, scored)
        if (rows_in_all := len(context.train) + len(taught.rows)) < FEWEST_ROWS:
            raise TrainingError(
                f"the teacher taught too little: {taught.said}; with your {len(context.train):,} that makes "
                f"{rows_in_all:,} rows, and tuning needs at least {FEWEST_ROWS}"
                f"{f'; {taught.short}' if taught.short else ''}"
            )
        made = self._made(replace(context, train=(*context.train, *taught.rows)), teacher, context)
        built = with_lesson(context, teacher, scored, taught, made)
        return replace(built, notes=(why, *built.notes)) if why else built

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
