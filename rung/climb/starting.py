"""`rung init`: a task file written from the rows alone, for its owner to go on from."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.checks.rows import Prepared, prepare
from rung.climb.checking import CheckOptions
from rung.data.rows import READERS
from rung.errors import TaskError
from rung.runs import write_text
from rung.task import as_kind
from rung.task.written import task_schema, task_yaml

TASK_FILE = "task.yaml"
KEYS_FILE = "task.schema.json"
ANSWER_FILE = "answer.schema.json"
MOST_LABELS = 60
"""More of them are left to be read from the rows: nobody checks such a list by eye."""


@dataclass(frozen=True, kw_only=True)
class Started:
    """What `start_task` wrote: its folder, the files, and what the rows decided."""

    folder: Path
    files: tuple[Path, ...]
    inferred: tuple[str, ...]


def start_task(
    source: Path, *, test: Path | None = None, out: Path | None = None, format: str = "auto"
) -> Started:
    """Write task.yaml, the JSON Schema of its keys and, for JSON answers, that of the answers.

    The folder is that of the file of rows, if `out` names no other. The task is the one that the bare file
    makes, its rows written in the `format`. Where a few outputs are of another kind, what an answer is stays
    open, so that their rows are broken under the file as well. Raises RungError where the rows make no task,
    or one of the files is there already.
    """
    if source.is_dir() or source.suffix.lower() not in READERS:
        raise TaskError(
            f"{str(source)!r} is no file of rows; name one such as rows.jsonl ({', '.join(READERS)})"
        )
    folder = out or source.parent
    paths = [folder / name for name in (TASK_FILE, "task.yml", KEYS_FILE, ANSWER_FILE)]
    there = [str(path) for path in paths if path.exists()]
    if there:
        raise TaskError(
            f"{', '.join(there)} is there already; delete it, or choose another folder with --out"
        )
    prepared = prepare(source, CheckOptions(test=test, format=format))
    schema = None if _is_open(prepared) else prepared.task.output.json_schema
    written = [KEYS_FILE, *([ANSWER_FILE] if schema is not None else []), TASK_FILE]
    write_text(folder / KEYS_FILE, _json(task_schema()))
    if schema is not None:
        write_text(folder / ANSWER_FILE, _json(schema))
    heading = (
        f"yaml-language-server: $schema={KEYS_FILE}",
        f"Made from {source.name} by `rung init`. Keys right after a # have their usual value: take it away "
        "to change one.",
    )
    write_text(folder / TASK_FILE, task_yaml(_given(prepared, folder, format), heading))
    return Started(folder=folder, files=tuple(folder / name for name in written), inferred=prepared.inferred)


def _given(prepared: Prepared, folder: Path, format: str) -> dict[str, Any]:
    task = prepared.task
    data = {"train": _from(folder, task.data.train)}
    if task.data.test is not None:
        data["test"] = _from(folder, task.data.test)
    if format != "auto":
        data["format"] = format
    output = {} if _is_open(prepared) else _output(prepared)
    return {"name": task.name, "data": data, "output": output, "metric": task.metric}


def _is_open(prepared: Prepared) -> bool:
    """Whether the kind stays open: a file that gives one takes all outputs for it, or refuses the others."""
    return any(row.unlike for row in prepared.broken)


def _output(prepared: Prepared) -> dict[str, Any]:
    output: dict[str, Any] = {"kind": prepared.task.output.kind}
    if prepared.task.output.kind == "json":
        output["schema"] = ANSWER_FILE
    labels = _labels(prepared)
    if labels:
        output["labels"] = labels
    return output


def _labels(prepared: Prepared) -> list[str]:
    """Every label of the file of rows: a task refuses rows with others than it lists.

    A carved test holds none that train lacks; rows that were removed for a given test may.
    """
    splits = prepared.splits
    if prepared.task.output.kind != "label":
        return []
    rows = (*splits.train, *splits.dev, *splits.removed)
    labels = {str(as_kind(row.output, "label")) for row in rows}
    return sorted(labels) if len(labels) <= MOST_LABELS else []


def _json(schema: dict[str, Any]) -> str:
    """The schema with its keys in their order: answers are written in it."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _from(folder: Path, path: Path) -> str:
    """The path as written in a file of that folder."""
    return Path(os.path.relpath(path, folder.absolute())).as_posix()
