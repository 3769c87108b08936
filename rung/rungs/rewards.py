"""The reward of an answer: the metric's score of its row, where a program can check that."""

from rung.records import Answer, Example, MetricName, OutputKind
from rung.scoring.scorers import SCORERS

CHECKED: dict[MetricName, MetricName] = {
    "exact": "exact",
    "accuracy": "accuracy",
    "field_f1": "field_f1",
    "tool_call": "tool_call",
    "execution": "execution",
    "mae": "exact",
}
"""The metric by whose row score an answer is rewarded: an error has no top, so a number is right or not."""


def no_reward(metric: MetricName, kind: OutputKind) -> str | None:
    """Why a task's answers can't be learned from by reward; None where they can."""
    if kind == "label":
        return (
            "the answer is a label: sft's loss is already the logarithm of its expected reward, and answers "
            "that are drawn would only add noise"
        )
    if metric not in CHECKED:
        return (
            f"the metric {metric} can't tell of one answer alone whether it's right; answers are rewarded by "
            f"{', '.join(CHECKED)}"
        )
    return None


def reward(answer: Answer, example: Example, metric: MetricName) -> float:
    """From 0 to 1; 0 for an answer that can't be read as the task's kind. KeyError for another metric."""
    if answer.value is None:
        return 0.0
    return SCORERS[CHECKED[metric]].row(answer.value, example.output)
