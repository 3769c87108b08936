"""A rung that goes on from the adapter of an earlier one: what it made of it, or that one as it was."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rung.errors import EngineError
from rung.evaluate import score_of
from rung.records import Trial
from rung.records.guarded import SeedScores
from rung.rungs.base import Built, Context
from rung.rungs.sft import seed_scores, settled_seed, settled_system
from rung.system import System, save

if TYPE_CHECKING:
    from rung.rungs.tune import Arm, Tune


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The best adapter (a PEFT folder; None where no step beat the start), what it is, and what was tried.

    `passes` are those that an arm made through the items. `again` trains the same once more, with the seed of
    a number, and gives its adapter: `again_s` with the answers to dev. None where that's out of proportion.
    """

    adapter: Path | None
    what: str
    passes: float
    trials: tuple[Trial, ...]
    notes: tuple[str, ...]
    found: tuple[str, ...] = ()
    again: Callable[[int], Path] | None = None
    again_s: float = 0.0


def no_lora(context: Context) -> str | None:
    """Why there is no LoRA to go on from, whatever sft makes; None where there is."""
    method = context.task.tuning.method
    if method not in ("full", "prefix"):
        return None
    return f"it goes on from a LoRA, and tuning.method {method} makes none; take lora, rslora or dora"


def built_on(context: Context, start: System, rung: str, outcome: Outcome) -> Built:
    """Prove the adapter as sft does, and keep what is better on dev: the System made of it, or the start.

    Where its gain over the start is small the same is trained with two more seeds, if `outcome` says how, and
    the one with the median score is proved and compared. Raises TrainingError where the engines don't agree.
    """
    trials, notes, seeds = outcome.trials, outcome.notes, None
    if outcome.adapter is not None:
        spec = start.spec.model_copy(update={"rung": rung, "files": {}})
        system, parity, note = settled_system(context, spec, outcome.adapter)
        notes, which = (*notes, note), "as it is served it"
        better = _better(context, system, start)
        if better and (why := _why_close(context, system, start)):
            others, said = _more_seeds(context, outcome, why)
            notes = (*notes, said)
            if others:
                try:
                    seeds, rows = _scores(context, system, others)
                    trials = (*trials, *rows)
                except EngineError as error:
                    notes = (*notes, f"one seed only: the others couldn't be scored ({error})")
                if seeds is not None and seeds.chosen:
                    adapters = outcome.adapter, others[seeds.chosen - 1]
                    system, parity, last, why = settled_seed(context, spec, *adapters)
                    notes = notes if last == note else (*notes, f"the seed that is kept: {last}")
                    if why is not None:
                        trials, seeds, notes = outcome.trials, None, (*notes, why)
                    else:
                        which, better = "the median of three seeds", _better(context, system, start)
        if better:
            return Built(
                system=system,
                what=outcome.what,
                passes=outcome.passes,
                trials=(*trials, _trial(context, system)),
                found=outcome.found,
                notes=notes,
                parity=parity,
                upon=start.spec.rung,
                seeds=seeds,
            )
        notes = (*notes, f"{which} is no better on dev than {start.spec.rung}, whose adapter is kept")
    system = _again(context, start, rung)
    return Built(
        system=system,
        what=f"{start.spec.rung}'s adapter as it was: no step was better on dev",
        passes=outcome.passes,
        trials=(*trials, _trial(context, system)),
        found=outcome.found,
        notes=notes,
        upon=start.spec.rung,
    )


def _why_close(context: Context, system: System, start: System) -> str | None:
    """Why the gain over the start may be that of a lucky seed; None where it can't, or rows aren't known.

    Those of a start that was stopped aren't asked for that: what is built on it can't win.
    """
    from rung.rungs.seeds import why_close

    if not answered_all(context, start):
        return None
    before = context.measure_all(start, context.dev, f"{start.spec.rung} on dev")
    whole = context.measure(system, context.dev, f"{system.spec.rung} on dev")
    return why_close(context, whole, before, start.spec.rung)


def answered_all(context: Context, system: System) -> bool:
    """Whether a System was asked all dev rows: one that was stopped wasn't."""
    known = context.bench.store.load(system.digest)
    return all(e.id in known for e in context.dev)


def _more_seeds(context: Context, outcome: Outcome, why: str) -> tuple[tuple[Path, ...], str]:
    """The adapters of two more seeds, and a note; none where time or a tune fails, or nothing trains them."""
    from rung.rungs.seeds import repeated

    if outcome.again is None:
        return (), f"one seed only: {why}, and another course would take as long as this one"
    return repeated(context, why, outcome.again_s, outcome.again)


def _scores(context: Context, system: System, others: Sequence[Path]) -> tuple[SeedScores, tuple[Trial, ...]]:
    """The dev scores of all seeds, the System's first, and as trials."""
    from rung.rungs.seeds import seed_trials

    whole = context.measure(system, context.dev, f"{system.spec.rung} on dev")
    found = seed_scores(context, system, whole, others)
    return found, seed_trials(found, len(whole.predictions))


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
