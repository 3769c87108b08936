"""`rung check --redact`: copies of a task's data files without what must not be told."""

from pathlib import Path

from rung.data.redact import Redaction, read_roster, redact
from rung.task import load_task


def redact_task(
    source: Path, out: Path, *, test: Path | None = None, roster: Path | None = None
) -> Redaction:
    """Write copies of the task's training and test rows into `out`; a value has one placeholder in both.

    `roster` is a file of names, one a line. Raises RungError where `out` isn't free or a file can't be read.
    """
    data = load_task(source, test=test).data
    files = [data.train, *([data.test] if data.test else [])]
    return redact(files, out, read_roster(roster) if roster else ())
