"""The statistics of a verdict: intervals, one-sided paired tests, sample sizes. Pure numbers in and out.

Tests and intervals of a pair look at the second System's gain over the first. Where `groups` is given
(one code per row) whole groups are flipped or resampled, never rows of one group apart: a group is what is
drawn at once, rows of one group of the data and rows that ask the same thing. No rows raise
ValueError: the callers can't have none.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from rung.records import Interval

if TYPE_CHECKING:
    import numpy as np

    Numbers: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
    Indices: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

FEWEST_GROUPS = 6
"""Of fewer whole groups no test here proves a gain among two or three rungs: of g no p is under 1 / 2^g."""
MOST_ROWS = 10_000_000
"""More than anyone labels: no estimate of rows goes further."""
_BCA_ROWS = 200
_BCA_RESAMPLES = 4999
_BOOTSTRAP_RESAMPLES = 1999
_EXACT_UNITS = 12
_JACKKNIFE_PARTS = 500
_BETS = 100
_CHUNK = 2_000_000  # numbers held at once while resampling


def cluster_codes(ids: Sequence[str], groups: Mapping[str, str] | None) -> "Indices | None":
    """Number the group of each row from 0; a row without one is a group of its own.

    None where groups say nothing: no group has two of these rows.
    """
    import numpy as np

    codes: dict[tuple[bool, str], int] = {}
    rows = []
    for row in ids:
        group = None if groups is None else groups.get(row)
        key = (True, row) if group is None else (False, group)
        rows.append(codes.setdefault(key, len(codes)))
    return np.array(rows) if len(codes) < len(ids) else None


def wilson(successes: float, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval for one rate (Wilson 1927).

    For the mean of scores from 0 to 1, `successes` being their sum, it is on the wide side: no such scores
    with that mean vary more than zeros and ones.
    """
    _need_rows(n)
    return _wilson(successes / n, normal_quantile((1 + level) / 2) ** 2 / n, level)


def wilson_of_groups(share: float, variance: float, groups: int, level: float = 0.95) -> Interval:
    """Wilson's interval for a share whose rows are of so many groups; `variance` is that of the share.

    Its n is the effective number of rows, share (1 - share) / variance (Franco, Little, Louis & Slud 2019,
    "Comparative study of confidence intervals for proportions in complex sample surveys"). Student's t with a
    degree of freedom less than there are groups stands for the normal quantile: that corrects this number
    for few groups as Korn & Graubard (1998) do. A share without variance, but for rounding, is that of one
    draw a group. ValueError for fewer than two groups.
    """
    if groups < 2:
        raise ValueError(f"the variance of a share needs two groups, not {groups}")
    spread = share * (1 - share)
    if min(variance, spread) < 1e-15:
        return wilson(share * groups, groups, level)
    return _wilson(share, _t((1 + level) / 2, groups - 1) ** 2 * variance / spread, level)


def _wilson(rate: float, part: float, level: float) -> Interval:
    """Wilson's interval, `part` being the squared quantile over the number of rows."""
    middle = (rate + part / 2) / (1 + part)
    half = math.sqrt(part * rate * (1 - rate) + part**2 / 4) / (1 + part)
    return Interval(
        low=0.0 if rate == 0 else max(middle - half, 0.0),
        high=1.0 if rate == 1 else min(middle + half, 1.0),
        level=level,
    )


def bonett_price(b: float, c: float, n: float, level: float = 0.95) -> Interval:
    """The interval for a paired difference of two rates, (b - c) / n.

    Of n rows, b are right in the second System only and c in the first only. Adds one to each
    discordant cell and two to n (Bonett & Price 2012, "Adjusted Wald confidence interval for a
    difference of binomial proportions based on paired data").
    """
    _need_rows(n)
    up, down = (b + 1) / (n + 2), (c + 1) / (n + 2)
    half = normal_quantile((1 + level) / 2) * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return Interval(low=max(up - down - half, -1.0), high=min(up - down + half, 1.0), level=level)


