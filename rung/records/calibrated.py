"""What makes probabilities true, and how far off they were."""

from dataclasses import dataclass, field

from rung.records.answers import Interval
from rung.records.kinds import CalibrationMethod


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationMap:
    """What turns a System's probabilities into calibrated ones; the answer and the labels' order stay.

    `temperature` divides the log-probabilities of all labels. The others give the answer's own probability p
    anew: `platt` by the logistic function of slope · logit(p) + intercept, `isotonic` by straight lines
    between `knots` (p, share right); the other labels follow by the temperature at which that comes out.
    """

    method: CalibrationMethod = "none"
    temperature: float = 1.0
    slope: float = 1.0
    intercept: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ReliabilityBin:
    """Rows of like confidence: how many, their mean confidence, the share answered right, its interval."""

    rows: int
    confidence: float
    accuracy: float
    interval: Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationScore:
    """How far probabilities are from how often they are right, over `n` rows.

    `ece` is the expected calibration error with as many bins as the rows bear, `ece_15` that with 15, and
    `ece_15_by_chance` what faultless probabilities would show there with so many rows. `brier` (0 is best)
    and `log_loss` (nats) are over all labels where each one's probability is known, else over whether the
    answer was right.
    """

    n: int
    ece: float
    ece_15: float
    ece_15_by_chance: float
    brier: float
    log_loss: float
    reliability: tuple[ReliabilityBin, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """A System's map, fitted on `rows` dev rows that `rows_digest` names, and the scores before and after.

    On dev each row's score comes from a map that was fitted without it. `test` is None where the sealed test
    wasn't opened for the System. `every_label`: the map was fitted on the probabilities of all labels, else
    on the answers' alone. `note` says why this map.
    """

    map: CalibrationMap
    rows: int
    rows_digest: str
    every_label: bool
    note: str
    dev: tuple[CalibrationScore, CalibrationScore] | None = None
    test: tuple[CalibrationScore, CalibrationScore] | None = None
