"""How far probabilities are from how often they are right: calibration error, Brier score, log-loss."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from rung.records import CalibrationScore, Interval, ReliabilityBin
from rung.scoring import stats

if TYPE_CHECKING:
    Numbers: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
    Indices: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
    Flags: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]

BINS, MOST_BINS = 15, 100
FLOOR = 1e-12
"""Smaller probabilities count as this one: none is so sure that being wrong costs everything."""
_DRAWS = 200
# A score is a function of the probabilities alone: measuring twice gives the same bytes.
_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Judged:
    """Answers beside the truth. `labels` says how many labels there are.

    `confidence` [rows] is the probability of each answer and `right` [rows] whether it was the row's label.
    `table` [rows, labels] has all probabilities and `gold` [rows] the label's column, -1 for a label that the
    System doesn't have; both are None where only the answers' probabilities are known. `groups` [rows] are
    codes of rows that belong together, if any do.
    """

    labels: int
    confidence: "Numbers"
    right: "Flags"
    table: "Numbers | None" = None
    gold: "Indices | None" = None
    groups: "Indices | None" = None

    @property
    def rows(self) -> int:
        """How many answers there are."""
        return len(self.confidence)

    def only(self, at: "Indices") -> "Judged":
        """These rows alone."""
        return Judged(
            labels=self.labels,
            confidence=self.confidence[at],
            right=self.right[at],
            table=None if self.table is None else self.table[at],
            gold=None if self.gold is None else self.gold[at],
            groups=None if self.groups is None else self.groups[at],
        )


def judged_table(table: "Numbers", gold: "Indices", groups: "Indices | None" = None) -> Judged:
    """Probabilities [rows, labels] beside the columns of the rows' labels; the answer is the likeliest."""
    best = table.argmax(1)
    return Judged(
        labels=table.shape[1],
        confidence=table[np.arange(len(table)), best],
        right=best == gold,
        table=table,
        gold=gold,
        groups=groups,
    )


def calibration_score(judged: Judged) -> CalibrationScore:
    """All figures of some answers. Raises ValueError without rows."""
    if not judged.rows:
        raise ValueError("no rows: calibration can't be told")
    bins = equal_bins(judged.confidence, BINS)
    return CalibrationScore(
        n=judged.rows,
        ece=swept_ece(judged.confidence, judged.right),
        ece_15=binned_ece(judged.confidence, judged.right, bins),
        ece_15_by_chance=ece_by_chance(judged, bins),
        brier=float(briers(judged).mean()),
        log_loss=float(log_losses(judged).mean()),
        reliability=tuple(_bin(judged, at) for at in bins),
    )


def equal_bins(confidence: "Numbers", count: int) -> "list[Indices]":
    """Rows in up to `count` bins of as many each as can be, in the order of their confidence."""
    order = np.argsort(confidence, kind="stable")
    return [at for at in np.array_split(order, min(count, len(order))) if len(at)]


def binned_ece(confidence: "Numbers", right: "Flags", bins: "list[Indices]") -> float:
    """The expected calibration error: |share right - mean confidence|, weighed by the bins' rows.

    Naeini, Cooper & Hauskrecht 2015 and Guo et al. 2017, with bins of equal mass (Nguyen & O'Connor 2015).
    Above zero even for faultless probabilities: the fewer rows in a bin the more.
    """
    import numpy as np

    order, sizes = np.concatenate(bins), np.array([len(at) for at in bins])
    gaps = np.add.reduceat(right[order] - confidence[order], sizes.cumsum() - sizes)
    return float(np.abs(gaps).sum() / len(order))


def swept_ece(confidence: "Numbers", right: "Flags") -> float:
    """ECE with the most equal-mass bins whose shares right still rise with the confidence.

    Roelofs et al. 2022, "Mitigating bias in calibration error estimation" (ECE sweep): few rows get few
    bins, so that it is less too high than 15 fixed ones.
    """
    order = np.argsort(confidence, kind="stable")
    hits, sure = (np.concatenate([[0], x[order].cumsum()]) for x in (right, confidence))
    found = 0.0
    for count in range(1, min(len(order), MOST_BINS) + 1):
        edges = _edges(len(order), count)
        inside = np.diff(hits[edges])
        if (np.diff(inside / np.diff(edges)) < 0).any():
            break
        found = float(np.abs(inside - np.diff(sure[edges])).sum() / len(order))
    return found


