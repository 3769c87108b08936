"""Copies of data files in which placeholders stand for personal data, keys, and the names of a list."""

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.data.keys import keys
from rung.data.personal import personal
from rung.data.roster import Roster
from rung.data.rows import read_rows, separator, separator_said
from rung.data.spots import Kind, Spot, apart, written_out
from rung.errors import DataError
from rung.records import Json
from rung.runs import atomic_folder
from rung.task.outputs import canonical, read_json
from rung.task.text import BOM, utf8

MAP_FILE = "placeholders.json"
TURNS = ("messages", "conversations")
"""Columns whose objects are turns: their keys are the format's."""

_PLACEHOLDER = re.compile(r"\[[A-Z]+_[0-9]+\]")
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
_ESCAPE = re.compile(r"\\(?:u.{4}|.)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Redaction:
    """What became of data files: the copies, their rows, and how often each kind of value was replaced.

    `left_out` are the places of rows that can't be read and are in no copy; `unseen` are names of the roster
    that stood nowhere, whole or in part.
    """

    copies: tuple[Path, ...]
    rows: int
    left_out: tuple[str, ...]
    replaced: tuple[tuple[str, int], ...]
    placeholders: Path
    unseen: tuple[str, ...] = ()


class Redactor:
    """Replaces values by placeholders: the same value by the same one, as long as it lives.

    `values` are those replaced, by their placeholder; `replaced` counts them by what they are. Placeholders
    that are `taken`, as those of a copy that is copied again, aren't given to another value.
    """

    def __init__(self, roster: Sequence[str] = (), taken: frozenset[str] = frozenset()) -> None:
        self.values: dict[str, str] = {}
        self.replaced: Counter[str] = Counter()
        self._roster = Roster(roster)
        self._seen: set[str] = set()
        self._taken = taken
        self._given: dict[tuple[str, str], str] = {}
        self._last: Counter[str] = Counter()

    @property
    def unseen(self) -> tuple[str, ...]:
        """The names of the roster that stood nowhere so far, whole or in part."""
        return tuple(name for name in self._roster.names if name not in self._seen)

    def row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row with every text replaced, and its columns' names kept."""
        return {column: self.value(value, column, keep_keys=column in TURNS) for column, value in row.items()}

    def value(self, value: Any, key: str = "", *, keep_keys: bool = False) -> Any:
        """A value of JSON or Parquet with every text in it replaced; `key` is what it stands under.

        DataError where bytes spell no text, or two keys of an object become one.
        """
        if isinstance(value, str):
            return self._written(value, key)
        if isinstance(value, bytes):
            return self._written(_spelled_by(value, key), key).encode()
        if isinstance(value, list):
            return [self.value(item, key, keep_keys=keep_keys) for item in value]
        if isinstance(value, tuple):  # an entry of a map
            name, item = value
            made = name if keep_keys else self.value(name)
            return made, self.value(item, name if isinstance(name, str) else "", keep_keys=keep_keys)
        if isinstance(value, dict):
            made = {
                name if keep_keys else self.text(name): self.value(item, name, keep_keys=keep_keys)
                for name, item in value.items()
            }
            if len(made) < len(value):
                raise DataError("two keys of one object name the same person or value: rename one")
            return made
        if (digits := written_out(value, key)) is not None:
            text = self.text(digits, key)
            return value if text == digits else text
        return value

    def text(self, text: str, key: str = "", *, is_json: bool = False) -> str:
        """A text with placeholders for all that is found in it; of JSON what stands between quotes alone.

        It is looked at again until nothing is left: a number may only show once the one beside it is gone.
        """
        while (made := self._once(text, key, is_json)) != text:
            text = made
        return text

    def _once(self, text: str, key: str, is_json: bool) -> str:
        marks = [hit.span() for hit in _PLACEHOLDER.finditer(text) if hit[0] in self.values]
        marks += _around_strings(text) if is_json else ()
        named = [one for one in self._roster.find(text) if not _overlaps(one.spot, marks)]
        self._seen.update(name for one in named for name in one.whose)
        names = {one.spot: one.name for one in named}
        parts, end = [], 0
        for spot in apart((*keys(text, key, wary=True), *personal(text, key), *names)):
            if _overlaps(spot, marks):
                continue
            value = names.get(spot, text[spot.start : spot.end])
            parts += [text[end : spot.start], self._placeholder(spot.kind, value)]
            end = spot.end
        return "".join((*parts, text[end:]))

    def _written(self, text: str, key: str) -> str:
        """A text as `text` makes it. JSON stays JSON: value by value first, then what words nearby tell."""
        value = _json_of(text)
        if value is None:
            return self.text(text, key)
        made = self.value(value, key)
        if canonical(made) != canonical(value):
            text = json.dumps(made, ensure_ascii=False)
        return self.text(text, key, is_json=True)

    def _placeholder(self, kind: Kind, value: str) -> str:
        self.replaced[kind.said] += 1
        same = (kind.name, _spelled(kind, value))
        if same not in self._given:
            self._given[same] = self._next(kind.name)
            self.values[self._given[same]] = value
        return self._given[same]

    def _next(self, kind: str) -> str:
        while True:
            self._last[kind] += 1
            made = f"[{kind}_{self._last[kind]}]"
            if made not in self._taken:
                return made


def _overlaps(spot: Spot, spans: Sequence[tuple[int, int]]) -> bool:
    return any(start < spot.end and spot.start < end for start, end in spans)


def _json_of(text: str) -> Json:
    """The object or the list that a text is; None where it's no JSON."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return read_json(text)
    except ValueError:
        return None


def _around_strings(text: str) -> Iterator[tuple[int, int]]:
    """What of JSON can't be replaced in part: all but the strings without their quotes, and their escapes."""
    end = 0
    for string in _STRING.finditer(text):
        yield end, string.start() + 1
        yield from (escape.span() for escape in _ESCAPE.finditer(text, *string.span()))
        end = string.end() - 1
    yield end, len(text)


def _spelled_by(value: bytes, key: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise DataError(
            f"{key!r} holds bytes that are no text and can't be looked through; leave that column out, or "
            "write what they say as text"
        ) from None


def redact(files: Sequence[Path], out: Path, roster: Sequence[str] = ()) -> Redaction:
    """Write copies of data files, in their own formats, into the new folder `out`, and what was replaced.

    The file that says which value a placeholder stands for is readable by its owner only. DataError where
    `out` holds anything, or a file can't be read.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{str(out)!r} is there already; name a new folder for the copy, or an empty one")
    redactor = Redactor(roster, frozenset(mark for file in files for mark in _marks(file)))
    rows, left_out, copies = 0, [], []
    with atomic_folder(out) as draft:
        for file in files:
            name = file.name if file.name not in copies else f"{len(copies) + 1}-{file.name}"
            made = list(_redacted(file, redactor, left_out))
            _writer(file)(draft / name, made, file)
            rows += len(made)
            copies.append(name)
        _write_map(draft / MAP_FILE, redactor.values)
    return Redaction(
        copies=tuple(out / name for name in copies),
        rows=rows,
        left_out=tuple(left_out),
        replaced=tuple(sorted(redactor.replaced.items())),
        placeholders=out / MAP_FILE,
        unseen=redactor.unseen,
    )


def read_roster(path: Path) -> tuple[str, ...]:
    """The names of a text file, one a line. Raises DataError where there are none."""
    try:
        lines = utf8(path.read_bytes().removeprefix(BOM)).splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{str(path)!r}: not UTF-8 at byte {error.start + 1}; save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{str(path)!r} can't be read: {error.strerror}; check --roster") from None
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise DataError(f"{str(path)!r} holds no name; write one a line")
    return names


def _redacted(file: Path, redactor: Redactor, left_out: list[str]) -> Iterator[dict[str, Any]]:
    for where, row in read_rows(file):
        if isinstance(row, DataError):
            left_out.append(where)
            continue
        try:
            yield redactor.row(row)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None


def _marks(file: Path) -> set[str]:
    """What stands in a file and looks like a placeholder."""
    return {
        mark
        for _, row in read_rows(file)
        if not isinstance(row, DataError)
        for mark in _PLACEHOLDER.findall(str(row))
    }


def _spelled(kind: Kind, value: str) -> str:
    """One spelling for a value: keys are told apart by case, numbers aren't by blanks and hyphens."""
    if kind.name == "SECRET":
        return value
    if kind.name in ("EMAIL", "NAME"):
        return " ".join(value.casefold().split())
    return "".join(filter(str.isalnum, value.casefold()))


def _write_map(path: Path, values: Mapping[str, str]) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(values, file, ensure_ascii=False, indent=1)
        file.write("\n")


def _writer(file: Path) -> Callable[[Path, list[dict[str, Any]], Path], None]:
    if file.suffix.lower() == ".json" and file.read_bytes()[:1024].removeprefix(BOM).lstrip().startswith(
        b"["
    ):
        return _write_list
    return WRITERS[file.suffix.lower()]


def _write_lines(path: Path, rows: list[dict[str, Any]], source: Path) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _write_list(path: Path, rows: list[dict[str, Any]], source: Path) -> None:
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _write_table(path: Path, rows: list[dict[str, Any]], source: Path) -> None:
    with source.open(encoding="utf-8-sig") as file:
        first = next((line for line in file if line.strip()), "")
    said = separator_said(first)
    between = said or separator(source, first)
    with path.open("w", encoding="utf-8", newline="") as file:
        if said:
            file.write(f"sep={said}\n")
        writer = csv.DictWriter(file, list(rows[0]) if rows else [], delimiter=between, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_parquet(path: Path, rows: list[dict[str, Any]], source: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    try:
        columns = {
            field.name: _column([row[field.name] for row in rows], field.type)
            for field in parquet.read_schema(source)
        }
        parquet.write_table(pyarrow.table(columns), path)
    except pyarrow.ArrowException:
        raise DataError(
            f"{source.name}: a column of numbers holds private ones, and Parquet can't mix them with text; "
            "write the rows as .jsonl"
        ) from None


def _column(values: list[Any], kind: Any) -> Any:
    """A column of the type that it had, or of one that its placeholders fit."""
    import pyarrow

    try:
        made = pyarrow.array(values, kind)
    except (pyarrow.ArrowException, TypeError, ValueError, OverflowError):
        return pyarrow.array(values)
    # A struct takes no other names than its own, and drops what stands under them.
    return made if made.to_pylist() == values else pyarrow.array(values)


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]], Path], None]] = {
    ".jsonl": _write_lines,
    ".ndjson": _write_lines,
    ".json": _write_lines,
    ".csv": _write_table,
    ".tsv": _write_table,
    ".parquet": _write_parquet,
}
"""By the extension, as a file is read."""
