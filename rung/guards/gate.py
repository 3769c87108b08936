"""All guards on a rung, and what they tell whoever ships it."""

from rung.errors import RunError, RungError
from rung.guards.copied import copied
from rung.guards.fit import collapse, overfit
from rung.guards.forgetting import forgetting
from rung.memory import within_memory
from rung.records import Measurement
from rung.records.guarded import Forgetting, Guards, Overfit
from rung.rungs.base import Context
from rung.system import System

LABELS_ALONE = "as it is served it gives labels alone, so that matters where"
REACHED_BY = {
    "adapter": "its weights are merged or other requests reach its adapter",
    "prefix": "other requests are read after its prefix",
    "weights": "other requests reach its weights",
}
"""By what a System has of its own: how anything but its labels could come of it."""


def guards(context: Context, system: System, dev: Measurement, *, forget: bool) -> Guards:
    """Look at a System beside its dev score, which is of all dev rows, until `context.deadline`.

    A tuned one is looked at for its fit, and for forgetting where `forget` says so; one that is to write in
    an author's style, for copies. What can't be run is told of, and fails nothing.
    """
    tuned, warnings = system.is_tuned, []
    fit = _fit(context, system, dev) if tuned else None
    same = collapse(dev, context.dev) if tuned else None
    again = copied(dev, context.dev, context.train) if context.bench.metric == "style" else None
    gate = _gate(context, system) if tuned and forget else None
    if same is not None and same.collapsed:
        warnings.append(f"{same.share:.0%} of its dev answers are {same.answer!r}")
    if again is not None and again.memorised:
        warnings.append(f"{again.share:.0%} of its dev answers are near-copies of training outputs")
    if gate is not None and gate.verdict == "block":
        only = f"; {labels_alone(system)}" if system.spec.kind == "label" else ""
        warnings.append(f"it forgot: it {'; it '.join(gate.reasons)}{only}")
    return Guards(forgetting=gate, overfit=fit, collapse=same, copied=again, warnings=tuple(warnings))


def labels_alone(system: System) -> str:
    """Where it matters that a tuned System which is asked for labels forgot what else its base could do."""
    form = "weights" if system.weights is not None else "adapter"
    if system.adapter_form == "prefix":
        form = "prefix"
    return f"{LABELS_ALONE} {REACHED_BY[form]}"


def _fit(context: Context, system: System, dev: Measurement) -> Overfit | None:
    try:
        with within_memory():
            return overfit(context, system, dev)
    except RunError:
        raise
    except RungError as error:
        context.reporter.say(f"{system.spec.rung} has no score on training rows: {error}")
        return None


def _gate(context: Context, system: System) -> Forgetting:
    try:
        with within_memory():
            return forgetting(context, system)
    except RunError:
        raise
    except RungError as error:
        context.reporter.say(f"the forgetting gate of {system.spec.rung} was left out: {error}")
        return Forgetting(verdict="unknown", reasons=(), left_out=(f"the whole gate: {error}",))
