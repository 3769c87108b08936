"""Rows of a data file as Examples, and what a user should know of them."""

import hashlib
import json
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from rung.data.conversations import says_beside_calls
from rung.data.formats import (
    BY_NUMBERS,
    Format,
    format_lacking,
    format_of,
    formats_named,
    formats_of,
    unlike_text,
)
from rung.data.images import IMAGE_COLUMNS, images_of
from rung.data.provenance import MARK_COLUMNS, is_synthetic
from rung.data.rows import MAX_ROW_BYTES, read_rows
from rung.errors import DataError
from rung.records import Example, Json, OutputKind
from rung.task import Task, is_of_kind
from rung.task.calls import functions_in, has_absent, settled_calls
from rung.task.model import DataFormat
from rung.task.outputs import (
    LABEL_CHARS,
    MAX_LABELS,
    as_calls,
    as_kind,
    canonical,
    check_text,
    shown,
    why_not,
)

GROUP_COLUMNS = ("group", "doc_id", "user_id")
AT_ONCE = 1024
"""Rows between two calls of `progress`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Broken:
    """A row that can't be used: where it stands, what it holds as far as it was read, and why not.

    `unlike`: it was read, and its output isn't of the kind that the others showed.
    """

    where: str
    row: Mapping[str, Any] | None
    reason: str
    unlike: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A data file, read: its rows, the format they are written in, and what a user should know of it.

    `broken` rows are among none of the `examples`, nor are `undesirable` ones, whose answers somebody judged
    to be bad; None where the format has no such judgement. `unused` are the columns that nothing is read of.
    """

    examples: tuple[Example, ...]
    format: DataFormat
    notes: tuple[str, ...]
    broken: tuple[Broken, ...] = ()
    undesirable: tuple[Example, ...] | None = None
    unused: tuple[str, ...] = ()


def read_source(
    path: Path,
    format: str = "auto",
    *,
    lenient: bool = False,
    learned: bool = True,
    progress: Callable[[int], None] = lambda done: None,
) -> Source:
    """Read every row of the file as an Example; `format` fixes how rows are written.

    `learned` is False for a given test, whose undesirable answers nothing learns from; `progress` is called
    with the rows read, now and then.

    DataError, one line with file:line, for a file that can't be read, and for a row that can't, lacks input
    or output, or is written unlike the first; a `lenient` reader puts such rows aside as broken.
    """
    formats = formats_named(format)
    chosen: Format | None = None
    first = ""
    columns: set[str] = set()
    by: dict[str, None] = {}
    said_beside: list[str] = []
    examples: list[Example] = []
    undesirable: list[Example] = []
    broken: list[Broken] = []
    for where, row in read_rows(path):
        if chosen is None and format == "auto" and not isinstance(row, DataError):
            formats = formats_of(path, row)  # a file that can't be read to its end is no fault of the row
        try:
            if isinstance(row, DataError):
                raise row
            if chosen is None:
                chosen, first = format_of(row, formats) or format_lacking(row, where, formats), where
            elif (here := format_of(row, formats)) is not chosen:
                raise DataError(unlike_text(row, where, chosen, here, first))
            bad = chosen.judgement(row) is False
            (undesirable if bad else examples).append(_read(row, where, chosen))
            columns |= row.keys()
            by[_grouped_by(row)[0]] = None
            said_beside += [where] if any(says_beside_calls(row[name]) for name in chosen.needs) else []
            if len(examples) % AT_ONCE == 0:
                progress(len(examples))
        except DataError as error:
            if not lenient:
                raise
            cells = None if isinstance(row, DataError) else row
            broken.append(Broken(where=where, row=cells, reason=str(error)))
    if chosen is None:
        raise DataError(broken[0].reason if broken else f"{path.name}: no rows; name a file that holds some")
    if not examples and undesirable:
        raise DataError(f"{path.name}: no row is desirable (label true or 1); name a file that has such rows")
    unused = _unused(chosen, columns)
    notes = (
        *_notes(path, chosen, examples, unused, [column for column in by if column]),
        *_said_beside_note(path, said_beside),
        *_judged_notes(path, chosen, undesirable, learned),
    )
    return Source(
        examples=_numbered(examples),
        format=chosen.name,
        notes=notes,
        broken=tuple(broken),
        undesirable=tuple(undesirable) if chosen.judgements is not None else None,
        unused=unused,
    )


