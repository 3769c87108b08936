"""What a judge's verdicts amount to: a word for each order, a score, and people's correction of it."""

import json
import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar, get_args

from rung.records import Interval
from rung.scoring import stats

Verdict: TypeAlias = Literal["A", "B", "tie"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
KEY = "verdict"
_Word = TypeVar("_Word", bound=str)
SIMILAR = 1.25
"""Two texts are of similar length where the longer has at most so many times the words of the other."""


def read_verdict(text: str) -> Verdict | None:
    """A, B or tie, as `read_word` reads it."""
    return read_word(text, VERDICTS)


def read_word(text: str, words: Sequence[_Word]) -> _Word | None:
    """One of the words, bare or as {"verdict": …}, and nothing beside it; None for whatever else."""
    said: object = text.strip()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict) and found.keys() == {KEY}:
        said = found[KEY]
    return next((one for one in words if one == said), None)


def pair_score(first: Verdict, second: Verdict) -> float:
    """What an answer wins against another: 1, 0, or ½ for a tie and where the two orders don't agree.

    It was A in the `first` order and B in the `second`.
    """
    forth = {"A": 1.0, "B": 0.0, "tie": 0.5}[first]
    back = {"A": 0.0, "B": 1.0, "tie": 0.5}[second]
    return forth if forth == back else 0.5


def is_steady(first: Verdict, second: Verdict) -> bool:
    """Whether the two orders say the same of an answer that was A in the first of them."""
    return {"A": "B", "B": "A", "tie": "tie"}[first] == second


def similar_length(answer: str, other: str) -> bool:
    """Whether neither text has over SIMILAR times the words of the other."""
    short, long = sorted((len(answer.split()), len(other.split())))
    return long <= SIMILAR * short


@dataclass(frozen=True, kw_only=True, slots=True)
class Groups:
    """What each row is drawn with: of the judged `rows` and the known ones after them, and of the checked."""

    rows: Sequence[Hashable]
    checked: Sequence[Hashable]

    @property
    def shared(self) -> bool:
        """Whether any two rows were drawn together."""
        return any(len(set(part)) < len(part) for part in (self.rows, self.checked))


def powered_mean(
    judged: Sequence[float],
    checked: Sequence[tuple[float, float]],
    *,
    known: Sequence[float] = (),
    inside: bool,
    level: float = 0.95,
    groups: Groups | None = None,
) -> tuple[float, Interval]:
    """The mean that people would give all rows, from a judge's scores of all and (person's, judge's) of some.

    Prediction-powered inference for a mean (Angelopoulos, Bates, Fannjiang, Jordan & Zrnic 2023, "Prediction-
    powered inference", Science 382): the mean of the judge's scores plus that of person less judge over
    `checked`. It is right on average however wrong the judge is, where the checked rows were drawn at random.
    `known` are scores of further rows that need no judge, so that nothing is to be corrected there: of N rows
    a share w is judged. The variance is s²/N + w² d²/n, the judge's scores varying by s² and n differences by
    d². Where the checked rows are `inside` the J judged ones, both parts vary together, and it is h²/N + w²
    d² (1/n - 1/J), with people's scores varying by h²: the estimator by differences of two-phase sampling
    (Cochran 1977, Sampling Techniques, chapter 12). The interval is Student's with n - 1 degrees of freedom,
    as wide as if two more checked rows differed, cut to 0 and 1. Where rows share `groups`, whole groups are
    the draws: what each of them adds to the estimate is squared, and n counts the groups of checked rows; of
    a single one the interval is all that there can be. ValueError for fewer than two checked rows, or more
    than are judged.
    """
    import numpy as np
    from scipy.special import stdtrit

    n, rows = len(checked), len(judged) + len(known)
    if n < 2 or (inside and n > len(judged)):
        raise ValueError(f"{n} checked of {len(judged)} judged rows are none to correct by")
    pairs, scores = np.array(checked, dtype=float), np.array([*judged, *known], dtype=float)
    people, differences = pairs[:, 0], pairs[:, 0] - pairs[:, 1]
    share = len(judged) / rows
    mean = float(scores.mean() + share * differences.mean())
    varies = float(scores.var(ddof=1)) if rows > 1 else 0.0
    weight = 1 / n
    if inside:
        sure = np.array(known, dtype=float) if known else np.zeros(1)
        squares = share * (people**2).mean() + (1 - share) * (sure**2).mean()
        varies = float(squares - (share * people.mean() + (1 - share) * sure.mean()) ** 2) * rows / (rows - 1)
        weight -= 1 / len(judged)
    variance = varies / rows + share**2 * weight * float(differences.var(ddof=1))
    draws = n
    if groups is not None and groups.shared:
        draws = len(set(groups.checked))
        if draws < 2:
            return mean, Interval(low=0.0, high=1.0, level=level)
        off = float(differences.mean())
        parts = (scores + off * (np.arange(rows) < len(judged)) - mean) / rows
        more = share * (differences - off) / n
        variance = _of_groups([*groups.rows, *groups.checked], [*parts, *more]) * draws / (draws - 1)
    half = float(stdtrit(draws - 1, (1 + level) / 2)) * math.sqrt(max(0.0, variance))
    seen = Interval(low=mean - half, high=mean + half, level=level)
    # A judge that was never wrong on a few rows may be on others: the share that is judged moves with them.
    wide = stats.with_two_more(seen, mean, draws, 0.5 * share) if weight > 0 else seen
    return mean, Interval(low=max(0.0, wide.low), high=min(1.0, wide.high), level=level)


def _of_groups(keys: Sequence[Hashable], parts: Sequence[float]) -> float:
    """The sum of squares of what whole groups add up to."""
    totals = defaultdict[Hashable, float](float)
    for key, part in zip(keys, parts, strict=True):
        totals[key] += float(part)
    return math.fsum(total**2 for total in totals.values())
