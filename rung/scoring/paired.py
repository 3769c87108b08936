"""Two Systems on the same rows: the gain of the second over the first, its test and its interval.

A gain is positive where the second is better, also for a metric of which less is better. Rows on which
either call broke are left out.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from rung.records import Interval, Json, Measurement
from rung.records.judged import Decisive
from rung.scoring import stats
from rung.scoring.scorers import SCORERS, Scorer, worst_error

if TYPE_CHECKING:
    import numpy as np

    Numbers: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
    Indices: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

SWAPS, SWAPS_A_HYPOTHESIS, MOST_SWAPS = 999, 40, 9999
"""How often answers are swapped. Of r times no p is under 1 / (r + 1), which Holm multiplies by the number of
hypotheses: 40 for each leave half of 5 %."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """The common rows of two Systems, sorted by id, as arrays in parallel.

    `first` and `second` are row scores, more being better, or a set metric's codes of the answers, with
    those of the `targets`. `unit` is what a whole row can be worth: 1 for shares.
    """

    scorer: Scorer
    n: int
    first: "Numbers"
    second: "Numbers"
    targets: "Numbers | None"
    groups: "Indices | None"
    unit: float


def pair_up(
    first: Measurement,
    second: Measurement,
    *,
    targets: Mapping[str, Json],
    groups: Mapping[str, str] | None,
) -> Pair:
    """Line up the rows that both Systems answered. `targets` and `groups` go by the rows' ids."""
    import numpy as np

    scorer = SCORERS[first.metric]
    left = {row.example_id: row for row in first.predictions if row.score is not None}
    right = {row.example_id: row for row in second.predictions if row.score is not None}
    ids = sorted(left.keys() & right.keys())
    wanted = [targets[row] for row in ids]
    codes = None
    if scorer.of_set is not None:
        one, codes = scorer.of_set.encode([left[row].answer.value for row in ids], wanted)
        two, _ = scorer.of_set.encode([right[row].answer.value for row in ids], wanted)
    else:
        sign = 1.0 if scorer.higher_is_better else -1.0
        one = sign * np.array([left[row].score for row in ids], dtype=float)
        two = sign * np.array([right[row].score for row in ids], dtype=float)
    return Pair(
        scorer=scorer,
        n=len(ids),
        first=one,
        second=two,
        targets=codes,
        groups=stats.cluster_codes(ids, groups),
        unit=1.0 if scorer.shares or not ids else worst_error(wanted),
    )


def gain(pair: Pair) -> float:
    """The second System's score less the first's, turned so that more is better."""
    if pair.scorer.of_set is None:
        return math.fsum(pair.second - pair.first) / pair.n
    return _of_codes(pair, pair.second) - _of_codes(pair, pair.first)


def discordant_share(pair: Pair) -> float:
    """The share of rows on which the two score differently; for a set metric, answer differently."""
    return int(_differs(pair).sum()) / pair.n


def units(pair: Pair) -> int:
    """How many draws the rows are: whole groups where there are any."""
    return pair.n if pair.groups is None else int(pair.groups.max()) + 1


def p_value(pair: Pair, seed: int, hypotheses: int = 1) -> float:
    """The one-sided p-value of "the second System isn't better", which is tested with so many `hypotheses`.

    Exact McNemar for right and wrong, sign flips for graded rows and for groups, swapped answers for a
    set metric: more often for many hypotheses, or none of their p-values could be small enough. Rows that
    are all of one group are one draw, which shows nothing: 1.
    """
    if pair.groups is not None and units(pair) < 2:
        return 1.0
    if pair.scorer.of_set is not None:
        return stats.swap_greater(
            lambda codes: _of_codes(pair, codes),
            pair.first,
            pair.second,
            seed,
            resamples=min(max(SWAPS, SWAPS_A_HYPOTHESIS * hypotheses), MOST_SWAPS),
            groups=pair.groups,
        )
    if pair.scorer.binary and pair.groups is None:
        return stats.mcnemar_greater(*_discordant(pair))
    return stats.sign_flip_greater((pair.second - pair.first).tolist(), seed, groups=pair.groups)


def decisive(pair: Pair) -> Decisive | None:
    """The rows of judged answers on which either System did better, and the sign test for the second.

    None for other metrics.
    """
    if pair.scorer.name != "judge":
        return None
    up, down = _discordant(pair)
    return Decisive(better=up, worse=down, p=stats.mcnemar_greater(up, down))


