"""Completing a task from its rows: the kind of answer, its labels or schema, and the metric."""

import difflib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rung.errors import DataError, TaskError
from rung.records import Example, Json, MetricName, OutputKind
from rung.task.calls import functions_in
from rung.task.model import Task
from rung.task.numbers import amount_of
from rung.task.outputs import (
    are_calls,
    are_codes,
    are_labels,
    as_calls,
    as_kind,
    canonical,
    come_again,
    is_few,
    is_name,
    kind_of,
    mostly,
    shown,
)
from rung.task.schemas import infer_schema
from rung.task.tables import tables_of

METRICS: dict[OutputKind, tuple[MetricName, ...]] = {
    "label": ("accuracy", "macro_f1", "exact"),
    "json": ("field_f1", "exact"),
    "text": ("rouge_l", "style", "execution", "exact", "accuracy", "judge"),
    "number": ("mae", "spearman", "exact"),
    "tool_call": ("tool_call", "exact"),
}
"""The metrics that fit each kind of output, the default first."""


def settle_kind(task: Task, rows: Sequence[Example]) -> tuple[Task, tuple[str, ...]]:
    """The task with its kind of answer, and a sentence on it where the rows decided.

    DataError when the rows share no kind, have one class only, or hold a label that isn't listed.
    """
    if not rows:
        raise DataError(f"{task.data.train}: no rows; name a file that holds some")
    notes: list[str] = []
    given = _given_kind(task, notes)
    if given is not None:
        if given == "label":
            _check_labels(task, rows)
        return _with(task, {"kind": given}), tuple(notes)
    kind = _seen_kind(rows, notes)
    if kind == "label":
        _check_labels(task, [row for row in rows if is_name(row.output)])
    return task.model_copy(update={"output": task.output.as_seen(kind)}), tuple(notes)


def is_of_kind(task: Task, row: Example) -> bool:
    """Whether a row's output is of the task's kind, which is settled.

    Where the rows decided that it's label, one that is too long for the name of a class isn't.
    """
    output = task.output
    assert output.kind is not None, "settle_kind comes first"
    if output.kind == "label" and output.seen_from_rows:
        return is_name(row.output)
    return as_kind(row.output, output.kind) is not None


def infer(task: Task, learned: Sequence[Example]) -> tuple[Task, tuple[str, ...]]:
    """The task with nothing left open, and one sentence for each thing that the rows decided.

    `learned` are the rows outside the test: its answers decide nothing. The kind is settled before.
    DataError when no row has an answer of the kind; TaskError when the metric doesn't fit it.
    """
    kind, notes = task.output.kind, list[str]()
    assert kind is not None, "settle_kind comes first"
    output: dict[str, Any] = {}
    if kind == "label":
        output["labels"] = task.output.labels or _labels(learned, notes)
    if kind == "json":
        output["json_schema"] = task.output.json_schema or _schema(learned, notes)
    metric = _metric(task, kind, learned, notes)
    if metric == "execution" and (empty := _made_up(task, learned)):
        notes.append(f"execution = queries of {empty:,} rows are run on made-up rows: only columns are known")
    if "volume" not in task.model_fields_set:
        notes.append(f"volume = {task.volume} (not given; it only weighs costs)")
    return _with(task, output).model_copy(update={"metric": metric}), tuple(notes)


def _with(task: Task, output: dict[str, Any]) -> Task:
    return task.model_copy(update={"output": task.output.model_copy(update=output)})


def _given_kind(task: Task, notes: list[str]) -> OutputKind | None:
    """The kind that the task file names or shows by what else it has; None where it does neither."""
    if task.output.kind is not None:
        if task.output.written_kind:
            notes.append(
                f"output.kind = {task.output.kind} ({task.output.written_kind!r} is answered as "
                f"{task.output.kind} in this version)"
            )
        return task.output.kind
    if task.output.labels is not None:
        notes.append("output.kind = label (labels are listed)")
        return "label"
    if task.output.json_schema is not None:
        notes.append("output.kind = json (a schema is given)")
        return "json"
    return None


def _seen_kind(rows: Sequence[Example], notes: list[str]) -> OutputKind:
    """The kind that all or nearly all outputs share."""
    values = [example.output for example in rows]
    kind, strange = kind_of(values)
    if kind is None:
        odd = next(example for example in rows if not isinstance(example.output, (dict, list)))
        raise DataError(
            f"{odd.where}: output {shown(odd.output)} is neither an object nor a list, but other rows have "
            "those; write all outputs in one way"
        )
    left = set(strange)
    alike = [row for place, row in enumerate(rows) if place not in left]
    apart = f"; {_unlike_text(rows, strange, kind)}" if strange else ""
    if kind == "json" and all(map(_calls_its_own, alike)) and any(functions_in(e.context) for e in alike):
        every = f"{len(alike):,} of {len(rows):,} outputs call" if strange else "every output calls"
        notes.append(f"output.kind = tool_call ({every} functions that its row offers){apart}")
        return "tool_call"
    distinct = len(Counter(map(canonical, values)))
    said = f"output.kind = {kind} ({distinct:,} distinct outputs in {len(rows):,} rows)"
    notes.append(said + apart + _other_kind(kind, rows, [example.output for example in alike]))
    return kind


