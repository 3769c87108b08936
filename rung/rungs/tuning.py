"""One tune from start to best adapter: rates and forms by successive halving, then on while dev rises."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rung.errors import TrainingError
from rung.records import Example, Trial
from rung.rungs.base import Context
from rung.rungs.below import BARE, TAGGED
from rung.rungs.closing import CLOSING_ROWS
from rung.rungs.length import (
    FEWEST_TRIAL_STEPS,
    MOST_EPOCHS,
    PACE_FILE,
    PATIENCE,
    PROBE_STEPS,
    SCORING_SHARE,
    SEARCH_ROWS,
    USED_SHARE,
    Fit,
    Length,
    Speed,
    decay_scores,
    next_score,
    sized,
)
from rung.rungs.tune import BEST_FOLDER, Arm, Plan, Tune
from rung.runs import write_json
from rung.scoring.notation import passes_text
from rung.scoring.scorers import SCORERS
from rung.spec import Spec

COLD_STEPS = 3
COLD_ROWS, PROBE_ROWS = 8, 64
"""The first answers wait for what the engine sets up; those that are timed then are as many as are quick."""
PROBE_SHARE = 0.03
COMMON = 0.5
"""What so many rows want may well be the answer to nearly all of them."""
NEAR_TIE = 0.02
"""An unusual form must score this much more: one-token codes are shortest to learn and say."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The best adapter (a PEFT folder, or one of `full`), the answer form it was trained for, and the trials.

    `passes` are those of its arm through the training rows, what was no better than the adapter included.
    `cut_short`: their time ended before dev was seen to stop rising. It has `step` steps of `batch` rows at
    `rate`, which fell to nothing between the ends of `decay`, if at all; the same again, with the answers to
    dev, would take `again_s`.
    """

    form: str
    rate: float
    batch: int
    step: int
    decay: tuple[int, int] | None
    again_s: float
    adapter: Path
    what: str
    passes: float
    cut_short: bool
    trials: tuple[Trial, ...]
    notes: tuple[str, ...]


def tune(context: Context, specs: dict[str, Spec], plan: Plan) -> Outcome:
    """Search, train, keep the best; once more at a third of the rate where the tune collapsed.

    Raises TrainingError where it collapses again.
    """
    with Tune(context, specs, plan) as state:
        outcome, pace = _tune(state), state.pace
    if pace.known:
        kept = {"learn_s": pace.step_s / outcome.batch, "answer_s": pace.served_s}
        write_json(context.folder / PACE_FILE, kept)
    return outcome


def foresee(context: Context, specs: dict[str, Spec], plan: Plan) -> Length:
    """How long `tune` will take once its first steps are done, and a last pass over dev.

    The steps are done here, and not again by `tune`. Raises TrainingError as that does.
    """
    with Tune(context, specs, plan) as state:
        forms = list(specs)
        return _settle_length(state, _sure(state, forms), forms)


def _tune(state: Tune) -> Outcome:
    context, forms = state.context, list(state.specs)
    length = _settle_length(state, _sure(state, forms), forms)
    notes = [state.base_said] if state.base_said else []
    if state.left_out:
        notes.append(f"{state.left_out} rows longer than {context.limit:,} tokens were left out of training")
    rows = context.dev[: length.rows]
    if len(rows) < len(context.dev):
        notes.append(f"scored on {len(rows)} of {len(context.dev)} dev rows on the way: answers are slow")
    winner, searched = _search(state, forms, length, notes)
    best, decay, cut_short = _train(state, winner, searched, length, notes)
    if why := _collapsed(context, best, rows):
        notes.append(f"{winner.name} collapsed (score {best['score']:.3f}), so a third of the rate was tried")
        winner = Arm(form=winner.form, rate=winner.rate / 3)
        behind = _behind(state, winner)
        enough = min(FEWEST_TRIAL_STEPS, MOST_EPOCHS * state.trainer(winner).steps_per_epoch)
        if _fitted(state, winner, behind, length).steps < enough:
            raise TrainingError(
                f"the tune collapsed: {why}; a lower rate had no time: check the rows, or give it more with "
                "--budget"
            )
        best, decay, cut_short = _train(state, winner, behind, length, notes)
        if why := _collapsed(context, best, rows):
            raise TrainingError(
                f"the tune collapsed twice: {why}; check the rows, or give it more with --budget"
            )
    scored = [record for record in state.records if record["kind"] == "score"]
    steps = max(record["step"] for record in scored if record["arm"] == winner.name)
    passes = steps * state.batch / len(state.rows[winner.form])
    if cut_short:
        notes.append(f"the time ended before dev stopped rising, {passes_text(passes)}")
    return Outcome(
        form=winner.form,
        rate=winner.rate,
        batch=state.batch,
        step=best["step"],
        decay=decay if decay is not None and best["step"] > decay[0] else None,
        again_s=seconds_again(state, best["step"]),
        adapter=state.plan.folder / BEST_FOLDER,
        what=(
            f"{state.method.said(state.tuning.rank)}, {winner.name}, {best['step']} steps of {state.batch}, "
            f"answers as {winner.form}"
        ),
        passes=passes,
        cut_short=cut_short,
        trials=tuple(_trial(record) for record in scored),
        notes=tuple(notes),
    )


def _sure(state: Tune, forms: Sequence[str]) -> Arm:
    """The arm that is trained where there's no time for a search, and whose steps tell the pace."""
    state.settle_batch(forms[0], USED_SHARE * (1 - SCORING_SHARE) * state.plan.budget_s)
    return Arm(form=forms[0], rate=_rates(state)[1])


