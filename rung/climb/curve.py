"""The learning curve: a rung trained on a quarter and on half of its rows, beside all of them.

Every subset is part of the next larger one, where one version drew both, and keeps about the labels' shares,
also where groups stay whole. All are scored on the same dev rows, so that half can be compared with all of
them row by row.
"""

import hashlib
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from rung.climb.budget import weight
from rung.climb.clock import Clock
from rung.climb.machine import Watch
from rung.climb.names import rung_of
from rung.climb.rebuilding import or_anew
from rung.climb.steps import Step
from rung.climb.stored import FAILED_FILE, dump, load
from rung.errors import RunError, RungError
from rung.memory import within_memory
from rung.records import Climb, CurvePoint, Example, LearningCurve, Measurement, MetricName, RungResult
from rung.rungs.base import WORK_FOLDER, Context
from rung.runs import write_json
from rung.scoring import paired
from rung.scoring.measure import rescored
from rung.scoring.notation import duration_text, score_text, signed
from rung.scoring.scorers import SCORERS
from rung.task.draws import drawn_with, named_draws
from rung.task.outputs import canonical

TRAINED = ("head", "sft")
"""The rungs that learn from the training rows: what others make of more rows isn't training."""
SHARES = (0.25, 0.5)
POINT_FILE = "point.json"
FEWEST_ROWS = 10
ALPHA = 0.05
MIN_GAIN = 0.02
"""A gain of less, of a metric that is a share, isn't worth doubling the rows for."""
LIKE_PASSES = 0.8
"""Of the passes that a tune made through all rows, half of them must have had so many: else it's the time
that is compared, and not the rows."""


@dataclass(frozen=True, kw_only=True)
class _Point:
    """A rung trained on some rows, and its answers to the dev rows."""

    shown: CurvePoint
    dev: Measurement


def to_come(rungs: Sequence[str]) -> float:
    """The weight in the budget of the curves of these rungs, beside the rungs' own."""
    return sum(share * weight(name) for name in rungs if name in TRAINED for share in SHARES)


def drawable(results: Sequence[RungResult]) -> list[str]:
    """The rungs of these results with a curve: scored to their end, a tune after all its rows."""
    return [
        rung_of(one.rung)
        for one in results
        if one.dev is not None and one.stopped is None and (one.passes is None or one.passes >= 1)
    ]


def drawn_all(found: Climb) -> bool:
    """Whether a finished climb has the curves that can be drawn of it."""
    trained = [r for r in found.results if rung_of(r.rung) in TRAINED and r.dev is not None]
    return len(found.curves) == len(trained)


def curves(
    steps: Sequence[Step], results: Sequence[RungResult], context_of: Callable[[Step], Context], clock: Clock
) -> tuple[LearningCurve, ...]:
    """The learning curve of each trained step that has a dev score on all rows, the cheapest first.

    A step's context has all the training rows, the folder of the curves and the deadline of them all. A point
    gets time by its rows and its rung's weight, and what one leaves goes to the others; one for which there
    is no time, or that can't be trained, is left out and named. What is done is kept in the folder.
    """
    by_name = {result.rung: result for result in results}
    drawn = [s for s in steps if s.rung.name in TRAINED and by_name[s.name].dev is not None]
    if not drawn:
        context_of(steps[-1]).reporter.say(
            f"no learning curve: none of {' and '.join(TRAINED)} has a dev score"
        )
    found = []
    for place, step in enumerate(drawn):
        context = context_of(step)
        order = nested(context.train, context.seed)
        later = to_come(drawable([by_name[other.name] for other in drawn[place + 1 :]]))
        found.append(_curve(step, by_name[step.name], replace(context, train=order), clock, later))
    return tuple(found)