def of_kind(task: Task, source: Source) -> Source:
    """The file with outputs among its broken rows that aren't of the kind that the others showed.

    A kind that was given is left to the checks.
    """
    if not task.output.seen_from_rows:
        return source
    strange = [row for row in source.examples if not is_of_kind(task, row)]
    if not strange or len(strange) == len(source.examples):
        return source
    kind, rows = task.output.kind, len(source.examples)
    assert kind is not None, "the rows showed it"
    broken = (
        Broken(
            where=row.where,
            row=None,
            reason=f"{row.where}: output {shown(row.output)} is no {kind}{why_not(row.output, kind)}, and "
            f"{rows - len(strange):,} of {rows:,} outputs are; correct it, or write 'output: {{kind: text}}' "
            "if all are right as texts",
            unlike=True,
        )
        for row in strange
    )
    out = {id(row) for row in strange}
    kept = tuple(row for row in source.examples if id(row) not in out)
    return replace(source, examples=kept, broken=(*source.broken, *broken))


def conform(examples: Iterable[Example], kind: OutputKind) -> tuple[Example, ...]:
    """The rows with outputs read as `kind`; one that can't be read stays as it is, for the checks to name."""
    read = ((example, _read_as(example, kind)) for example in examples)
    return tuple(
        example if value is None or value is example.output else replace(example, output=value)
        for example, value in read
    )


def nulls_note(source: Source, kind: OutputKind) -> tuple[str, ...]:
    """A sentence on the calls of a file that have null for what wasn't given, and that `conform` reads so."""
    if kind != "tool_call":
        return ()
    places = [row.where for row in source.examples if _has_absent(row)]
    if not places:
        return ()
    return (
        f"{len(places):,} rows call functions with null for what these take no null for, such as "
        f"{places[0]}; that is read as not given: a table has every key in every row",
    )


def _has_absent(row: Example) -> bool:
    calls = as_calls(row.output)
    return calls is not None and has_absent(calls, functions_in(row.context))


def _read_as(example: Example, kind: OutputKind) -> Json:
    """The row's output as `kind`; calls without the arguments that have their default or weren't given."""
    value = as_kind(example.output, kind)
    if kind == "tool_call" and isinstance(value, list):
        return settled_calls(value, functions_in(example.context))
    return value


def _read(row: Mapping[str, Any], where: str, format: Format) -> Example:
    """The row as an Example. Raises DataError with its place."""
    try:
        return _example(row, where, format)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error


def _example(row: Mapping[str, Any], where: str, format: Format) -> Example:
    for column in format.needs:
        if row[column] is None:
            raise ValueError(f"{column!r} is missing or empty; fill it in or delete the row")
    fields = format.read(row, format.needs)
    text = _text(fields.input, "input")
    context = None if fields.context in (None, "") else _text(fields.context, "context")
    rejected = None if fields.rejected is None else _spelled(fields.rejected, "rejected")
    size = len(_spelled(fields.output, "output")) + len(text) + len(context or "") + len(rejected or "")
    if size > MAX_ROW_BYTES:
        raise ValueError("a row over 1 MB; shorten it or leave it out")
    output = fields.output
    if isinstance(output, str) and len(output) <= LABEL_CHARS:
        output = _shared(output)
    return Example(
        id=example_id(text, context),
        input=text,
        output=output,
        context=context,
        group=_group(row),
        where=where,
        rejected=rejected,
        images=images_of(row, fields.images),
        faults=fields.faults,
        synthetic=is_synthetic(row),
    )


def example_id(text: str, context: str | None) -> str:
    """What names a row: a digest of its input and context in NFC."""
    nfc = [unicodedata.normalize("NFC", part) if part else None for part in (text, context)]
    return hashlib.sha256(json.dumps(nfc, ensure_ascii=False).encode()).hexdigest()[:16]


@lru_cache(MAX_LABELS)
def _shared(text: str) -> str:
    """One object for equal texts: a million labels are some hundred."""
    return text


