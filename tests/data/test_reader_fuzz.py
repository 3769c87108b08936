"""What any file can do to the readers: nothing but a DataError, and no row of a good one is lost."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from rung.data.rows import READERS, read_rows
from rung.data.sources import Source, read_source
from rung.errors import DataError

fuzz = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SUFFIXES = st.sampled_from(sorted(READERS))


def turn(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def jsonl(rows: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def table(rows: Sequence[dict[str, Any]], delimiter: str) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def columns(rows: Sequence[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), out)
    return out.getvalue()


WRITERS: dict[str, Callable[[Sequence[dict[str, Any]]], bytes]] = {
    ".jsonl": jsonl,
    ".ndjson": jsonl,
    ".json": lambda rows: json.dumps(rows).encode(),
    ".csv": lambda rows: table(rows, ","),
    ".tsv": lambda rows: table(rows, "\t"),
    ".parquet": columns,
}
CALL = {"type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
VALID: tuple[dict[str, Any], ...] = (
    {"input": "q", "output": "a", "context": "c", "group": "g", "images": "a.png", "synthetic": "true"},
    {"prompt": "q", "chosen": "a", "rejected": "b"},
    {"instruction": "do", "input": "q", "output": "a"},
    {"messages": [turn("system", "s"), turn("user", "q"), turn("assistant", "a")]},
    {"messages": [turn("user", "q"), turn("assistant", "", tool_calls=[CALL])], "tools": '[{"name": "f"}]'},
    {"messages": [turn(role, [{"type": "text", "text": role}]) for role in ("user", "assistant")]},
    {
        "input": [turn("user", "q")],
        "preferred_output": [turn("assistant", "a")],
        "non_preferred_output": [turn("assistant", "b")],
    },
)


def only_a_data_error(path: Path) -> None:
    """Read the file both ways. A lenient reader finds at least the rows that a strict one found."""
    try:
        strict: Source | None = read_source(path)
    except DataError as error:
        assert "\n" not in str(error)
        strict = None
    try:
        lenient = read_source(path, lenient=True)
    except DataError:
        assert strict is None
        return
    for example in lenient.examples:
        assert example.input.strip()
        json.dumps(example.output, allow_nan=False)
    if strict is not None:
        assert (lenient.examples, lenient.broken) == (strict.examples, ())
    else:
        assert lenient.broken


def test_every_reader_has_a_writer_here() -> None:
    assert set(WRITERS) == set(READERS)


@fuzz
@given(suffix=SUFFIXES, raw=st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(tmp_path: Path, suffix: str, raw: bytes) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(raw)
    only_a_data_error(path)


cuts = st.lists(
    st.tuples(st.integers(0, 5000), st.integers(0, 3), st.binary(max_size=4)), min_size=1, max_size=4
)


@fuzz
@given(suffix=SUFFIXES, row=st.sampled_from(VALID), count=st.integers(1, 3), changes=cuts)
def test_a_good_file_with_bytes_changed_is_read_or_refused(
    tmp_path: Path, suffix: str, row: dict[str, Any], count: int, changes: list[tuple[int, int, bytes]]
) -> None:
    raw = bytearray(WRITERS[suffix]([row] * count))
    for place, removed, added in changes:
        at = place % len(raw) if raw else 0
        raw[at : at + removed] = added
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(bytes(raw))
    only_a_data_error(path)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda part: (
        st.lists(part, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                "role content type text url path image image_url bytes name arguments function tool_calls "
                "function_call messages tools synthetic source from value".split()
            ),
            part,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every part of a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way, *(place for key, part in inner for place in places(part, (*way, key)))]


@fuzz
@given(row=st.sampled_from(VALID), data=st.data(), value=values)
def test_a_good_row_with_any_part_replaced_is_read_or_refused(
    tmp_path: Path, row: dict[str, Any], data: st.DataObject, value: Any
) -> None:
    changed = json.loads(json.dumps(row))
    *way, last = data.draw(st.sampled_from(places(row)[1:]))
    part = changed
    for key in way:
        part = part[key]
    part[last] = value
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, (row, changed))), encoding="utf-8")
    only_a_data_error(path)


arrays = st.sampled_from(
    [
        pyarrow.array([1, None], pyarrow.timestamp("ns")),
        pyarrow.array([2**50, 1], pyarrow.timestamp("s")),
        pyarrow.array([2**40, 1], pyarrow.date64()),
        pyarrow.array([2**30, 1], pyarrow.date32()),
        pyarrow.array([2**60, 1], pyarrow.duration("s")),
        pyarrow.array([2**60, 1], pyarrow.time64("ns")),
        pyarrow.array([b"\xff", None]),
        pyarrow.array([{"a": float("nan")}, None]),
        pyarrow.array([[("k", 1), ("k", 2)], None], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
        pyarrow.array(["a", "b"]).dictionary_encode(),
        pyarrow.array([1.5, float("inf")], pyarrow.float16()),
        pyarrow.array(["1.50", "2"]).cast(pyarrow.decimal128(10, 2)),
        pyarrow.array([None, None]),
        pyarrow.StringArray.from_buffers(
            2, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pyarrow.py_buffer(b"\xff\xfe")
        ),
    ]
)


@fuzz
@given(column=st.sampled_from(["input", "output", "meta", "group", "images", "synthetic"]), array=arrays)
def test_any_type_of_a_parquet_column_is_read_or_refused(
    tmp_path: Path, column: str, array: pyarrow.Array
) -> None:
    made = {"input": pyarrow.array(["q", "r"]), "output": pyarrow.array(["a", "b"]), column: array}
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table(made), path)
    only_a_data_error(path)


cells = st.text(max_size=20).filter(lambda text: text.strip() != "")
rows = st.lists(
    st.fixed_dictionaries({"input": cells, "output": cells, "context": cells}), min_size=1, max_size=6
)


@pytest.mark.parametrize("suffix", sorted(READERS))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=rows)
def test_every_row_of_a_good_file_comes_back(
    tmp_path: Path, suffix: str, written: list[dict[str, str]]
) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(WRITERS[suffix](written))
    assert [row for _, row in read_rows(path)] == written
    source = read_source(path)
    assert [(row.input, row.output, row.context) for row in source.examples] == [
        (row["input"], row["output"], row["context"]) for row in written
    ]
    assert read_source(path, lenient=True) == source


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("row", VALID, ids=lambda row: "+".join(row))
def test_every_way_of_writing_a_row_comes_back(tmp_path: Path, suffix: str, row: dict[str, Any]) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(WRITERS[suffix]([row, row]))
    source = read_source(path)
    assert len(source.examples) == 2
    assert not read_source(path, lenient=True).broken
