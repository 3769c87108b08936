"""Tables as spreadsheets save them: columns without a name, a line that names the separator, capitals."""

from pathlib import Path
from typing import Any

import pytest

from rung.data.redact import redact
from rung.data.rows import read_rows
from rung.data.sources import read_source
from rung.errors import DataError

AB = {"text": "a", "label": "b"}


def read(folder: Path, text: str, name: str = "rows.csv") -> list[tuple[str, Any]]:
    (folder / name).write_text(text, encoding="utf-8")
    return list(read_rows(folder / name))


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("text;label;;\na;b;;\n", AB),
        ("text;label; \na;b;  \n", AB),
        (";text;;label\n;a;;b\n", AB),
        ("text;label;;\na;b;;note\n", {**AB, "": "note"}),
        (";text;label\n0;a;b\n", {"": "0", **AB}),
    ],
)
def test_columns_without_a_name_and_any_value_are_left_out(tmp_path: Path, text: str, row: dict) -> None:
    assert read(tmp_path, text) == [("rows.csv:2", row)]


@pytest.mark.parametrize("above", ["\n", " \n\n", "\nsep=;\n"])
def test_blank_lines_before_the_header_tell_no_separator(tmp_path: Path, above: str) -> None:
    place = f"rows.csv:{above.count(chr(10)) + 2}"
    rows = read(tmp_path, f"{above}text;label\na, or c;b\n")
    assert rows == [(place, {"text": "a, or c", "label": "b"})]


def test_a_value_far_down_keeps_a_column_in_every_row(tmp_path: Path) -> None:
    rows = read(tmp_path, "text;label;;\n" + "a;b;;\n" * 50 + "a;b;;note\n")
    assert {tuple(row) for _, row in rows} == {("text", "label", "")}


def test_two_columns_of_values_without_a_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows\.csv:1: 2 columns have no name: .*; name or delete them"):
        read(tmp_path, "text;label;;\na;b;x;y\n")


def test_a_row_of_another_length_is_named_with_all_its_cells(tmp_path: Path) -> None:
    (_, good), (where, short) = read(tmp_path, "text;label;;\na;b;;\na;b\n")
    assert good == AB and where == "rows.csv:3"
    assert "rows.csv:3: 2 cells under 4 columns: ['a', 'b']" in str(short)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows.csv", "sep=;\ntext;label\na;b\n"),
        ("rows.csv", "\ufeffSEP=|\r\ntext|label\r\na|b\r\n"),
        ("rows.csv", '"sep=\t"\ntext\tlabel\na\tb\n'),
        ("rows.tsv", "sep=,\ntext,label\na,b\n"),
    ],
)
def test_a_first_line_names_the_separator_and_rows_keep_their_lines(
    tmp_path: Path, name: str, text: str
) -> None:
    assert read(tmp_path, text, name) == [(f"{name}:3", AB)]


def test_a_fault_under_such_a_line_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows\.csv:1: a column name stands twice"):
        read(tmp_path, "text;text\na;b\n")
    with pytest.raises(DataError, match=r"rows\.csv:2: a column name stands twice"):
        read(tmp_path, "sep=;\ntext;text\na;b\n")
    with pytest.raises(DataError, match=r"rows\.csv:4: broken table row"):
        read(tmp_path, 'sep=;\ntext;label\na;b\n"a;b\n')


def test_a_copy_with_placeholders_names_the_separator_again(tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    source.write_text("sep=|\ntext|label|\nmail b@c.org; d, e|b|\n", encoding="utf-8")
    (copy,) = redact([source], tmp_path / "out").copies
    assert copy.read_text(encoding="utf-8").startswith("sep=|\ntext|label\n")
    assert list(read_rows(copy)) == [("rows.csv:3", {"text": "mail [EMAIL_1]; d, e", "label": "b"})]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ("Text,Label", "but for their case: write text for Text and label for Label; accepted: "),
        ("text,LABEL", "but for their case: write label for LABEL; accepted: "),
        ("Prompt,Completion", "but for their case: write prompt for Prompt and completion for Completion;"),
        ("Body,Label", "no known columns among ['Body', 'Label']; accepted: "),
    ],
)
def test_columns_that_are_known_but_for_their_case_are_named(tmp_path: Path, columns: str, said: str) -> None:
    (tmp_path / "rows.csv").write_text(f"{columns}\na,b\n")
    with pytest.raises(DataError) as refused:
        read_source(tmp_path / "rows.csv")
    assert str(refused.value).startswith("rows.csv:2: no known columns") and said in str(refused.value)
