"""`rung check`: the rows of a task through every check, as a climb would see them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from rung.checks.audit import read_audit, write_audit
from rung.checks.base import ALL_NEEDS, Embed
from rung.checks.data_report import DataReport, ShownRow
from rung.checks.examine import examined, has_vectors, metric_of, report_of, rung_context, write_report
from rung.checks.renders import Renders
from rung.checks.rows import prepare
from rung.checks.shown import shown_rows
from rung.checks.table import known_names
from rung.climb.machine import versions
from rung.errors import ModelError
from rung.evaluate import ANSWERS_FOLDER, Bench, Store
from rung.models.embed import Embedder
from rung.models.hosted import hosted
from rung.models.resolve import Model, at_hand, limited
from rung.records import Example
from rung.rungs.base import Context, Reporter, vectors
from rung.system import Pool
from rung.task import Task
from rung.wording import embedded_text


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """What the command line may set; the rest is as a climb has it by default.

    `audit` is where test rows are written for a second person to label, `audited` the file that has them.
    """

    test: Path | None = None
    out: Path | None = None
    models: tuple[str, ...] = ()
    format: str = "auto"
    accept: tuple[str, ...] = ()
    show: int = 0
    audit: Path | None = None
    audited: Path | None = None
    dev_rows: int | None = None
    budget_s: float = 1800.0
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Looked:
    """The report on a task's rows, the folder in which it lies, and rows as the model sees them."""

    report: DataReport
    folder: Path
    shown: tuple[ShownRow, ...] = ()


def embedding(reporter: Reporter) -> Embed:
    """Sentence vectors of rows [rows, width], with a progress bar; the model is brought if it isn't here."""

    def embed(rows: Sequence[Example]) -> np.ndarray:
        bar = reporter.begin("sentence vectors", len(rows))
        try:
            told = [embedded_text(row) for row in rows]
            return Embedder().embed(told, progress=lambda done, _: reporter.advance(bar, done))
        finally:
            reporter.end(bar)

    return embed


def check_rows(source: Path, options: CheckOptions, reporter: Reporter) -> Looked:
    """Run every check on the rows and write `data_report.json`; `show` rows are rendered as well.

    What needs a model's tokens goes by the smallest of the task's that are on this machine. None is brought:
    where none is here such checks are left out, and say so. Raises RungError where the rows can't be read as
    a task.
    """
    start = time.monotonic()
    known_names(options.accept)
    prepared = prepare(source, options, reporter)
    test, task = prepared.splits.test, prepared.task
    if options.audit is not None:
        count = write_audit(test, options.audit, task.seed)
        knows = ", who is told the labels" if task.output.kind == "label" else ""
        said = f"{count} test rows; have a second person fill in `second` in each{knows}"
        reporter.say(f"{options.audit}: {said}; their outputs aren't in it")
    if options.audited is not None:
        prepared = replace(prepared, audited=read_audit(options.audited, test, task))
    folder = options.out or Path("runs") / f"{task.name}-data"
    model = smallest(task)
    with Pool(say=reporter.say) as pool:
        bench = Bench(pool=pool, store=Store(folder / ANSWERS_FOLDER), metric=metric_of(prepared))
        if model is not None:
            model = limited(model, task.context_tokens)
        context = rung_context(prepared, model, folder, bench, reporter) if model else None
        if options.show and context is None:
            raise ModelError(
                f"{_local(task)[0]!r} isn't on this machine, so that rows can't be shown as it sees them: "
                "bring it with rung models --fetch"
            )
        checked = examined(
            prepared,
            options.accept,
            ALL_NEEDS,
            embed=partial(vectors, pool, run=folder, reporter=reporter) if has_vectors(pool) else None,
            context=context,
            reporter=reporter,
        )
        shown = _shown(context, options.show) if context and options.show else ()
    report = report_of(prepared, checked, options.accept, time.monotonic() - start, versions())
    write_report(report, folder)
    return Looked(report=report, folder=folder, shown=shown)


def _local(task: Task) -> list[str]:
    """The models that aren't hosted; all, where every one is."""
    return [name for name in task.models if hosted(name) is None] or list(task.models)


def smallest(task: Task) -> Model | None:
    """The smallest of the task's models that are on this machine, None where none is."""
    here = [model for name in _local(task) if (model := at_hand(name)) is not None]
    return min(here, key=lambda model: (model.parameters, model.name), default=None)


def _shown(context: Context, count: int) -> tuple[ShownRow, ...]:
    """The first training rows that can be learned from; no others are rendered for that."""
    some = Renders(context, tuple(context.train)).examples[:count]
    return shown_rows(Renders(context, some), count)
