"""A rung that goes on from the adapter of an earlier one: what it made of it, or that one as it was."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rung.evaluate import score_of
from rung.records import Trial
from rung.rungs.base import Built, Context
from rung.rungs.sft import settled_system
from rung.system import System, save

if TYPE_CHECKING:
    from rung.rungs.tune import Arm, Tune


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The best adapter (a PEFT folder; None where no step beat the start), what it is, and what was tried.

    `passes` are those that an arm made through the items.
    """

    adapter: Path | None
    what: str
    passes: float
    trials: tuple[Trial, ...]
    notes: tuple[str, ...]
    found: tuple[str, ...] = ()


def no_lora(context: Context) -> str | None:
    """Why there is no LoRA to go on from, whatever sft makes; None where there is."""
    method = context.task.tuning.method
    if method not in ("full", "prefix"):
        return None
    return f"it goes on from a LoRA, and tuning.method {method} makes none; take lora, rslora or dora"


def built_on(context: Context, start: System, rung: str, outcome: Outcome) -> Built:
    """Prove the adapter as sft does, and keep what is better on dev: the System made of it, or the start.

    Raises TrainingError where the engines don't agree.
    """
    notes = outcome.notes
    if outcome.adapter is not None:
        spec = start.spec.model_copy(update={"rung": rung, "files": {}})
        system, parity, note = settled_system(context, spec, outcome.adapter)
        final, notes = _trial(context, system), (*notes, note)
        if _better(context, system, start):
            return Built(
                system=system,
                what=outcome.what,
                passes=outcome.passes,
                trials=(*outcome.trials, final),
                found=outcome.found,
                notes=notes,
                parity=parity,
                upon=start.spec.rung,
            )
        notes = (
            *notes,
            f"as it is served it is no better on dev than {start.spec.rung}, whose adapter is kept",
        )
    system = _again(context, start, rung)
    return Built(
        system=system,
        what=f"{start.spec.rung}'s adapter as it was: no step was better on dev",
        passes=outcome.passes,
        trials=(*outcome.trials, _trial(context, system)),
        found=outcome.found,
        notes=notes,
        upon=start.spec.rung,
    )


def _again(context: Context, start: System, rung: str) -> System:
    """The start as a System of this rung: the same files under the same engine, and the same answers."""
    files = {name: start.folder / name for name in start.spec.files}
    system = save(context.work / "start", start.spec.model_copy(update={"rung": rung}), files)
    context.bench.store.same(system.digest, start.digest)
    return system


def _trial(context: Context, system: System) -> Trial:
    whole = context.measure(system, context.dev, f"{system.spec.rung}, all dev rows")
    n = len(whole.predictions)
    seconds = whole.seconds_per_answer * n
    return Trial(name="the System made of it", score=whole.score, n=n, seconds=seconds, chosen=True)


def _better(context: Context, system: System, start: System) -> bool:
    """Whether a System scores higher than the start on all dev rows that both answered, as both are served.

    Those that the start answered in its own rung count, too: as its own rival it's soon stopped here.
    """
    for one in (system, start):
        context.measure(one, context.dev, f"{one.spec.rung} on dev")
    kept = [context.bench.store.load(one.digest) for one in (system, start)]
    rows = [e for e in context.dev if all(e.id in answers for answers in kept)]
    ours, theirs = (
        context.sign * score_of(rows, [answers[e.id].answer for e in rows], context.bench) for answers in kept
    )
    return ours > theirs


def kept_best(state: "Tune", start: dict, scored: "Iterable[tuple[Arm, dict]]") -> tuple[dict, list[Trial]]:
    """The record of the best score, and all of them as trials; the adapter of each new best one is kept.

    `scored` gives an arm and the record of its score while the model is as it was then. A tie goes to the
    earlier one, and so to the start.
    """
    best, trials = start, [trial_of(start)]
    for arm, found in scored:
        trials.append(trial_of(found))
        if found["value"] > best["value"]:
            state.keep(arm, found["step"])
            best = found
    return best, trials


def trial_of(record: dict) -> Trial:
    """A score that a journal holds, as a trial; its seconds are in those of the rung as a whole."""
    name = f"{record['arm']}, {record['step']} steps" if record["step"] else "the start as it was"
    name = f"{name} (loss {record['loss']:.3f})"
    return Trial(name=name, score=record["score"], n=record["n"], seconds=0.0)
