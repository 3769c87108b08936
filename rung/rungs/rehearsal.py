"""How long a rung's variants will take: the choice among them, rehearsed with what their first rows tell."""

import statistics
from collections.abc import Mapping, Sequence
from random import Random

from rung.errors import EngineError
from rung.evaluate import CHUNK, LOOK_ROWS, Pace, counted_answers, score_of
from rung.records import Answer
from rung.rungs.base import Context, Outlook, Variant
from rung.rungs.paces import SCREEN_ROWS, closing_s, paces, rows_to_screen, timing_s
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
    found = dict(zip((v.name for v in variants), paces(context, variants), strict=True))
    fit = [(v, pace) for v in variants if v.shippable and (pace := found[v.name])]
    if not fit:
        return None
    dev, batch = len(context.dev), LOOK_ROWS if context.rival else CHUNK
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
        return on.spent_s + (timing_s(best.variant, pace) if best and pace else 0.0)

    times = sorted(seconds(Random(seed)) for seed in range(REHEARSALS))
    tail = REHEARSALS // 10
    return Outlook(
        seconds=statistics.median(times),
        low_s=times[tail - 1],
        high_s=times[-tail],
        least_s=min(pace.seconds(dev - pace.asked, batch) + timing_s(v, pace) for v, pace in fit),
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
        self.spent_s = 0.0
        self.asked: dict[str, int] = {}
        self.stops: dict[str, int] = {}

    def in_time(self, step: str, seconds: float) -> bool:
        """Whether so many seconds would be left by then."""
        return self.context.seconds_left - self.spent_s > seconds

    def attempt(self, variant: Variant, rows: int, what: str) -> Tried:
        """The time that a variant needs for the rows that it hasn't answered yet, and its score so far."""
        pace, dev = self.found[variant.name], len(self.context.dev)
        if pace is None:
            raise EngineError("it broke on the first rows")
        batch = LOOK_ROWS if self.context.rival else CHUNK
        answers = self.first[variant.name]
        stop = self.stops.setdefault(variant.name, self._stop(answers))
        end, before = min(rows, stop), self.asked.get(variant.name, pace.asked)
        self.spent_s += pace.seconds(end - before, batch)
        self.asked[variant.name] = max(end, before)
        full = min(batch, end)
        return Tried(
            variant=variant,
            value=self._value(answers),
            row_s=pace.seconds(full, full) / full,
            stopped=stop <= end < dev,
        )

    def _stop(self, answers: Sequence[Answer]) -> int:
        dev, rival = self.context.dev, self.context.rival
        if rival is None:
            return len(dev)
        counted, _ = counted_answers(dev[: len(answers)], answers, self.context.bench)
        return rival.foreseen_stop(dev, counted, LOOK_ROWS, self.dice)

    def _value(self, answers: Sequence[Answer]) -> float:
        context = self.context
        rows = context.dev[: len(answers)]
        return context.sign * score_of(rows, answers, context.bench) if rows else 0.0
