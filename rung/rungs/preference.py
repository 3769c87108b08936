"""Preference tuning: the tuned adapter goes on by which of two answers is better, or by judged answers."""

from rung.records import Trial
from rung.rungs.base import Built, Context, Outlook, no_room
from rung.rungs.preferred import pairs
from rung.rungs.sft import RESERVE_USED, planned, settled_system
from rung.rungs.variants import first_value
from rung.system import System, save

FEWEST_PAIRS = 50
FEWEST_JUDGED = 10
"""Of the answers that were judged to be bad."""


class Preference:
    """DPO on pairs or KTO on judged answers, from the System of sft on."""

    name = "preference"
    after = "sft"

    def skip(self, context: Context) -> str | None:
        """Rows without preferences have nothing to teach, and a few don't move a model."""
        if reason := no_room(context, learns=True):
            return reason
        method = context.task.tuning.method
        if method in ("full", "prefix"):
            return f"it goes on from a LoRA, and tuning.method {method} makes none; take lora, rslora or dora"
        if count := pairs(context.train):
            if count < FEWEST_PAIRS:
                return f"{count} training rows have a rejected answer; at least {FEWEST_PAIRS} are needed"
            return None
        if not context.undesirable:
            return "the rows hold no preferences: neither rejected answers nor answers judged true or false"
        good, bad = len(context.train), len(context.undesirable)
        if good + bad < FEWEST_PAIRS or bad < FEWEST_JUDGED:
            return (
                f"{good} training answers are judged to be good and {bad} to be bad; at least {FEWEST_PAIRS} "
                f"are needed, {FEWEST_JUDGED} of them bad"
            )
        return None

    def outlook(self, context: Context) -> Outlook | None:
        """By how fast the answers are read and a few are given."""
        from rung.rungs.preferring import foresee

        plan = planned(context)
        tuning_s, closing_s = foresee(context, self._start(context), plan)
        seconds = tuning_s + closing_s + RESERVE_USED * plan.reserve_s
        return Outlook(seconds=seconds, low_s=seconds, high_s=seconds, least_s=closing_s)

    def build(self, context: Context) -> Built:
        """Tune, prove the adapter as sft does, and keep what is better on dev: that, or the start.

        Raises TrainingError where there's no time, nothing fits, or the engines don't agree.
        """
        from rung.rungs.preferring import prefer

        start = self._start(context)
        outcome = prefer(context, start, planned(context))
        notes = outcome.notes
        if outcome.adapter is not None:
            spec = start.spec.model_copy(update={"rung": self.name, "files": {}})
            system, parity, note = settled_system(context, spec, outcome.adapter)
            final, notes = _trial(context, system), (*notes, note)
            if _better(context, system, start):
                return Built(
                    system=system,
                    what=outcome.what,
                    passes=outcome.passes,
                    trials=(*outcome.trials, final),
                    notes=notes,
                    parity=parity,
                )
            notes = (*notes, "as it is served it is no better on dev than sft, so sft's adapter is kept")
        system = _again(context, start, self.name)
        return Built(
            system=system,
            what="sft's adapter as it was: no step was better on dev",
            passes=outcome.passes,
            trials=(*outcome.trials, _trial(context, system)),
            notes=notes,
        )

    def _start(self, context: Context) -> System:
        return context.built[self.after]


def _again(context: Context, start: System, rung: str) -> System:
    """The start as a System of this rung: the same files under the same engine."""
    files = {name: start.folder / name for name in start.spec.files}
    return save(context.work / "start", start.spec.model_copy(update={"rung": rung}), files)


def _trial(context: Context, system: System) -> Trial:
    whole = context.measure(system, context.dev, "preference, all dev rows")
    n = len(whole.predictions)
    seconds = whole.seconds_per_answer * n
    return Trial(name="the System made of it", score=whole.score, n=n, seconds=seconds, chosen=True)


def _better(context: Context, system: System, start: System) -> bool:
    """Whether a System scores higher than the start on dev rows that both answered, as both are served."""
    found = [context.measure(one, context.dev, f"{one.spec.rung} on dev") for one in (system, start)]
    rows = min(len(one.predictions) for one in found)
    return first_value(context, found[0], rows) > first_value(context, found[1], rows)
