"""Data files as streams of rows: JSON lines and lists, CSV, TSV, Parquet. Nothing is executed."""

import base64
import csv
import json
import math
import re
from collections.abc import Callable, Iterator
from datetime import date, time
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias

from rung.errors import DataError
from rung.task.outputs import read_json, shown
from rung.task.text import BOM, utf8

Row: TypeAlias = tuple[str, dict[str, Any] | DataError]
"""Where a row stands (file:line) and its columns, or why it can't be read where the next ones can."""

MAX_ROW_BYTES = 1024 * 1024
MAX_LIST_BYTES = 256 * 1024 * 1024
BATCH_BYTES = 1024 * 1024 * 1024
"""What rows of a Parquet file that are decoded at once may take, were each as long as all of its group."""
BEFORE = 40
"""Characters that are shown before the place of a fault."""
ONE_A_LINE = "write one object per line, or a list of them as .json"

_ITEM = re.compile(r"[^\s,]")
"""Where an item of a JSON list begins, after the one before it."""
_SAID = re.compile(r'("?)sep=(?P<between>[,;:|\t])\1', re.IGNORECASE)


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of the file, one by one, a broken one with the reason; the reader is chosen by the extension.

    DataError for a file that is missing, empty, of an unknown kind, or can't be read past some place.
    """
    if not path.exists():
        raise DataError(f"no such data file: {str(path)!r}; check the path")
    if not path.is_file():
        raise DataError(f"{str(path)!r} is not a file; name a data file: {', '.join(READERS)}")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path.name}: extension {path.suffix!r} is not read; use {', '.join(READERS)}")
    if path.stat().st_size == 0:
        raise DataError(f"{path.name}: the file is empty; name one that holds rows")
    try:
        yield from reader(path)
    except OSError as error:
        raise DataError(f"{path.name}: can't be read: {error.strerror or error}") from error


def as_json(value: Any) -> Any:
    """A row or a cell of it as JSON has it.

    What Parquet has besides becomes text: dates as in ISO 8601, bytes in base64. NaN becomes null.
    """
    if isinstance(value, dict):
        return {name: as_json(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value.isoformat() if isinstance(value, (date, time)) else str(value)


def _lines(path: Path) -> Iterator[tuple[int, str | DataError]]:
    with path.open("rb") as stream:
        number = 0
        while raw := stream.readline(MAX_ROW_BYTES + 1):
            number += 1
            if len(raw) > MAX_ROW_BYTES:
                yield number, DataError(f"{path.name}:{number}: a row over 1 MB; shorten it or leave it out")
                while raw and not raw.endswith(b"\n"):
                    raw = stream.readline(MAX_ROW_BYTES)
            else:
                yield number, _decoded(raw.removeprefix(BOM) if number == 1 else raw, path, number)


def _decoded(raw: bytes, path: Path, line: int) -> str | DataError:
    try:
        return utf8(raw)
    except UnicodeDecodeError as error:
        return DataError(
            f"{path.name}:{line}: not UTF-8 at byte {error.start + 1} "
            f"({raw[error.start : error.start + 4]!r}); save the file as UTF-8"
        )


def _sure(text: str | DataError) -> str:
    """The text. Raises the reason where there is none."""
    if isinstance(text, DataError):
        raise text
    return text


def _object(value: Any, where: str) -> dict[str, Any] | DataError:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return DataError(f"{where}: a list of rows on one line: {ONE_A_LINE}")
    if not isinstance(value, dict):
        return DataError(f'{where}: a row must be an object such as {{"input": …}}, not {shown(value)}')
    return value


def _json_lines(path: Path) -> Iterator[Row]:
    for number, text in _lines(path):
        where = f"{path.name}:{number}"
        if isinstance(text, DataError):
            yield where, text
        elif text.strip():
            try:
                yield where, _object(read_json(text.rstrip()), where)
            except ValueError as error:
                spread = text.strip() in ("{", "[")
                way_out = f"an object over several lines: {ONE_A_LINE}" if spread else "correct the row"
                yield where, DataError(f"{where}: {error}: {shown(text.strip())}; {way_out}")


def _json(path: Path) -> Iterator[Row]:
    with path.open("rb") as stream:
        head = stream.read(1024).removeprefix(BOM).lstrip()
    if not head.startswith(b"["):
        yield from _json_lines(path)
        return
    if path.stat().st_size > MAX_LIST_BYTES:
        raise DataError(f"{path.name}: a JSON list over 256 MB; write one object per line as .jsonl")
    text = _sure(_decoded(path.read_bytes().removeprefix(BOM), path, 1))
    try:
        rows = read_json(text)
    except ValueError as error:
        raise DataError(_broken_list(path, text, error)) from error
    assert isinstance(rows, list), "it begins with a bracket"
    for number, value in enumerate(rows, start=1):
        where = f"{path.name}:item {number}"
        yield where, _object(value, where)


def _broken_list(path: Path, text: str, error: ValueError) -> str:
    """Why a JSON list can't be read, with the line or the item that stopped it."""
    cause = error.__cause__
    if not isinstance(cause, json.JSONDecodeError):
        number, item, error = _bad_item(text, error)
        return f"{path.name}:item {number}: {error}: {shown(item)}; correct the row"
    line = text.split("\n")[cause.lineno - 1][max(0, cause.colno - 1 - BEFORE) :]
    return (
        f"{path.name}:{cause.lineno}: broken JSON at column {cause.colno} ({cause.msg}): "
        f"{shown(line.strip())}; correct the row"
    )


