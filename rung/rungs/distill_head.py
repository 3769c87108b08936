"""Distillation into a linear head, the cheapest student: a teacher's verified answers beside the rows."""

from dataclasses import replace
from typing import Literal

from rung import evaluate
from rung.errors import TrainingError
from rung.rungs.base import Built, Context, Outlook
from rung.rungs.head import Head, fitted
from rung.rungs.taught import (
    FEWEST_ASKED,
    inputs,
    scored_on_dev,
    shows_answers,
    taught_by,
    to_score,
    unpaid,
    untaught,
    with_lesson,
)
from rung.rungs.teacher import (
    DRAWS,
    FIRST_DRAWS,
    draws_of,
    hosted_teacher,
    is_raced,
    teacher_system,
    too_slow,
)
from rung.rungs.teaching_money import TEACHING_SHARE
from rung.task import Task

AGREE = "how often the teacher's first draws agree"
LEARN_S, LEAST_S = 5.0, 15.0
"""Kept to fit a head in; and with the teacher's first answers, at least."""


class DistillHead:
    """`head` on the training rows and the answers of a teacher that stand up to checking.

    `distill` after it learns from the same answers, which are asked once.
    """

    name = "distill_head"
    model_free: Literal[True] = True

    def embeds(self, task: Task) -> bool:
        """As a head does, where there is a teacher."""
        return task.teacher is not None and Head().embeds(task)

    def skip(self, context: Context) -> str | None:
        """A head's kinds of answers, a teacher and inputs for it are needed."""
        return Head().skip(context) or untaught(context) or unpaid(context)

    def outlook(self, context: Context) -> Outlook | None:
        """By the teacher's pace on a few dev rows, and by fits on training rows.

        None without the latter, and for a hosted teacher, which is never asked beforehand.
        """
        from rung.rungs.teaching_time import refused

        if hosted_teacher(context.task) is not None or not context.in_time("teach", LEAST_S):
            return None
        if (head := Head().outlook(context)) is None:
            return None
        teacher = teacher_system(context, str(context.task.teacher))
        if shows_answers(context, teacher):
            return None
        scored = context.dev[: to_score(context, teacher)]
        known = context.bench.store.load(teacher.digest)
        _, answer_s = evaluate.answers_of(teacher, [e for e in context.dev if e.id in known], context.bench)
        scoring_s = answer_s * sum(e.id not in known for e in scored)
        left_s = max(0.0, context.seconds_left - scoring_s)
        rows, most = len(inputs(context)), draws_of(teacher)
        fewest_s = min(FEWEST_ASKED, rows) * most * answer_s
        if fewest_s > left_s - LEARN_S and not is_raced(teacher, rows):
            return refused(too_slow(most * answer_s, min(FEWEST_ASKED, rows), left_s))

        def seconds(draws: int) -> float:
            each_s = draws * answer_s
            asked = min(rows, int(TEACHING_SHARE * left_s / max(each_s, 1e-6)))
            return scoring_s + asked * each_s + head.seconds * (1 + asked / len(context.train))

        ends = sorted(seconds(draws) for draws in {most, min(most, FIRST_DRAWS)})
        least_s = scoring_s + fewest_s + head.least_s
        by = AGREE if most == DRAWS else ""
        return Outlook(seconds=ends[-1], low_s=ends[0], high_s=ends[-1], least_s=least_s, by=by)

    def build(self, context: Context) -> Built:
        """Ask, verify, fit. Raises TrainingError where no answer holds, and as `Head.build`."""
        if not context.in_time("teach", LEAST_S):
            raise TrainingError(
                f"{max(0.0, context.seconds_left):.0f} s of the budget are left to teach in, at least "
                f"{LEAST_S:.0f} s are needed; nothing was asked: give more with --budget"
            )
        teacher = teacher_system(context, str(context.task.teacher))
        scored = scored_on_dev(context, teacher)
        taught = taught_by(context, teacher, scored, LEARN_S)
        made = fitted(replace(context, train=(*context.train, *taught.rows)), self.name)
        return with_lesson(context, teacher, scored, taught, made)
