"""Calibrating a System's probabilities on rows whose labels are known: temperature, Platt, isotonic.

No map changes an answer, or which label is likelier than which: what was scored is what is served.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from rung.records import CalibrationMap, CalibrationMethod, CalibrationScore
from rung.scoring.reliability import FLOOR, Judged, calibration_score, log_losses

if TYPE_CHECKING:
    Numbers: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
    Indices: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

FEWEST_ROWS = 20
PLATT_ROWS = 50
ISOTONIC_ROWS = 300
"""With fewer rows a method isn't tried: the more a map can bend, the more rows it needs."""
FOLDS = 5
CLEARLY = 1.645
"""A map that bends more has to lower the log-loss of held-out rows by so many standard errors."""
MOST_LOG_TEMPERATURE = 4.0
MOST_SLOPE, MOST_INTERCEPT = 16.0, 16.0
_HALVINGS = 50
_WIDEST = 30.0
"""Log-temperatures between which a row's own is sought."""
_SEED = 0


def fitted(judged: Judged) -> tuple[CalibrationMap, str]:
    """The map for these rows, and why that one.

    With 20 rows a temperature is fitted, with 50 Platt's line is tried too, with 300 isotonic regression.
    From 50 rows on a temperature stays unless it is no better than nothing on held-out rows; another map
    takes its place if it is clearly better there (a paired one-sided test of the log-loss at 5 %). Where only
    the answers' probabilities are known there is no temperature, and Platt's line has its part.
    """
    rows = judged.rows
    if rows < FEWEST_ROWS:
        return CalibrationMap(), f"{rows} rows are too few to calibrate on, at least {FEWEST_ROWS} are needed"
    methods = _methods(judged)
    if not methods:
        return (
            CalibrationMap(),
            f"{rows} rows are too few: {PLATT_ROWS} are needed where answers alone are known",
        )
    if rows < PLATT_ROWS:
        return FITS["temperature"](judged), f"a temperature, the only map for fewer than {PLATT_ROWS} rows"
    losses = {method: _held_out_losses(judged, method) for method in ("none", *methods)}
    chosen: CalibrationMethod = "none"
    if losses[methods[0]].mean() < losses["none"].mean():
        chosen = methods[0]
    for method in methods[1:]:
        if _clearly_less(losses[method], losses[chosen], judged.groups):
            chosen = method
    shown = ", ".join(f"{method} {found.mean():.4f}" for method, found in losses.items())
    why = f"log-loss on rows held out, in {len(folds(judged))} folds: {shown}"
    return FITS[chosen](judged), why


def cross_fitted(judged: Judged) -> Judged:
    """The rows with calibrated probabilities, each by a map that was chosen and fitted without it."""
    parts = []
    for inside, outside in folds(judged):
        found, _ = fitted(judged.only(inside))
        parts.append((outside, recalibrated(found, judged.only(outside))))
    confidence = np.empty(judged.rows)
    table = None if judged.table is None else np.empty_like(judged.table)
    for outside, part in parts:
        confidence[outside] = part.confidence
        if table is not None:
            table[outside] = part.table
    return replace(judged, confidence=confidence, table=table)


def before_and_after(judged: Judged, by: CalibrationMap | None) -> tuple[CalibrationScore, CalibrationScore]:
    """The scores of probabilities as they are, and as a map makes them; without one, cross-fitted."""
    after = cross_fitted(judged) if by is None else recalibrated(by, judged)
    return calibration_score(judged), calibration_score(after)


def recalibrated(by: CalibrationMap, judged: Judged) -> Judged:
    """The same answers with calibrated probabilities."""
    if judged.table is None:
        return replace(judged, confidence=calibrated_confidence(by, judged.confidence, judged.labels))
    best, rows = judged.table.argmax(1), np.arange(judged.rows)
    table = calibrated(by, judged.table)
    return replace(judged, table=table, confidence=table[rows, best])


def calibrated(by: CalibrationMap, table: "Numbers") -> "Numbers":
    """Calibrated probabilities [rows, labels] for raw ones; each row keeps its order and sums to one."""
    if by.method == "none":
        return table / table.sum(1, keepdims=True)
    logs = np.log(np.clip(table, FLOOR, None))
    if by.method == "temperature":
        return _softmax(logs / by.temperature)
    return _tempered_to(logs, calibrated_confidence(by, table.max(1), table.shape[1]))


def calibrated_confidence(by: CalibrationMap, confidence: "Numbers", labels: int) -> "Numbers":
    """Calibrated probabilities [rows] of answers that have these raw ones, among so many labels.

    Never under 1 / labels, which the likeliest label can't have. Raises ValueError for a temperature, which
    needs the other labels' probabilities too.
    """
    if by.method == "temperature":
        raise ValueError("a temperature needs the probabilities of all labels, not the answer's alone")
    if by.method == "platt":
        found = _logistic(by.slope * _logit(confidence) + by.intercept)
    elif by.method == "isotonic":
        found = np.interp(confidence, *np.array(by.knots).T)
    else:
        found = confidence
    return np.clip(found, 1.0 / labels, 1.0)


def _methods(judged: Judged) -> Sequence[CalibrationMethod]:
    """The maps to try, the stiffest first."""
    found: list[CalibrationMethod] = []
    if judged.gold is not None and (judged.gold >= 0).any():
        found.append("temperature")
    if judged.rows >= PLATT_ROWS:
        found.append("platt")
    if judged.rows >= ISOTONIC_ROWS:
        found.append("isotonic")
    return found


