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
from rung.rungs.tune import BEST_FOLDER, Arm, Plan, Tune
from rung.scoring.notation import passes_text
from rung.scoring.scorers import SCORERS
from rung.spec import Spec
from rung.training.loop import WARMUP
from rung.training.methods import RATES

SEARCH_SHARE, MOST_SEARCH_SHARE = 1 / 4, 1 / 3
"""Of the steps: where they are few, a search may take the larger share, or there is none."""
FEWEST_TRIAL_STEPS = 2 * WARMUP
"""A rate that was hardly reached isn't tried: with 12 steps all three of sms_spam's answered "ham" alone."""
MOST_EPOCHS = 10
DECAY_SHARE = 0.5
"""At a constant 2e-3 dev stays noisy and low (.83 on banking77 after 15,000 rows); 5,000 of decay brought
it to .91. Half is on the long side of that quarter."""
MOST_EVALUATIONS, FEWEST_EVALUATIONS = 8, 2
MID_DECAY = 4
"""With fewer evaluations than this there is none halfway down the decay."""
PATIENCE = 2
PROBE_STEPS, COLD_STEPS = 8, 3
COLD_ROWS, PROBE_ROWS = 8, 64
"""The first answers wait for what the engine sets up; those that are timed then are as many as are quick."""
PROBE_SHARE = 0.03
SEARCH_ROWS = 200
NEAR_TIE = 0.02
"""An unusual form must score this much more: one-token codes are shortest to learn and say."""
FEWEST_SCORED = 30
CLOSING_ROWS = 40
"""Answers that parity, the race of the engines and a slower engine than the tune's own cost in the end."""
USED_SHARE = 0.85
"""Of the time: the rest is for what a probe can't foresee."""
SCORING_SHARE = 0.25
"""Of the time, at most: where answers are slow fewer dev rows are scored on the way, and less often."""


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


@dataclass(frozen=True, kw_only=True)
class Length:
    """How many steps the winner may take, those of its trials included, how many a stretch of the search
    (0: no search), and how often and by which dev rows it is scored on the way. `probed` are the steps that
    the first arm has behind it. `tuning_s` are the seconds that all of it takes if dev goes on rising,
    `closing_s` those of the answers after it.
    """

    probed: int
    steps: int
    stretch: int
    evaluations: int
    rows: Sequence[Example]
    tuning_s: float
    closing_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fit:
    """What fits a time, from the seconds that a step and a score take. `most` steps are never passed."""

    step_s: float
    score_s: float
    evaluations: int
    most: int

    def steps(self, done: int, left_s: float) -> int:
        """How many steps, `done` of them, fit together with the scores that so many bring."""
        for scores in range(1, self.evaluations + 3):
            more = max(0, int(USED_SHARE * (left_s - scores * self.score_s) / self.step_s))
            steps = max(done, min(max(PROBE_STEPS, done + more), self.most))
            if len(self.stops(done, steps)) <= scores:
                return steps
        return done

    def stops(self, done: int, steps: int) -> list[int]:
        """The steps after which an arm is scored to its end if dev goes on rising."""
        found, step = [], done
        while (stop := _next_score(step, steps, self.evaluations)) > step:
            found.append(stop)
            step = stop
        return [*found, *_decay_scores(step, steps, self.evaluations)]

    def seconds(self, done: int, left_s: float) -> float:
        """What the rest of a tune takes if dev goes on rising, its steps counted anew after each score."""
        step, spent_s, scored = done, 0.0, False
        steps = self.steps(step, left_s)
        while (stop := _next_score(step, steps, self.evaluations)) > step:
            spent_s += (stop - step) * self.step_s + self.score_s
            step, scored = stop, True
            steps = self.steps(step, left_s - spent_s)
        for stop in _decay_scores(step, steps, self.evaluations):
            spent_s += (stop - step) * self.step_s + self.score_s
            step, scored = stop, True
        return spent_s if scored else self.score_s


def tune(context: Context, specs: dict[str, Spec], plan: Plan) -> Outcome:
    """Search, train, keep the best; once more at a third of the rate where the tune collapsed.

    Raises TrainingError where it collapses again.
    """
    with Tune(context, specs, plan) as state:
        return _tune(state)