def _rates(state: Tune) -> tuple[float, float, float]:
    """The rates of the search, for so many rows a step as were settled; settled with them."""
    known = state.find(kind="rates")
    if known is None:
        # Earlier versions had the same ones for all batches: what they began is gone on with.
        begun = state.find(kind="plan") is not None
        rates = state.method.rates if begun else state.method.rates_for(state.batch)
        known = state.note({"kind": "rates", "rates": rates})
    low, sure, high = known["rates"]
    return low, sure, high


def _behind(state: Tune, arm: Arm) -> int:
    """The steps that an arm has behind it: a third of a rate may be another of the search's. Settled once."""
    known = state.find(kind="begun", arm=arm.name)
    if known is None:
        known = state.note({"kind": "begun", "arm": arm.name, "step": state.trainer(arm).step})
    return known["step"]


def seconds_again(state: Tune, steps: int) -> float:
    """What so many steps and the System's answers take at the pace so far; 0 where that's unknown.

    The engines have raced by then, and don't again.
    """
    if not state.pace.known:
        return 0.0
    answers = len(state.context.dev) + CLOSING_ROWS
    return steps * state.pace.step_s + answers * state.pace.served_s


def _trial(record: dict) -> Trial:
    """Seconds are those of the tune as a whole, in the rung's `build_s`; a trial has none of its own."""
    return Trial(
        name=f"{record['arm']}, {record['step']} steps (loss {record['loss']:.3f})",
        score=record["score"],
        n=record["n"],
        seconds=0.0,
    )


def _settle_length(state: Tune, arm: Arm, forms: Sequence[str]) -> Length:
    """How many steps and scores fit the time, from the speed of a few of each; settled once."""
    dev = state.context.dev
    known = state.find(kind="plan")
    if known is None:
        # A tune that was killed before it knew its length probes again, from the step that it is at.
        probed = state.trainer(arm).step + PROBE_STEPS
        ticks = state.run(arm, probed)[COLD_STEPS:]
        speed = Speed(
            step_s=statistics.median(tick.seconds for tick in ticks),
            answer_s=answer_s(state, arm, cut=True),
            most=MOST_EPOCHS * state.trainer(arm).steps_per_epoch,
            dev=len(dev),
            forms=len(forms),
            closing=state.closing_rows,
        )
        left_s = state.context.seconds_left - state.plan.reserve_s
        found = asdict(sized(speed, probed, state.plan.budget_s, left_s))
        known = state.note({"kind": "plan", **found, "pace": asdict(state.pace)})
    return Length(
        probed=known["probed"],
        steps=known["steps"],
        stretch=known["stretch"],
        evaluations=known["evaluations"],
        rows=known["rows"],
        tuning_s=known["tuning_s"],
        closing_s=known["closing_s"],
        # Earlier versions didn't note when else a tune may end.
        step_s=known.get("step_s", 0.0),
        ends=known.get("ends", [(known["steps"], known["tuning_s"])]),
    )


