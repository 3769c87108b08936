"""How scores, shares and spans of time are written, wherever people read them."""

import math

from rung.records import Interval, MetricName
from rung.scoring.scorers import SCORERS

NOTHING = "–"
MINUS = "\N{MINUS SIGN}"


def score_text(value: float, metric: MetricName) -> str:
    """A score: `.927` where it is a share, three digits in the task's own units otherwise."""
    if not math.isfinite(value):
        return NOTHING
    if not SCORERS[metric].shares:
        return signed(value, f"{abs(value):,.0f}" if abs(value) >= 999.5 else f"{abs(value):.3g}")
    written = f"{abs(value):.3f}"
    return signed(value, written.removeprefix("0") if abs(value) < 1 else written)


def signed(value: float, written: str) -> str:
    """`written` with a minus sign where the value is under zero, and doesn't read as zero."""
    return MINUS + written if value < 0 and written.strip("0.,") else written


def interval_text(interval: Interval, metric: MetricName) -> str:
    """An interval: `.901–.947`, with `to` where a bound is negative."""
    low, high = score_text(interval.low, metric), score_text(interval.high, metric)
    return f"{low} to {high}" if interval.low < 0 else f"{low}–{high}"


def gain_text(value: float, metric: MetricName) -> str:
    """A difference of two scores, always with its sign."""
    return f"+{score_text(value, metric)}" if value >= 0 else score_text(value, metric)


def usd_text(value: float) -> str:
    """US dollars: two digits that say something, however small the amount."""
    if value <= 0:
        return "$0"
    if value < 1e-6:
        return "< $0.000001"
    if value >= 100:
        return f"${value:,.0f}"
    if value >= 0.995:
        return f"${value:.2f}"
    return f"${value:.{1 - math.floor(math.log10(value))}f}"


def percent_text(share: float) -> str:
    """A share as a percentage; a share short of all never reads as 100 %."""
    if 0.999 <= share < 1:
        return "> 99.9 %"
    return f"{100 * share:.1f}".removesuffix(".0") + " %"


def gains_text(interval: Interval, metric: MetricName) -> str:
    """The interval of a difference, bounds with their signs."""
    return f"{gain_text(interval.low, metric)} to {gain_text(interval.high, metric)}"


def percents_text(interval: Interval) -> str:
    """The interval of a share."""
    return f"{percent_text(interval.low)} to {percent_text(interval.high)}"


def passes_text(passes: float) -> str:
    """How often rows were gone through: `after 41 % of a pass through its rows`, `after 2.3 passes …`."""
    if passes < 0.995:
        return f"after {max(1, round(100 * passes))} % of a pass through its rows"
    return f"after {passes:.1f} passes through its rows"


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
