"""The budget: what a rung may take of the time that is left, what it's going to take, and if that fits."""

from collections.abc import Sequence

from rung.records import Forecast
from rung.rungs.base import Outlook
from rung.scoring.notation import duration_text

WEIGHTS = {
    "head": 0.3,
    "prompt": 0.1,
    "few_shot": 0.15,
    "retrieval": 0.2,
    "optimise": 0.2,
    "workflow": 0.2,
    "distill_head": 0.2,
    "reinforce": 0.2,
    "api": 0.1,
}
OTHERS = 0.45
"""How the time that is left is shared among the rungs that are to come: what one leaves goes to all of them.

A head is done in a minute or two; a tenth of five minutes was too short to compare its kinds.
"""
TRAINED = ("sft", "distill", "preference", "reinforce")
"""Rungs that change a model's weights: what they are guarded against is looked at after they are scored."""
GUARD_SHARE, GUARD_S = 0.15, 90.0
"""Of the share of such a rung, kept back for that: the less of the two."""
MOST_SHARE = 0.5
"""Where one pass over the dev rows needs more than the share, a rung may take so much of what is left."""
CLEARLY_OPEN = 1.3
"""A range is told where its end is so many times its beginning."""


def weight(rung: str) -> float:
    """A rung's part of the time, to be set against the others'."""
    return WEIGHTS.get(rung, OTHERS)


def share_s(rung: str, later: Sequence[str], left_s: float, beside: float = 0.0) -> float:
    """The seconds that a rung may take of those left, where these others come after it.

    `beside` is the weight of what else is to come.
    """
    own = weight(rung)
    return left_s * own / (own + sum(map(weight, later)) + beside)


def guard_s(rung: str, share: float) -> float:
    """The seconds of a rung's share that are kept back for its guards."""
    return min(GUARD_S, GUARD_SHARE * share) if rung in TRAINED else 0.0


def too_slow(found: Outlook | None, *, share_s: float, left_s: float, last: bool) -> str | None:
    """Why a rung isn't worth building, or can't be measured in the time left; None where nothing says so."""
    if found is None or found.refusal is not None:
        return found and found.refusal
    spare = max(share_s, left_s if last else MOST_SHARE * left_s)
    if found.least_s <= spare:
        return None
    needed, fit = duration_text(found.least_s), duration_text(max(0.0, spare))
    return f"the dev rows alone would take it {needed}, and {fit} of the budget can be spared; raise --budget"


def forecast(found: Outlook | None, *, most_s: float, after_s: float) -> Forecast:
    """What is told of a rung before it begins."""
    if found is None:
        return Forecast(seconds=None, range_s=None, most_s=most_s, after_s=after_s)
    ends = (found.low_s, found.high_s)
    range_s = ends if found.high_s > CLEARLY_OPEN * found.low_s else None
    return Forecast(seconds=found.seconds, range_s=range_s, most_s=most_s, after_s=after_s, by=found.by)


def said(rung: str, told: Forecast, rival: str | None) -> str:
    """The line on screen before a rung begins."""
    if told.seconds is None:
        most = duration_text(max(0.0, told.most_s))
        return f"{rung}: at most {most}, by the budget; how much of that can't be told before it begins"
    about = f"{rung}: about {duration_text(told.seconds)}"
    if told.range_s is None:
        return about
    low, high = map(duration_text, told.range_s)
    by = told.by or (rival and f"how long it keeps up with {rival}")
    return f"{about}, {low} to {high}{f' by {by}' if by else ''}"
