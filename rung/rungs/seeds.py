"""A tune whose gain is small is done with two more seeds: the median ships, so that no lucky one does."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from rung.errors import EngineError, ModelError, TrainingError
from rung.records import Measurement, Trial
from rung.records.guarded import SeedScores
from rung.rungs.base import Context, Outlook
from rung.rungs.length import Length
from rung.rungs.tune import BEST_FOLDER, Arm, Plan, Tune
from rung.rungs.tuning import Outcome
from rung.scoring import paired, stats
from rung.scoring.notation import duration_text, gain_text, score_text
from rung.spec import Spec
from rung.task.draws import drawn_with

SEEDS = 3
CLOSE = 2.0
"""A gain under so many times the smallest detectable one may be that of a lucky seed."""
RISES = "when dev stops rising"


def why_more(context: Context, whole: Measurement) -> str | None:
    """Why one seed isn't enough beside the best rung so far; None where it is, or where there is no rung."""
    best = context.best
    return None if best is None else why_close(context, whole, best.measurement, best.rung)


def why_close(context: Context, whole: Measurement, other: Measurement, rung: str) -> str | None:
    """Why a gain over another System may be that of a lucky seed; None where nothing hangs on that.

    That is where it isn't clearly a loss and under CLOSE times the smallest detectable gain, on the dev rows
    that both answered. For a metric of a whole set and for groups, of which no row tells by itself, that is
    worked out from the gain's bootstrap interval.
    """
    if len(whole.predictions) < len(context.dev):
        return None
    targets = {e.id: e.output for e in context.dev}
    pair = paired.pair_up(other, whole, targets=targets, groups=drawn_with(context.dev))
    if paired.units(pair) < 2:
        return None
    gain, interval = paired.gain(pair), paired.gain_interval(pair, context.seed)
    least = stats.smallest_detectable_gain(pair.n, paired.spread(pair, interval))
    if not -least < gain < CLOSE * least:
        return None
    shown, small = gain_text(gain, whole.metric), score_text(least, whole.metric)
    return f"{shown} over {rung} is under twice the smallest detectable gain ({small})"


def retrained(context: Context, spec: Spec, outcome: Outcome, why: str) -> tuple[tuple[Path, ...], str]:
    """The adapters of two more seeds at the settings that won, and a note; none where time or a tune fails.

    They take as many steps as the first, whose number was chosen on dev, at the same rates.
    """
    return repeated(context, why, outcome.again_s, lambda number: _again(context, spec, outcome, number))


def repeated(
    context: Context, why: str, again_s: float, again: Callable[[int], Path]
) -> tuple[tuple[Path, ...], str]:
    """The adapters that `again` trains, each with another seed in `again_s`, and a note on them.

    There are none where the time isn't enough, which is settled once, or where such a tune breaks.
    """
    needed = (SEEDS - 1) * again_s
    told = context.settled("seconds for two more seeds", lambda: [needed, context.seconds_left])
    needed, left = TypeAdapter(tuple[float, float]).validate_python(told)
    if needed > left:
        about = duration_text(needed)
        return (), f"one seed only: {why}, but two more would take {about} and the budget hasn't that"
    adapters: list[Path] = []
    try:
        for number in range(1, SEEDS):
            context.pool.close()  # what is open was of use to the seed before, and takes memory
            adapters.append(again(number))
        return tuple(adapters), why
    except (TrainingError, EngineError, ModelError) as error:
        return (), f"one seed only: another one broke ({error})"


def _again(context: Context, spec: Spec, outcome: Outcome, number: int) -> Path:
    """One tune more, from another start and with the rows in another order; its adapter as PEFT has it."""
    seed = context.seed + number
    folder = context.work / f"seed-{number}"
    plan = Plan(folder=folder, budget_s=0.0, reserve_s=0.0, seed=seed, batch=outcome.batch)
    arm = Arm(form=outcome.form, rate=outcome.rate)
    with Tune(context, {outcome.form: spec}, plan) as state:
        if outcome.decay is not None:
            state.run(arm, outcome.decay[0])
        state.run(arm, outcome.step, decay=outcome.decay)
        state.keep(arm, outcome.step)
    return folder / BEST_FOLDER


def summed_up(scores: Sequence[float], values: Sequence[float]) -> SeedScores:
    """Mean, standard deviation and median of the seeds' scores; `values` are those, more being better."""
    order = sorted(range(len(values)), key=lambda at: (values[at], at))
    return SeedScores(
        scores=tuple(scores),
        mean=statistics.fmean(scores),
        spread=statistics.stdev(scores),
        chosen=order[len(order) // 2],
    )


def seed_trials(found: SeedScores, rows: int) -> tuple[Trial, ...]:
    """A line for each seed among what was tried."""
    return tuple(
        Trial(
            name=f"seed {number}" + (", the median" if number == found.chosen else ""),
            score=score,
            n=rows,
            seconds=0.0,
        )
        for number, score in enumerate(found.scores)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """A place where a tune may be over, so many seconds on; once more it takes `again_s`, with answers."""

    seconds: float
    again_s: float


def ends_of(length: Length) -> list[End]:
    """Those of a tune on the rows' outputs."""
    return [End(seconds=s, again_s=n * length.step_s + length.closing_s) for n, s in length.ends]


def ranged(ends: Sequence[End], *, beside_s: float, least_s: float, left_s: float, by: str) -> Outlook:
    """A tune that goes on to the last of its ends; from the soonest, and up to two more seeds.

    `beside_s` come after each end. Seeds are drawn where their end is still within `left_s`: 0 where there
    are none in any case. The soonest end hangs on `by`.
    """
    found = [end.seconds + beside_s for end in ends]
    with_seeds = [s + (SEEDS - 1) * end.again_s for s, end in zip(found, ends, strict=True)]
    high_s = max([*found, *(s for s in with_seeds if s <= left_s)])
    if high_s > max(found):
        by = f"{by}, and whether two more seeds are drawn"
    return Outlook(seconds=found[-1], low_s=min(found), high_s=high_s, least_s=least_s, by=by)
