"""Rows as Examples: one table of the formats that rows are written in, seen from the first row."""

import hashlib
import json
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from rung.data.conversations import Fields, completion, conversation, preference
from rung.data.images import IMAGE_COLUMNS, images_in
from rung.data.provenance import MARK_COLUMNS, is_synthetic
from rung.data.rows import MAX_ROW_BYTES, read_rows
from rung.errors import DataError
from rung.records import Example, Json, OutputKind
from rung.task.calls import functions_in, settled_calls
from rung.task.model import DataFormat
from rung.task.outputs import LABEL_CHARS, MAX_LABELS, as_kind, canonical, check_text, shown

GROUP_COLUMNS = ("group", "doc_id", "user_id")
TOOL_COLUMNS = ("tools", "functions")
AT_ONCE = 1024
"""Rows between two calls of `progress`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Broken:
    """A row that can't be used: where it stands, what it holds as far as it was read, and why not."""

    where: str
    row: Mapping[str, Any] | None
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A data file, read: its rows, the format they are written in, and what a user should know of it.

    `broken` rows are among none of the `examples`, nor are `undesirable` ones, whose answers somebody judged
    to be bad; None where the format has no such judgement.
    """

    examples: tuple[Example, ...]
    format: DataFormat
    notes: tuple[str, ...]
    broken: tuple[Broken, ...] = ()
    undesirable: tuple[Example, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """One way of writing a row: the columns that show it, and how to read them.

    `judged` is the column, if any, that says true or false of the answer.
    """

    name: DataFormat
    needs: tuple[str, ...]
    read: Callable[[Mapping[str, Any], tuple[str, ...]], Fields]
    judged: str | None = None


def _columns(row: Mapping[str, Any], needs: tuple[str, ...]) -> Fields:
    return Fields(input=row[needs[0]], output=row[needs[1]], context=row.get("context"))


def _alpaca(row: Mapping[str, Any], needs: tuple[str, ...]) -> Fields:
    parts = [row["instruction"], row.get("input") or ""]
    if not all(isinstance(part, str) for part in parts):
        raise ValueError(f"instruction and input must be text, not {shown(parts)}")
    text = "\n\n".join(part for part in parts if part.strip())
    return Fields(input=text, output=row["output"], context=row.get("context"))


def _chat(row: Mapping[str, Any], needs: tuple[str, ...]) -> Fields:
    return conversation(row["messages"], "messages", tools=_tools(row))


def _sharegpt(row: Mapping[str, Any], needs: tuple[str, ...]) -> Fields:
    return conversation(
        row["conversations"], "conversations", tools=_tools(row), role_key="from", text_key="value"
    )


def _preference(row: Mapping[str, Any], needs: tuple[str, ...]) -> Fields:
    asked, tools = row[needs[0]], _tools(row)
    if isinstance(asked, dict):
        asked, tools = asked.get("messages"), asked.get("tools") or tools
    fields = preference(asked, row[needs[1]], row[needs[2]], needs, tools)
    return fields if fields.context else replace(fields, context=row.get("context"))


def _unpaired(row: Mapping[str, Any], needs: tuple[str, ...]) -> Fields:
    fields = completion(row[needs[0]], row[needs[1]], needs, _tools(row))
    return fields if fields.context else replace(fields, context=row.get("context"))


def _judgement(value: Any) -> bool | None:
    """Whether an answer was judged desirable; None where the value isn't about that. CSV has it as text."""
    said = value.strip().lower() if isinstance(value, str) else value
    return JUDGEMENTS.get(said) if isinstance(said, (bool, str)) else None


def _tools(row: Mapping[str, Any]) -> Any:
    return next((row[column] for column in TOOL_COLUMNS if row.get(column)), None)


JUDGEMENTS: dict[bool | str, bool] = {True: True, False: False, "true": True, "false": False}
OPENAI_PREFERENCE = ("input", "preferred_output", "non_preferred_output")
FORMATS: tuple[Format, ...] = (
    Format(name="preference", needs=("prompt", "chosen", "rejected"), read=_preference),
    Format(name="preference", needs=OPENAI_PREFERENCE, read=_preference),
    Format(
        name="unpaired_preference",
        needs=("prompt", "completion", "label"),
        read=_unpaired,
        judged="label",
    ),
    Format(name="chat", needs=("messages",), read=_chat),
    Format(name="sharegpt", needs=("conversations",), read=_sharegpt),
    Format(name="alpaca", needs=("instruction", "output"), read=_alpaca),
    Format(name="prompt_completion", needs=("prompt", "completion"), read=_columns),
    Format(name="io", needs=("input", "output"), read=_columns),
    Format(name="io", needs=("text", "label"), read=_columns),
    Format(name="io", needs=("sentence", "label"), read=_columns),
    Format(name="io", needs=("question", "answer"), read=_columns),
)
"""The first that fits a row is its format."""


