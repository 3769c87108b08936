"""Whether a tune learned its rows by heart, or gives one answer to everything."""

import math
import random
from collections import Counter
from collections.abc import Sequence

from rung.records import Example, Measurement
from rung.records.guarded import Collapse, Overfit
from rung.rungs.base import Context
from rung.scoring import stats
from rung.scoring.scorers import SCORERS, worst_error
from rung.system import System

TRAIN_ROWS = 200
CLEAR_GAP = 0.1
"""Of a share, or of what an unreadable answer counts for: a gap worth a word."""
COLLAPSED = 0.9


def overfit(context: Context, system: System, dev: Measurement) -> Overfit | None:
    """A tune's score on some training rows, asked as dev was, against that on dev.

    None where there's no time for it, and of style, whose scores on unlike numbers of rows don't compare. The
    rows are drawn by the seed. EngineError when all calls broke.
    """
    if dev.metric == "style":
        return None
    fitting = [e for e in context.train if e.id not in context.too_long]
    rows = random.Random(context.seed).sample(fitting, min(TRAIN_ROWS, len(fitting)))
    if not rows or not context.in_time("training rows", len(rows) * dev.seconds_per_answer):
        return None
    train = context.measure_all(system, rows, f"{system.spec.rung} on {len(rows)} training rows", "train")
    shares = SCORERS[dev.metric].shares
    worth = CLEAR_GAP * (1.0 if shares else worst_error([e.output for e in context.dev]))
    return gap(train, dev, worth)


def gap(train: Measurement, dev: Measurement, worth: float) -> Overfit:
    """How much better the score on training rows is, with a 95 % interval from the two scores' own.

    The rows differ, so the two are independent; their intervals are put together by MOVER (Zou & Donner
    2008), which for two rates is Newcombe's. `clear` where the gap exceeds `worth` and its interval 0.
    """
    first, second = (train, dev) if SCORERS[dev.metric].higher_is_better else (dev, train)
    found = first.score - second.score
    low = found - math.hypot(first.score - first.interval.low, second.interval.high - second.score)
    high = found + math.hypot(first.interval.high - first.score, second.score - second.interval.low)
    return Overfit(
        rows=train.n,
        train=train.score,
        dev=dev.score,
        gap=found,
        low=low,
        high=high,
        clear=low > 0 and found > worth,
    )


def collapse(dev: Measurement, rows: Sequence[Example]) -> Collapse:
    """How often the commonest answer was given on dev, and whether that's one answer to nearly everything.

    It's collapsed where over COLLAPSED of the answers are the same and not as many targets are. The interval
    is Wilson's. ValueError where every call broke.
    """
    texts = Counter(p.answer.text.strip() for p in dev.predictions if p.answer.failure is None)
    if not texts:
        raise ValueError("no answers to look at")
    (answer, count), n = texts.most_common(1)[0], texts.total()
    interval = stats.wilson(count, n)
    asked = {p.example_id for p in dev.predictions if p.answer.failure is None}
    targets = Counter(str(e.output) for e in rows if e.id in asked)
    wanted = targets.most_common(1)[0][1] / targets.total()
    return Collapse(
        rows=n,
        answer=answer[:80],
        share=count / n,
        low=interval.low,
        high=interval.high,
        wanted=wanted,
        collapsed=count / n > COLLAPSED >= wanted,
    )
