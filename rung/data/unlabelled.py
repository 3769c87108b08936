"""Inputs without outputs: reading them, and keeping those that are like no row that is known already."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rung.data.conversations import Fields
from rung.data.formats import Format, asked_in, formats_named
from rung.data.near import rows_alike, rows_alike_in
from rung.data.provenance import is_synthetic
from rung.data.rows import read_rows
from rung.data.sources import example_id
from rung.data.splits import question
from rung.errors import DataError
from rung.records import Example
from rung.task.model import DataFormat
from rung.task.outputs import check_text, shown

INPUT_COLUMNS = ("input", "text", "prompt")


@dataclass(frozen=True, kw_only=True, slots=True)
class Unlabelled:
    """The inputs of a file; `broken` says of each other row why it can't be used."""

    examples: tuple[Example, ...]
    broken: tuple[str, ...]


def read_unlabelled(path: Path, form: DataFormat = "auto") -> Unlabelled:
    """Read rows as those of the named format ask, or `{"input", "context"?}` ones, each input once.

    Outputs and other columns are passed over. DataError for a file that can't be read or holds no input.
    """
    formats = () if form == "auto" else formats_named(form)
    found: dict[str, Example] = {}
    broken: list[str] = []
    for where, row in read_rows(path):
        try:
            if isinstance(row, DataError):
                raise row
            example = _example(row, where, formats)
            found.setdefault(example.id, example)
        except DataError as error:
            broken.append(str(error))
    if not found:
        raise DataError(broken[0] if broken else f'{path.name}: no inputs; one a row, such as {{"input": …}}')
    return Unlabelled(examples=tuple(found.values()), broken=tuple(broken))


def apart_from(rows: Sequence[Example], known: Sequence[Example]) -> list[Example]:
    """The rows whose question is like none that is known, exactly or nearly, and like none before it."""
    asked = {question(row) for row in known}
    near = rows_alike_in(rows, known)
    again = {place for group in rows_alike(rows) for place in sorted(group)[1:]}
    return [
        row
        for place, row in enumerate(rows)
        if question(row) not in asked and place not in near and place not in again
    ]


def _example(row: dict, where: str, formats: Sequence[Format]) -> Example:
    try:
        fields = asked_in(row, formats)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    if fields is None:
        said = next((row[column] for column in INPUT_COLUMNS if row.get(column) is not None), None)
        fields = Fields(input=said, output=None, context=row.get("context"))
    if fields.images:
        raise DataError(f"{where}: holds an image; inputs for a teacher are text alone")
    said, context = fields.input, fields.context or None
    if not isinstance(said, str) or not said.strip() or not isinstance(context, str | None):
        raise DataError(
            f"{where}: {shown(said)} is no input; write a text as {', '.join(INPUT_COLUMNS)} (and `context`)"
        )
    try:
        check_text(said + (context or ""))
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    return Example(
        id=example_id(said, context),
        input=said,
        output=None,
        context=context,
        where=where,
        synthetic=is_synthetic(row),
    )
