"""What the user wants: task.yaml read, checked, and completed from the rows."""

from rung.task.complete import infer, is_of_kind, settle_kind
from rung.task.load import load_task
from rung.task.model import DataFiles, Limits, Output, Task, Tuning
from rung.task.outputs import as_kind, shown

__all__ = [
    "DataFiles",
    "Limits",
    "Output",
    "Task",
    "Tuning",
    "as_kind",
    "infer",
    "is_of_kind",
    "load_task",
    "settle_kind",
    "shown",
]
