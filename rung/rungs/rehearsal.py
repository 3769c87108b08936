"""How long a rung's variants will take: the choice among them, rehearsed with what their first rows tell."""

import statistics
from collections.abc import Mapping, Sequence
from random import Random

from rung.errors import EngineError
from rung.evaluate import LOOK_ROWS, Pace, counted_answers, score_of
from rung.records import Answer
from rung.rungs.base import Context, Outlook, Variant
from rung.rungs.paces import (
    SCREEN_ROWS,
    batch_of,
    batched_s,
    by_name,
    closing_s,
    rows_to_screen,
    timing_s,
)
from rung.rungs.variants import Tried, halved, tried

REHEARSALS = 20
"""Their median is told, and the ends of most of them: the first rows leave open when a rung is stopped."""


def outlook(
    context: Context,
    variants: Sequence[Variant],
    screen: int = SCREEN_ROWS,
    *,
    halving: bool = False,
) -> Outlook | None:
    """How long `choose` and the dev score of its choice will take; None where no engine held."""
    found = by_name(context, variants)
    fit = [(v, pace) for v in variants if v.shippable and (pace := found[v.name])]
    if not fit:
        return None
    dev, batch = len(context.dev), batch_of(context)
    few = rows_to_screen(context, variants, screen)
    kept_s = closing_s(context, variants)
    first = {v.name: _first(context, v, pace) for v in variants if (pace := found[v.name])}

    def seconds(dice: Random) -> float:
        on = Rehearsal(context, found, first, dice)
        if halving:
            _, screened, whole = halved(on, variants, range(few), dev, kept_s, [])
        else:
            screened, whole = tried(on, variants, range(few), dev, kept_s, [])
        last = [one for one in (whole or screened) if one.variant.shippable and not one.stopped]
        best = max(last, key=lambda one: one.value, default=None)
        pace = best and found[best.variant.name]
        return on.spent_s + (timing_s(context, best.variant, pace) if best and pace else 0.0)

    times = sorted(seconds(Random(seed)) for seed in range(REHEARSALS))
    tail = REHEARSALS // 10
    return Outlook(
        seconds=statistics.median(times),
        low_s=times[tail - 1],
        high_s=times[-tail],
        least_s=min(pace.seconds(dev - pace.asked, batch) + timing_s(context, v, pace) for v, pace in fit),
    )


def _first(context: Context, variant: Variant, pace: Pace) -> list[Answer]:
    """The answers by which the pace was taken; none for a variant that was given another's pace."""
    kept = context.bench.store.load(variant.system.digest)
    first = [kept[e.id].answer for e in context.dev[: pace.asked] if e.id in kept]
    return first if len(first) == pace.asked else []


class Rehearsal:
    """Variants tried on paper: each goes on at its pace, and scores as in its first answers.

    Each is stopped where the rival would be shown to be out of reach, the rows to come being like a sample
    of those.
    """

    def __init__(
        self,
        context: Context,
        found: Mapping[str, Pace | None],
        first: Mapping[str, Sequence[Answer]],
        dice: Random,
    ) -> None:
        self.context, self.found, self.first, self.dice = context, found, first, dice
        # Where answers are slow some variants gave more of them than others: those rows would decide.
        self.compared = min((len(answers) for answers in first.values() if answers), default=0)
        self.spent_s = 0.0
        self.asked: dict[str, int] = {}
        self.stops: dict[str, int] = {}

    def in_time(self, step: str, seconds: float) -> bool:
        """Whether so many seconds would be left by then."""
        return self.context.seconds_left - self.spent_s > seconds

    def to_ask(self, variant: Variant, rows: range) -> int:
        """How many of these rows a variant would not have answered by then."""
        pace = self.found[variant.name]
        before = self.asked.get(variant.name, pace.asked if pace else 0)
        return max(0, rows.stop - max(rows.start, before))

    def foretold_s(self, variant: Variant) -> float | None:
        """By its first rows; None where its engine broke on them."""
        pace = self.found[variant.name]
        return None if pace is None else batched_s(self.context, pace, len(self.context.dev))

    def attempt(self, variant: Variant, rows: int, what: str) -> Tried:
        """The time that a variant needs for the rows that it hasn't answered yet, and its score so far."""
        pace, dev = self.found[variant.name], len(self.context.dev)
        if pace is None:
            raise EngineError("it broke on the first rows")
        answers = self.first[variant.name]
        stop = self.stops.setdefault(variant.name, self._stop(answers))
        end, before = min(rows, stop), self.asked.get(variant.name, pace.asked)
        self.spent_s += pace.seconds(end - before, batch_of(self.context))
        self.asked[variant.name] = max(end, before)
        return Tried(
            variant=variant,
            value=self._value(answers),
            row_s=batched_s(self.context, pace, end),
            stopped=stop <= end < dev,
        )

    def _stop(self, answers: Sequence[Answer]) -> int:
        dev, rival = self.context.dev, self.context.rival
        if rival is None:
            return len(dev)
        counted, _ = counted_answers(dev[: len(answers)], answers, self.context.bench)
        return rival.foreseen_stop(dev, counted, LOOK_ROWS, self.dice)

    def _value(self, answers: Sequence[Answer]) -> float:
        context, first = self.context, answers[: self.compared]
        return context.sign * score_of(context.dev[: len(first)], first, context.bench) if first else 0.0