def answer_s(state: Tune, arm: Arm, *, cut: bool = False) -> float:
    """Seconds per answer of a dev row, in a batch as large as a small part of the time allows.

    `cut`: of an answer as long as the row's output. After its first steps a tune still writes on to the
    limit: by that pace wikisql's was given 15 of its 144 seconds to train in, and the rest to answers that
    took a fifth of the time foretold.
    """
    dev, pace = state.context.dev, state.pace
    state.answers(arm, dev[:COLD_ROWS], cut=cut)
    quick = int(PROBE_SHARE * state.plan.budget_s / max(pace.answer_s, 1e-9))
    state.answers(arm, dev[: min(PROBE_ROWS, max(COLD_ROWS, quick))], cut=cut)
    pace.answer_s = max(pace.answer_s, 1e-9)
    return pace.answer_s


def _fitted(state: Tune, arm: Arm, behind: int, length: Length) -> Length:
    """The length with the steps that fit the time still left, at the pace seen so far; settled once.

    The first few steps run cold: a plan made from them alone leaves half of the time unused, or takes too
    much. Answers are foretold by the last ones. `behind` are the arm's steps so far.
    """
    known = state.find(kind="fitted", arm=arm.name, step=behind)
    if known is None:
        steps = length.steps
        if state.pace.known:
            row_s = state.pace.answer_s
            closing_s = (len(state.context.dev) + state.closing_rows) * row_s
            fit = Fit(
                step_s=state.pace.step_s,
                score_s=length.rows * row_s,
                evaluations=length.evaluations,
                most=MOST_EPOCHS * state.trainer(arm).steps_per_epoch,
            )
            steps = fit.steps(behind, state.context.seconds_left - state.plan.reserve_s - closing_s)
        known = state.note({"kind": "fitted", "arm": arm.name, "step": behind, "steps": steps})
    return replace(length, steps=known["steps"])


def _search(state: Tune, forms: Sequence[str], length: Length, notes: list[str]) -> tuple[Arm, int]:
    """Successive halving; the winner and the steps that it has behind it.

    All rates run for a stretch with the first form; the best goes on for one more, and beside it every
    other form runs as long at that rate. A near-tie goes by `_unusual`, else to the first form.
    """
    if not length.stretch:
        notes.append(f"no search for a rate: {length.steps} steps are too few for it")
        return _sure(state, forms), length.probed
    rows = state.context.dev[: min(length.rows, SEARCH_ROWS)]
    rates = [Arm(form=forms[0], rate=rate) for rate in _rates(state)]
    best = _ranked(state, rates, length.stretch, rows, notes)[0]
    if len(forms) == 1:
        return best, length.stretch
    others = [Arm(form=form, rate=best.rate) for form in forms[1:]]
    steps = 2 * length.stretch
    winner = _ranked(state, [best, *others], steps, rows, notes)[0]
    usual = min([best, *others], key=_unusual)
    if state.find(kind="score", arm=usual.name, step=steps, n=len(rows)) is None:
        return winner, steps
    ours, theirs = (_rank(state, state.score(arm, steps, rows), rows) for arm in (winner, usual))
    ahead = ours[0] > theirs[0] or ours[1] - theirs[1] > NEAR_TIE
    return (winner if ahead else usual), steps


def _unusual(arm: Arm) -> tuple[bool, bool]:
    """By what a near-tie is decided: answers that are held to their functions, then none that read passages.

    Held calls are never broken, and prompts without passages are shorter.
    """
    return arm.form.startswith(TAGGED), not arm.form.endswith(BARE)


def _ranked(
    state: Tune, arms: Sequence[Arm], steps: int, rows: Sequence[Example], notes: list[str]
) -> list[Arm]:
    """The arms that can be trained, the best first. Raises TrainingError when there is none."""
    keys = []
    for place, arm in enumerate(arms):
        try:
            state.run(arm, steps)
            found = state.score(arm, steps, rows)
            apart, value = _rank(state, found, rows)
            loss = found["loss"] if math.isfinite(found["loss"]) else math.inf
            keys.append((not apart, -value, loss, place))
        except TrainingError as error:
            notes.append(f"{arm.name} left out: {error}")
    if not keys:
        raise TrainingError("; ".join(notes))
    return [arms[place] for *_, place in sorted(keys)]


