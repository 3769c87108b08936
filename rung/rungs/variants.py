"""How a rung tries its variants on dev rows, how long that will take, and which one it keeps."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from pydantic import TypeAdapter

from rung import evaluate
from rung.errors import EngineError
from rung.evaluate import CHUNK, LOOK_ROWS, Pace, timed_s
from rung.records import Json, Measurement, Trial
from rung.rungs.base import Context, Outlook
from rung.scoring.scorers import SCORERS
from rung.system import System

SCREEN_ROWS = 100
FEWEST_SCREENED = 20
SLACK = 1.2
"""By so much a pass over rows may take longer than its pace says: it's begun only if it fits even then."""
PILOTS_S = 40.0
"""Of all variants together, at most: where answers are slow, each answers fewer rows to tell its pace."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way of doing a rung. One that isn't `shippable` is scored for comparison alone."""

    name: str
    system: System
    shippable: bool = True


@dataclass(frozen=True, kw_only=True)
class _Tried:
    """A variant with its score on some rows; `value` is the score turned so that more is better.

    It is `stopped` where these show that it can't beat the rival: it gets no more.
    """

    variant: Variant
    value: float
    found: Measurement
    stopped: bool

    @property
    def trial(self) -> Trial:
        n = len(self.found.predictions)
        return Trial(
            name=self.variant.name,
            score=self.found.score,
            n=n,
            seconds=self.found.seconds_per_answer * n,
            stopped=self.stopped,
        )


def paces(context: Context, variants: Sequence[Variant]) -> list[Pace | None]:
    """How fast each variant answers, from its first dev rows; None where the engine broke. Settled once."""

    def measured() -> Json:
        found: list[Pace | None] = []
        for variant in variants:
            first = found[0] if found else None
            if first and first.row_s * len(context.dev) > context.seconds_left:
                found.append(first)  # there is time for the first variant alone, if at all
                continue
            found.append(_pace(context, variant, PILOTS_S / len(variants)))
        return [pace and asdict(pace) for pace in found]

    kept = context.settled("seconds per answer", measured)
    return TypeAdapter(list[Pace | None]).validate_python(kept)


def _pace(context: Context, variant: Variant, most_s: float) -> Pace | None:
    bar = context.reporter.begin(f"{variant.name}: how fast it answers", None)
    try:
        return evaluate.pace(variant.system, context.dev, context.bench, most_s)
    except EngineError:
        return None
    finally:
        context.reporter.end(bar)


def outlook(context: Context, variants: Sequence[Variant], screen: int = SCREEN_ROWS) -> Outlook | None:
    """How long `choose` and the dev score of its choice will take; None where no engine held."""
    found = [p for p, v in zip(paces(context, variants), variants, strict=True) if p and v.shippable]
    if not found:
        return None
    every = [pace for pace in paces(context, variants) if pace]
    dev, few = len(context.dev), _affordable(context, variants, screen)
    batch = LOOK_ROWS if context.rival else CHUNK
    closing = timed_s(statistics.fmean(pace.alone_s for pace in found))
    first = sum(pace.seconds(min(few, LOOK_ROWS) - pace.asked, batch) for pace in every)
    return Outlook(
        whole_s=_as_chosen(every, dev, few, batch, context.seconds_left - closing) + closing,
        stopped_s=first,
        least_s=min(pace.seconds(dev - pace.asked, batch) + timed_s(pace.alone_s) for pace in found),
    )