def with_two_more(interval: Interval, at: float, n: float, unit: float) -> Interval:
    """The interval of a gain `at` of n rows, as wide as if two more differed: one up by a `unit`, one down.

    The variance that they bring, 2 unit² / (n + 2)², is what Bonett & Price (2012) add for right and wrong.
    Without it few rows that differ, or differ little, make an interval that is much too narrow.
    """
    more = normal_quantile((1 + interval.level) / 2) * math.sqrt(2) * unit / (n + 2)
    return Interval(
        low=at - math.hypot(max(at - interval.low, 0.0), more),
        high=at + math.hypot(max(interval.high - at, 0.0), more),
        level=interval.level,
    )


def bca_mean(values: Sequence[float], seed: int, level: float = 0.95) -> Interval:
    """The interval for a mean: BCa bootstrap (Efron 1987) from 200 values on, Student's t below.

    With few values the bootstrap is too narrow, and t is the simplest that isn't. Values that are all
    equal, but for rounding, have an interval of no width.
    """
    import numpy as np
    from scipy.stats import bootstrap

    data = np.asarray(values, dtype=float)
    _need_rows(data.size)
    start, width = float(data.min()), float(np.ptp(data))
    if width <= 1e-9 * float(np.abs(data).max()):
        return Interval(low=start, high=start + width, level=level)
    if data.size < _BCA_ROWS:
        half = _t((1 + level) / 2, data.size - 1) * float(data.std(ddof=1)) / math.sqrt(data.size)
        return Interval(low=float(data.mean()) - half, high=float(data.mean()) + half, level=level)
    found = bootstrap(
        ((data - start) / width,),
        np.mean,
        confidence_level=level,
        n_resamples=_BCA_RESAMPLES,
        batch=max(1, _CHUNK // data.size),
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(low=start + width * float(found.low), high=start + width * float(found.high), level=level)


def bootstrap_interval(
    statistic: "Callable[[Indices], float]",
    n: int,
    seed: int,
    level: float = 0.95,
    groups: "Indices | None" = None,
) -> Interval:
    """The percentile bootstrap interval of a statistic of row indices, by whole groups where given.

    The percentiles are widened from normal to Student's t and by sqrt(m / (m - 1)) for m units
    (Hesterberg 2015, "expanded percentile"), because few groups make a plain one too narrow.
    """
    import numpy as np

    _need_rows(n)
    order, starts, sizes = _members(n, groups)
    units = len(starts)
    if units < 2:
        raise ValueError(f"a bootstrap needs two rows or groups, not {units}")
    rng = np.random.default_rng(seed)
    draws = np.empty(_BOOTSTRAP_RESAMPLES)
    for at in range(_BOOTSTRAP_RESAMPLES):
        drawn = rng.integers(0, units, size=units)
        draws[at] = statistic(drawn if groups is None else _rows_of(drawn, order, starts, sizes))
    tail = _phi(-_t((1 + level) / 2, units - 1) * math.sqrt(units / (units - 1)))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(low=float(low), high=float(high), level=level)


def student(mean: float, variance: float, groups: int, level: float = 0.95) -> Interval:
    """Student's interval for a mean of rows of so many groups; `variance` is that of the mean."""
    half = _t((1 + level) / 2, groups - 1) * math.sqrt(variance)
    return Interval(low=mean - half, high=mean + half, level=level)


def variance_of_groups(statistic: "Callable[[Indices], float]", groups: "Indices") -> float:
    """The variance of a statistic of row indices whose rows are of groups, coded from 0.

    By the jackknife that leaves out a whole group at a time (Wolter 2007, "Introduction to Variance
    Estimation", chapter 4), or by the one of single rows where that is more: few groups may be alike by
    chance. More groups, or rows, than 500 are put together into so many.
    """
    import numpy as np

    def jackknife(codes: "Indices") -> float:
        parts = codes % _JACKKNIFE_PARTS
        count = int(parts.max()) + 1
        without = np.array([statistic(np.flatnonzero(parts != part)) for part in range(count)])
        return (count - 1) / count * float(((without - without.mean()) ** 2).sum())

    return max(jackknife(groups), jackknife(np.arange(groups.size)))


def mcnemar_greater(b: int, c: int) -> float:
    """The one-sided exact McNemar test that rows right in the second System only (b) outnumber c."""
    from scipy.stats import binom

    return float(binom.sf(b - 1, b + c, 0.5))


def sign_flip_greater(
    differences: Sequence[float], seed: int, resamples: int = 9999, groups: "Indices | None" = None
) -> float:
    """The one-sided paired permutation test that the mean difference is above zero.

    All sign patterns are counted where at most 12 rows (or groups) differ, else `resamples` random ones
    and the observed one (Phipson & Smyth 2010).
    """
    import numpy as np

    data = np.asarray(differences, dtype=float)
    _need_rows(data.size)
    units = data if groups is None else np.bincount(groups, weights=data)
    units = units[units != 0]
    total = float(units.sum())
    edge = total - 1e-9 * float(np.abs(units).sum())
    if units.size <= _EXACT_UNITS:
        patterns = (np.arange(2**units.size)[:, None] >> np.arange(units.size)) & 1
        return float(np.mean(2 * (patterns @ units) - total >= edge))
    rng = np.random.default_rng(seed)
    above, left = 0, resamples
    while left:
        rows = min(left, max(1, _CHUNK // units.size))
        bits = rng.integers(0, 2, size=(rows, units.size), dtype=np.int8)
        above += int(np.count_nonzero(2 * (bits @ units) - total >= edge))
        left -= rows
    return (1 + above) / (1 + resamples)


def swap_greater(
    statistic: "Callable[[Numbers], float]",
    first: "Numbers",
    second: "Numbers",
    seed: int,
    resamples: int = 999,
    groups: "Indices | None" = None,
) -> float:
    """The one-sided paired permutation test that statistic(second) is above statistic(first).

    For statistics that aren't a mean of rows: the two Systems' answers are swapped in random rows (or
    groups) and the gain is taken anew; the observed gain counts as one of the resamples.
    """
    import numpy as np

    _need_rows(first.size)
    codes = np.arange(first.size) if groups is None else groups
    units = int(codes.max()) + 1
    edge = statistic(second) - statistic(first) - 1e-9
    rng = np.random.default_rng(seed)
    above = 0
    for _ in range(resamples):
        swap = rng.integers(0, 2, size=units, dtype=np.int8)[codes] == 1
        gain = statistic(np.where(swap, first, second)) - statistic(np.where(swap, second, first))
        above += gain >= edge
    return (1 + above) / (1 + resamples)


def holm(ps: Sequence[float]) -> tuple[float, ...]:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given."""
    order = sorted(range(len(ps)), key=lambda at: ps[at])
    adjusted = [0.0] * len(ps)
    highest = 0.0
    for rank, at in enumerate(order):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[at]))
        adjusted[at] = highest
    return tuple(adjusted)


def smallest_detectable_gain(n: int, discordant: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """The paired gain that a two-sided test at `alpha` would find with `power`.

    `discordant` is the share of rows on which exactly one System is right; for graded scores, the mean
    squared difference. The large-sample formula sqrt(z² · discordant / (n + z²)): below about 100 rows
    it is a little hopeful. A result above `discordant` means that no gain could be found.
    """
    _need_rows(n)
    squared = (normal_quantile(1 - alpha / 2) + normal_quantile(power)) ** 2
    return math.sqrt(squared * discordant / (n + squared))


def rows_needed(gain: float, discordant: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """The rows at which the two-sided exact McNemar test at `alpha` finds `gain` with `power`.

    Connor 1987, "Sample size for testing differences in proportions for the paired-sample design", plus
    1 / gain rows for the test being exact. `discordant` as for `smallest_detectable_gain`.
    """
    if gain <= 0:
        raise ValueError(f"gain {gain!r} is not above 0")
    spread = max(discordant, gain**2)
    root = normal_quantile(1 - alpha / 2) * math.sqrt(spread) + normal_quantile(power) * math.sqrt(
        spread - gain**2
    )
    return math.ceil((root / gain) ** 2 + 1 / gain)


def rows_for_non_inferiority(
    end: Callable[[float], float], margin: float, variance: float, power: float = 0.8
) -> int:
    """The rows at which a loss is shown to be under `margin` with `power`, by bisection.

    `end` gives the upper end of the loss's interval for a number of rows, if it is what it seems, and
    `variance` is that of one row's difference: an end that is seen lies z·sqrt(variance / n) higher at worst.
    """
    luck = normal_quantile(power) * math.sqrt(variance)

    def enough(rows: int) -> bool:
        return end(rows) + luck / math.sqrt(rows) < margin

    few, many = 0, 1
    while not enough(many):
        few, many = many, 2 * many
        if many > MOST_ROWS:
            return MOST_ROWS
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many


def non_inferior(gain: Interval, margin: float) -> bool:
    """Whether the first System is at most `margin` worse than the second, one-sided at 95 %.

    `gain` is the two-sided 90 % interval of the second System's gain over the first.
    """
    assert math.isclose(gain.level, 0.9), gain
    return gain.high < margin


def log_e_value(b: int, c: int) -> float:
    """The logarithm of the one-sided mixture e-value of b against c discordant rows.

    It bets on "a discordant row is right in the second System with probability p", p uniform over
    (½, 1), against p = ½: log 2 + (b + c) log 2 + log of the integral of p^b (1 - p)^c over (½, 1).
    Stop when it reaches log(1 / alpha), at any time one likes (Ville's inequality).
    """
    from scipy.special import betainc, betaln

    share = float(betainc(c + 1, b + 1, 0.5))
    if share > 1e-290:
        return float((b + c + 1) * math.log(2) + betaln(b + 1, c + 1) + math.log(share))
    return math.log(_tail_series(b, c))


def log_e_above_zero(values: Sequence[float], least: float) -> float:
    """The logarithm of an e-value of "the mean is above zero" against "it is zero or below".

    No value may be under -`least`. It's the capital of bets Π (1 + λ value) at fixed λ, averaged over an even
    grid in (0, 1 / least) (Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by
    betting"): fair under zero mean, so it may be looked at after any value. For values of ±1 and 0 it is
    `log_e_value` but for the grid.
    """
    import numpy as np

    bets = (np.arange(_BETS) + 0.5) / _BETS / least
    with np.errstate(divide="ignore"):
        capital = np.log1p(bets[:, None] * np.asarray(values, dtype=float)).sum(axis=1)
    return float(np.logaddexp.reduce(capital)) - math.log(_BETS)


def _tail_series(b: int, c: int) -> float:
    """2^(b + c + 1) times the integral in `log_e_value` where c is far above b.

    The hypergeometric series of the incomplete beta function at one half: its terms are positive and
    shrink by at least the first ratio (DLMF 8.17.7).
    """
    term = total = 0.5 / (c + 1)
    step = 0
    while term > 1e-17 * total:
        term *= (b + c + 2 + step) / (2 * (c + 2 + step))
        total += term
        step += 1
    return total


def _members(n: int, groups: "Indices | None") -> "tuple[Indices, Indices, Indices]":
    """The row indices group by group, with the place where each begins and its size; else each row alone."""
    import numpy as np

    if groups is None:
        return np.arange(n), np.arange(n), np.ones(n, dtype=int)
    order = np.argsort(groups, kind="stable")
    starts = np.concatenate([[0], np.flatnonzero(np.diff(groups[order])) + 1])
    return order, starts, np.diff(starts, append=n)


def _rows_of(drawn: "Indices", order: "Indices", starts: "Indices", sizes: "Indices") -> "Indices":
    """The row indices of the groups that were drawn, one group after the other."""
    import numpy as np

    counts = sizes[drawn]
    before = np.repeat(starts[drawn] - (counts.cumsum() - counts), counts)
    return order[before + np.arange(before.size)]


def _need_rows(n: float) -> None:
    """Raise ValueError where there is nothing to count."""
    if n < 1:
        raise ValueError("no rows")


def normal_quantile(probability: float) -> float:
    """The standard normal quantile."""
    from statistics import NormalDist

    return NormalDist().inv_cdf(probability)


def _phi(x: float) -> float:
    """The standard normal distribution function."""
    return 0.5 * math.erfc(-x / math.sqrt(2))


def _t(probability: float, freedom: int) -> float:
    """Student's t quantile."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, probability))