def nested(rows: Sequence[Example], seed: int) -> tuple[Example, ...]:
    """The rows in an order whose every beginning has about the outputs' shares, the same for a seed.

    Rows of one group, and rows that ask the same thing, come together, in the share of the output that most
    of them have: half of them teach nearly what all do.
    """
    names = named_draws(rows)

    def drawn(row: Example) -> str:
        return hashlib.sha256(f"{seed}:curve:{names[row.id]}".encode()).hexdigest()

    units: dict[str, list[Example]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.id):
        units[drawn(row)].append(row)
    strata: dict[str, list[str]] = defaultdict(list)
    for place, unit in units.items():
        counts = Counter(canonical(row.output) for row in unit)
        strata[min(counts, key=lambda output: (-counts[output], output))].append(place)
    ranked: list[tuple[float, str]] = []
    for places in strata.values():
        before, of = 0, sum(len(units[place]) for place in places)
        for place in sorted(places):
            ranked.append(((before + len(units[place]) / 2) / of, place))
            before += len(units[place])
    return tuple(row for _, place in sorted(ranked) for row in units[place])


def _curve(step: Step, result: RungResult, context: Context, clock: Clock, later: float) -> LearningCurve:
    """One rung's points. `later` is the weight of the curves that come after it."""
    whole = result.dev
    assert whole is not None, "only measured rungs have a curve"
    if why := _no_curve(step, result, len(context.train)):
        return LearningCurve(rung=step.name, points=(), sentence=f"No curve of {step.name}: {why}.")
    points: dict[float, _Point] = {}
    left_out: list[str] = []
    for place, share in enumerate(SHARES):
        rows = context.train[: round(share * len(context.train))]
        after = sum(SHARES[place + 1 :]) * weight(step.rung.name) + later
        made = _point(step, replace(context, train=rows), clock, share, after)
        if isinstance(made, str):
            context.reporter.say(f"{_name(step, share)}: {made}")
            left_out.append(f"{share:.0%} of the rows ({len(rows):,}): {made}")
        else:
            points[share] = made
    all_rows = CurvePoint(
        rows=len(context.train),
        score=whole.score,
        interval=whole.interval,
        n=whole.n,
        seconds=result.build_s,
        passes=result.passes,
    )
    curve = LearningCurve(
        rung=step.name,
        points=(*(one.shown for one in points.values()), all_rows),
        left_out=tuple(left_out),
        sentence="",
    )
    half = points.get(SHARES[-1])
    curve = told(curve, half and half.dev, whole, context)
    if half is None or curve.p is None or curve.p > ALPHA or not (why := _unlike(half.shown, all_rows)):
        return curve
    return replace(curve, sentence=f"Whether more rows would help {step.name} can't be told: {why}.")


def _no_curve(step: Step, result: RungResult, rows: int) -> str | None:
    """Why a rung with a dev score has nothing that parts of its rows could be compared with."""
    if result.stopped is not None:
        on = f" --models {step.base.given}" if "@" in result.rung else ""
        return (
            f"it was stopped after {result.stopped.rows:,} dev rows, so that there is nothing to compare "
            f"with; `--rungs {step.rung.name}{on}` climbs it alone, to its end"
        )
    if result.passes is not None and result.passes < 1:
        return (
            f"its time ended when it had gone through {result.passes:.0%} of its {rows:,} rows, so that more "
            "of them would change nothing; give it more time, --budget"
        )
    return None


def _unlike(half: CurvePoint, whole: CurvePoint) -> str | None:
    """Why half of the rows can't be compared with all of them: they were gone through less often."""
    if half.passes is None or whole.passes is None or half.passes >= LIKE_PASSES * whole.passes:
        return None
    return (
        f"half of them had time for {half.passes:.1f} passes, all of them for {whole.passes:.1f}, which may "
        "be all of the gain; climb again with more, --budget"
    )


def _as_scored_now(point: _Point, context: Context) -> _Point:
    """A kept point, to stand beside those to come."""
    dev = rescored(point.dev, context.dev)
    return _Point(shown=replace(point.shown, score=dev.score, interval=dev.interval), dev=dev)


def _point(step: Step, context: Context, clock: Clock, share: float, after: float) -> _Point | str:
    """A rung on a share of the rows, kept or made now; why not, where it can't be."""
    folder = context.folder / _folder(step, share)
    kept = folder / POINT_FILE
    if kept.exists():
        return _as_scored_now(load(kept, _Point), context)
    targets = Counter(canonical(row.output) for row in context.train)
    if len(context.train) < FEWEST_ROWS:
        return f"fewer than {FEWEST_ROWS} rows"
    if context.kind == "label" and len(targets) < 2:
        return "they have one label only"
    ids = {row.id for row in (*context.train, *context.dev)}
    part = replace(context, folder=folder, too_long=context.too_long & ids)
    made = partial(_made, step, part, clock, share, after)
    return or_anew(made, folder, _name(step, share), clock, context.reporter)


