"""A mended copy of a task's files: what can't be used or shouldn't be twice set aside, with the reason."""

import json
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rung.checks.base import Embed, rows_text
from rung.data.held import held_by
from rung.data.near import like_vectors
from rung.data.rows import as_json, read_rows
from rung.data.sketches import as_groups
from rung.data.sources import Source, of_kind, read_source
from rung.data.splits import question
from rung.errors import DataError
from rung.records import Example
from rung.runs import atomic_folder
from rung.task import Task, settle_kind
from rung.task.outputs import canonical

ASIDE_FILE = "set_aside.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Repair:
    """What was written: how many rows were kept by file, and how many set aside by reason.

    `alike` rows say nearly what another says, and have one group with it.
    """

    folder: Path
    kept: tuple[tuple[str, int], ...]
    aside: tuple[tuple[str, int], ...]
    alike: int = 0


def repair(task: Task, format: str, out: Path, embed: Embed | None = None) -> Repair:
    """Write train.jsonl, and test.jsonl where the task has one, without the rows that do harm.

    Set aside, in `set_aside.jsonl` with file:line, check and reason: rows that can't be read, conversations
    with odd turns, the few outputs that aren't of the kind of all others, all but the first of rows with the
    same input and answers in a file, and training rows whose input the test holds, exactly or nearly. Rows
    keep their columns and order; what JSON doesn't have, as Parquet may, is written as text. `format` is
    how rows are written where the task is to be read otherwise than its file says. With `embed`, training
    rows that stay and say nearly the same get one `group`. Nothing is changed in place; raises DataError
    where `out` holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{str(out)!r} is there already and isn't an empty folder: name another for the copy")
    written = task.data.written(format)
    train = read_source(task.data.train, written, lenient=True)
    test = read_source(task.data.test, written, lenient=True) if task.data.test else None
    train, test = _of_one_kind(task, train, test)
    reasons = dict(_faults(train))
    test_reasons = dict(_faults(test)) if test is not None else {}
    if test is not None:
        kept_test = [row for row in test.examples if row.where not in test_reasons]
        held = held_by(kept_test, [row for row in train.examples if row.where not in reasons])
        for row, other in held.exact:
            reasons[row.where] = ("leaks", f"the test holds its input at {other.where}")
        for row, other in held.near:
            reasons[row.where] = ("near_leaks", f"the test holds nearly its input at {other.where}")
    stay = [row for row in train.examples if row.where not in reasons]
    grouped = _alike(stay, embed) if embed is not None and stay else _Grouped()
    with atomic_folder(out) as draft:
        kept = [("train.jsonl", _copy(task.data.train, draft / "train.jsonl", reasons, grouped.of))]
        if test is not None and task.data.test is not None:
            renamed = grouped.renamed
            names = {r.where: renamed[r.group] for r in test.examples if r.group and r.group in renamed}
            kept.append(("test.jsonl", _copy(task.data.test, draft / "test.jsonl", test_reasons, names)))
    counts = Counter(check for check, _ in (*reasons.values(), *test_reasons.values()))
    return Repair(folder=out, kept=tuple(kept), aside=tuple(sorted(counts.items())), alike=grouped.alike)


def repair_text(done: Repair) -> str:
    """What was written, in a line."""
    kept = ", ".join(f"{name} {rows_text(count)}" for name, count in done.kept)
    aside = ", ".join(f"{check} {rows_text(count)}" for check, count in done.aside) or "nothing"
    alike = f"; {rows_text(done.alike)} grouped with rows that say nearly the same" if done.alike else ""
    return f"{done.folder}: kept {kept}; set aside {aside} ({ASIDE_FILE}){alike}"


def _of_one_kind(task: Task, train: Source, test: Source | None) -> tuple[Source, Source | None]:
    """The files with outputs among the broken rows that aren't of the kind of all others."""
    try:
        settled, _ = settle_kind(task, train.examples)
    except DataError:
        return train, test  # the checks say why
    return of_kind(settled, train), test and of_kind(settled, test)


def _faults(source: Source) -> Iterator[tuple[str, tuple[str, str]]]:
    """The place of each row that can't stay, with the check that names it and the reason."""
    for broken in source.broken:
        yield broken.where, ("broken_rows", broken.reason)
    first: dict[tuple[tuple[str, str], str, str | None], Example] = {}
    for row in source.examples:
        if row.faults:
            yield row.where, ("turns", "; ".join(row.faults))
            continue
        key = (question(row), canonical(row.output), row.rejected)
        if key in first:
            yield row.where, ("repeats", f"the same input and answers as {first[key].where}")
        else:
            first[key] = row


@dataclass(frozen=True, kw_only=True, slots=True)
class _Grouped:
    """The groups of rows by their places, where they change, and the new names of groups that became one.

    `alike` rows say nearly what another says.
    """

    of: Mapping[str, str] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    alike: int = 0


def _alike(rows: list[Example], embed: Embed) -> _Grouped:
    """One group for rows that say nearly the same and all that have a group with one of them.

    That's the group of the first of them that has one, since rows of the test may have it too.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = [(one, other) for _, one, other in like_vectors(embed(rows))]
    if not pairs:
        return _Grouped()
    known: defaultdict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        if row.group is not None:
            known[row.group].append(place)
    joined = [*pairs, *((places[0], other) for places in known.values() for other in places[1:])]
    links = coo_array((np.ones(len(joined)), np.array(joined).T), shape=(len(rows), len(rows)))
    alike = {place for pair in pairs for place in pair}
    made: dict[str, str] = {}
    renamed: dict[str, str] = {}
    for group in as_groups(connected_components(links, directed=False)[1].tolist()):
        if alike.isdisjoint(group):
            continue
        names = [name for place in group if (name := rows[place].group) is not None]
        name = names[0] if names else _unused(f"alike-{group[0]}", known)
        made |= {rows[place].where: name for place in group if rows[place].group != name}
        renamed |= {old: name for old in names if old != name}
    return _Grouped(of=made, renamed=renamed, alike=len(alike))


def _unused(name: str, known: Container[str]) -> str:
    while name in known:
        name += "+"
    return name


def _copy(
    source: Path, target: Path, reasons: Mapping[str, tuple[str, str]], groups: Mapping[str, str]
) -> int:
    """Write the rows that stay to `target`, and append the others to what lies aside; how many stayed."""
    kept: list[str] = []
    others: list[str] = []
    for where, row in read_rows(source):
        columns = None if isinstance(row, DataError) else as_json(row)
        if where in reasons:
            check, reason = reasons[where]
            aside = {"file": target.name, "where": where, "check": check, "reason": reason, "row": columns}
            others.append(_line(aside))
        else:
            if where in groups:
                columns = {**(columns or {}), "group": groups[where]}
            kept.append(_line(columns))
    target.write_text("".join(kept), encoding="utf-8")
    with (target.parent / ASIDE_FILE).open("a", encoding="utf-8") as file:
        file.write("".join(others))
    return len(kept)


def _line(value: Mapping[str, Any] | None) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"
