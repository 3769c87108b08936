"""`rung check`: the rows of a task through every check, as a climb would see them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rung.checks.audit import read_audit, write_audit
from rung.checks.base import ALL_NEEDS
from rung.checks.examine import examined, report_of, write_report
from rung.checks.rows import prepare
from rung.checks.table import known_names
from rung.climb.machine import versions
from rung.models.resolve import at_hand
from rung.records import DataReport, Example
from rung.rungs.base import Reporter
from rung.runs import writing
from rung.system import Pool, context_of
from rung.wording import embedded_text

VECTORS_FOLDER = "vectors"


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
    audit: Path | None = None
    audited: Path | None = None
    dev_rows: int | None = None
    budget_s: float = 1800.0
    seed: int | None = None


def check_rows(source: Path, options: CheckOptions, reporter: Reporter) -> tuple[DataReport, Path]:
    """Run every check on the rows and write `data_report.json`; the report and its folder.

    A model that isn't on this machine isn't brought: checks that need it are left out, and say so. Raises
    RungError where the rows can't be read as a task.
    """
    start = time.monotonic()
    known_names(options.accept)
    prepared = prepare(source, options)
    test, task = prepared.splits.test, prepared.task
    if options.audit is not None:
        count = write_audit(test, options.audit, task.seed)
        reporter.say(f"{options.audit}: {count} test rows; have a second person fill in `second` in each")
    if options.audited is not None:
        prepared = replace(prepared, audited=read_audit(options.audited, test, task))
    folder = options.out or Path("runs") / f"{task.name}-data"
    model = at_hand(task.models[0])
    with Pool() as pool:

        def embed(rows: Sequence[Example]) -> np.ndarray:
            bar = reporter.begin("sentence vectors", len(rows))
            try:
                with writing(folder):
                    return pool.embedder.cached_embeddings(
                        [embedded_text(e) for e in rows],
                        folder / VECTORS_FOLDER,
                        progress=lambda done, _: reporter.advance(bar, done),
                    )
            finally:
                reporter.end(bar)

        checked = examined(
            prepared,
            options.accept,
            ALL_NEEDS,
            embed=embed if at_hand(pool.embedder.name) else None,
            chat=pool.chat(model) if model else None,
            limit=context_of(model) if model else 0,
        )
    report = report_of(prepared, checked, options.accept, time.monotonic() - start, versions())
    write_report(report, folder)
    return report, folder