def _bad_item(text: str, error: ValueError) -> tuple[int, str, ValueError]:
    """The first item of a JSON list that can't be read: its number, its text, and why.

    `error` is why the list can't, which is told where the item's end can't be found.
    """
    plain, at, number = json.JSONDecoder(), text.index("[") + 1, 0
    while (found := _ITEM.search(text, at)) is not None:
        start, number = found.start(), number + 1
        try:
            _, at = plain.raw_decode(text, start)
        except (ValueError, RecursionError):
            return number, text[start : start + MAX_ROW_BYTES], error
        try:
            read_json(f"[{text[start:at]}]")  # as deep as it lies in the list
        except ValueError as own:
            return number, text[start:at], own
    raise AssertionError("an item can't be read, or the list could be")


def _table(path: Path) -> Iterator[Row]:
    """CSV or TSV with a header line; an empty cell is no value. `where` is the line a row starts on.

    A column that has neither a name nor a value in any row is none: spreadsheets write such at the right.
    """
    rows = _cells(path)
    line, names = next(rows, (1, []))
    header = [name.strip() for name in names]
    left_out = _unused_places(path, header)
    _once([name for place, name in enumerate(header) if place not in left_out], f"{path.name}:{line}")
    for start, cells in rows:
        where = f"{path.name}:{start}"
        if len(cells) != len(header):
            reason = (
                f"{where}: {len(cells)} cells under {len(header)} columns: {shown(cells)}; put cells that "
                'hold a separator or a line break between "quotes"'
            )
            yield where, DataError(reason)
        else:
            named = enumerate(zip(header, cells, strict=True))
            yield where, {name: cell or None for place, (name, cell) in named if place not in left_out}


def _cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table that aren't blank, its header first, each with the line it starts on."""
    lines = (_sure(text) for _, text in _lines(path))
    above, first = next(((at, line) for at, line in enumerate(lines) if line.strip()), (0, ""))
    said = separator_said(first)
    csv.field_size_limit(MAX_ROW_BYTES)
    text, above = (lines, above + 1) if said else (chain([first], lines), above)
    reader = csv.reader(text, delimiter=said or separator(path, first), strict=True)
    start = above + 1
    try:
        for cells in reader:
            if cells:
                yield start, cells
            start = above + reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path.name}:{start}: broken table row ({error}); double the quotes inside a cell, "
            "or write the rows as .jsonl"
        ) from error


def separator(path: Path, header: str) -> str:
    """What stands between the cells of a table: tabs in .tsv, else what its header line has most of."""
    return "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)


def separator_said(first: str) -> str | None:
    """What stands between the cells of a table whose first line says that, as Excel's `sep=;` does."""
    said = _SAID.fullmatch(first.rstrip("\r\n"))
    return said and said["between"]


def _unused_places(path: Path, header: list[str]) -> set[int]:
    """The places of columns that have neither a name nor, in any row, a value."""
    unnamed = {place for place, name in enumerate(header) if not name}
    rows = islice(_cells(path), 1, None)
    while unnamed and (row := next(rows, None)) is not None:
        unnamed -= {place for place in unnamed if len(row[1]) == len(header) and row[1][place].strip()}
    return unnamed


def _once(columns: list[str], where: str) -> None:
    """Refuse a column name that stands twice: which of the two is meant?"""
    if (unnamed := columns.count("")) > 1:
        raise DataError(f"{where}: {unnamed} columns have no name: {shown(columns)}; name or delete them")
    if len(set(columns)) < len(columns):
        raise DataError(f"{where}: a column name stands twice: {shown(columns)}; rename one")


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            _once(file.schema_arrow.names, path.name)
            for batch in file.iter_batches(batch_size=_rows_at_once(file.metadata)):
                for row in _one_by_one(batch):
                    number += 1
                    yield (
                        f"{path.name}:row {number}",
                        {name: None if cell != cell else cell for name, cell in row.items()},
                    )
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        after = f" after row {number}" if number else ""
        raise DataError(f"{path.name}: not a readable Parquet file{after}: {str(error)[:120]!r}") from error


def _rows_at_once(metadata: Any) -> int:
    """Rows of a batch. A value that rows share lies in the file once, and is decoded for each of them."""
    groups = (metadata.row_group(at).total_byte_size for at in range(metadata.num_row_groups))
    return max(1, min(1024, BATCH_BYTES // max(1, max(groups, default=1))))


def _one_by_one(batch: Any) -> Iterator[dict[str, Any]]:
    """The rows of a batch, those of a large one made one after another."""
    step = 1 if batch.nbytes > 64 * MAX_ROW_BYTES else max(1, batch.num_rows)
    for start in range(0, batch.num_rows, step):
        yield from batch.slice(start, step).to_pylist()


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _table,
    ".tsv": _table,
    ".parquet": _parquet,
}
