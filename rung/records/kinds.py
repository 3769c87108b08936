"""The words that records are made of: kinds of outputs, metrics, splits, verdicts."""

from typing import Literal

from pydantic import JsonValue

Json = JsonValue
"""Any value that JSON can hold."""

OutputKind = Literal["label", "json", "text", "number", "tool_call"]
MetricName = Literal[
    "accuracy",
    "macro_f1",
    "field_f1",
    "exact",
    "tool_call",
    "execution",
    "rouge_l",
    "style",
    "mae",
    "spearman",
    "judge",
]
Severity = Literal["block", "warn", "info"]
Gap = Literal["knowledge", "behaviour"]
"""What the right passage in the prompt shows: the answers need what documents hold, or they don't."""
SplitName = Literal["train", "dev", "test"]
VerdictKind = Literal["clear_winner", "tie", "undecided", "no_verdict"]
CalibrationMethod = Literal["none", "temperature", "platt", "isotonic"]
