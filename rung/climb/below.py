"""What a step of a climb is told of the steps before it, on the same model or on none; and which are out."""

from collections.abc import Callable, Mapping, Sequence, Set

from rung.climb.decide import ALPHA, MIN_ROWS, to_beat
from rung.climb.hosted import CAP_OPTION
from rung.climb.names import rung_of
from rung.climb.ordering import candidates
from rung.climb.steps import Step
from rung.errors import RungError
from rung.models.hosted import hosted
from rung.records import Candidate, Example, MetricName, RungResult
from rung.rungs.api import rival_of
from rung.rungs.base import Context, Following, Rung
from rung.rungs.rival import Rival, rival
from rung.rungs.taught import is_paid
from rung.scoring.scorers import SCORERS
from rung.system import System
from rung.task import Task

ASKED_AHEAD = ("distill_head", "sft", "distill", "api")
"""Rungs that tell by the rows and by what the task names alone whether they apply."""


def task_of(task: Task, step: Step) -> Task:
    """The task as if the step's model were the only one to climb on, beside hosted ones or its own rival."""
    others = [name for name in task.models if hosted(name) is not None]
    rivals = others if step.rival is None else [step.rival]
    return task.model_copy(update={"models": (step.base.given, *rivals)})


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


def best_before(
    before: Sequence[RungResult], task: Task, dev: Sequence[Example]
) -> tuple[Candidate, float] | None:
    """The best rung so far and how much a dearer one has to gain over it.

    None where there is none, or dev has too few rows for a verdict.
    """
    if len(dev) < MIN_ROWS:
        return None
    return to_beat(candidates(before, "dev", task), {e.id: e.output for e in dev})


def rival_before(
    before: Sequence[RungResult], task: Task, dev: Sequence[Example], steps: int
) -> Rival | None:
    """The same as the one that a rung of a climb of so many steps has to beat, or is stopped."""
    found = best_before(before, task, dev)
    if found is None or steps < 2:
        return None
    best, needed = found
    level = ALPHA / (steps * (steps - 1) / 2)
    return rival(best.rung, best.measurement, dev, needed=needed, level=level)


def looked_up(
    step: Step, before: Sequence[RungResult], systems: Mapping[str, System], metric: MetricName
) -> System | None:
    """The System whose passages a tune may read: it did better on dev than every cheaper rung, or the oracle
    test found that the model lacks what the documents hold. For a rung that asks no local model any such one.
    """
    found = [r for r in _looking_up(step, before) if r.rung in systems]
    read = (r for r in found if r.gap == "knowledge" or _not_ahead(r, before, metric) is None)
    return next((systems[r.rung] for r in read), None)


def no_gain(task: Task, step: Step, before: Sequence[RungResult], metric: MetricName) -> str | None:
    """Why looking up passages gained nothing on dev, in words; None where it did, or without documents."""
    if task.data.documents is None:
        return None
    reasons = [_not_ahead(r, before, metric) for r in _looking_up(step, before)]
    return None if None in reasons else next(iter(reasons), "retrieval wasn't climbed")


def _looking_up(step: Step, before: Sequence[RungResult]) -> list[RungResult]:
    return [r for r in _beside(step, before) if rung_of(r.rung) == "retrieval"]


def _not_ahead(found: RungResult, before: Sequence[RungResult], metric: MetricName) -> str | None:
    """Why a rung isn't better on dev than every cheaper one on its model; None where it is."""
    if found.dev is None:
        return f"{found.rung} {'failed' if found.skipped is None else 'was skipped'}"
    if found.stopped is not None:
        return f"{found.rung} couldn't beat {found.stopped.rival} any more and was stopped"
    sign = 1 if SCORERS[metric].higher_is_better else -1
    cheaper = {
        r.rung: sign * r.dev.score
        for r in before
        if r.model in (None, found.model) and r.order < found.order and r.dev and r.stopped is None
    }
    best = max(cheaper, key=lambda rung: cheaper[rung], default=None)
    if best is None or sign * found.dev.score > cheaper[best]:
        return None
    return f"{found.rung} was no better on dev than {best}"


def expected(rung: str, task: Task) -> bool:
    """Whether the task names what a rung needs: one that it doesn't is kept no time for."""
    wants = {"retrieval": task.data.documents, "api": rival_of(task)}
    wants |= dict.fromkeys(("distill_head", "distill"), task.teacher)
    return wants.get(rung, True) is not None


def is_out(rung: Rung, task: Task, chosen: Set[str], context_of: Callable[[], Context]) -> bool:
    """Whether a rung to come is skipped for sure, and so needs no time to be kept for it.

    One that was paid for before isn't out for want of money: which of its answers hold is known once it has
    its prompt.
    """
    if not expected(rung.name, task) or (isinstance(rung, Following) and rung.after not in chosen):
        return True
    if rung.name not in ASKED_AHEAD and not isinstance(rung, Following):
        return False
    try:
        context = context_of()
        reason = rung.skip(context)
    except RungError:
        return True
    return reason is not None and not (CAP_OPTION in reason and is_paid(context))


def _beside(step: Step, before: Sequence[RungResult]) -> list[RungResult]:
    """The results on the step's model, and those that rest on none; for a step that does so all of them."""
    return [r for r in before if step.model is None or r.model in (None, step.base.label)]