def _text(value: Any, part: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{part} must be text, not {shown(value)}; write it as a string")
    if not value.strip():
        raise ValueError(f"{part} is empty ({shown(value)}); fill it in or delete the row")
    check_text(value)
    return value


def _spelled(value: Any, part: str) -> str:
    """An answer as one text. ValueError where it is none."""
    if isinstance(value, str):
        return _text(value, part)
    try:
        return canonical(value)
    except TypeError as error:
        raise ValueError(f"{part} {shown(value)} is no JSON value; store it as text") from error


def _group(row: Mapping[str, Any]) -> str | None:
    column, group = _grouped_by(row)
    if group is None:
        return None
    if isinstance(group, float) and group.is_integer():
        group = int(group)  # a table with an empty cell has its whole numbers as floats
    if isinstance(group, bool) or not isinstance(group, (str, int)):
        raise ValueError(
            f"{column}, by which rows are grouped, must be text or a whole number, not {shown(group)}; "
            "rename the column where rows aren't to be grouped by it"
        )
    return str(group)


def _grouped_by(row: Mapping[str, Any]) -> tuple[str, Any]:
    """The column that says which rows belong together, and what it says; nothing and None where none does."""
    meta = row.get("meta")
    found = [(column, row.get(column)) for column in GROUP_COLUMNS]
    found.append(("meta.group", meta.get("group") if isinstance(meta, dict) else None))
    return next(((column, value) for column, value in found if value not in (None, "")), ("", None))


def _numbered(examples: Sequence[Example]) -> tuple[Example, ...]:
    """Ids made unique: repeats of an input get -2, -3, … in the order of their outputs, not of the file."""
    seen, twice = set[str](), set[str]()
    for example in examples:
        (twice if example.id in seen else seen).add(example.id)
    repeats: dict[str, list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        if example.id in twice:
            repeats[example.id].append(index)
    numbered = list(examples)
    for indices in repeats.values():
        indices.sort(key=lambda i: (canonical(examples[i].output), examples[i].group or ""))
        for count, index in enumerate(indices[1:], start=2):
            numbered[index] = replace(examples[index], id=f"{examples[index].id}-{count}")
    return tuple(numbered)


def _notes(
    path: Path, format: Format, examples: Sequence[Example], unused: Sequence[str], by: Sequence[str]
) -> tuple[str, ...]:
    two = format.name in ("io", "prompt_completion")
    mapping = f" ({format.needs[0]} → input, {format.needs[-1]} → output)" if two else ""
    notes = [f"{path.name}: {len(examples):,} rows, format {format.name}{mapping}"]
    groups = {example.group for example in examples if example.group is not None}
    if groups:
        notes.append(
            f"{path.name}: {len(groups):,} groups by {' and '.join(by)}; the rows of a group stay on one "
            "side of a split, and are compared as one"
        )
    if format.name == "preference":
        notes.append(
            f"{path.name}: outputs are the chosen answers; the rejected ones are for the rung preference"
        )
    if unused:
        notes.append(f"{path.name}: columns not used: {', '.join(unused)[:200]}")
    return tuple(notes)


def _unused(format: Format, columns: set[str]) -> tuple[str, ...]:
    used = {*format.needs, *format.reads, "meta", "id", *GROUP_COLUMNS, *IMAGE_COLUMNS, *MARK_COLUMNS}
    return tuple(sorted(str(column) for column in columns - used))


def _said_beside_note(path: Path, places: Sequence[str]) -> tuple[str, ...]:
    if not places:
        return ()
    return (
        f"{path.name}: {len(places):,} rows have an answer that calls functions and says something, "
        f"such as {places[0]}; its calls alone are read",
    )


def _judged_notes(
    path: Path, format: Format, undesirable: Sequence[Example], learned: bool
) -> tuple[str, ...]:
    """How judgements are read, where that isn't plain, and what becomes of undesirable answers."""
    notes = []
    if format is BY_NUMBERS:
        notes.append(
            f"{path.name}: label is read as a judgement, 1 desirable and 0 undesirable; if it's something "
            "else write 'format: prompt_completion' under data"
        )
    if undesirable:
        said = f"label {'0' if format is BY_NUMBERS else 'false'}"
        rows = (
            f"1 undesirable row ({said}) is"
            if len(undesirable) == 1
            else f"{len(undesirable):,} undesirable rows ({said}) are"
        )
        use = "for the rung preference" if learned else "left out: nothing is learned from a test"
        notes.append(f"{path.name}: {rows} {use}")
    return tuple(notes)