def _other_kind(kind: OutputKind, rows: Sequence[Example], alike: Sequence[Json]) -> str:
    """What else the outputs may be meant as, and how to say so; nothing where that's plain."""
    numbers = all(as_kind(value, "number") is not None for value in alike)
    if kind in ("label", "text") and numbers and are_codes(alike):
        how = "a zero or plus in front, or more digits than a number keeps"
        return f"; they are codes ({how}): write 'output: {{kind: number}}' if they are amounts"
    if kind == "label" and numbers:
        return "; they are whole numbers: write 'output: {kind: number}' if nearness counts"
    if kind in ("label", "text") and (amounts := _as_amounts(alike)):
        return amounts
    if kind == "number" and are_labels(alike):
        few = len(Counter(map(canonical, alike)))
        return f"; only {few:,} different numbers: write 'output: {{kind: label}}' if they name classes"
    if kind != "text":
        return ""
    if (most := mostly([example.output for example in rows])) is not None:
        other, strange = most
        return f"; {_unlike_text(rows, strange, other)}: write 'output: {{kind: {other}}}' if all should be"
    if come_again(alike):
        return "; they are short and come again: write 'output: {kind: label}' if they name classes"
    return ""


def _as_amounts(values: Sequence[Json]) -> str:
    """How to have numbers where nearly all outputs are some, though not as they are written here."""
    plain = [as_kind(value, "number") for value in values]
    read = {
        place: amount
        for place, value in enumerate(values)
        if plain[place] is None and isinstance(value, str) and (amount := amount_of(value)) is not None
    }
    if not read or not is_few(plain.count(None) - len(read), len(plain)):
        return ""
    place, amount = next(iter(read.items()))
    return (
        f"; they look like numbers, such as {shown(values[place], 40)}: write {amount:.15g} for that, and "
        "all others so, if they are amounts"
    )


def _unlike_text(rows: Sequence[Example], strange: Sequence[int], kind: OutputKind) -> str:
    """How many outputs are of the kind, and the first that isn't."""
    first = rows[strange[0]]
    return (
        f"{len(rows) - len(strange):,} of {len(rows):,} outputs are of kind {kind}, "
        f"{first.where} {shown(first.output, 40)} isn't"
    )


def _calls_its_own(example: Example) -> bool:
    """Whether a row's output is a list of calls, and its context offers functions if any is called."""
    if not are_calls(example.output):
        return False
    return bool(functions_in(example.context)) or as_calls(example.output) == []


def _check_labels(task: Task, rows: Sequence[Example]) -> None:
    """Every row has a label, a listed one where they are listed, and there are two at least."""
    labels: set[str] = set()
    for example in rows:
        label = as_kind(example.output, "label")
        if label is None:
            raise DataError(
                f"{example.where}: output {shown(example.output)} is no label; write a short string"
            )
        if task.output.labels is not None and label not in task.output.labels:
            near = difflib.get_close_matches(str(label), task.output.labels, n=1, cutoff=0.0)
            raise DataError(
                f"{example.where}: output {shown(label)} is not among output.labels (nearest: {near[0]!r}); "
                "correct the row or list the label"
            )
        labels.add(str(label))
    if len(labels) == 1:
        raise DataError(
            f"{task.data.train}: every row has the output {shown(labels.pop())}; add rows of at least one "
            "other label"
        )


def _labels(learned: Sequence[Example], notes: list[str]) -> tuple[str, ...]:
    counts = Counter(str(as_kind(example.output, "label")) for example in learned)
    notes.append(f"output.labels = {len(counts):,} labels, {_most(counts)}")
    return tuple(sorted(counts))


def _most(counts: Counter[str]) -> str:
    label, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
    share = count / counts.total()
    return f"the most frequent {shown(label, 40)} in {share:.{0 if share >= 0.01 else 1}%} of the rows"


def _schema(learned: Sequence[Example], notes: list[str]) -> dict[str, Any]:
    values = [value for example in learned if (value := as_kind(example.output, "json")) is not None]
    if not values:
        raise DataError(
            f"{learned[0].where}: output {shown(learned[0].output)} is no JSON object or list, nor is any "
            "other; write 'output: {kind: text}', or outputs as JSON"
        )
    schema = infer_schema(values)
    keys = ", ".join(list(schema.get("properties", {}))[:6]) or "no fixed keys"
    notes.append(f"output.schema = inferred from {len(values):,} rows ({keys})")
    return schema


def _metric(task: Task, kind: OutputKind, learned: Sequence[Example], notes: list[str]) -> MetricName:
    if task.metric is None and task.output.written_kind == "sql" and _runnable(task, learned) == len(learned):
        notes.append("metric = execution (sql, and the tables of every row are known)")
        return "execution"
    if task.metric is None:
        notes.append(f"metric = {METRICS[kind][0]} (the usual one for {kind})")
        return METRICS[kind][0]
    if task.metric not in METRICS[kind]:
        raise TaskError(
            f"metric: {task.metric!r} does not fit outputs of kind {kind!r}; "
            f"choose from {', '.join(METRICS[kind])}"
        )
    if task.metric == "execution" and not _runnable(task, learned):
        raise TaskError(
            "metric: 'execution' needs tables to run queries on, and no row has any; name an SQLite file as "
            "data.database, or give CREATE TABLE statements or a header in each row's context"
        )
    return task.metric


def _made_up(task: Task, learned: Sequence[Example]) -> int:
    """How many rows have tables without anything in them."""
    known = (tables_of(example, task.data.database) for example in learned)
    return sum(tables is not None and not tables.has_rows for tables in known)


def _runnable(task: Task, learned: Sequence[Example]) -> int:
    """How many rows have tables that queries can be run on."""
    return sum(tables_of(example, task.data.database) is not None for example in learned)
