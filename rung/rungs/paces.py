"""How fast a rung's variants answer, from their first dev rows, and what follows for a screening."""

from collections.abc import Sequence
from dataclasses import asdict

from pydantic import TypeAdapter

from rung import evaluate
from rung.errors import EngineError
from rung.evaluate import LOOK_ROWS, Pace, timed_s
from rung.records import Json
from rung.rungs.base import Context, Variant

SCREEN_ROWS = 100
FEWEST_SCREENED = 20
PILOTS_S, PILOTS_SHARE = 40.0, 0.2
"""Of all variants together at most, and of the rung's time: where answers are slow, each answers fewer rows
to tell its pace."""


def paces(context: Context, variants: Sequence[Variant]) -> list[Pace | None]:
    """How fast each variant answers, from its first dev rows; None where the engine broke. Settled once."""

    def measured() -> Json:
        found: list[Pace | None] = []
        most_s = min(PILOTS_S, PILOTS_SHARE * context.seconds_left) / len(variants)
        for variant in variants:
            first = found[0] if found else None
            if first and first.row_s * len(context.dev) > context.seconds_left:
                found.append(first)  # there is time for the first variant alone, if at all
                continue
            found.append(_pace(context, variant, most_s))
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


def rows_to_screen(context: Context, variants: Sequence[Variant], most: int = SCREEN_ROWS) -> int:
    """How many dev rows to screen on: what half the time allows at the variants' pace, and some at least."""

    def rows() -> int:
        seconds = max(sum(pace.row_s for pace in paces(context, variants) if pace), 1e-6)
        few = int(min(most, max(FEWEST_SCREENED, context.seconds_left / 2 / seconds)))
        # To whole looks, so that a variant can be stopped by all that it was asked.
        return max(1, few // LOOK_ROWS) * LOOK_ROWS if context.rival else few

    found = context.settled("rows to screen on", rows)
    assert isinstance(found, int), "written by this function"
    return min(found, len(context.dev))


def closing_s(context: Context, variants: Sequence[Variant]) -> float:
    """What the timing of single requests will take, with the slowest of the variants."""
    found = zip(variants, paces(context, variants), strict=True)
    return max((timing_s(variant, pace) for variant, pace in found if pace), default=0.0)


def timing_s(variant: Variant, pace: Pace) -> float:
    """What the timing of single requests will take with a variant; nothing where they are paid for."""
    return 0.0 if variant.system.is_hosted else timed_s(pace.alone_s)
