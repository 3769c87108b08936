"""What a report says, in words and formatted numbers: the terminal and the page both take it from here."""

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from rung.climb import ordering
from rung.climb.names import model_of
from rung.climb.sentence import to_label
from rung.records import (
    Calibration,
    CalibrationMap,
    Climb,
    Comparison,
    Disagreement,
    Json,
    LearningCurve,
    Measurement,
    MetricName,
    Parity,
    RungResult,
    Stopped,
)
from rung.records.guarded import Constant
from rung.report.judged import judged_notes
from rung.report.notation import (
    METRIC_NAMES,
    NOTHING,
    count_text,
    memory_text,
    metric_text,
    ms_text,
    opened_text,
    p_text,
    round_count,
    short,
    usd_text,
    value_text,
)
from rung.scoring.cost import break_even_answers, per_1000_correct
from rung.scoring.notation import (
    duration_text,
    gain_text,
    gains_text,
    interval_text,
    percent_text,
    score_text,
)
from rung.scoring.scorers import SCORERS

State: TypeAlias = Literal["shipped", "measured", "over limits", "stopped", "skipped", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One rung's line in the table, every cell as text. `dev` and `test` are (score, interval)."""

    rung: str
    state: State
    mark: str
    what: str
    model: str = ""
    dev: tuple[str, str] = (NOTHING, "")
    test: tuple[str, str] = (NOTHING, "")
    p50_ms: str = NOTHING
    p95_ms: str = NOTHING
    usd: str = NOTHING
    usd_correct: str = NOTHING
    build: str = NOTHING
    memory: str = NOTHING
    faults: str = ""
    took: str = ""


def rows(climb: Climb) -> list[Row]:
    """The table: every rung in the ladder's order, those that weren't measured with the reason.

    `model` is empty in a climb on one model.
    """
    ordered = sorted(climb.results, key=lambda result: result.order)
    if not on_models(climb):
        return [_row(climb, result) for result in ordered]
    return [replace(_row(climb, one), model=one.model or model_of(one.rung)) for one in ordered]


def on_models(climb: Climb) -> bool:
    """Whether candidates are told apart by their models: several were climbed on, or compared with."""
    return len(climb.models) > 1 or any(model_of(one.rung) for one in climb.results)


def measured(climb: Climb) -> list[tuple[RungResult, Measurement]]:
    """The rungs that have a score, each with the one that counts: on test where it was taken, else on dev."""
    ordered = sorted(climb.results, key=lambda result: result.order)
    found = [(result, result.test or result.dev) for result in ordered]
    return [(result, measurement) for result, measurement in found if measurement is not None]


def facts(climb: Climb) -> list[tuple[str, str]]:
    """What the verdict rests on, as (term, text)."""
    decision = climb.decision
    source = "a file of their own" if climb.test_given else "carved from the rows, sealed"
    told = [
        ("Test", f"{count_text(climb.n_test, 'row')}, {source}; {opened_text(climb.openings)}"),
        ("Learned from", f"{count_text(climb.n_train, 'row')}; choices made on {climb.n_dev:,} dev rows"),
    ]
    shown = next((pair for pair in measured(climb) if pair[0].rung == decision.chosen), None)
    if shown:
        _, measurement = shown
        told.insert(0, (f"Score of {decision.chosen}", f"{_scored(measurement)} on {measurement.split}"))
        if shown[0].calibration:
            told.append(("Calibration", calibration_text(shown[0].calibration)))
    deciding = decisive(climb)
    if deciding:
        where = ", on dev" if tests_on_dev(climb) else ""
        told.insert(
            1,
            (f"{deciding.dearer} against {deciding.cheaper}{where}", comparison_text(deciding, climb.metric)),
        )
        told.append(("Smallest detectable gain", detectable_text(deciding, climb.metric)))
    if climb.constant is not None:
        told.append(("Always one answer", constant_text(climb.constant, decision.chosen, climb.metric)))
    told += judged_notes(climb)
    if decision.rows_needed:
        more = to_label(decision.rows_needed, test_given=climb.test_given)
        told.append(("To settle it", f"label {more}"))
    return told


def tests_on_dev(climb: Climb) -> bool:
    """Whether the verdict's tests are those on dev rows: the sealed test was opened for one rung alone."""
    return sum(result.test is not None for result in climb.results) < 2


def decisive(climb: Climb) -> Comparison | None:
    """The comparison that the verdict turned on: the step up to the chosen rung, else from it to the best."""
    decision = climb.decision
    ups = [c for c in decision.comparisons if c.dearer == decision.chosen]
    downs = [c for c in decision.comparisons if c.cheaper == decision.chosen and c.dearer == decision.best]
    for found in ([c for c in ups if c.wins], downs, ups, list(decision.comparisons)):
        if found:
            return found[-1]
    return None


def comparison_text(comparison: Comparison, metric: MetricName) -> str:
    """A paired comparison in one line: gain, interval, and for a gain the p of its one-sided test."""
    low, high = (gain_text(v, metric) for v in (comparison.interval.low, comparison.interval.high))
    odds = f", {p_text(comparison.p_holm)} after Holm" if comparison.gain > 0 else ""
    if comparison.decisive is not None:
        found = comparison.decisive
        odds += f"; better on {found.better:,} rows, worse on {found.worse:,}, sign test {p_text(found.p)}"
    return f"{_gained(comparison.gain, metric)} ({low} to {high}){odds}"


def detectable_text(comparison: Comparison, metric: MetricName) -> str:
    """The smallest gain that the rows can show; rows that are all alike don't tell."""
    if not comparison.discordant:
        return "can't be told: on no row do the two differ"
    return f"{score_text(comparison.smallest_detectable_gain, metric)} with these rows"


def constant_text(constant: Constant, chosen: str | None, metric: MetricName) -> str:
    """What one answer to every row scores, and what the rung to ship gains over it."""
    interval = interval_text(constant.interval, metric)
    gains = gains_text(constant.gain_interval, metric)
    return (
        f"“{short(constant.answer, 60)}” to every row scores {score_text(constant.score, metric)} "
        f"({interval}) on {constant.split}; {chosen} against it {_gained(constant.gain, metric)} ({gains})"
    )


def _gained(gain: float, metric: MetricName) -> str:
    """A gain, which is called so where less is better: there a plus alone reads as a larger error."""
    said = gain_text(gain, metric)
    return said if SCORERS[metric].higher_is_better else f"a gain of {said}"


def disagreement_answers(row: Disagreement, metric: MetricName) -> list[tuple[str, str, str, str]]:
    """Each rung's answer to a row, as (rung, answer shortened, mark, the mark in words)."""
    return [(rung, short(text, 160), *_right(score, metric)) for rung, text, score in row.answers]


def target_text(value: Json) -> str:
    """The target of a row, shortened."""
    return short(value_text(value), 160)


def parity_text(parity: Parity) -> str:
    """How far the serving engine strays from the training one."""
    clear = parity.clear_disagreements
    others = "" if parity.agreement >= 1 else f", {clear or 'none'} of the others beyond a near-tie"
    rows = count_text(parity.agreement_rows, "prompt")
    return (
        f"same answer on {percent_text(parity.agreement)} of {rows}{others}; "
        f"log-probabilities differ by {parity.mean_difference:.4f} nats on average and at most "
        f"{parity.max_difference:.4f} ({count_text(parity.rows, 'prompt')})"
    )


def calibration_text(found: Calibration) -> str:
    """How far the probabilities were off before and after, on how many rows, and what was done to them."""
    scores = found.test or found.dev
    if scores is None:
        return found.note
    before, after = (score_text(one.ece, "accuracy") for one in scores)
    where = "test" if found.test else "dev"
    if found.map.method == "none":
        return f"ECE {before} on {count_text(scores[0].n, f'{where} row')}, probabilities left as they come"
    return f"ECE {before} → {after} on {count_text(scores[0].n, f'{where} row')}, {map_text(found.map)}"


def map_text(by: CalibrationMap) -> str:
    """What is done to the probabilities, in a few words."""
    if by.method == "temperature":
        return f"temperature {by.temperature:.2g}"
    if by.method == "platt":
        return f"Platt scaling, slope {by.slope:.2g}, intercept {by.intercept:.2g}"
    if by.method == "isotonic":
        return f"isotonic regression, {count_text(len(by.knots), 'knot')}"
    return "as they come"


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationRow:
    """A rung's calibration on one split, every cell as text: before and after, one figure for no change."""

    rung: str
    rows: str
    how: str
    ece: tuple[str, ...]
    ece_15: tuple[str, ...]
    by_chance: str
    brier: tuple[str, ...]
    log_loss: tuple[str, ...]


def calibrations(climb: Climb) -> list[CalibrationRow]:
    """The calibrations in the ladder's order, on test rows where the test was opened for the rung."""
    ordered = sorted(climb.results, key=lambda result: result.order)
    found = [_calibration_row(r.rung, r.calibration) for r in ordered if r.calibration is not None]
    return [row for row in found if row is not None]


def _calibration_row(rung: str, found: Calibration) -> CalibrationRow | None:
    scores = found.test or found.dev
    if scores is None:
        return None
    before, after = scores
    shown = scores[:1] if found.map.method == "none" else scores

    def figures(name: str) -> tuple[str, ...]:
        return tuple(score_text(getattr(one, name), "accuracy") for one in shown)

    return CalibrationRow(
        rung=rung,
        rows=f"{before.n:,} {'test' if found.test else 'dev'}",
        how=map_text(found.map) + ("" if found.every_label else ", answers alone"),
        ece=figures("ece"),
        ece_15=figures("ece_15"),
        by_chance=score_text(after.ece_15_by_chance, "accuracy"),
        brier=figures("brier"),
        log_loss=figures("log_loss"),
    )


def reliability(climb: Climb) -> list[tuple[str, str, str, str]]:
    """The shipped rung's calibrated probabilities by bins: rows, mean probability, share right, interval."""
    shipped = next((r for r in climb.results if r.rung == climb.decision.chosen), None)
    scores = shipped and shipped.calibration and (shipped.calibration.test or shipped.calibration.dev)
    if not scores:
        return []
    return [
        (
            f"{one.rows:,}",
            score_text(one.confidence, "accuracy"),
            score_text(one.accuracy, "accuracy"),
            interval_text(one.interval, "accuracy"),
        )
        for one in scores[1].reliability
    ]


def build_usd(climb: Climb, result: RungResult) -> float:
    """What building the rung cost, in US dollars, with the rungs that it rests on."""
    return ordering.build_usd(result, climb.results, climb.usd_per_hour)


def break_even(climb: Climb) -> list[str]:
    """From how many answers on the shipped rung costs less, or more, than each other one."""
    pairs = measured(climb)
    chosen = next((result for result, _ in pairs if result.rung == climb.decision.chosen), None)
    if chosen is None:
        return []
    return [_break_even(climb, chosen, other) for other, _ in pairs if other.rung != chosen.rung]


def curve_lines(curve: LearningCurve, metric: MetricName) -> list[str]:
    """A learning curve in words: the score by the rows learned from, what that means, what is missing."""
    scores = ", ".join(
        f"{count_text(p.rows, 'row')} {score_text(p.score, metric)} ({interval_text(p.interval, metric)})"
        for p in curve.points
    )
    return [*([scores] if scores else []), curve.sentence, *(f"left out: {why}" for why in curve.left_out)]


def _break_even(climb: Climb, chosen: RungResult, other: RungResult) -> str:
    ours, theirs = build_usd(climb, chosen), build_usd(climb, other)
    answers = break_even_answers(ours, chosen.usd_per_1000, theirs, other.usd_per_1000)
    if answers is None:
        if (ours, chosen.usd_per_1000) == (theirs, other.usd_per_1000):
            return f"{chosen.rung} and {other.rung} cost the same."
        first, second = chosen.rung, other.rung
        if ours > theirs or chosen.usd_per_1000 > other.usd_per_1000:
            first, second = second, first
        return f"{first} costs less than {second} from the first answer on, building included."
    low, high = sorted((chosen, other), key=lambda result: result.usd_per_1000)
    about = f"about {round_count(answers)} answers, building included"
    text = f"{low.rung} costs less than {high.rung} after {about}"
    if not climb.answers_per_month:
        return f"{text}."
    months = answers / climb.answers_per_month
    return f"{text}: {'in the first month' if months < 1 else f'after {months:,.1f} months'} at your volume."


def _row(climb: Climb, result: RungResult) -> Row:
    if result.skipped is not None:
        return Row(rung=result.rung, state="skipped", mark="skipped", what=short(result.skipped))
    if result.failed is not None:
        return Row(rung=result.rung, state="failed", mark="failed", what=short(result.failed))
    shown = result.test or result.dev
    if shown is None:
        return Row(rung=result.rung, state="skipped", mark="not measured", what=short(result.what))
    state, mark = _state(climb, result)
    over = f" Over the limits: {', '.join(result.over_limits)}." if result.over_limits else ""
    what = short(result.what) if result.stopped is None else f"{stopped_text(result.stopped)}; {result.what}"
    correct = _usd_correct(result, shown)
    broken = sum(m.failures for m in (result.dev, result.test) if m)
    faults = [f"{count_text(broken, 'call')} broke, counted beside the score"] if broken else []
    if cut := sum(p.answer.cut for p in shown.predictions):
        answers = count_text(len(shown.predictions), f"{shown.split} answer")
        faults.append(f"{cut:,} of {answers} were cut off at the most tokens that one may have")
    return Row(
        rung=result.rung,
        state=state,
        mark=mark,
        what=short(what) + over,
        dev=_cell(result.dev),
        test=_cell(result.test),
        p50_ms=ms_text(shown.p50_s),
        p95_ms=ms_text(shown.p95_s),
        usd=usd_text(result.usd_per_1000),
        usd_correct=NOTHING if correct is None else usd_text(correct),
        build=duration_text(result.build_s),
        memory=memory_text(shown.memory_mb),
        faults="; ".join(faults),
        took=took_text(result),
    )


def stopped_text(stopped: Stopped) -> str:
    """On how few rows a rung's dev score rests, and why."""
    return f"stopped after {stopped.rows:,} of {stopped.of:,} dev rows: can't beat {stopped.rival} any more"


def took_text(result: RungResult) -> str:
    """How long a rung was said to take and took, and its peak memory; nothing where that isn't known."""
    parts = []
    told = result.forecast
    if told is not None and result.took_s:
        if told.seconds is None:
            parts.append(f"no time predicted, at most {duration_text(max(0.0, told.most_s))}")
        else:
            ends = f" ({' to '.join(map(duration_text, told.range_s))})" if told.range_s else ""
            parts.append(f"predicted {duration_text(told.seconds)}{ends}")
        parts.append(f"took {duration_text(result.took_s)}")
    if result.build_peak_mb:
        parts.append(f"peak memory {memory_text(result.build_peak_mb)}")
    return ", ".join(parts)


def peaks_text(climb: Climb) -> str:
    """The most memory that was held in what a climb does beside its rungs; nothing where that isn't known."""
    curves = max((point.peak_mb for curve in climb.curves for point in curve.points), default=0.0)
    phases = (
        ("reading and checks", climb.reading_peak_mb),
        ("learning curves", curves),
        ("test", climb.test_peak_mb),
    )
    return ", ".join(f"{name} {memory_text(peak)}" for name, peak in phases if peak)


def _state(climb: Climb, result: RungResult) -> tuple[State, str]:
    if result.rung == climb.decision.chosen:
        return "shipped", "ship" if climb.decision.kind in ("clear_winner", "tie") else "for now"
    if result.over_limits:
        return "over limits", "over limits"
    if result.stopped:
        return "stopped", ""
    return "measured", "best score" if result.rung == climb.decision.best else ""


def _cell(measurement: Measurement | None) -> tuple[str, str]:
    if measurement is None:
        return NOTHING, ""
    metric = measurement.metric
    return score_text(measurement.score, metric), interval_text(measurement.interval, metric)


def _scored(measurement: Measurement) -> str:
    value, interval = _cell(measurement)
    return f"{value} ({interval}), {metric_text(measurement.metric)}"


def _usd_correct(result: RungResult, shown: Measurement) -> float | None:
    """The price of 1,000 answers that are right in full; None where the metric can't tell.

    The price of an answer is that of a call, whether it holds or breaks: so is the share of right ones.
    """
    if shown.metric in GRADED:
        return None
    right = sum(p.score is not None and p.score >= 1 for p in shown.predictions)
    return per_1000_correct(result.usd_per_1000, right / len(shown.predictions))


GRADED = ("mae", "spearman", "rouge_l", "style", "judge")
"""Metrics that don't say of an answer whether it is right."""
_WON = {1.0: ("✓", "better than the output"), 0.5: ("≈", "as good"), 0.0: ("✗", "worse")}


def _right(score: float | None, metric: MetricName) -> tuple[str, str]:
    if score is None:
        return "!", "call broke"
    if metric == "mae":
        return ("✓", "right") if score == 0 else ("±", f"off by {score_text(score, metric)}")
    if metric == "judge":
        return _WON[score]
    if score >= 1:
        return "✓", "right"
    if metric in GRADED:
        return _unlike(score, metric)
    if SCORERS[metric].binary or SCORERS[metric].of_set or score <= 0:
        return "✗", "wrong"
    return "~", f"partly right, {score_text(score, metric)}"


def _unlike(score: float, metric: MetricName) -> tuple[str, str]:
    """An answer that isn't the output, under a metric by which it may be good all the same."""
    if SCORERS[metric].of_set:
        return "≠", "other than wanted"
    return "~", f"{METRIC_NAMES[metric]} {score_text(score, metric)}"
