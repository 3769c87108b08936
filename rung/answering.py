"""A System as a function: `rung.load("runs/demo/winner")("My parcel never came.")`."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeAlias

from rung.engines.base import Progress, no_progress
from rung.errors import EngineError, TaskError
from rung.records import Answer, Example, Json
from rung.registry import load_system
from rung.system import Pool, System
from rung.task.outputs import check_text, shown

Asked: TypeAlias = "str | Mapping[str, str | None]"
"""A text, or {"input": …, "context": …} as in a row; other keys of a row are passed over."""


class Answerer(AbstractContextManager["Answerer"]):
    """A loaded System with the engine that answers for it, which starts at the first question.

    The engine stays until `close`, or the end of a `with`. Not for several threads at once.
    """

    def __init__(self, system: System, pool: Pool | None = None) -> None:
        """`pool` shares engines and models with other Systems; it isn't closed here."""
        self.system = system
        self._own = pool is None
        self._pool = pool or Pool()

    def __call__(self, text: str, *, context: str | None = None) -> Json:
        """The answer to one text: a label, a number, a text or a JSON value.

        None where what the model wrote can't be read as one; `ask` shows it then. Raises TaskError for a
        text that can't be asked, EngineError where the call broke.
        """
        return self.ask(text, context=context).value

    def ask(self, text: str, *, context: str | None = None, every_label: bool = False) -> Answer:
        """The whole answer to one text, with its probability, tokens and seconds. Raises as a call does.

        The probability is calibrated where the System has a calibration. `every_label` works out all labels'
        probabilities, which the answer has anyway but for labels in words of which some begin alike.
        """
        asked = _example("the text", {"input": text, "context": context})
        (answer,) = _answered(self.system, [asked], self._pool, every_label=every_label)
        if answer.failure is not None:
            raise EngineError(
                f"{self.system.folder} could not answer: {answer.failure}; try again, or climb again"
            )
        return answer

    def batch(
        self, rows: Iterable[Asked], *, progress: Progress = no_progress, every_label: bool = False
    ) -> list[Answer]:
        """One answer for each row, in order, as `ask` gives it; a call that broke is named in its `failure`.

        Raises TaskError, before anything is asked, for a row that can't be.
        """
        examples = [_example(f"row {number}", row) for number, row in enumerate(rows, start=1)]
        return _answered(self.system, examples, self._pool, progress, every_label=every_label)

    def close(self) -> None:
        """Stop the engine, unless it belongs to others. A later question starts it again."""
        if self._own:
            self._pool.close()

    def __exit__(self, *exc: object) -> None:
        self.close()


def load(system: Path | str) -> Answerer:
    """Load a System: a folder such as a run's `winner`, or as text also a tag such as "helpdesk:1.2".

    Raises SystemFolderError where there is none or it isn't whole.
    """
    return Answerer(System.load(system) if isinstance(system, Path) else load_system(system)[0])


def distribution(
    system: System, examples: Sequence[Example], pool: Pool, progress: Progress = no_progress
) -> list[tuple[float, ...]]:
    """Calibrated probabilities of all labels, in `spec.labels`' order, for each example; they sum to one.

    Raises TaskError where a System's answers have no probabilities, EngineError where a call broke.
    """
    if not system.has_probabilities:
        raise TaskError(f"{str(system.folder)!r} gives no probabilities: its answers aren't chosen labels")
    answers = _answered(system, examples, pool, progress, every_label=True)
    for example, answer in zip(examples, answers, strict=True):
        if answer.failure is not None:
            raise EngineError(f"no probabilities for {example.where or example.id}: {answer.failure}")
    return [answer.distribution for answer in answers]


def _answered(
    system: System,
    examples: Sequence[Example],
    pool: Pool,
    progress: Progress = no_progress,
    *,
    every_label: bool,
) -> list[Answer]:
    return system.calibrated(system.answer(examples, pool, progress=progress, every_label=every_label))


def _example(where: str, row: Asked) -> Example:
    said, context = (row.get("input"), row.get("context")) if isinstance(row, Mapping) else (row, None)
    if not isinstance(said, str) or not isinstance(context, str | None):
        raise TaskError(f"{where} is {shown(row)}: give a text, or a mapping with the text `input`")
    if not said.strip():
        raise TaskError(f"{where} is empty: there is nothing to answer")
    try:
        check_text(said + (context or ""))
    except ValueError as error:
        raise TaskError(f"{where} can't be asked: it {error}") from None
    return Example(id=where, input=said, output=None, context=context)
