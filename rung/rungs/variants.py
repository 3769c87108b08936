"""How a rung tries its variants on dev rows, and which one it keeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from rung.errors import EngineError
from rung.evaluate import LOOK_ROWS, Pace
from rung.records import Measurement, Trial
from rung.rungs.base import Context, Variant, first_score
from rung.rungs.paces import SCREEN_ROWS, SLACK, batched_s, by_name, closing_s, rows_to_screen

SURVIVORS, WIDER = 6, 3
"""Of a halving: who go on after the heat, and on how many times as many rows."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A variant with its score on some rows; `value` is the score turned so that more is better.

    It is `stopped` where these show that it can't beat the rival: it gets no more. `row_s` are the seconds
    of one more row, in batches.
    """

    variant: Variant
    value: float
    row_s: float
    stopped: bool


@dataclass(frozen=True, kw_only=True)
class _Measured(Tried):
    """What was truly tried."""

    found: Measurement

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


T = TypeVar("T", bound=Tried, covariant=True)


class Trying(Protocol[T]):
    """Where variants are tried: on the dev rows, or as their first answers foretell."""

    def in_time(self, step: str, seconds: float) -> bool:
        """Whether a step of about so many seconds can still be begun."""
        ...

    def to_ask(self, variant: Variant, rows: range) -> int:
        """How many of these dev rows a variant hasn't answered yet."""
        ...

    def foretold_s(self, variant: Variant) -> float | None:
        """Seconds of a row in batches as the variant's first rows foretold; None where they didn't."""
        ...

    def attempt(self, variant: Variant, rows: int, what: str) -> T:
        """A variant on the first dev rows. Raises EngineError where its engine breaks."""
        ...


class _OnDev:
    """On the dev rows themselves, the answers being kept; `told` are the paces by the variants' names."""

    def __init__(self, context: Context, told: Mapping[str, Pace | None]) -> None:
        self.context, self.told = context, told

    def in_time(self, step: str, seconds: float) -> bool:
        return self.context.in_time(step, seconds)

    def to_ask(self, variant: Variant, rows: range) -> int:
        known = self.context.bench.store.load(variant.system.digest)
        return sum(e.id not in known for e in self.context.dev[rows.start : rows.stop])

    def foretold_s(self, variant: Variant) -> float | None:
        pace = self.told.get(variant.name)
        return None if pace is None else batched_s(self.context, pace, len(self.context.dev))

    def attempt(self, variant: Variant, rows: int, what: str) -> _Measured:
        context = self.context
        found = context.measure(variant.system, context.dev[:rows], what)
        asked = len(found.predictions)
        stopped = asked < rows
        if context.rival and asked < len(context.dev) and asked % LOOK_ROWS == 0 and not stopped:
            stopped = context.rival.beyond(context.dev[:asked], [p.answer for p in found.predictions])
        value, row_s = first_value(context, found, asked), found.seconds_per_answer
        return _Measured(variant=variant, value=value, row_s=row_s, found=found, stopped=stopped)


def choose(
    context: Context,
    variants: Sequence[Variant],
    screen: int | None = SCREEN_ROWS,
    *,
    halving: bool = False,
) -> tuple[Variant, tuple[Trial, ...], tuple[str, ...]]:
    """The best variant on dev, with every trial and notes on what was left out.

    All are screened on the first `screen` dev rows, or as many as half the rung's time allows; on all dev
    rows where it's None, since answers take no time. Where there are more, the better half is scored on all
    of them and the best there is chosen. In a successive `halving` a heat on so many rows comes first: the
    SURVIVORS best of it are screened on WIDER times as many. A tie goes to the one that did better in the
    screening, or to the earlier one. One that can't beat the rival is stopped; where none can, the best on
    the rows that all of them answered is chosen, and the rung is hopeless. What couldn't be finished in the
    rung's time, or whose engine broke, is left out and named; EngineError when that is true of all.
    """
    notes: list[str] = []
    few = len(context.dev) if screen is None else rows_to_screen(context, variants, screen)
    kept_s = 0.0 if screen is None else closing_s(context, variants)
    on = _OnDev(context, {} if screen is None else by_name(context, variants))
    dev = len(context.dev)
    heat: list[_Measured] = []
    if halving:
        heat, screened, whole = halved(on, variants, range(few), dev, kept_s, notes)
        few = min(dev, WIDER * few)
    else:
        screened, whole = tried(on, variants, range(few), dev, kept_s, notes)
    if not any(one.variant.shippable for one in screened):
        raise EngineError("; ".join(notes))
    best = _best(context, screened, whole, all_at_once=dev <= few)
    ranked = [sorted(part, key=lambda one: (one.stopped, -one.value)) for part in (heat, screened)]
    trials = [replace(one.trial, chosen=one is best) for one in (*ranked[0], *ranked[1], *whole)]
    return best.variant, tuple(trials), tuple(notes)