def foresee(context: Context, specs: dict[str, Spec], plan: Plan) -> tuple[float, float]:
    """The seconds that `tune` will take once its first steps are done, and those of a last pass over dev.

    The steps are done here, and not again by `tune`. Raises TrainingError as that does.
    """
    with Tune(context, specs, plan) as state:
        forms = list(specs)
        length = _settle_length(state, Arm(form=forms[0], rate=state.method.rates[1]), forms)
        return length.tuning_s, length.closing_s


def _tune(state: Tune) -> Outcome:
    context, forms = state.context, list(state.specs)
    length = _settle_length(state, Arm(form=forms[0], rate=state.method.rates[1]), forms)
    notes = [state.base_said] if state.base_said else []
    if state.left_out:
        notes.append(f"{state.left_out} rows longer than {context.limit:,} tokens were left out of training")
    if len(length.rows) < len(context.dev):
        notes.append(
            f"scored on {len(length.rows)} of {len(context.dev)} dev rows on the way: answers are slow"
        )
    winner, searched = _search(state, forms, length, notes)
    best, decay, cut_short = _train(state, winner, searched, length, notes)
    if why := _collapsed(context, best, length.rows):
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
        if why := _collapsed(context, best, length.rows):
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


def _behind(state: Tune, arm: Arm) -> int:
    """The steps that an arm has behind it: a third of a rate may be another of the search's. Settled once."""
    known = state.find(kind="begun", arm=arm.name)
    if known is None:
        known = state.note({"kind": "begun", "arm": arm.name, "step": state.trainer(arm).step})
    return known["step"]


