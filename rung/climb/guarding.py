"""The guards on a trained rung in a climb: what they found is kept, and may put it over a limit."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rung.climb.budget import guard_s
from rung.climb.names import rung_of
from rung.climb.options import Options
from rung.guards.gate import guards
from rung.records import RungResult
from rung.records.guarded import Guards
from rung.rungs.base import Context
from rung.system import System
from rung.task import Task


@dataclass(frozen=True, kw_only=True)
class Guarding:
    """Until when the guards may look, whether at forgetting, too, and what the task does with that."""

    deadline: float
    forget: bool
    limit: Literal["warn", "block"]


def guarding(rung: str, later: Sequence[str], left_s: float, options: Options, task: Task) -> Guarding:
    """What the guards on a rung go by: all that's left is theirs where no rung comes after it."""
    seconds = left_s if not later else max(guard_s(rung, left_s), 0.0)
    return Guarding(
        deadline=time.monotonic() + seconds, forget=options.forgetting, limit=task.limits.forgetting
    )


def guarded(
    result: RungResult, system: System, context: Context, by: Guarding, before: Sequence[RungResult] = ()
) -> RungResult:
    """The result with what the guards found; as it is where they look at nothing, or it can't win anyway.

    A rung that kept the tune of one `before` it has what was found of that one: minutes of a climb.
    """
    looked_at = system.is_tuned or context.bench.metric == "style"
    if not looked_at or result.dev is None or result.stopped is not None:
        return result
    if (known := _of_the_same(result, system, context, before)) is not None:
        return replace(result, guards=known, over_limits=(*result.over_limits, *_over_limits(known, by)))
    start = time.monotonic()
    looked = replace(context, deadline=max(by.deadline, context.deadline))
    found = guards(looked, system, result.dev, forget=by.forget)
    if system.is_tuned:
        context.reporter.say(_told(result.rung, found, time.monotonic() - start))
    return replace(result, guards=found, over_limits=(*result.over_limits, *_over_limits(found, by)))


def _of_the_same(
    result: RungResult, system: System, context: Context, before: Sequence[RungResult]
) -> Guards | None:
    """What was found of the rung that this one goes on from, where both are one System but for the name.

    None where its forgetting wasn't measured in full: this one's time may be enough.
    """
    below = next((one for one in before if one.rung == result.upon), None)
    start = None if below is None else context.built.get(rung_of(below.rung))
    if below is None or below.guards is None or start is None:
        return None
    gate = below.guards.forgetting
    if gate is not None and gate.verdict == "unknown":
        return None
    same = start.spec.model_copy(update={"rung": system.spec.rung}) == system.spec
    return below.guards if same else None


def _over_limits(found: Guards, by: Guarding) -> tuple[str, ...]:
    """What puts a tune out where the task wants its base unspoiled."""
    gate = found.forgetting
    if gate is None or by.limit != "block":
        return ()
    if gate.verdict == "unknown":
        return ("what it forgot couldn't be measured in full; raise --budget",)
    return (f"it {'; it '.join(gate.reasons)}",) if gate.verdict == "block" else ()


def _told(rung: str, found: Guards, seconds: float) -> str:
    """The line on screen."""
    gate = found.forgetting
    if gate is None:
        return f"{rung}: guards took {seconds:.0f} s"
    said = {"pass": "passed", "warn": "warns", "block": "blocks", "unknown": "couldn't be measured in full"}
    return f"{rung}: the forgetting gate {said[gate.verdict]} ({seconds:.0f} s for all guards)"
