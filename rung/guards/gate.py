"""All guards on a trained rung, and what they tell whoever ships it."""

from rung.errors import RunError, RungError
from rung.guarded import Forgetting, Guards, Overfit
from rung.guards.fit import collapse, overfit
from rung.guards.forgetting import forgetting
from rung.records import Measurement
from rung.rungs.base import Context
from rung.system import System


def guards(context: Context, system: System, dev: Measurement, *, forget: bool) -> Guards:
    """Look at a tuned System beside its dev score, which is of all dev rows, until `context.deadline`.

    The forgetting gate only where `forget` says so. What can't be run is told of, and fails nothing.
    """
    fit = _fit(context, system, dev)
    same = collapse(dev, context.dev)
    gate = _gate(context, system) if forget else None
    warnings = []
    if same.collapsed:
        warnings.append(f"{same.share:.0%} of its dev answers are {same.answer!r}")
    if gate is not None and gate.verdict == "block":
        warnings.append(f"it forgot: it {'; it '.join(gate.reasons)}")
    return Guards(forgetting=gate, overfit=fit, collapse=same, warnings=tuple(warnings))


def _fit(context: Context, system: System, dev: Measurement) -> Overfit | None:
    try:
        return overfit(context, system, dev)
    except RunError:
        raise
    except RungError as error:
        context.reporter.say(f"{system.spec.rung} has no score on training rows: {error}")
        return None


def _gate(context: Context, system: System) -> Forgetting:
    try:
        return forgetting(context, system)
    except RunError:
        raise
    except RungError as error:
        context.reporter.say(f"the forgetting gate of {system.spec.rung} was left out: {error}")
        return Forgetting(verdict="unknown", reasons=(), left_out=(f"the whole gate: {error}",))