def seconds_again(state: Tune, steps: int) -> float:
    """What so many steps and the System's answers take at the pace so far; 0 where that's unknown."""
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
    dev, stretches = state.context.dev, _stretches(forms)
    known = state.find(kind="plan")
    if known is None:
        state.settle_batch(arm.form, USED_SHARE * (1 - SCORING_SHARE) * state.plan.budget_s)
        # A tune that was killed before it knew its length probes again, from the step that it is at.
        begun = state.trainer(arm).step
        ticks = state.run(arm, begun + PROBE_STEPS)[COLD_STEPS:]
        step_s = statistics.median(state.batch / tick.rows_per_s for tick in ticks)
        row_s = answer_s(state, arm, cut=True)
        # The finished System answers all of dev once more.
        closing_s = (len(dev) + CLOSING_ROWS) * row_s
        budget_s = max(state.plan.budget_s / 2, state.plan.budget_s - closing_s)
        answers = SCORING_SHARE * budget_s / row_s
        evaluations = int(answers / FEWEST_SCORED) - stretches
        evaluations = min(MOST_EVALUATIONS, max(FEWEST_EVALUATIONS, evaluations))
        rows = min(len(dev), max(FEWEST_SCORED, int(answers / (stretches + evaluations))))
        scoring_s = row_s * (stretches * min(rows, SEARCH_ROWS) + evaluations * rows)
        steps = int((USED_SHARE * budget_s - scoring_s) / step_s)
        most = MOST_EPOCHS * state.trainer(arm).steps_per_epoch
        stretch = _stretch(min(steps, most), stretches)
        lost = stretch * (stretches - (2 if len(forms) > 1 else 1))
        probed = begun + PROBE_STEPS
        steps = max(probed, min(steps - lost, most))
        left_s = state.context.seconds_left - state.plan.reserve_s - closing_s
        searching_s, step = 0.0, probed
        if stretch:
            searching_s = (stretches * stretch - probed) * step_s + stretches * min(rows, SEARCH_ROWS) * row_s
            step = stretch * min(2, len(forms))
        fit = _Fit(step_s=step_s, score_s=rows * row_s, evaluations=evaluations, most=most)
        tuning_s = searching_s + fit.seconds(step, left_s - searching_s)
        plan = {"steps": steps, "stretch": stretch, "evaluations": evaluations, "rows": rows}
        plan |= {"tuning_s": tuning_s, "closing_s": closing_s, "pace": asdict(state.pace)}
        known = state.note({"kind": "plan", "probed": probed, **plan})
    return Length(
        probed=known["probed"],
        steps=known["steps"],
        stretch=known["stretch"],
        evaluations=known["evaluations"],
        rows=dev[: known["rows"]],
        tuning_s=known["tuning_s"],
        closing_s=known["closing_s"],
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
            closing_s = (len(state.context.dev) + CLOSING_ROWS) * row_s
            fit = _Fit(
                step_s=state.pace.step_s,
                score_s=len(length.rows) * row_s,
                evaluations=length.evaluations,
                most=MOST_EPOCHS * state.trainer(arm).steps_per_epoch,
            )
            steps = fit.steps(behind, state.context.seconds_left - state.plan.reserve_s - closing_s)
        known = state.note({"kind": "fitted", "arm": arm.name, "step": behind, "steps": steps})
    return replace(length, steps=known["steps"])


def _stretch(steps: int, stretches: int) -> int:
    """How many of `steps` each of the search's `stretches` gets; 0 where they are too few to search."""
    found = int(steps * SEARCH_SHARE / stretches)
    fits = FEWEST_TRIAL_STEPS * stretches <= steps * MOST_SEARCH_SHARE
    return max(found, FEWEST_TRIAL_STEPS) if fits else 0


def _stretches(forms: Sequence[str]) -> int:
    """Stretches of training in the search: one for each rate, one more for the best, two for other forms."""
    return len(RATES) + 2 * len(forms) - 1 if len(forms) > 1 else len(RATES)


def _search(state: Tune, forms: Sequence[str], length: Length, notes: list[str]) -> tuple[Arm, int]:
    """Successive halving; the winner and the steps that it has behind it.

    All rates run for a stretch with the first form; the best goes on for one more, and beside it every
    other form runs as long at that rate. A near-tie goes by `_unusual`, else to the first form.
    """
    if not length.stretch:
        notes.append(f"no search for a rate: {length.steps} steps are too few for it")
        return Arm(form=forms[0], rate=state.method.rates[1]), length.probed
    rows = length.rows[:SEARCH_ROWS]
    rates = [Arm(form=forms[0], rate=rate) for rate in state.method.rates]
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
            stop = _next_score(step, length.steps, length.evaluations)
            if stop <= step:
                break
            step = stop
            state.run(arm, step)
            found = _better(state, arm, step, length, best)
            waited = waited + 1 if found is best else 0
            best = found
        stops = _decay_scores(step, length.steps, length.evaluations)
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


def _next_score(step: int, steps: int, evaluations: int) -> int:
    """A stretch further, or the plateau's end where that is hardly more than one away."""
    every = max(1, steps // evaluations)
    plateau = max(1, int(steps * (1 - DECAY_SHARE)))
    return plateau if plateau - step < 1.25 * every else step + every


def _decay_scores(step: int, steps: int, evaluations: int) -> list[int]:
    """The decay's end, for a plateau of `step` steps, and a stop halfway where there are enough of them."""
    end = min(steps, step + max(1, int(step * DECAY_SHARE / (1 - DECAY_SHARE))))
    halfway = [step + (end - step) // 2] if evaluations >= MID_DECAY else []
    return [stop for stop in (*halfway, end) if stop > step]


def _better(state: Tune, arm: Arm, step: int, length: Length, best: dict | None) -> dict:
    """The better of `best` and the arm's score now; the better one's adapter is kept."""
    found = state.score(arm, step, length.rows)
    if best is not None and _rank(state, found, length.rows) <= _rank(state, best, length.rows):
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
        return said if same else None
    alone = SCORERS[context.bench.metric].summary([first] * len(targets), targets)
    if same:
        return said if best["score"] <= alone else None
    least = alone - 2 * math.sqrt(alone * (1 - alone) / len(targets))
    if context.bench.metric != "accuracy" or best["score"] >= least:
        return None
    return f"it scores {best['score']:.3f} where always giving the commonest label scores {alone:.3f}"