def _made(step: Step, context: Context, clock: Clock, share: float, after: float) -> _Point | str:
    """The same, made now in the context's folder, in its share of the time until the context's deadline."""
    rung, name, folder = step.rung, _name(step, share), context.folder
    start = time.monotonic() - clock.building.get(name, 0.0)
    own = share * weight(rung.name)
    left = context.deadline - start
    part = replace(context, deadline=start + left * own / (own + after))
    beat = partial(clock.beat, name, start)
    if left <= 0:
        return "no time of the budget is left; climb again with more, --budget"
    context.reporter.say(f"{name}: {len(context.train):,} rows, at most {duration_text(part.seconds_left)}")
    (folder / FAILED_FILE).unlink(missing_ok=True)
    try:
        if reason := rung.skip(part):
            return reason
        with Watch(beat) as watch, within_memory():
            made = rung.build(part)
            dev = part.measure(made.system, part.dev, name)
    except RunError:
        raise
    except RungError as error:
        write_json(folder / FAILED_FILE, {"failed": str(error)})
        return str(error)
    finally:
        beat()
    shown = CurvePoint(
        rows=len(context.train),
        score=dev.score,
        interval=dev.interval,
        n=dev.n,
        seconds=time.monotonic() - start,
        passes=made.passes,
        peak_mb=watch.peak_mb,
    )
    context.reporter.say(f"{name}: {score_text(dev.score, dev.metric)} on {dev.n:,} dev rows")
    found = _Point(shown=shown, dev=dev)
    dump(folder / POINT_FILE, _Point, found)
    shutil.rmtree(folder / WORK_FOLDER, ignore_errors=True)
    return found


def point_name(folder: str) -> str:
    """What a point is called on screen and by the clock, by the name of its folder."""
    step, _, percent = folder.rpartition("-")
    return f"{step} on {percent}% of the rows"


def _name(step: Step, share: float) -> str:
    return point_name(_folder(step, share))


def _folder(step: Step, share: float) -> str:
    return f"{step.name}-{100 * share:.0f}"


def told(
    curve: LearningCurve, half: Measurement | None, whole: Measurement, context: Context
) -> LearningCurve:
    """The curve with the paired gain of all rows over half of them, and in words what it says of more."""
    if half is None:
        sentence = f"Whether more rows would help {curve.rung} can't be told: half of them wasn't scored."
        return replace(curve, sentence=sentence)
    targets = {row.id: row.output for row in context.dev}
    pair = paired.pair_up(half, whole, targets=targets, groups=drawn_with(context.dev))
    if pair.n == 0:
        return replace(curve, sentence=f"No dev row was answered by both halves of {curve.rung}'s curve.")
    gain, interval = paired.gain(pair), paired.gain_interval(pair, context.seed)
    p = paired.p_value(pair, context.seed)
    metric, rows = whole.metric, curve.points[-1].rows
    least = MIN_GAIN * pair.unit
    low, high, amount = (_amount(value, metric) for value in (interval.low, interval.high, gain))
    unit = " points" if SCORERS[metric].shares else ""
    amount = f"{amount}{unit} ({low} to {high})"
    timed = curve.points[-1].passes is not None
    said = f"{curve.rung}: doubling the rows to {rows:,}{', and the time with them,' if timed else ''} "
    if p <= ALPHA:
        said += f"gained {amount}: more rows would probably help"
        said += "" if gain >= least else ", by little"
    elif interval.high < least:
        said += f"gained no more than chance, {amount}: more rows of this kind would hardly help"
    else:
        said += f"gained {amount}, which may be chance: whether more rows would help isn't settled"
    return replace(curve, gain=gain, interval=interval, p=p, sentence=said + ".")


def _amount(value: float, metric: MetricName) -> str:
    """A difference in points, or in the metric's units."""
    if SCORERS[metric].shares:
        return signed(value, f"{abs(100 * value):.1f}")
    return score_text(value, metric)