def _edges(rows: int, count: int) -> "Indices":
    """Where bins begin and end, as numpy's `array_split` cuts."""
    size, more = divmod(rows, count)
    return np.concatenate([[0], np.cumsum(np.full(count, size) + (np.arange(count) < more))])


def ece_by_chance(judged: Judged, bins: "list[Indices]") -> float:
    """The mean ECE with answers that are right just as often as their confidence says.

    Consistency resampling (Bröcker & Smith 2007; Vaicenavicius et al. 2019). Rows of a group are right or
    wrong together as often as makes them as alike as they are.
    """
    dice = np.random.default_rng(_SEED)
    sure, groups = judged.confidence, judged.groups
    alike = 0.0 if groups is None else likeness(judged.right, sure, groups)

    def luck() -> "Numbers":
        own = dice.random(len(sure))
        if groups is None:
            return own
        shared, together = dice.random((2, int(groups.max()) + 1))
        return np.where(together[groups] < alike, shared[groups], own)

    return float(np.mean([binned_ece(sure, luck() < sure, bins) for _ in range(_DRAWS)]))


def likeness(right: "Flags", confidence: "Numbers", groups: "Indices") -> float:
    """How alike rows of one group are, from 0, right or wrong each by its own luck, to 1, by the same.

    The sum over pairs of a group's rows of the product of right - confidence, which is centred, beside what
    one luck for both would make of it, min(p, q) - p q, were right - confidence as wide as it is: answers
    that are too sure differ more than their confidences say. Rows that are all of one group are one draw: 1.
    """
    counts = np.bincount(groups)
    units = np.count_nonzero(counts)
    if units < 2:
        return 1.0

    def pairs(values: "Numbers") -> float:
        return float((np.bincount(groups, weights=values) ** 2).sum() - (values**2).sum()) / 2

    off = right - confidence
    order = np.lexsort((confidence, groups))
    # Of a group's rows in the order of their confidence each is the lesser one in a pair with all later ones.
    later = counts.cumsum()[groups[order]] - 1 - np.arange(len(order))
    most = float(confidence[order] @ later) - pairs(confidence)
    told = float((confidence * (1 - confidence)).mean())
    most *= off.var() / told if told > FLOOR else 1.0
    seen = pairs(off - off.mean()) * units / (units - 1)
    return min(max(seen / most, 0.0), 1.0) if most > FLOOR else 1.0


def briers(judged: Judged) -> "Numbers":
    """The squared error [rows] of the probabilities of all labels (Brier 1950), or of the answer's alone."""
    if judged.table is None or judged.gold is None:
        return (judged.confidence - judged.right) ** 2
    known = judged.gold >= 0
    truth = np.zeros_like(judged.table)
    truth[known.nonzero()[0], judged.gold[known]] = 1.0
    return ((judged.table - truth) ** 2).sum(1)


def log_losses(judged: Judged) -> "Numbers":
    """-log [rows] of the probability of the row's label, or of whether the answer was right, in nats.

    A label that the System doesn't have has the least probability that counts.
    """
    if judged.table is None or judged.gold is None:
        chance = np.where(judged.right, judged.confidence, 1.0 - judged.confidence)
    else:
        chance = np.where(judged.gold >= 0, judged.table[np.arange(judged.rows), judged.gold], 0.0)
    return -np.log(np.clip(chance, FLOOR, 1.0))


def _bin(judged: Judged, at: "Indices") -> ReliabilityBin:
    right = judged.right[at]
    return ReliabilityBin(
        rows=len(at),
        confidence=float(judged.confidence[at].mean()),
        accuracy=float(right.mean()),
        interval=_interval(right, None if judged.groups is None else judged.groups[at]),
    )


def _interval(right: "Flags", groups: "Indices | None") -> Interval:
    """Wilson's interval of the share right; rows of one group count as far as they differ."""
    codes = np.arange(len(right)) if groups is None else np.unique(groups, return_inverse=True)[1]
    units = int(codes.max()) + 1
    if units == len(right):
        return stats.wilson(int(right.sum()), len(right))
    share = float(right.mean())
    if units < 2:
        return stats.wilson(share, 1)
    variance = stats.variance_of_groups(lambda at: float(right[at].mean()), codes)
    return stats.wilson_of_groups(share, variance, units)
