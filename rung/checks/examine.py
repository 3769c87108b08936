"""A task's rows through the checks: told as they go, put together as a report, and stopped at what blocks."""

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from pydantic import TypeAdapter, ValidationError

from rung.asking import context_of
from rung.checks.base import Embed, Needs, Subject
from rung.checks.data_report import DataReport
from rung.checks.lengths import too_long
from rung.checks.progress import bar
from rung.checks.renders import Renders
from rung.checks.rows import Prepared
from rung.checks.table import CHECKS, Checked, blocks, check
from rung.errors import DataError, RunError
from rung.evaluate import Bench
from rung.models.resolve import Model, at_hand
from rung.records import Finding, MetricName
from rung.rungs.base import Context, Reporter
from rung.runs import digest_of, read_json, write_text
from rung.system import Pool

REPORT_FILE = "data_report.json"


def rung_context(prepared: Prepared, model: Model, folder: Path, bench: Bench, reporter: Reporter) -> Context:
    """What a rung on these rows would be given, without a deadline or a rival."""
    splits, limit = prepared.splits, context_of(model)
    bench.pool.models[model.digest] = model
    return Context(
        task=prepared.task,
        train=splits.train,
        dev=splits.dev,
        undesirable=splits.undesirable,
        dev_undesirable=splits.dev_undesirable,
        too_long=too_long(splits, bench.pool.chat(model), limit),
        passages=prepared.passages,
        model=model,
        folder=folder,
        bench=bench,
        reporter=reporter,
        deadline=math.inf,
        seed=prepared.task.seed,
    )


def metric_of(prepared: Prepared) -> MetricName:
    """How the task's answers are scored."""
    assert prepared.task.metric is not None, "the task was completed from its rows"
    return prepared.task.metric


def has_vectors(pool: Pool) -> bool:
    """Whether sentence vectors can be made without bringing a model: a check never brings one."""
    return at_hand(pool.embedder.name) is not None


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
    reporter: Reporter | None = None,
) -> Checked:
    """What the checks with these needs find in prepared rows; `context` is that of a rung."""
    names = [one.name for one in CHECKS if one.needs in needs]
    with bar(reporter, "checks", len(names)) as advance:
        now = 0

        def begun(name: str) -> None:
            nonlocal now
            now = names.index(name)
            advance(now, name)

        subject = Subject(
            task=prepared.task,
            splits=prepared.splits,
            broken=prepared.broken,
            undesirable=prepared.undesirable,
            near=prepared.near,
            near_test=prepared.near_test,
            embed=embed,
            audited=prepared.audited,
            progress=lambda done, total: advance(now, f"{names[now]}: {done:,} of {total:,} rows"),
        )
        if context is not None:
            subject = replace(subject, renders=Renders(context, subject.sample.rows))
        return check(subject, accepted, needs, begun)


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
    """What the checks that need a model found on the same rows, those accepted being the same; else None.

    It's read from the folder's report. What needs no model is looked at again.
    """
    if not (folder / REPORT_FILE).exists():
        return None
    try:
        report = read_report(folder)
    except (RunError, DataError, ValidationError):
        return None  # damaged, or of another version: the checks can be run again
    needs = {one.name: one.needs for one in CHECKS}
    same = report.digest == prepared.splits.digest and report.accepted == tuple(sorted(accepted))
    if not same or {run.name for run in report.checks} != needs.keys():
        return None
    return Checked(
        findings=tuple(f for f in report.findings if needs.get(f.check, "rows") != "rows"),
        runs=tuple(run for run in report.checks if needs[run.name] != "rows"),
    )
