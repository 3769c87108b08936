"""From what the user named to a completed task and checked, split rows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rung.data.checks import check
from rung.data.sources import conform, read_source
from rung.data.splits import split
from rung.errors import DataError
from rung.records import Finding, Splits
from rung.task import Task, infer, load_task


class RowOptions(Protocol):
    """The command-line choices that decide the rows."""

    @property
    def test(self) -> Path | None:
        """A test file for a bare data file."""
        ...

    @property
    def models(self) -> tuple[str, ...]:
        """Models in place of the task's."""
        ...

    @property
    def dev_rows(self) -> int:
        """The most dev rows to score."""
        ...

    @property
    def seed(self) -> int | None:
        """A seed in place of the task's."""
        ...

    @property
    def format(self) -> str:
        """How rows are written, or `auto`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A task with nothing left open, its rows in three parts, and what was found on the way."""

    task: Task
    splits: Splits
    inferred: tuple[str, ...]
    findings: tuple[Finding, ...]


def prepare(source: Path, options: RowOptions) -> Prepared:
    """Read, infer, split and check. Raises RungError with the row and the way out."""
    task = load_task(source, test=options.test)
    changes = {}
    if options.models:
        changes["models"] = options.models
    if options.seed is not None:
        changes["seed"] = options.seed
    task = task.model_copy(update=changes)
    chosen = options.format if options.format != "auto" else task.data.format
    train = read_source(task.data.train, chosen)
    test = read_source(task.data.test, chosen) if task.data.test else None
    if options.dev_rows < 20:
        raise DataError(f"--dev-rows {options.dev_rows} is too few to choose by; give at least 20")
    task, inferred = infer(task, train.examples)
    assert task.output.kind is not None, "infer leaves nothing open"
    parts = split(
        conform(train.examples, task.output.kind),
        test=conform(test.examples, task.output.kind) if test else None,
        seed=task.seed,
        stratify=task.output.kind == "label",
        dev_rows=options.dev_rows,
    )
    notes = [*train.notes, *(test.notes if test else ())]
    lines = (*notes, *inferred, *_not_used(task))
    return Prepared(task=task, splits=parts, inferred=lines, findings=check(parts, task))


def _not_used(task: Task) -> list[str]:
    """What the task names and this version doesn't use: said, so that nobody believes it was."""
    lines = []
    if len(task.models) > 1:
        lines.append(f"models: only the first, {task.models[0]!r}, is climbed in this version")
    if task.teacher is not None:
        lines.append(f"teacher = {task.teacher!r} isn't used in this version")
    if task.data.documents is not None:
        lines.append(f"data.documents = {task.data.documents.name!r} isn't used in this version")
    return lines