def gain_interval(pair: Pair, seed: int, level: float = 0.95) -> Interval:
    """The interval of the gain, in the metric's units.

    Bonett-Price for right and wrong; BCa or t for graded rows, the bootstrap for set metrics and groups,
    both as wide as if two more rows or groups had differed: near-sameness on a few rows proves no sameness.
    They would by a whole row's worth; for errors without an upper end, by the largest that was made. One row
    or group alone tells nothing of others: by so much the gain may be up or down. It ends where a gain can.
    """
    if pair.scorer.binary and pair.groups is None:
        return stats.bonett_price(*_discordant(pair), pair.n, level)
    if units(pair) < 2:
        most = max(_whole(pair), abs(gain(pair)), _most(pair) if pair.scorer.shares else 0.0)
        return Interval(low=-most, high=most, level=level)
    wide = stats.with_two_more(_seen_interval(pair, seed, level), gain(pair), units(pair), _whole(pair))
    most = _most(pair)
    return Interval(low=max(wide.low, -most), high=min(wide.high, most), level=level)


def _most(pair: Pair) -> float:
    """The largest gain that there can be: the whole of a share, twice that of a correlation."""
    if not pair.scorer.shares:
        return math.inf
    return 2.0 if pair.scorer.name == "spearman" else 1.0


def rows_for_gain(pair: Pair, interval: Interval, effect: float, alpha: float) -> int:
    """About how many rows show a gain of `effect`, in the metric's units, one-sided at `alpha`.

    `interval` is the gain's own. There have to be so many groups like these that their smallest p is `alpha`.
    """
    needed = stats.rows_needed(effect / pair.unit, spread(pair, interval) / pair.unit**2, alpha=2 * alpha)
    if pair.groups is None:
        return needed
    return max(needed, math.ceil(math.ceil(-math.log2(alpha)) * pair.n / units(pair)))


def rows_for_sameness(pair: Pair, seed: int, margin: float) -> int:
    """About how many rows show that the second System gains less than `margin`, in the metric's units.

    What scores lower gains less, too. The upper end of the 90 % interval, which shows it, is taken as
    `gain_interval` would make it of so many rows like these.
    """
    n, at = pair.n, gain(pair)
    if pair.scorer.binary and pair.groups is None:
        up, down = _discordant(pair)
        variance = (up + down) / n - at**2
        return stats.rows_for_non_inferiority(
            lambda rows: stats.bonett_price(up * rows / n, down * rows / n, rows, 0.9).high, margin, variance
        )
    half = max(_seen_interval(pair, seed, 0.9).high - at, 0.0)

    def end(rows: float) -> float:
        like = Interval(low=at, high=at + half * math.sqrt(n / rows), level=0.9)
        return stats.with_two_more(like, at, units(pair) * rows / n, _whole(pair)).high

    variance = n * (half / stats.normal_quantile(0.95)) ** 2
    return stats.rows_for_non_inferiority(end, margin, variance)


def _whole(pair: Pair) -> float:
    """A whole row's worth; for errors without an upper end, the largest that was made."""
    worst = 0.0 if pair.scorer.shares else -float(min(pair.first.min(), pair.second.min()))
    return worst or pair.unit


def _seen_interval(pair: Pair, seed: int, level: float) -> Interval:
    """The interval from the differences that were seen."""
    if not _differs(pair).any():
        return Interval(low=0.0, high=0.0, level=level)
    if pair.scorer.of_set is not None:
        of_codes, targets = pair.scorer.of_set.of_codes, pair.targets
        assert targets is not None
        return stats.bootstrap_interval(
            lambda at: of_codes(pair.second[at], targets[at]) - of_codes(pair.first[at], targets[at]),
            pair.n,
            seed,
            level,
            pair.groups,
        )
    differences = pair.second - pair.first
    if pair.groups is not None:
        return stats.bootstrap_interval(
            lambda at: float(differences[at].mean()), pair.n, seed, level, pair.groups
        )
    return stats.bca_mean(differences.tolist(), seed, level)


def spread(pair: Pair, interval: Interval) -> float:
    """The mean squared difference that sample sizes are worked out from.

    For right and wrong it is the share of discordant rows. For set metrics and groups it is the value
    that would give `interval`, the gain's own, its width.
    """
    if pair.scorer.of_set is None and pair.groups is None:
        return float(((pair.second - pair.first) ** 2).mean())
    at, half = gain(pair), (interval.high - interval.low) / 2
    if max(-interval.low, interval.high) >= _most(pair):
        half = max(at - interval.low, interval.high - at)  # one end was cut at what can be
    error = half / stats.normal_quantile((1 + interval.level) / 2)
    return pair.n * error**2 + at**2


def _of_codes(pair: Pair, codes: "Numbers") -> float:
    """The set metric of one System's codes."""
    assert pair.scorer.of_set is not None and pair.targets is not None
    return pair.scorer.of_set.of_codes(codes, pair.targets)


def _differs(pair: Pair) -> "Numbers":
    """Which rows differ between the Systems; two unreadable numbers (NaN) don't."""
    unreadable = (pair.first != pair.first) & (pair.second != pair.second)
    return (pair.first != pair.second) & ~unreadable


def _discordant(pair: Pair) -> tuple[int, int]:
    """The rows right in the second System only, and in the first only."""
    return int((pair.second > pair.first).sum()), int((pair.second < pair.first).sum())
