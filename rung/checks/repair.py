"""A mended copy of a task's files: what can't be used or shouldn't be twice set aside, with the reason."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rung.checks.base import Embed, rows_text
from rung.data.held import held_by
from rung.data.near import like_vectors
from rung.data.rows import read_rows
from rung.data.sketches import as_groups
from rung.data.sources import Source, read_source
from rung.data.splits import question
from rung.errors import DataError
from rung.records import Example
from rung.runs import append_jsonl, write_text, writing
from rung.task import Task
from rung.task.outputs import canonical

ASIDE_FILE = "set_aside.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Repair:
    """What was written: how many rows were kept by file, and how many set aside by reason.

    `alike` rows were given a group of their own kind.
    """

    folder: Path
    kept: tuple[tuple[str, int], ...]
    aside: tuple[tuple[str, int], ...]
    alike: int = 0


def repair(task: Task, format: str, out: Path, embed: Embed | None = None) -> Repair:
    """Write train.jsonl, and test.jsonl where the task has one, without the rows that do harm.

    Set aside, in `set_aside.jsonl` with file:line, check and reason: rows that can't be read, conversations
    with odd turns, all but the first of rows with the same input and output in a file, and training rows
    whose input the test holds, exactly or nearly. Rows keep their columns and order. With `embed`, training
    rows that stay and say nearly the same get one `group`. Nothing is changed in place; raises DataError
    where `out` holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{str(out)!r} is there already and isn't an empty folder: name another for the copy")
    train = read_source(task.data.train, format, lenient=True)
    test = read_source(task.data.test, format, lenient=True) if task.data.test else None
    reasons = dict(_faults(train))
    if test is not None:
        reasons |= dict(_faults(test))
        kept_test = [row for row in test.examples if row.where not in reasons]
        held = held_by(kept_test, [row for row in train.examples if row.where not in reasons])
        for row, other in held.exact:
            reasons[row.where] = ("leaks", f"the test holds its input at {other.where}")
        for row, other in held.near:
            reasons[row.where] = ("near_leaks", f"the test holds nearly its input at {other.where}")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    stay = [row for row in train.examples if row.where not in reasons]
    groups = _alike(stay, embed) if embed is not None and stay else {}
    kept = [("train.jsonl", _copy(task.data.train, out / "train.jsonl", reasons, out / ASIDE_FILE, groups))]
    if task.data.test is not None:
        kept.append(("test.jsonl", _copy(task.data.test, out / "test.jsonl", reasons, out / ASIDE_FILE, {})))
    counts = Counter(check for check, _ in reasons.values())
    return Repair(folder=out, kept=tuple(kept), aside=tuple(sorted(counts.items())), alike=len(groups))


def repair_text(done: Repair) -> str:
    """What was written, in a line."""
    kept = ", ".join(f"{name} {rows_text(count)}" for name, count in done.kept)
    aside = ", ".join(f"{check} {rows_text(count)}" for check, count in done.aside) or "nothing"
    alike = f"; {rows_text(done.alike)} grouped with rows that say nearly the same" if done.alike else ""
    return f"{done.folder}: kept {kept}; set aside {aside} ({ASIDE_FILE}){alike}"


def _faults(source: Source) -> Iterator[tuple[str, tuple[str, str]]]:
    """The place of each row that can't stay, with the check that names it and the reason."""
    for broken in source.broken:
        yield broken.where, ("broken_rows", broken.reason)
    first: dict[tuple[tuple[str, str], str], Example] = {}
    for row in source.examples:
        if row.faults:
            yield row.where, ("turns", "; ".join(row.faults))
            continue
        key = (question(row), canonical(row.output))
        if key in first:
            yield row.where, ("repeats", f"the same input and output as {first[key].where}")
        else:
            first[key] = row


def _alike(rows: list[Example], embed: Embed) -> dict[str, str]:
    """The group of each row, by its place, that says nearly what another does, or has a group with one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    joined = [(one, other) for _, one, other in like_vectors(embed(rows))]
    known: defaultdict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        if row.group is not None:
            known[row.group].append(place)
    joined += [(places[0], other) for places in known.values() for other in places[1:]]
    if not joined:
        return {}
    links = coo_array((np.ones(len(joined)), np.array(joined).T), shape=(len(rows), len(rows)))
    groups = as_groups(connected_components(links, directed=False)[1].tolist())
    return {rows[place].where: f"alike-{group[0]}" for group in groups for place in group}


def _copy(
    source: Path,
    target: Path,
    reasons: Mapping[str, tuple[str, str]],
    aside: Path,
    groups: Mapping[str, str],
) -> int:
    """Write the rows that stay to `target` and append the others to `aside`; how many stayed."""
    kept: list[str] = []
    others: list[dict[str, Any]] = []
    for where, row in read_rows(source):
        columns = None if isinstance(row, DataError) else row
        if where in reasons:
            check, reason = reasons[where]
            others.append({"where": where, "check": check, "reason": reason, "row": columns})
        else:
            if where in groups:
                columns = {**(columns or {}), "group": groups[where]}
            kept.append(json.dumps(columns, ensure_ascii=False) + "\n")
    write_text(target, "".join(kept))
    append_jsonl(aside, others)
    return len(kept)
