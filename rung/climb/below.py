"""What a step of a climb is told of the steps before it, on the same model or on none; and which are out."""

import math
from collections.abc import Callable, Mapping, Sequence, Set

from rung.climb.names import rung_of
from rung.climb.steps import Step
from rung.errors import RungError
from rung.models.hosted import hosted
from rung.records import MetricName, RungResult
from rung.rungs.api import rival_of
from rung.rungs.base import Context, Following, Rung
from rung.scoring.scorers import SCORERS
from rung.system import System
from rung.task import Task

ASKED_AHEAD = ("sft", "distill", "api")
"""Rungs that tell by the rows and by what the task names alone whether they apply."""


def task_of(task: Task, step: Step) -> Task:
    """The task as if the step's model were the only one to climb on, beside hosted ones."""
    others = (name for name in task.models if hosted(name) is not None)
    return task.model_copy(update={"models": (step.base.given, *others)})


def systems_below(
    step: Step, before: Sequence[RungResult], systems: Mapping[str, System]
) -> dict[str, System]:
    """The Systems of the rungs before it by rung name; for one that asks no local model those of every model.

    These go by the candidates' names, and so may be told apart.
    """
    if step.model is None:
        return {r.rung: systems[r.rung] for r in before if r.rung in systems}
    return {rung_of(r.rung): systems[r.rung] for r in _beside(step, before) if r.rung in systems}


def candidate_below(rung: str | None, step: Step, before: Sequence[RungResult]) -> str | None:
    """The candidate that `systems_below` tells of by this name; None where there is none."""
    if rung is None or step.model is None:
        return rung
    return next((r.rung for r in _beside(step, before) if rung_of(r.rung) == rung), None)


def looked_up(
    step: Step, before: Sequence[RungResult], systems: Mapping[str, System], metric: MetricName
) -> System | None:
    """The System that looks up passages, where it did better on dev than cheaper rungs: for a tune."""
    sign = 1 if SCORERS[metric].higher_is_better else -1
    known = [r for r in _beside(step, before) if r.dev is not None and r.stopped is None]
    scores = {rung_of(r.rung): (r.order, sign * r.dev.score) for r in known if r.dev is not None}
    if "retrieval" not in scores:
        return None
    order, score = scores["retrieval"]
    cheaper = [other for place, other in scores.values() if place < order]
    if score <= max(cheaper, default=-math.inf):
        return None
    return systems_below(step, before, systems).get("retrieval")


def expected(rung: str, task: Task) -> bool:
    """Whether the task names what a rung needs: one that it doesn't is kept no time for."""
    wants = {"retrieval": task.data.documents, "distill": task.teacher, "api": rival_of(task)}
    return wants.get(rung, True) is not None


def is_out(rung: Rung, task: Task, chosen: Set[str], context_of: Callable[[], Context]) -> bool:
    """Whether a rung to come is skipped for sure, and so needs no time to be kept for it."""
    if not expected(rung.name, task) or (isinstance(rung, Following) and rung.after not in chosen):
        return True
    if rung.name not in ASKED_AHEAD and not isinstance(rung, Following):
        return False
    try:
        return rung.skip(context_of()) is not None
    except RungError:
        return True


def _beside(step: Step, before: Sequence[RungResult]) -> list[RungResult]:
    """The results on the step's model, and those that rest on none."""
    return [r for r in before if r.model in (None, step.base.label)]
