"""A tune whose gain is small is done with two more seeds: the median ships, so that no lucky one does."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from rung.errors import TrainingError
from rung.records import Measurement, Trial
from rung.records.guarded import SeedScores
from rung.rungs.base import Context
from rung.rungs.tune import BEST_FOLDER, Arm, Plan, Tune
from rung.rungs.tuning import Outcome
from rung.scoring import stats
from rung.scoring.notation import duration_text, gain_text, score_text
from rung.spec import Spec

SEEDS = 3
CLOSE = 2.0
"""A gain under so many times the smallest detectable one may be that of a lucky seed."""


def why_more(context: Context, whole: Measurement) -> str | None:
    """Why one seed isn't enough; None where it is, or where no other would change the verdict.

    That is where the gain over the rival isn't clearly a loss and under CLOSE times the smallest detectable
    gain, on the dev rows that both answered. Metrics of a whole set have no rival and no more seeds.
    """
    if context.rival is None or len(whole.predictions) < len(context.dev):
        return None
    scores = context.rival.scores
    gains = [
        context.sign * p.score - scores[p.example_id]
        for p in whole.predictions
        if p.score is not None and p.example_id in scores
    ]
    if not gains:
        return None
    gain = statistics.fmean(gains)
    least = stats.smallest_detectable_gain(len(gains), statistics.fmean(g * g for g in gains))
    if not -least < gain < CLOSE * least:
        return None
    shown, small = gain_text(gain, whole.metric), score_text(least, whole.metric)
    return f"{shown} over {context.rival.rung} is under twice the smallest detectable gain ({small})"


def retrained(context: Context, spec: Spec, outcome: Outcome, why: str) -> tuple[tuple[Path, ...], str]:
    """The adapters of two more seeds at the settings that won, and a note; none where time or a tune fails.

    They take as many steps as the first, whose number was chosen on dev, at the same rates.
    """
    needed = (SEEDS - 1) * outcome.again_s
    told = context.settled("seconds for two more seeds", lambda: [needed, context.seconds_left])
    needed, left = TypeAdapter(tuple[float, float]).validate_python(told)
    if needed > left:
        about = duration_text(needed)
        return (), f"one seed only: {why}, but two more would take {about} and the budget hasn't that"
    try:
        return tuple(_again(context, spec, outcome, number) for number in range(1, SEEDS)), why
    except TrainingError as error:
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