def folds(judged: Judged) -> "list[tuple[Indices, Indices]]":
    """Rows inside and outside of each fold; rows of one group are on one side.

    Where all rows are of one group the rows are dealt: two or more never leave a fold's inside empty.
    """
    units = np.arange(judged.rows) if judged.groups is None else judged.groups
    if (units == units[:1]).all():
        units = np.arange(judged.rows)
    names = np.unique(units)
    dealt = np.random.default_rng(_SEED).permutation(len(names)) % FOLDS
    fold = dealt[np.searchsorted(names, units)]
    return [
        ((fold != one).nonzero()[0], (fold == one).nonzero()[0])
        for one in range(FOLDS)
        if (fold == one).any()
    ]


def _held_out_losses(judged: Judged, method: CalibrationMethod) -> "Numbers":
    """The log-loss [rows] of each row under a map that was fitted on the other folds."""
    losses = np.empty(judged.rows)
    for inside, outside in folds(judged):
        by = FITS[method](judged.only(inside))
        losses[outside] = log_losses(recalibrated(by, judged.only(outside)))
    return losses


def _clearly_less(losses: "Numbers", others: "Numbers", groups: "Indices | None") -> bool:
    gain = others - losses
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    if groups is not None and (groups != groups[0]).any():
        # Rows of one group gain or lose together: theirs is the error where it's more.
        sums = np.bincount(groups, weights=gain - gain.mean())
        units = len(np.unique(groups))
        error = max(error, np.sqrt(units / (units - 1) * (sums**2).sum()) / len(gain))
    return bool(gain.mean() > CLEARLY * error)


def _temperature(judged: Judged) -> CalibrationMap:
    """The temperature of the least log-loss (Guo et al. 2017), drawn a little towards 1.

    A normal prior on its logarithm, of width 1, keeps a few rows that are all right from making it zero.
    Rows whose label the System doesn't have say nothing here.
    """
    from scipy.optimize import minimize_scalar

    assert judged.table is not None and judged.gold is not None, "only tried where all labels are known"
    rows = (judged.gold >= 0).nonzero()[0]
    logs, gold = np.log(np.clip(judged.table[rows], FLOOR, None)), judged.gold[rows]

    def loss(log_temperature: float) -> float:
        scaled = logs / np.exp(log_temperature)
        scaled -= scaled.max(1, keepdims=True)
        losses = np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(rows)), gold]
        return float(losses.sum() + log_temperature**2 / 2)

    bounds = (-MOST_LOG_TEMPERATURE, MOST_LOG_TEMPERATURE)
    best = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return CalibrationMap(method="temperature", temperature=float(np.exp(best.x)))


def _platt(judged: Judged) -> CalibrationMap:
    """Logistic regression of whether an answer is right on the logit of its probability.

    The targets are smoothed by Platt's rule (1999): not 1 and 0 but (n₊ + 1) / (n₊ + 2) and 1 / (n₋ + 2).
    The slope isn't negative: a surer answer never gets less.
    """
    from scipy.optimize import minimize

    sure, right = _logit(judged.confidence), judged.right
    hits = int(right.sum())
    target = np.where(right, (hits + 1) / (hits + 2), 1 / (judged.rows - hits + 2))

    def loss(line: "Numbers") -> float:
        score = line[0] * sure + line[1]
        return float((np.logaddexp(0.0, score) - target * score).sum())

    bounds = [(0.0, MOST_SLOPE), (-MOST_INTERCEPT, MOST_INTERCEPT)]
    # Two numbers and a convex loss: the simplex finds it without the threads that L-BFGS wakes at every step.
    how = {"xatol": 1e-6, "fatol": 1e-9}
    best = minimize(loss, np.array([1.0, 0.0]), method="Nelder-Mead", bounds=bounds, options=how)
    return CalibrationMap(method="platt", slope=float(best.x[0]), intercept=float(best.x[1]))


def _isotonic(judged: Judged) -> CalibrationMap:
    """The rising step function of the least squared error (Zadrozny & Elkan 2002), straight between steps.

    By the rule of succession no share is nearer to 0 or 1 than one row in n + 2.
    """
    from sklearn.isotonic import IsotonicRegression

    least = 1.0 / (judged.rows + 2)
    model = IsotonicRegression(y_min=least, y_max=1.0 - least, out_of_bounds="clip")
    model.fit(judged.confidence, judged.right.astype(float))
    knots = zip(model.X_thresholds_.tolist(), model.y_thresholds_.tolist(), strict=True)
    return CalibrationMap(method="isotonic", knots=tuple(knots))


FITS: Mapping[CalibrationMethod, Callable[[Judged], CalibrationMap]] = {
    "none": lambda judged: CalibrationMap(),
    "temperature": _temperature,
    "platt": _platt,
    "isotonic": _isotonic,
}
"""How each map is fitted."""


def _tempered_to(logs: "Numbers", wanted: "Numbers") -> "Numbers":
    """Probabilities [rows, labels] at each row's own temperature, by which its top one is as `wanted`."""
    low, high = np.full(len(logs), -_WIDEST), np.full(len(logs), _WIDEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        # The hotter, the flatter: the top one falls as the temperature rises.
        over = _softmax(logs / np.exp(middle)[:, None]).max(1) > wanted
        low, high = np.where(over, middle, low), np.where(over, high, middle)
    return _softmax(logs / np.exp((low + high) / 2)[:, None])


def _softmax(scores: "Numbers") -> "Numbers":
    shifted = np.exp(scores - scores.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def _logit(chance: "Numbers") -> "Numbers":
    chance = np.clip(chance, FLOOR, 1.0 - FLOOR)
    return np.log(chance) - np.log1p(-chance)


def _logistic(score: "Numbers") -> "Numbers":
    return np.exp(-np.logaddexp(0.0, -score))
