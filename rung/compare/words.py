"""The outcome of a comparison in one plain sentence."""

from rung.climb.sentence import CLEARLY_CHEAPER, rounded
from rung.compare.compare import Compared, Scored
from rung.records import Interval, MetricName
from rung.scoring.notation import score_text, signed
from rung.scoring.scorers import SCORERS
from rung.scoring.stats import FEWEST_GROUPS


def verdict(found: Compared) -> str:
    """Which of the two is better, that neither is, or what is missing to tell; and on whose word."""
    said, trust = _verdict(found), found.trust
    if trust is None:
        return said
    if trust.backed or found.outcome.found == "too_few":
        return f"{said} {trust.said}"
    return f"Judge-only, not decided: by the judge alone, {said} {trust.said}"


def _verdict(found: Compared) -> str:
    o, metric = found.outcome, found.first.measurement.metric
    scores = f"B scores {_score(found.second)} and A {_score(found.first)} on {found.told}"
    rows = f"{o.n:,} rows answered by both"
    if o.found == "too_few":
        return f"No verdict: {rows} are fewer than the 50 that one needs; {scores}."
    gain = f"{_amount(o.gain, metric)} ({_ends(o.interval, metric)})"
    least = _amount(o.least, metric).removeprefix("+")
    if o.found in ("first_better", "second_better"):
        better, worse = ("B", "A") if o.found == "second_better" else ("A", "B")
        p = min(o.p_first, o.p_second)
        little = f", though by less than {least}" if abs(o.gain) < o.least else ""
        return f"{better} is better than {worse}{little}: {scores}, a gain of {gain}, {_odds(p)}, {rows}."
    if o.found == "alike":
        cheaper = _cheaper(found)
        way = f"; take {cheaper}, which costs less to run" if cheaper else ""
        return f"Neither is better by {least} or more: {scores}, a gain of {gain}, {rows}{way}."
    more = "" if o.rows_needed is None else f"; about {rounded(o.rows_needed):,} more rows would settle it"
    if o.one_group:
        more = ", all of one group or question, which alone shows no gain; it takes rows of "
        more += f"{FEWEST_GROUPS} at least"
    return f"Not settled: {scores}, a gain of {gain}, which may be chance or matter, {rows}{more}."


def _score(one: Scored) -> str:
    return score_text(one.measurement.score, one.measurement.metric)


def _cheaper(found: Compared) -> str | None:
    """The one that clearly costs less to run, if either does."""
    a, b = found.first.usd_per_1000, found.second.usd_per_1000
    if a * CLEARLY_CHEAPER < b:
        return "A"
    return "B" if b * CLEARLY_CHEAPER < a else None


def _ends(interval: Interval, metric: MetricName) -> str:
    ends = (_amount(value, metric).removesuffix(" points") for value in (interval.low, interval.high))
    return " to ".join(ends)


def _amount(value: float, metric: MetricName) -> str:
    """A gain in points, or in the metric's units, with its sign."""
    if SCORERS[metric].shares:
        text = signed(value, f"{abs(100 * value):.1f}") + " points"
    else:
        text = score_text(value, metric)
    return text if value < 0 else f"+{text}"


def _odds(p: float) -> str:
    return "p < .001" if p < 0.001 else f"p = {p:.3f}".replace("0.", ".", 1)
