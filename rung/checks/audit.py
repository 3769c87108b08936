"""A second person's labels for some test rows: the sheet to fill in, and how far the two agree."""

import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rung.checks.base import SHOWN_ROWS, Outcome, Subject, finding, rows_text
from rung.data.rows import read_rows
from rung.errors import DataError
from rung.records import Example, Interval, Json
from rung.runs import need_lines_name, write_text
from rung.scoring.stats import normal_quantile, wilson
from rung.task import Task
from rung.task.outputs import as_kind, canonical, shown

AUDIT_ROWS = 50
ENOUGH_ROWS = 30
"""Rows that two people should have labelled before their agreement means much."""
LOW_KAPPA = 0.6
COLUMN, DIGEST = "second", "digest"
"""What the second person fills in, and what tells that a row is as it was."""


def audit(subject: Subject) -> Outcome:
    """How far a second person agrees with the test's outputs: a score above that means little."""
    pairs = subject.audited
    if pairs is None:
        return "no second labels: `rung check TASK --audit OUT.jsonl` writes test rows to be labelled again"
    kind = subject.task.output.kind
    first = [canonical(row.output) for row, _ in pairs]
    second = [canonical(value) for _, value in pairs]
    same = sum(a == b for a, b in zip(first, second, strict=True))
    rate = wilson(same, len(pairs))
    said = (
        f"a second person agrees on {same:,} of {rows_text(len(pairs))} of the test "
        f"({same / len(pairs):.0%}, {rate.low:.0%} to {rate.high:.0%})"
    )
    kappa = None
    if kind == "label":
        kappa, interval = cohen_kappa(first, second)
        said += (
            "; Cohen's kappa can't be told, all have one label"
            if kappa is None
            else f"; Cohen's kappa {kappa:.2f} ({interval.low:.2f} to {interval.high:.2f})"
        )
    else:
        said += ", counting what is exactly the same"
    if len(pairs) < ENOUGH_ROWS:
        said += f"; label {ENOUGH_ROWS} rows or more for a figure to rely on"
    low = kappa is not None and kappa < LOW_KAPPA
    if low:
        said += f": under {LOW_KAPPA}, so write down what each label means and label the test again by that"
    apart = [(row, value) for (row, value), a, b in zip(pairs, first, second, strict=True) if a != b]
    details = [
        f"{row.where} {shown(row.input)} is {shown(row.output, 40)}, second {shown(value, 40)}"
        for row, value in apart[:SHOWN_ROWS]
    ]
    return [finding("audit", "warn" if low else "info", said, [row for row, _ in apart], details)]


def cohen_kappa(
    first: Sequence[str], second: Sequence[str], level: float = 0.95
) -> tuple[float | None, Interval]:
    """Cohen's kappa of two raters' labels, in parallel, with its large-sample interval.

    The standard error is that of Fleiss, Cohen & Everitt 1969, "Large sample standard errors of kappa and
    weighted kappa", as in statsmodels' `cohens_kappa`. Where all agree it is zero; the lower end is then that
    of Wilson's interval for the agreement, at the same agreement by chance. None, with an interval that
    says nothing, where both gave one label only. ValueError without labels.
    """
    if not first:
        raise ValueError("no labels to compare")
    names = {label: place for place, label in enumerate(sorted({*first, *second}))}
    table = np.zeros((len(names), len(names)))
    for a, b in zip(first, second, strict=True):
        table[names[a], names[b]] += 1 / len(first)
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    agreed, chance = float(table.trace()), float(rows @ columns)
    if len(names) == 1:
        return None, Interval(low=-1.0, high=1.0, level=level)
    kappa = (agreed - chance) / (1 - chance)
    if len(first) - agreed * len(first) < 0.5:
        rate = wilson(len(first), len(first), level).low
        return 1.0, Interval(low=(rate - chance) / (1 - chance), high=1.0, level=level)
    alike = table.diagonal() @ (1 - (rows + columns) * (1 - kappa)) ** 2
    apart = table * (columns[:, None] + rows[None, :]) ** 2
    unlike = (1 - kappa) ** 2 * (apart.sum() - apart.trace())
    variance = (alike + unlike - (kappa - chance * (1 - kappa)) ** 2) / ((1 - chance) ** 2 * len(first))
    half = normal_quantile((1 + level) / 2) * math.sqrt(max(0.0, variance))
    return kappa, Interval(low=max(-1.0, kappa - half), high=min(1.0, kappa + half), level=level)


def write_audit(test: Sequence[Example], path: Path, seed: int) -> int:
    """Write random test rows with an empty `second` output, to be filled in; how many they are.

    Their own outputs aren't there: kappa is of two people who don't know what the other said. Raises
    RungError where the file is there already, as it may hold somebody's work, or can't be named so.
    """
    need_lines_name(path, "--audit")
    if path.exists():
        raise DataError(
            f"--audit {str(path)!r} is there already; read it back with --audited, or name another file"
        )
    drawn = random.Random(seed).sample(list(test), min(AUDIT_ROWS, len(test)))
    lines = [
        {
            "id": row.id,
            "where": row.where,
            **({"context": row.context} if row.context else {}),
            "input": row.input,
            DIGEST: _digest(row),
            COLUMN: None,
        }
        for row in drawn
    ]
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return len(lines)


def read_audit(path: Path, test: Sequence[Example], task: Task) -> tuple[tuple[Example, Json], ...]:
    """The test rows that have a second output, each with it; rows without one are passed over.

    Raises DataError, naming the line, for a row that isn't in the test or was changed, for a second output
    of another kind or label, and where nothing is filled in.
    """
    known = {row.id: row for row in test}
    found: dict[str, tuple[Example, Json]] = {}
    for where, line in read_rows(path):
        if isinstance(line, DataError):
            raise line
        row = known.get(str(line.get("id")))
        if row is None or not _is_same(row, line):
            raise DataError(
                f"{where}: no test row is like this (id {shown(line.get('id'))}); the rows, the seed or this "
                "file were changed since --audit wrote it: write it again"
            )
        value = line.get(COLUMN)
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        if row.id in found:
            raise DataError(f"{where}: id {row.id!r} stands there twice; keep one of the two rows")
        found[row.id] = (row, _second(value, where, task))
    if not found:
        raise DataError(f"{path.name}: no row has a {COLUMN!r} output; fill in some, at best all")
    return tuple(found.values())


def _is_same(row: Example, line: Mapping[str, Json]) -> bool:
    """Whether a line is of the row as it is now; sheets of earlier versions hold the output itself."""
    if row.input != line.get("input"):
        return False
    return line["output"] == row.output if "output" in line else line.get(DIGEST) == _digest(row)


def _digest(row: Example) -> str:
    """Of a row's output with its id: equal outputs aren't to be told by equal digests."""
    return hashlib.sha256(f"{row.id}\n{canonical(row.output)}".encode()).hexdigest()[:16]


def _second(value: Json, where: str, task: Task) -> Json:
    output = task.output
    assert output.kind is not None, "the task was completed from its rows"
    read = as_kind(value, output.kind)
    if read is None:
        raise DataError(f"{where}: {COLUMN} {shown(value)} is no {output.kind}; correct it")
    if output.kind == "label" and output.labels and read not in output.labels:
        labels = ", ".join(output.labels)[:200]
        raise DataError(f"{where}: {COLUMN} {shown(value)} is no label of the task; they are {labels}")
    return read