def _train(
    state: Tune, arm: Arm, step: int, length: Length, notes: list[str]
) -> tuple[dict, tuple[int, int] | None, bool]:
    """On from `step` at a constant rate until dev stops rising or half is done, then decay.

    Returns the record of the best score, the steps between which the rate fell, and whether it was the time
    that ended it. Where the loss breaks on the way, what was best before stands.
    """
    best: dict | None = None
    decay: tuple[int, int] | None = None
    waited, short = 0, False
    try:
        while waited < PATIENCE:
            length = _fitted(state, arm, step, length)
            stop = next_score(step, length.steps, length.evaluations)
            if stop <= step:
                break
            step = stop
            state.run(arm, step)
            found = _better(state, arm, step, length, best)
            waited = waited + 1 if found is best else 0
            best = found
        stops = decay_scores(step, length.steps, length.evaluations)
        for stop in stops:
            decay = (step, stops[-1])
            state.run(arm, stop, decay=decay)
            best = _better(state, arm, stop, length, best)
        last = stops[-1] if stops else step
        # No time for a step after the probe: what that made is all there is.
        best = best or _better(state, arm, step, length, best)
        passes_left = length.steps < MOST_EPOCHS * state.trainer(arm).steps_per_epoch
        short = passes_left and waited < PATIENCE and best["step"] == last
    except TrainingError as error:
        if best is None:
            raise
        notes.append(f"{arm.name} ended early: {error}")
    return best, decay, short


def _better(state: Tune, arm: Arm, step: int, length: Length, best: dict | None) -> dict:
    """The better of `best` and the arm's score now; the better one's adapter is kept."""
    rows = state.context.dev[: length.rows]
    found = state.score(arm, step, rows)
    if best is not None and _rank(state, found, rows) <= _rank(state, best, rows):
        return best
    state.keep(arm, step)
    return found


def _rank(state: Tune, found: dict, rows: Sequence[Example]) -> tuple[bool, float]:
    """Sorts scores: whatever tells rows apart is before one answer to everything.

    A tune gives all rows what many of them want before it knows which: no call at all is right on a third of
    the rows of some tool users. For a while it scores less than that, and has learned more.
    """
    return _collapsed(state.context, found, rows) is None, found["value"]


def _collapsed(context: Context, best: dict, rows: Sequence[Example]) -> str | None:
    """How a tune collapsed, in words: one answer to everything though the targets differ, or worse than that.

    Where most rows have one label a good tune answers most of them with it, and scores more than it alone.
    One that scores less isn't good yet; it's broken where that's by two standard errors of so many rows.
    """
    targets = [str(e.output) for e in rows]
    first = max(sorted(set(targets)), key=targets.count)
    majority = targets.count(first) / len(targets)
    same = best["commonest"] > 0.95 and majority <= 0.95
    said = f"{best['commonest']:.0%} of its answers are the same and it scores {best['score']:.3f}"
    if context.kind != "label":
        told_apart = majority >= COMMON and _beats_one_answer(context, best, rows, first)
        return said if same and not told_apart else None
    alone = SCORERS[context.bench.metric].summary([first] * len(targets), targets)
    if same:
        return said if best["score"] <= alone else None
    least = alone - 2 * math.sqrt(alone * (1 - alone) / len(targets))
    if context.bench.metric != "accuracy" or best["score"] >= least:
        return None
    return f"it scores {best['score']:.3f} where always giving the commonest label scores {alone:.3f}"


def _beats_one_answer(context: Context, best: dict, rows: Sequence[Example], commonest: str) -> bool:
    """Whether a score is better than that of the commonest output, given to all rows."""
    metric = context.bench.metric
    if metric in ("judge", "style"):
        return False
    outputs = [e.output for e in rows]
    answer = next(output for output in outputs if str(output) == commonest)
    alone = SCORERS[metric].summary([answer] * len(outputs), outputs)
    return context.sign * best["score"] > context.sign * alone
