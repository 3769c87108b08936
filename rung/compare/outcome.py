"""Two Measurements of the same rows, compared: the numbers, and what they say. Pure.

Nobody has said beforehand which of the two should win, so both directions are tested, each one-sided at
2.5 %: a System is called better in one of twenty comparisons of equals at most.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rung.climb.decide import MIN_GAIN, MIN_ROWS
from rung.records import Interval, Json, Measurement, MetricName
from rung.scoring import paired, stats
from rung.scoring.scorers import SCORERS

ALPHA = 0.05
"""Both directions together."""

Found = Literal["first_better", "second_better", "alike", "open", "too_few"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What the second System gains over the first on the `n` rows that both answered.

    `gain`, `interval`, `least` (a gain worth having) and `smallest_detectable_gain` are in the metric's
    units, more being better. `p_second` is the one-sided p of "the second isn't better", `p_first` of "the
    first isn't"; `narrow` is the 90 % interval, by which both are shown to be alike. `rows_needed` are about
    how many more rows would settle an open outcome; None where all are of `one_group`, which alone shows
    nothing. Without common rows all but `found` and `n` say nothing.
    """

    found: Found
    n: int
    gain: float = 0.0
    interval: Interval = Interval(low=0.0, high=0.0)
    narrow: Interval = Interval(low=0.0, high=0.0, level=0.9)
    p_second: float = 1.0
    p_first: float = 1.0
    discordant: float = 0.0
    smallest_detectable_gain: float = 0.0
    least: float = MIN_GAIN
    rows_needed: int | None = None
    one_group: bool = False


def outcome(
    first: Measurement,
    second: Measurement,
    *,
    targets: Mapping[str, Json],
    groups: Mapping[str, str] | None,
    seed: int,
) -> Outcome:
    """Compare two Systems that were asked the same rows; `targets` and `groups` go by the rows' ids.

    Better: p at most 2.5 % in that direction. Alike: the 90 % interval of the gain lies within two points (of
    a metric in units, 2 % of the targets' range) on either side of none, which is two one-sided tests at 5 %
    (Schuirmann 1987). Else it's open, and under 50 common rows there are too few.
    """
    there = paired.pair_up(first, second, targets=targets, groups=groups)
    if there.n == 0:
        return Outcome(found="too_few", n=0)
    back = paired.pair_up(second, first, targets=targets, groups=groups)
    interval, narrow = paired.gain_interval(there, seed), paired.gain_interval(there, seed, level=0.9)
    spread = paired.spread(there, interval)
    one_group = there.groups is not None and paired.units(there) < 2
    gain, least = paired.gain(there), MIN_GAIN * there.unit
    p_second, p_first = paired.p_value(there, seed), paired.p_value(back, seed)
    found: Found = "open"
    if there.n < MIN_ROWS:
        found = "too_few"
    elif p_second <= ALPHA / 2:
        found = "second_better"
    elif p_first <= ALPHA / 2:
        found = "first_better"
    elif -least < narrow.low and narrow.high < least:
        found = "alike"
    return Outcome(
        found=found,
        n=there.n,
        gain=gain,
        interval=interval,
        narrow=narrow,
        p_second=p_second,
        p_first=p_first,
        discordant=paired.discordant_share(there),
        smallest_detectable_gain=stats.smallest_detectable_gain(there.n, spread, alpha=ALPHA),
        least=least,
        rows_needed=_rows_needed(there, back, interval, seed) if found == "open" and not one_group else None,
        one_group=one_group,
    )


def _rows_needed(there: paired.Pair, back: paired.Pair, interval: Interval, seed: int) -> int:
    """How many more rows would settle it, were the gain what it seems: whichever way is shorter.

    Either it is shown, or, where it is under two points, that it is.
    """
    gain, ways = paired.gain(there), []
    if gain != 0:
        ways.append(paired.rows_for_gain(there, interval, abs(gain), ALPHA / 2))
    if abs(gain) < MIN_GAIN * there.unit:
        ahead = there if gain >= 0 else back
        ways.append(paired.rows_for_sameness(ahead, seed, MIN_GAIN * there.unit))
    return max(min(ways) - there.n, 1)


def row_change(
    first: float | None, second: float | None, metric: MetricName
) -> Literal["up", "down", "none"]:
    """Whether a row's score went up or down, more being better. A call that broke has no score."""
    if first is None or second is None or first == second:
        return "none"
    rises = (second > first) == SCORERS[metric].higher_is_better
    return "up" if rises else "down"
