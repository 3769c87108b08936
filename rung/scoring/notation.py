"""How a score is written, in the verdict's sentence and in the report alike."""

import math

from rung.records import MetricName
from rung.scoring.scorers import SCORERS

NOTHING = "–"
MINUS = "\N{MINUS SIGN}"


def score_text(value: float, metric: MetricName) -> str:
    """A score: `.927` where it is a share, three digits in the task's own units otherwise."""
    if not math.isfinite(value):
        return NOTHING
    if not SCORERS[metric].shares:
        return signed(value, f"{abs(value):,.0f}" if abs(value) >= 1000 else f"{abs(value):.3g}")
    written = f"{abs(value):.3f}"
    return signed(value, written.removeprefix("0") if abs(value) < 1 else written)


def signed(value: float, written: str) -> str:
    """`written` with a minus sign where the value is under zero, and doesn't read as zero."""
    return MINUS + written if value < 0 and written.strip("0.,") else written