def _as_chosen(every: Sequence[Pace], dev: int, few: int, batch: int, left_s: float) -> float:
    """The seconds of `choose`, should it have so many left, with an average variant as the best."""
    rest = statistics.fmean(pace.seconds(dev - max(few, pace.asked), batch) for pace in every)
    spent, tried = 0.0, 0
    for pace in every:
        screening = pace.seconds(few - pace.asked, batch)
        if not tried or left_s - spent > SLACK * (screening + rest):
            spent, tried = spent + screening, tried + 1
    if dev > few:
        spent += rest
        for _ in range(1, tried // 2):
            spent += rest if left_s - spent > SLACK * rest else 0.0
    return spent


def choose(
    context: Context, variants: Sequence[Variant], screen: int | None = SCREEN_ROWS
) -> tuple[Variant, tuple[Trial, ...], tuple[str, ...]]:
    """The best variant on dev, with every trial and notes on what was left out.

    All are screened on the first `screen` dev rows, or as many as half the rung's time allows; on all dev
    rows where it's None, since answers take no time. Where there are more, the better half is scored on all
    of them and the best there is chosen. A tie goes to the one that did better in the screening, or to the
    earlier one. One that can't beat the rival is stopped; where none can, the best on the rows that all of
    them answered is chosen, and the rung is hopeless. What couldn't be finished in the rung's time, or whose
    engine broke, is left out and named; EngineError when that is true of all.
    """
    notes: list[str] = []
    few = _affordable(context, variants, screen)
    closing_s = 0.0 if screen is None else _closing_s(context, variants)
    screened = _screened(context, variants, few, closing_s, notes)
    if not any(one.variant.shippable for one in screened):
        raise EngineError("; ".join(notes))
    going = sorted((one for one in screened if not one.stopped), key=lambda one: -one.value)
    whole: list[_Tried] = []
    if len(context.dev) > few:
        fit = [one for one in going if one.variant.shippable]
        whole = _on_all(context, fit[: max(1, len(screened) // 2)], few, closing_s, notes)
    best = _best(context, screened, whole, all_at_once=len(context.dev) <= few)
    shown = sorted(screened, key=lambda one: (one.stopped, -one.value))
    trials = [replace(one.trial, chosen=one is best) for one in (*shown, *whole)]
    return best.variant, tuple(trials), tuple(notes)


def _closing_s(context: Context, variants: Sequence[Variant]) -> float:
    """What the timing of single requests will take."""
    return max((timed_s(pace.alone_s) for pace in paces(context, variants) if pace), default=0.0)


def _screened(
    context: Context, variants: Sequence[Variant], few: int, closing_s: float, notes: list[str]
) -> list[_Tried]:
    """Every variant on the first `few` rows, as far as time allows and engines hold."""
    screened: list[_Tried] = []
    for variant in variants:
        if screened and not context.in_time(
            variant.name, SLACK * _to_come(context, screened, few) + closing_s
        ):
            notes.append(f"{variant.name}: not tried, the rung's share of the budget was used up")
            continue
        try:
            screened.append(_try(context, variant, few, variant.name))
        except EngineError as error:
            notes.append(f"{variant.name}: left out, {error}")
    return screened


def _on_all(
    context: Context, fit: Sequence[_Tried], few: int, closing_s: float, notes: list[str]
) -> list[_Tried]:
    """These variants on all dev rows; the first of them whatever the time."""
    whole: list[_Tried] = []
    for one in fit:
        name, seconds = one.variant.name, one.found.seconds_per_answer * (len(context.dev) - few)
        if whole and not context.in_time(f"{name}, all dev rows", SLACK * seconds + closing_s):
            notes.append(f"{name}: all dev rows would have taken {seconds:.0f} s; left out")
            continue
        try:
            whole.append(_try(context, one.variant, len(context.dev), f"{name}, all dev rows"))
        except EngineError as error:
            notes.append(f"{name}: left out on all dev rows, {error}")
    return whole


def _best(
    context: Context, screened: Sequence[_Tried], whole: Sequence[_Tried], *, all_at_once: bool
) -> _Tried:
    """The best of those with an answer to every row, else of those that were stopped.

    Those are compared on the rows that all of them answered. Where all broke, the best in the screening.
    """
    fit = [one for one in screened if one.variant.shippable]
    last = fit if all_at_once else whole
    finished = [one for one in last if not one.stopped]
    halted = [one for one in (*fit, *whole) if one.stopped]
    if not finished and halted:
        rows = min(len(one.found.predictions) for one in halted)
        return max(halted, key=lambda one: _value(context, one.found, rows))
    return max(finished or fit, key=lambda one: one.value)


def _affordable(context: Context, variants: Sequence[Variant], screen: int | None) -> int:
    """How many rows to screen on: what half the time allows at the variants' pace, and some at least."""
    if screen is None:
        return len(context.dev)

    def rows() -> int:
        seconds = max(sum(pace.row_s for pace in paces(context, variants) if pace), 1e-6)
        few = int(min(screen, max(FEWEST_SCREENED, context.seconds_left / 2 / seconds)))
        # To whole looks, so that a variant can be stopped by all that it was asked.
        return max(1, few // LOOK_ROWS) * LOOK_ROWS if context.rival else few

    found = context.settled("rows to screen on", rows)
    assert isinstance(found, int), "written by this function"
    return min(found, len(context.dev))


def _to_come(context: Context, screened: Sequence[_Tried], rows: int) -> float:
    """Seconds for one more variant, at least as slow as the last, and for the best on the other dev rows."""
    going = [one for one in screened if not one.stopped]
    best = max(going, key=lambda one: one.value, default=None)
    rest = best.found.seconds_per_answer * (len(context.dev) - rows) if best else 0.0
    return screened[-1].found.seconds_per_answer * rows + rest


def _try(context: Context, variant: Variant, rows: int, what: str) -> _Tried:
    found = context.measure(variant.system, context.dev[:rows], what)
    asked = len(found.predictions)
    stopped = asked < rows
    if context.rival and asked < len(context.dev) and asked % LOOK_ROWS == 0 and not stopped:
        stopped = context.rival.beyond(context.dev[:asked], [p.answer for p in found.predictions])
    value = _value(context, found, asked)
    return _Tried(variant=variant, value=value, found=found, stopped=stopped)


def _value(context: Context, found: Measurement, rows: int) -> float:
    """The strict score of the first rows, turned so that more is better."""
    first = found.predictions[:rows]
    answers = [p.answer.value if p.answer.failure is None else None for p in first]
    return context.sign * SCORERS[found.metric].summary(answers, [e.output for e in context.dev[:rows]])
