"""A climb's rows, read and looked at before any model is brought, and what that took."""

import time
from dataclasses import dataclass
from pathlib import Path

from rung.checks.examine import examined, stop_on_block, tell
from rung.checks.rows import Prepared, prepare
from rung.checks.table import Checked, known_names
from rung.climb.machine import Watch
from rung.climb.options import Options
from rung.climb.rivals import hosted_models
from rung.errors import TaskError
from rung.rungs.base import Reporter


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A task's rows, what the checks of the rows alone found, and the seconds and the most memory it took."""

    prepared: Prepared
    found: Checked
    seconds: float
    peak_mb: float


def read(source: Path, options: Options, reporter: Reporter) -> Reading:
    """Read a task folder, a task.yaml or a bare data file and check its rows.

    Says what was inferred and found. Raises RungError where the rows or the task can't be climbed on.
    """
    start = time.monotonic()
    with Watch(lambda: None) as watch:
        known_names(options.accept)
        prepared = prepare(source, options, reporter)
        hosted_models(prepared.task)
        for line in prepared.inferred:
            reporter.say(line)
        found = examined(prepared, options.accept, ("rows",), reporter=reporter)
        tell((*found.findings, *prepared.notes), reporter)
        stop_on_block(found.findings)
    if prepared.task.limits.forgetting == "block" and not options.forgetting:
        raise TaskError("limits.forgetting is block, which --no-forgetting would pass over: leave one out")
    return Reading(prepared=prepared, found=found, seconds=time.monotonic() - start, peak_mb=watch.peak_mb)
