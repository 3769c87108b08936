"""The verdict in words: one plain sentence with names, scores, gains, rows and odds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rung.data.splits import SHARES
from rung.judging import BROKE
from rung.records import Candidate, Comparison, Decision, Interval, MetricName, VerdictKind
from rung.scoring.notation import gain_text, score_text
from rung.scoring.scorers import SCORERS
from rung.scoring.stats import FEWEST_GROUPS

CLEARLY_CHEAPER = 1.25
SAID_UNDER = 0.9
"""Draws are told beside rows where they are fewer than this share of them: a few repeats are no news."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What was found: all rungs, those in the running, the path walked up, the best and the one to ship.

    `draws` is how many draws the rows are: rows of one group, or that ask the same thing, are one.
    `test_given` where the test came as a file of its own. A gain of `least` may win.
    """

    ladder: Sequence[Candidate]
    pool: Sequence[Candidate]
    path: Sequence[Candidate]
    best: Candidate
    shipped: Candidate
    margin: float
    least: float
    split: str
    draws: int
    test_given: bool


def verdict(facts: Facts, kind: VerdictKind, comparison: Comparison | None, rows_needed: int | None) -> str:
    """Say the verdict. `comparison` is the one quoted, None where no rung could be compared."""
    shipped, best = facts.shipped, facts.best
    rows = f"{shipped.measurement.n:,} {facts.split} rows"
    head = f"Ship {shipped.rung}: {_score(shipped)} on {rows}"
    if comparison is None and kind == "undecided":
        said = (
            f"Undecided: {best.rung} scores {_score(best)} and {shipped.rung} {_score(shipped)}, but too few "
            f"{facts.split} rows were answered by both to compare them"
        )
    elif comparison is None:
        said = head if _halted(facts) else f"{head}; no other rung could be compared with it"
    elif kind == "undecided":
        said = (
            f"Undecided between {shipped.rung} ({_score(shipped)}) and {best.rung} ({_score(best)}) "
            f"on {rows}: the gain is neither a clear win nor shown to be under "
            f"{_amount(shipped, facts.margin)} ({_odds(shipped, comparison)}); "
            f"{_to_settle(facts, comparison, rows_needed)}"
        )
    elif kind == "clear_winner" and len(facts.path) > 1:
        beaten = facts.path[-2]
        said = f"{head}; it beats {beaten.rung}'s {_score(beaten)} ({_odds(shipped, comparison)})"
        if best is not shipped:
            margin = _amount(shipped, facts.margin)
            said += f", and {best.rung}'s {_score(best)} isn't better by more than {margin}"
    elif kind == "clear_winner":
        rival = _rung(facts, comparison.dearer)
        said = (
            f"{head}; it's the cheapest and clearly the best, "
            f"next is {rival.rung}'s {_score(rival)} ({_odds(shipped, comparison)})"
        )
    else:
        rival = _rung(facts, comparison.dearer)
        if rival is best and best is not shipped:
            claim = f"isn't better by more than {_amount(shipped, facts.margin)}"
        else:
            claim = f"isn't {'higher' if _up(shipped) else 'lower'}"
            claim += "" if comparison.gain <= 0 else " with its broken calls as wrong"
        said = f"{head}; {rival.rung}'s {_score(rival)} {claim} ({_odds(shipped, comparison)}), "
        said += "so the lower rung is as good"
    said += _drawn(facts) if comparison else ""
    said += _halted(facts) + _cheaper_to_run(facts) + _broken(facts) + _over_limits(facts) + "."
    return said + _useless(facts) + _warned(facts)


def no_verdict(ladder: Sequence[Candidate], *, split: str, rows: int, min_rows: int) -> Decision:
    """Say why nothing can be decided, and show the scores."""
    scores = ", ".join(f"{one.rung} {_score(one)}" for one in ladder)
    if rows < min_rows:
        why = f"{rows:,} {split} rows are fewer than the {min_rows} that a verdict needs"
    elif all(one.over_limits or one.stopped for one in ladder):
        stopped = any(one.stopped and not one.over_limits for one in ladder)
        why = f"every rung is over the limits{' or was stopped' if stopped else ''} ("
        why += "; ".join(f"{one.rung}: {', '.join(one.over_limits) or 'stopped'}" for one in ladder) + ")"
    else:
        why = f"no rung inside the limits answered the {min_rows} {split} rows that a verdict needs"
    return Decision(
        kind="no_verdict",
        chosen=None,
        best=None,
        comparisons=(),
        margin=0.0,
        sentence=f"No verdict: {why}; scores: {scores}.",
    )


def is_between(facts: Facts, comparison: Comparison) -> bool:
    """Whether the gain, were it what it seems, is neither under the margin nor enough to win.

    One draw alone shows no gain: it's other groups or questions that are lacking then.
    """
    return facts.draws > 1 and facts.margin <= comparison.gain < facts.least


def _to_settle(facts: Facts, comparison: Comparison, rows_needed: int | None) -> str:
    """What to do about an undecided verdict. New rows are for the test."""
    shipped = facts.shipped
    if facts.split != "test":
        return f"{shipped.rung} is the lower rung"
    ship = f"ship {shipped.rung}, the lower rung"
    if is_between(facts, comparison):
        wins = _amount(shipped, facts.least)
        return f"more rows would hardly settle it while it lies between that and the {wins} that win: {ship}"
    if rows_needed is None:
        return f"label rows of {FEWEST_GROUPS - 1} other groups or questions at least, or {ship}"
    rows = _rows(facts)
    draws = math.ceil(rows_needed * facts.draws / rows) if are_few(facts.draws, rows) else None
    return f"label {to_label(rows_needed, test_given=facts.test_given, draws=draws)}, or {ship}"


def to_label(rows_needed: int, *, test_given: bool, draws: int | None = None) -> str:
    """About how many test rows are to be labelled, in words; and of how many new `draws`, where told.

    A test that was carved from the rows gets its share of new ones alone: then that many rows are named, too.
    """
    more = rounded(rows_needed)
    said = f"about {more:,} more test row{'' if more == 1 else 's'}"
    if draws is not None:
        said += f" of some {rounded(draws):,} other groups or questions"
    if test_given:
        return said
    share = SHARES["test"]
    return f"{said} (some {rounded(round(more / share)):,} new rows: one in {1 / share:.0f} goes to the test)"


def _drawn(facts: Facts) -> str:
    """Say so where the rows are far fewer draws; in a single one rungs may differ as they do in no other."""
    rows = _rows(facts)
    if facts.draws == 1 and rows > 1:
        return f"; all {facts.split} rows are of one group or question, and one alone shows no gain"
    return f"; {told_draws(facts.draws, f'{facts.split} rows')}" if are_few(facts.draws, rows) else ""


def are_few(draws: int, rows: int) -> bool:
    """Whether so many rows are so few draws that it has to be said."""
    return draws < SAID_UNDER * rows


def told_draws(draws: int, rows: str) -> str:
    """How many draws the rows, named in words, are."""
    return f"the {rows} are of {draws:,} groups or questions, each of which counts as one draw"


def _rows(facts: Facts) -> int:
    """How many rows were asked."""
    return len(facts.shipped.measurement.predictions)


def _rung(facts: Facts, name: str) -> Candidate:
    """The candidate of that name."""
    return next(one for one in facts.pool if one.rung == name)


def _score(candidate: Candidate) -> str:
    return score_text(candidate.measurement.score, candidate.measurement.metric)


def _odds(candidate: Candidate, comparison: Comparison) -> str:
    metric = candidate.measurement.metric
    return odds_text(metric, comparison.gain, comparison.interval, comparison.p_holm)


def odds_text(metric: MetricName, gain: float, interval: Interval, p: float) -> str:
    """A gain, its interval and, where there is one, how likely chance alone would give it."""
    parts = (gain, interval.low, interval.high)
    if SCORERS[metric].shares:
        told, low, high = (f"{100 * part:+.1f}" for part in parts)
        told += " points"
    else:
        told, low, high = (gain_text(part, metric) for part in parts)
        told = f"gain {told}"
    if gain <= 0:
        return f"{told}, {low} to {high}"
    chance = "p < .001" if p < 0.001 else f"p = {p:.3f}".replace("0.", ".", 1)
    return f"{told}, {low} to {high}, {chance}"


def _amount(candidate: Candidate, margin: float) -> str:
    """A margin in points, or in the metric's units."""
    if _is_share(candidate):
        return f"{100 * margin:.1f} points"
    return score_text(margin, candidate.measurement.metric)


