"""A task's rows through the checks: told as they go, put together as a report, and stopped at what blocks."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

from pydantic import TypeAdapter, ValidationError

from rung.checks.base import Embed, Needs, Subject
from rung.checks.renders import Renders
from rung.checks.rows import Prepared
from rung.checks.table import CHECKS, Checked, blocks, check
from rung.errors import DataError, RunError
from rung.records import DataReport, Finding
from rung.rungs.base import Context
from rung.runs import digest_of, read_json, write_text

REPORT_FILE = "data_report.json"


class Teller(Protocol):
    """Who is told what was found."""

    def say(self, text: str) -> None:
        """One line."""
        ...


def examined(
    prepared: Prepared,
    accepted: Collection[str],
    needs: Collection[Needs],
    *,
    embed: Embed | None = None,
    context: Context | None = None,
) -> Checked:
    """What the checks with these needs find in prepared rows; `context` is that of a rung."""
    splits = prepared.splits
    rows = (*splits.train, *splits.dev, *splits.test)
    subject = Subject(
        task=prepared.task,
        splits=prepared.splits,
        broken=prepared.broken,
        near=prepared.near,
        embed=embed,
        renders=Renders(context, rows) if context else None,
        audited=prepared.audited,
    )
    return check(subject, accepted, needs)


def together(*parts: Checked) -> Checked:
    """Several runs over the same rows as one, in the order of the table."""
    place = {one.name: number for number, one in enumerate(CHECKS)}
    findings = sorted((f for part in parts for f in part.findings), key=lambda f: place[f.check])
    runs = sorted((run for part in parts for run in part.runs), key=lambda run: place[run.name])
    return Checked(findings=tuple(findings), runs=tuple(runs))


def tell(findings: Sequence[Finding], teller: Teller) -> None:
    """Say each finding in a line."""
    for finding in findings:
        teller.say(f"{finding.severity}: {finding.message}")


def stop_on_block(findings: Sequence[Finding]) -> None:
    """Raises DataError with all that blocks, and how to go on all the same."""
    found = blocks(findings)
    if found:
        names = ",".join(dict.fromkeys(finding.check for finding in found))
        said = " · ".join(finding.message for finding in found)
        raise DataError(f"the data can't be used: {said} (to go on all the same: --accept {names})")


def report_of(
    prepared: Prepared,
    checked: Checked,
    accepted: Collection[str],
    seconds: float,
    versions: Sequence[tuple[str, str]],
) -> DataReport:
    """Everything that was found, as one record."""
    kind = prepared.task.output.kind
    assert kind is not None, "the task was completed from its rows"
    splits = prepared.splits
    return DataReport(
        task=prepared.task.name,
        kind=kind,
        parts=(("train", len(splits.train)), ("dev", len(splits.dev)), ("test", len(splits.test))),
        digest=splits.digest,
        inferred=prepared.inferred,
        findings=(*checked.findings, *prepared.notes),
        checks=checked.runs,
        accepted=tuple(sorted(accepted)),
        seconds=seconds,
        versions=tuple(versions),
    )


def write_report(report: DataReport, folder: Path) -> Path:
    """`data_report.json` in the folder, its fields signed by their digest."""
    fields = TypeAdapter(DataReport).dump_python(report, mode="json")
    path = folder / REPORT_FILE
    text = TypeAdapter(dict).dump_json({**fields, "signature": digest_of(fields)}, indent=2).decode("utf-8")
    write_text(path, text + "\n")
    return path


def read_report(folder: Path) -> DataReport:
    """The report that lies in a folder. Raises DataError where it was changed by hand."""
    fields = read_json(folder / REPORT_FILE)
    signature = fields.pop("signature", None)
    if signature != digest_of(fields):
        raise DataError(f"{str(folder / REPORT_FILE)!r} was changed since it was written: check again")
    return TypeAdapter(DataReport).validate_python(fields)


def kept_checks(folder: Path, prepared: Prepared, accepted: Collection[str]) -> Checked | None:
    """What was found on the same rows with the same checks accepted, from the folder's report; else None."""
    if not (folder / REPORT_FILE).exists():
        return None
    try:
        report = read_report(folder)
    except (RunError, DataError, ValidationError):
        return None  # damaged, or of another version: the checks can be run again
    known = {one.name for one in CHECKS}
    same = report.digest == prepared.splits.digest and report.accepted == tuple(sorted(accepted))
    if not same or {run.name for run in report.checks} != known:
        return None
    findings = tuple(finding for finding in report.findings if finding.check in known)
    return Checked(findings=findings, runs=report.checks)
