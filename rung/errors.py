"""Every error that rung raises on purpose.

RungError                      something the user can act on: shown as one line, exit status 2
├── TaskError                  task.yaml or a command-line choice is wrong
├── DataError                  a data file or a row is wrong
├── ModelError                 a model can't be found, read or trusted
│   └── WeightsError           its weights can't be had or kept now: what is in the way lies outside
│       └── DigestError        the bytes are not the ones that were promised
├── EngineError                an engine can't start or broke while it answered
├── TrainingError              a tune can't go on or isn't fit to be shipped
├── RunError                   the run folder can't be written, read or resumed
│   ├── OtherTrainingError     a training state of other rows or settings
│   └── OtherLessonError       a tune of which it's sure that it was begun on something else
└── SystemFolderError          a System's folder is incomplete or was changed

Anything else that escapes is a fault of rung: traceback, exit status 1.
"""

from collections.abc import Sequence
from pathlib import Path


class RungError(Exception):
    """Something the user can act on; the message says what, where, the value and the way out."""


class TaskError(RungError):
    """The task file or a command-line choice is wrong."""


class DataError(RungError):
    """A data file or a row is wrong."""


class ModelError(RungError):
    """A model can't be found, read or trusted."""


class WeightsError(ModelError):
    """A model's weights can't be had or kept now; once what is in the way is gone, they can."""


class DigestError(WeightsError):
    """The bytes are not the ones that were promised."""


class EngineError(RungError):
    """An engine can't start, or broke while it answered."""


class TrainingError(RungError):
    """A tune can't go on, or isn't fit to be shipped."""


class RunError(RungError):
    """The run folder can't be written, read or resumed."""


class OtherTrainingError(RunError):
    """A training state is another than it would be gone on with, in what is `differing`."""

    def __init__(self, message: str, differing: Sequence[str]) -> None:
        """`differing` are the names of what was compared."""
        super().__init__(message)
        self.differing = tuple(differing)


class OtherLessonError(RunError):
    """What a tune in a folder's work has learned so far is surely of other rows, or of another start."""

    def __init__(self, message: str, folder: Path) -> None:
        """`folder` is that of the rung, or of the part of one, whose tunes all learn from the same."""
        super().__init__(message)
        self.folder = folder


class SystemFolderError(RungError):
    """A System's folder is incomplete or was changed."""
