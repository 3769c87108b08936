"""The frozen records that cross area borders. They hold values; they do nothing."""

from rung.records.answers import (
    Answer,
    Interval,
    Measurement,
    Prediction,
    Step,
    Stopped,
    TokenPrice,
)
from rung.records.calibrated import Calibration, CalibrationMap, CalibrationScore, ReliabilityBin
from rung.records.climbed import (
    Climb,
    CurvePoint,
    Disagreement,
    Forecast,
    LearningCurve,
    Parity,
    RungResult,
    Trial,
)
from rung.records.decided import Candidate, Comparison, Decision
from rung.records.kinds import (
    CalibrationMethod,
    Gap,
    Json,
    MetricName,
    OutputKind,
    Severity,
    SplitName,
    VerdictKind,
)
from rung.records.rows import CheckRun, Example, Finding, Passage, Splits

__all__ = [
    "Answer",
    "Calibration",
    "CalibrationMap",
    "CalibrationMethod",
    "CalibrationScore",
    "Candidate",
    "CheckRun",
    "Climb",
    "Comparison",
    "CurvePoint",
    "Decision",
    "Disagreement",
    "Example",
    "Gap",
    "Finding",
    "Forecast",
    "Interval",
    "Json",
    "LearningCurve",
    "Measurement",
    "MetricName",
    "OutputKind",
    "Parity",
    "Passage",
    "Prediction",
    "ReliabilityBin",
    "RungResult",
    "Severity",
    "SplitName",
    "Splits",
    "Step",
    "Stopped",
    "TokenPrice",
    "Trial",
    "VerdictKind",
]
