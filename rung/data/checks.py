"""Checks of the rows before any model sees them: one table of small pure functions."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from rung.data.splits import question
from rung.errors import TaskError
from rung.records import Example, Finding, Severity, Splits
from rung.task.model import Task
from rung.task.outputs import as_kind, canonical, shown
from rung.task.schemas import is_inferred

Check: TypeAlias = Callable[[Splits, Task], list[Finding]]

MIN_TRAIN, ENOUGH_TRAIN = 10, 50
MIN_TEST, ENOUGH_TEST = 50, 200
CONFLICT_SHARE = 0.01
MAJORITY_SHARE = 0.9


def check(splits: Splits, task: Task) -> tuple[Finding, ...]:
    """Every finding of every check, in the order of the table. `task` is one that `infer` completed."""
    return tuple(finding for run in CHECKS.values() for finding in run(splits, task))


def _train_rows(splits: Splits, task: Task) -> list[Finding]:
    count = len(splits.train)
    if count < MIN_TRAIN:
        return [_found("train_rows", "block", f"{_rows(count)} to train on; at least {MIN_TRAIN} are needed")]
    if count < ENOUGH_TRAIN:
        message = f"{_rows(count)} to train on: enough to prompt with, too few to tune; label {ENOUGH_TRAIN}"
        return [_found("train_rows", "warn", message)]
    return []


def _test_rows(splits: Splits, task: Task) -> list[Finding]:
    """The smallest gain that a paired two-sided test at 5% sees with 80% power: (1.96 + 0.84)·√(D / n)."""
    count = len(splits.test)
    if count < MIN_TEST:
        message = f"{_rows(count)} to test on: scores are shown, no verdict; label at least {MIN_TEST}"
        return [_found("test_rows", "warn", message)]
    if count < ENOUGH_TEST:
        points = 100 * 2.8 * math.sqrt(0.2 / count)
        message = (
            f"{count} rows to test on: a gain under about {points:.0f} points can't be told from chance "
            f"(if two systems differ on 20% of the rows); {ENOUGH_TEST} or more rows see smaller ones"
        )
        return [_found("test_rows", "info", message)]
    return []


def _one_class(splits: Splits, task: Task) -> list[Finding]:
    labels = {canonical(example.output) for example in splits.train}
    if task.output.kind != "label" or len(labels) != 1:
        return []
    message = f"all {len(splits.train)} training rows have the label {labels.pop()}; add rows of the others"
    return [_found("one_class", "block", message)]


def _conflicts(splits: Splits, task: Task) -> list[Finding]:
    """Ceiling of exact answers: 1 - E[1 - share of the most frequent output of the row's question]."""
    asked: dict[tuple[str, str], list[Example]] = defaultdict(list)
    rows = [*splits.train, *splits.dev, *splits.test]
    for example in rows:
        asked[question(example)].append(example)
    clashing, reachable = [], 0
    for same in asked.values():
        counts = Counter(canonical(example.output) for example in same)
        reachable += max(counts.values())
        if len(counts) > 1:
            clashing.append(same)
    if not clashing:
        return []
    touched = [example for same in clashing for example in same]
    share = len(touched) / len(rows)
    one, other = _two_answers(clashing[0])
    message = (
        f"same input, different outputs: {_rows(len(touched))} ({share:.1%}), such as "
        f"{one.where} {shown(one.output, 40)} and {other.where} {shown(other.output, 40)}: no system can "
        f"answer more than {reachable / len(rows):.2%} of all rows exactly; settle on one output per input"
    )
    several_fine = task.output.kind == "text" or share <= CONFLICT_SHARE
    return [_found("conflicts", "info" if several_fine else "warn", message, touched)]


def _two_answers(same: Sequence[Example]) -> tuple[Example, Example]:
    first = canonical(same[0].output)
    return same[0], next(example for example in same if canonical(example.output) != first)


def _leaks(splits: Splits, task: Task) -> list[Finding]:
    if not splits.removed:
        return []
    message = (
        f"inputs of the given test that {task.data.train.name} holds too: {_rows(len(splits.removed))}, such "
        f"as {splits.removed[0].where}; taken out of train and dev, the test is kept as given"
    )
    return [_found("leaks", "warn", message, splits.removed)]


def _shared_groups(splits: Splits, task: Task) -> list[Finding]:
    sealed = {example.group for example in splits.test} - {None}
    rows = [example for example in (*splits.train, *splits.dev) if example.group in sealed]
    if not rows:
        return []
    message = (
        f"groups of the given test that {task.data.train.name} holds too: {_rows(len(rows))}, such as "
        f"{rows[0].where} (group {shown(rows[0].group)}): scores may be too good; "
        "leave the test out to have one carved by group"
    )
    return [_found("shared_groups", "warn", message, rows)]


def _unseen_labels(splits: Splits, task: Task) -> list[Finding]:
    if task.output.kind != "label":
        return []
    seen = {canonical(example.output) for example in splits.train}
    rows = [example for example in splits.test if canonical(example.output) not in seen]
    if not rows:
        return []
    labels = sorted({canonical(example.output) for example in rows})
    message = (
        f"test labels that no training row has: {', '.join(labels)[:200]} in {_rows(len(rows))}, such as "
        f"{rows[0].where}; add training rows of them or correct the test"
    )
    return [_found("unseen_labels", "warn", message, rows)]


def _majority(splits: Splits, task: Task) -> list[Finding]:
    counts = Counter(canonical(example.output) for example in splits.train)
    if len(counts) < 2:
        return []
    output, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
    share = count / counts.total()
    if share <= MAJORITY_SHARE:
        return []
    way_out = "judge by metric macro_f1, or add rows of the others"
    message = (
        f"{share:.1%} of the training rows have the output {output[:80]}: always saying that scores as much; "
        f"{way_out if task.output.kind == 'label' else 'add rows with other outputs'}"
    )
    return [_found("majority", "warn", message)]


def _targets(splits: Splits, task: Task) -> list[Finding]:
    """Outputs that aren't of the task's kind or not under its schema. TaskError for a schema without end."""
    kind = task.output.kind
    assert kind is not None, "infer completes the task before it is checked"
    rows = [*splits.train, *splits.dev, *splits.test]
    unread = [example for example in rows if as_kind(example.output, kind) is None]
    if unread:
        message = (
            f"outputs that are no {kind}: {_rows(len(unread))}, such as {unread[0].where} "
            f"{shown(unread[0].output)}; correct them, or set output.kind"
        )
        return [_found("targets", "block", message, unread)]
    if kind != "json" or task.output.json_schema is None:
        return []
    faults = _schema_faults(rows, task.output.json_schema)
    if not faults:
        return []
    inferred = is_inferred(task.output.json_schema)
    first, fault = faults[0]
    way_out = "give a schema in task.yaml" if inferred else "the schema"
    message = (
        f"outputs outside the {'inferred ' if inferred else ''}schema: {_rows(len(faults))}, such as "
        f"{first.where}: {fault}; correct them or {way_out}"
    )
    return [_found("targets", "warn" if inferred else "block", message, [row for row, _ in faults])]


def _schema_faults(rows: Sequence[Example], schema: dict[str, Any]) -> list[tuple[Example, str]]:
    """The rows outside the schema with the first reason; equal outputs are validated once."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    validator = validator_for(schema, default=Draft202012Validator)(schema, registry=Registry())
    known: dict[str, str | None] = {}
    faults: list[tuple[Example, str]] = []
    try:
        for example in rows:
            value = as_kind(example.output, "json")
            spelled = canonical(value)
            if spelled not in known:
                error = next(validator.iter_errors(value), None)
                known[spelled] = f"at {error.json_path}: {error.message[:160]}" if error else None
            fault = known[spelled]
            if fault is not None:
                faults.append((example, fault))
    except Unresolvable as error:
        raise TaskError(f"output.schema: $ref {error.ref!r} leads nowhere; correct it") from error
    except RecursionError as error:
        raise TaskError(
            "output.schema: a $ref leads back to itself; a part must get smaller each time"
        ) from error
    return faults


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _found(check: str, severity: Severity, message: str, rows: Sequence[Example] = ()) -> Finding:
    return Finding(check=check, severity=severity, message=message, rows=tuple(row.where for row in rows))


CHECKS: dict[str, Check] = {
    "train_rows": _train_rows,
    "test_rows": _test_rows,
    "one_class": _one_class,
    "conflicts": _conflicts,
    "leaks": _leaks,
    "shared_groups": _shared_groups,
    "unseen_labels": _unseen_labels,
    "majority": _majority,
    "targets": _targets,
}