def read_source(
    path: Path,
    format: str = "auto",
    *,
    lenient: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Source:
    """Read every row of the file as an Example; `format` fixes how rows are written.

    `progress` is called with the rows read, now and then.

    DataError, one line with file:line, for a file that can't be read, and for a row that can't, lacks input
    or output, or is written unlike the first; a `lenient` reader puts such rows aside as broken.
    """
    formats = [known for known in FORMATS if format in ("auto", known.name)]
    if not formats:
        names = ", ".join(dict.fromkeys(known.name for known in FORMATS))
        raise DataError(f"unknown data format {format!r}; choose auto, {names}")
    chosen: Format | None = None
    first = ""
    unused: set[str] = set()
    examples: list[Example] = []
    undesirable: list[Example] = []
    broken: list[Broken] = []
    for where, row in read_rows(path):
        try:
            if isinstance(row, DataError):
                raise row
            here = _format_of(row, formats)
            if chosen is None:
                chosen, first = here or _no_format(row, where, formats), where
            elif here is not chosen:
                raise DataError(_other_format(row, where, chosen, here, first))
            bad = chosen.judged is not None and _judgement(row[chosen.judged]) is False
            (undesirable if bad else examples).append(_read(row, where, chosen))
            unused |= row.keys()
            if len(examples) % AT_ONCE == 0:
                progress(len(examples))
        except DataError as error:
            if not lenient:
                raise
            columns = None if isinstance(row, DataError) else row
            broken.append(Broken(where=where, row=columns, reason=str(error)))
    if chosen is None:
        raise DataError(broken[0].reason if broken else f"{path.name}: no rows; at least 10 are needed")
    if not examples and undesirable:
        raise DataError(f"{path.name}: no row is desirable (label true); at least 10 are needed")
    notes = _notes(path, chosen, examples, unused)
    if undesirable:
        said = (
            "1 undesirable row (label false) is"
            if len(undesirable) == 1
            else (f"{len(undesirable):,} undesirable rows (label false) are")
        )
        notes += (f"{path.name}: {said} for the rung preference",)
    return Source(
        examples=_numbered(examples),
        format=chosen.name,
        notes=notes,
        broken=tuple(broken),
        undesirable=tuple(undesirable) if chosen.judged is not None else None,
    )


def conform(examples: Iterable[Example], kind: OutputKind) -> tuple[Example, ...]:
    """The rows with outputs read as `kind`; one that can't be read stays as it is, for the checks to name."""
    read = ((example, _read_as(example, kind)) for example in examples)
    return tuple(
        example if value is None or value is example.output else replace(example, output=value)
        for example, value in read
    )


def _read_as(example: Example, kind: OutputKind) -> Json:
    """The row's output as `kind`; calls without the arguments that have their default."""
    value = as_kind(example.output, kind)
    if kind == "tool_call" and isinstance(value, list):
        return settled_calls(value, functions_in(example.context))
    return value


def _format_of(row: Mapping[str, Any], formats: Sequence[Format]) -> Format | None:
    for known in formats:
        if all(row.get(column) is not None for column in known.needs) and _says(row, known):
            return known
    return None


def _says(row: Mapping[str, Any], format: Format) -> bool:
    """Whether a column that must hold a judgement does: many a row has a `label` of its own."""
    return format.judged is None or _judgement(row[format.judged]) is not None


def _no_format(row: Mapping[str, Any], where: str, formats: Sequence[Format]) -> Format:
    for known in formats:
        if row.keys() >= set(known.needs) and _says(row, known):
            return known
    accepted = "; ".join(f"{_needs(known)} ({known.name})" for known in formats)
    raise DataError(f"{where}: no known columns among {shown(list(row))}; accepted: {accepted}")


def _other_format(row: Mapping[str, Any], where: str, chosen: Format, here: Format | None, first: str) -> str:
    if here is None:
        missing = [column for column in chosen.needs if row.get(column) is None]
        return f"{where}: {missing[0]!r} is missing or empty; fill it in or delete the row"
    return (
        f"{where}: this row is written as {here.name} ({_needs(here)}), but {first} as "
        f"{chosen.name} ({_needs(chosen)}); write all rows in one way"
    )


def _needs(format: Format) -> str:
    """The columns in words."""
    return " + ".join(format.needs) + (" of true or false" if format.judged is not None else "")


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
        images=(*fields.images, *images_in(row)),
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
    meta = row.get("meta")
    found = [row.get(column) for column in GROUP_COLUMNS]
    found.append(meta.get("group") if isinstance(meta, dict) else None)
    group = next((value for value in found if value not in (None, "")), None)
    if group is None:
        return None
    if isinstance(group, bool) or not isinstance(group, (str, int)):
        raise ValueError(f"group must be text or a whole number, not {shown(group)}")
    return str(group)


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


def _notes(path: Path, format: Format, examples: Sequence[Example], columns: set[str]) -> tuple[str, ...]:
    mapping = f" ({format.needs[0]} → input, {format.needs[-1]} → output)" if format.read is _columns else ""
    notes = [f"{path.name}: {len(examples):,} rows, format {format.name}{mapping}"]
    groups = {example.group for example in examples if example.group is not None}
    if groups:
        notes.append(f"{path.name}: {len(groups):,} groups; the rows of a group stay on one side of a split")
    if format.read is _preference:
        notes.append(
            f"{path.name}: outputs are the chosen answers; the rejected ones are for the rung preference"
        )
    used = {*format.needs, "input", "context", "meta", "id", *GROUP_COLUMNS, *IMAGE_COLUMNS, *MARK_COLUMNS}
    if format.read in (_chat, _sharegpt, _preference, _unpaired):
        used |= set(TOOL_COLUMNS)
    ignored = sorted(str(column) for column in columns - used)
    if ignored:
        notes.append(f"{path.name}: columns not used: {', '.join(ignored)[:200]}")
    return tuple(notes)
