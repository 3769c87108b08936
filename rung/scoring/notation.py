"""How a score and a span of time are written, while a climb runs and in the report alike."""

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


def duration_text(seconds: float) -> str:
    """A span of time: `0.4 s`, `42 s`, `4 m 12 s`, `1 h 05 m`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} m"