def tried(
    on: Trying[T], variants: Sequence[Variant], few: range, dev: int, kept_s: float, notes: list[str]
) -> tuple[list[T], list[T]]:
    """Every variant on the `few` rows, then the better half on all `dev` rows, as far as time allows.

    Those before the few have been answered. `kept_s` are the seconds that have to be left afterwards. `notes`
    are added to.
    """
    screened = _screened(on, variants, few, dev, kept_s, notes)
    going = sorted((one for one in screened if not one.stopped), key=lambda one: -one.value)
    whole: list[T] = []
    if dev > few.stop:
        fit = [one for one in going if one.variant.shippable]
        whole = _on_all(on, fit[: max(1, len(screened) // 2)], few.stop, dev, kept_s, notes)
    return screened, whole


def halved(
    on: Trying[T], variants: Sequence[Variant], few: range, dev: int, kept_s: float, notes: list[str]
) -> tuple[list[T], list[T], list[T]]:
    """Every variant on the first `few` rows, and `tried` of the SURVIVORS on WIDER times as many.

    The heat, then what `tried` gives. There is no heat where `few` are all the rows, or nobody is left.
    """
    heat = _screened(on, variants, few, dev, kept_s, notes)
    going = sorted((one for one in heat if not one.stopped), key=lambda one: -one.value)[:SURVIVORS]
    if dev <= few.stop or not going:
        return [], heat, []
    more = range(few.stop, min(dev, WIDER * few.stop))
    return heat, *tried(on, [one.variant for one in going], more, dev, kept_s, notes)


def _screened(
    on: Trying[T], variants: Sequence[Variant], few: range, dev: int, kept_s: float, notes: list[str]
) -> list[T]:
    """Every variant on the `few` rows, as far as time allows and engines hold."""
    screened: list[T] = []
    for variant in variants:
        step = variant.name if few.start == 0 else f"{variant.name}, {few.stop} rows"
        if screened and not on.in_time(step, SLACK * _to_come(on, variant, screened, few, dev) + kept_s):
            where = "" if few.start == 0 else f" on {few.stop} rows"
            notes.append(f"{variant.name}: not tried{where}, the rung's share of the budget was used up")
            continue
        try:
            screened.append(on.attempt(variant, few.stop, step))
        except EngineError as error:
            notes.append(f"{variant.name}: left out, {error}")
    return screened


def _on_all(on: Trying[T], fit: Sequence[T], few: int, dev: int, kept_s: float, notes: list[str]) -> list[T]:
    """These variants on all dev rows; the first of them whatever the time."""
    whole: list[T] = []
    for one in fit:
        name, seconds = one.variant.name, one.row_s * (dev - few)
        if whole and not on.in_time(f"{name}, all dev rows", SLACK * seconds + kept_s):
            notes.append(f"{name}: all dev rows would have taken {seconds:.0f} s; left out")
            continue
        try:
            whole.append(on.attempt(one.variant, dev, f"{name}, all dev rows"))
        except EngineError as error:
            notes.append(f"{name}: left out on all dev rows, {error}")
    return whole


def _best(
    context: Context, screened: Sequence[_Measured], whole: Sequence[_Measured], *, all_at_once: bool
) -> _Measured:
    """The best of those with an answer to every row, else of those that were stopped.

    Those are compared on the rows that all of them answered. Where all broke, the best in the screening.
    """
    fit = [one for one in screened if one.variant.shippable]
    last = fit if all_at_once else whole
    finished = [one for one in last if not one.stopped]
    halted = [one for one in (*fit, *whole) if one.stopped]
    if not finished and halted:
        rows = min(len(one.found.predictions) for one in halted)
        return max(halted, key=lambda one: first_value(context, one.found, rows))
    return max(finished or fit, key=lambda one: one.value)


def _to_come(on: Trying[T], variant: Variant, screened: Sequence[T], few: range, dev: int) -> float:
    """Seconds for one more variant, at least as slow as the last, and for the best on the other dev rows.

    What was foretold of it is taken to be as far from the truth as what was foretold of the last.
    """
    last = screened[-1]
    row_s, told_s, last_s = last.row_s, on.foretold_s(variant), on.foretold_s(last.variant)
    if told_s and last_s:
        row_s = max(row_s, told_s * row_s / last_s)
    going = [one for one in screened if not one.stopped]
    best = max(going, key=lambda one: one.value, default=None)
    return row_s * on.to_ask(variant, few) + (best.row_s * (dev - few.stop) if best else 0.0)


def first_value(context: Context, found: Measurement, rows: int) -> float:
    """The strict score of the first rows, turned so that more is better."""
    return context.sign * first_score(found, context.dev[:rows])