def _is_share(candidate: Candidate) -> bool:
    """Whether the metric is a share, told in points."""
    return SCORERS[candidate.measurement.metric].shares


def _up(candidate: Candidate) -> bool:
    """Whether more of the metric is better."""
    return SCORERS[candidate.measurement.metric].higher_is_better


def rounded(rows: int) -> int:
    """Two leading digits, rounded up: an estimate shouldn't look exact."""
    step = 10 ** max(len(str(rows)) - 2, 0)
    return -(-rows // step) * step


def _cheaper_to_run(facts: Facts) -> str:
    """Say so where a higher rung that scores no less was measured to answer for less money."""
    shipped, least = facts.shipped, facts.shipped.usd_per_1000 / CLEARLY_CHEAPER
    up, here = _up(shipped), shipped.measurement.score
    others = [
        one
        for one in facts.pool
        if one.order > shipped.order
        and 0 < one.usd_per_1000 < least
        and (one.measurement.score >= here if up else one.measurement.score <= here)
    ]
    if not others:
        return ""
    one = min(others, key=lambda other: other.usd_per_1000)
    times = shipped.usd_per_1000 / one.usd_per_1000
    return f"; {one.rung}, once built, answers for {times:.1f} times less"


def _halted(facts: Facts) -> str:
    """Name the rungs that were stopped, after how many rows, and what they couldn't beat any more."""
    rivals: dict[str, list[tuple[str, int]]] = {}
    for one in facts.ladder:
        if one.stopped:
            rivals.setdefault(one.stopped.rival, []).append((one.rung, one.stopped.rows))
    return "".join(f"; {_stopped(found)} beat {rival}" for rival, found in rivals.items())


def _stopped(found: Sequence[tuple[str, int]]) -> str:
    """What is said of the rungs that one rival stopped, up to its name."""
    *others, last = [
        f"{name} {'after' if at else 'was stopped after'} {rows:,}" for at, (name, rows) in enumerate(found)
    ]
    if not others:
        return f"{last} dev rows: it can't"
    return f"{', '.join(others)} and {last} dev rows: none of them can"


def _broken(facts: Facts) -> str:
    """Say how many calls of the rung to ship broke: its score doesn't."""
    found = facts.shipped.measurement
    if not found.failures:
        return ""
    unjudged = sum((p.answer.failure or "").startswith(BROKE) for p in found.predictions)
    whose = f", {unjudged:,} of them the judge's" if unjudged else ""
    return f"; {found.failures:,} of its {found.failures + found.n:,} calls broke{whose}"


def _useless(facts: Facts) -> str:
    """Whoever ships what is never right should not have to see it in a figure."""
    scorer = SCORERS[facts.best.measurement.metric]
    right = not scorer.shares or not scorer.higher_is_better or facts.best.measurement.score > 0
    if right:
        return ""
    if any(one.measurement.score > 0 for one in facts.ladder):
        return " No rung that may ship scores above zero: none of them does this job yet."
    return " No rung scores above zero: none of them does this job yet."


def _warned(facts: Facts) -> str:
    """What whoever ships it should know of it beside its score."""
    warnings = facts.shipped.warnings
    return f" Beware of {facts.shipped.rung}: {'; '.join(warnings)}." if warnings else ""


def _over_limits(facts: Facts) -> str:
    """Name the rungs that score higher but can't win for the limits."""
    up, here = _up(facts.shipped), facts.shipped.measurement.score
    outside = [
        f"{one.rung} ({_score(one)}, {', '.join(one.over_limits)})"
        for one in facts.ladder
        if one.over_limits and (one.measurement.score > here if up else one.measurement.score < here)
    ]
    return f"; over the limits and out: {', '.join(outside)}" if outside else ""
