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
│   └── OtherTrainingError     the state of a tune that was begun on other rows or settings
└── SystemFolderError          a System's folder is incomplete or was changed

Anything else that escapes is a fault of rung: traceback, exit status 1.
"""


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
    """What a tune has learned so far is of other rows or settings than it would go on with."""


class SystemFolderError(RungError):
    """A System's folder is incomplete or was changed."""
