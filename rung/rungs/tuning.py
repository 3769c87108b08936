"""One tune from start to best adapter: rates and forms by successive halving, then on while dev rises."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rung.errors import TrainingError
from rung.records import Example, Trial
from rung.rungs.base import Context
from rung.rungs.tune import BEST_FOLDER, RANK, Arm, Plan, Tune
from rung.system import Spec

RATES = (5e-4, 1e-3, 2e-3)
MIDDLE_RATE = 1e-3
SEARCH_SHARE = 1 / 3
FEWEST_TRIAL_STEPS = 12
MOST_EPOCHS = 10
DECAY_SHARE = 0.25
EVALUATIONS = 8
PATIENCE = 2
PROBE_STEPS = 4
PROBE_ROWS = 32
SEARCH_ROWS = 200
FEWEST_SCORED = 50
USED_SHARE = 0.85
"""Of the time: the rest is for what a probe can't foresee."""
SCORING_SHARE = 0.4
"""Of the time, at most: where answers are slow fewer dev rows are scored on the way."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The best adapter (a PEFT folder), the answer form it was trained for, and what was tried."""

    form: str
    adapter: Path
    what: str
    trials: tuple[Trial, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Length:
    """How many steps a tune may take, and the dev rows that it is scored by on the way."""

    steps: int
    rows: Sequence[Example]


def tune(context: Context, specs: dict[str, Spec], plan: Plan) -> Outcome:
    """Search, train, keep the best; once more at a third of the rate where the tune collapsed.

    Raises TrainingError where it collapses again.
    """
    with Tune(context, specs, plan) as state:
        return _tune(state)


def _tune(state: Tune) -> Outcome:
    context, forms = state.context, list(state.specs)
    length = _settle_length(state, Arm(form=forms[0], rate=MIDDLE_RATE), _trials(forms))
    notes = [f"planned {length.steps} steps of {state.batch} rows, {_epochs(state, length.steps):.1f} epochs"]
    if state.left_out:
        notes.append(f"{state.left_out} rows longer than {context.limit:,} tokens were left out of training")
    if len(length.rows) < len(context.dev):
        notes.append(
            f"scored on {len(length.rows)} of {len(context.dev)} dev rows on the way: answers are slow"
        )
    winner, searched = _search(state, forms, length, notes)
    best = _train(state, winner, searched, length, notes)
    if _collapsed(context, best, length.rows):
        notes.append(f"{winner.name} collapsed (score {best['score']:.3f}), so a third of the rate was tried")
        winner = Arm(form=winner.form, rate=winner.rate / 3)
        best = _train(state, winner, 0, length, notes)
        if _collapsed(context, best, length.rows):
            raise TrainingError(
                f"the tune collapsed twice: {best['commonest']:.0%} of its answers are the same and it "
                f"scores {best['score']:.3f}; check the rows, or give it more with --budget"
            )
    return Outcome(
        form=winner.form,
        adapter=state.plan.folder / BEST_FOLDER,
        what=(
            f"LoRA r = {RANK}, {winner.name}, {best['step']} steps of {state.batch}, answers as {winner.form}"
        ),
        trials=tuple(_trial(record) for record in state.records if record["kind"] == "score"),
        notes=tuple(notes),
    )


def _trial(record: dict) -> Trial:
    """Seconds are those of the tune as a whole, in the rung's `build_s`; a trial has none of its own."""
    return Trial(
        name=f"{record['arm']}, {record['step']} steps (loss {record['loss']:.3f})",
        score=record["score"],
        n=record["n"],
        seconds=0.0,
    )


def _epochs(state: Tune, steps: int) -> float:
    return steps * state.batch / len(next(iter(state.rows.values())))


def _settle_length(state: Tune, arm: Arm, trials: int) -> Length:
    """How many steps and scores fit the time, from the speed of a few of each; settled once."""
    dev = state.context.dev
    known = state.find(kind="plan")
    if known is None:
        # A tune that was killed before it knew its length probes again, from the step that it is at.
        begun = state.trainer(arm).step
        ticks = state.run(arm, begun + PROBE_STEPS)[1:]
        step_s = sum(state.batch / tick.rows_per_s for tick in ticks) / len(ticks)
        start = time.perf_counter()
        state.answers(arm, dev[:PROBE_ROWS])
        row_s = (time.perf_counter() - start) / len(dev[:PROBE_ROWS])
        most = int(SCORING_SHARE * state.plan.budget_s / row_s / (trials + EVALUATIONS))
        rows = min(len(dev), max(FEWEST_SCORED, most))
        scoring_s = row_s * (trials * min(rows, SEARCH_ROWS) + EVALUATIONS * rows)
        steps = int((USED_SHARE * state.plan.budget_s - scoring_s) / step_s)
        steps = min(steps, MOST_EPOCHS * state.trainer(arm).steps_per_epoch)
        known = state.note({"kind": "plan", "steps": max(begun + PROBE_STEPS, steps), "rows": rows})
    return Length(steps=known["steps"], rows=dev[: known["rows"]])


def _trials(forms: Sequence[str]) -> int:
    """Stretches of training that the search takes: each rate one, then two rates and the other forms."""
    return len(RATES) + 2 + 2 * (len(forms) - 1)


def _search(state: Tune, forms: Sequence[str], length: Length, notes: list[str]) -> tuple[Arm, int]:
    """Successive halving on a third of the steps at most; the winner and the steps that it has behind it.

    All rates run with the first form; the better two go on for as long again, and beside them every other
    form runs as long at the best rate.
    """
    first = int(length.steps * SEARCH_SHARE / _trials(forms))
    if first < FEWEST_TRIAL_STEPS:
        notes.append(f"no search for a rate: {length.steps} steps are too few for it")
        return Arm(form=forms[0], rate=MIDDLE_RATE), 0
    rows = length.rows[:SEARCH_ROWS]
    rates = [Arm(form=forms[0], rate=rate) for rate in RATES]
    ranked = _ranked(state, rates, first, rows, notes)
    others = [Arm(form=form, rate=ranked[0].rate) for form in forms[1:]]
    return _ranked(state, [*ranked[:2], *others], 2 * first, rows, notes)[0], 2 * first


def _ranked(
    state: Tune, arms: Sequence[Arm], steps: int, rows: Sequence[Example], notes: list[str]
) -> list[Arm]:
    """The arms that can be trained, the best first. Raises TrainingError when there is none."""
    keys = []
    for place, arm in enumerate(arms):
        try:
            state.run(arm, steps)
            found = state.score(arm, steps, rows)
            keys.append((-found["value"], found["loss"] if math.isfinite(found["loss"]) else math.inf, place))
        except TrainingError as error:
            notes.append(f"{arm.name} left out: {error}")
    if not keys:
        raise TrainingError("; ".join(notes))
    return [arms[place] for *_, place in sorted(keys)]


def _train(state: Tune, arm: Arm, step: int, length: Length, notes: list[str]) -> dict:
    """On from `step` at a constant rate until dev stops rising or three quarters are done, then decay.

    Returns the record of the best score. Where the loss breaks on the way, what was best before stands.
    """
    every = max(1, length.steps // EVALUATIONS)
    plateau = int(length.steps * (1 - DECAY_SHARE))
    best: dict | None = None
    waited = 0
    try:
        while step < plateau and waited < PATIENCE:
            step = _next_score(step, every, plateau)
            state.run(arm, step)
            found = _better(state, arm, step, length, best)
            waited = waited + 1 if found is best else 0
            best = found
        end = min(length.steps, step + max(1, int(step * DECAY_SHARE / (1 - DECAY_SHARE))))
        for stop in (step + (end - step) // 2, end):
            if stop > step:
                state.run(arm, stop, decay=(step, end))
                best = _better(state, arm, stop, length, best)
    except TrainingError as error:
        if best is None:
            raise
        notes.append(f"{arm.name} ended early: {error}")
    assert best is not None, "every run is scored at least once"
    return best


def _next_score(step: int, every: int, plateau: int) -> int:
    """The next multiple of `every`, or the plateau's end where that is less than half a stretch further."""
    stop = (step // every + 1) * every
    return plateau if plateau - stop < every / 2 else stop


def _better(state: Tune, arm: Arm, step: int, length: Length, best: dict | None) -> dict:
    """The better of `best` and the arm's score now; the better one's adapter is kept."""
    found = state.score(arm, step, length.rows)
    if best is not None and found["value"] <= best["value"]:
        return best
    state.keep(arm, step)
    return found


def _collapsed(context: Context, best: dict, rows: Sequence[Example]) -> bool:
    """One answer to everything though the targets differ, or a score below that of the commonest label."""
    targets = [str(e.output) for e in rows]
    majority = max(map(targets.count, set(targets))) / len(targets)
    if best["commonest"] > 0.95 and majority <= 0.95:
        return True
    return context.kind == "label" and context.bench.metric == "accuracy" and best["score"] < majority
