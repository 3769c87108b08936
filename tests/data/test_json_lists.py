"""A list of rows in one .json file: the item that can't be read is the one that is named and shown."""

import json
from pathlib import Path

import pytest

from rung.data.rows import read_rows
from rung.errors import DataError

ROWS = [json.dumps({"input": f"question {n}", "output": "a"}) for n in range(1, 121)]


def fault(folder: Path, *, indent: str = "", **changed: str) -> str:
    """Why a list can't be read in which the output of some items, by number, is written otherwise."""
    rows = list(ROWS)
    for name, output in changed.items():
        place = int(name.removeprefix("item_")) - 1
        rows[place] = rows[place].replace('"a"', output)
    (folder / "rows.json").write_text(f"[{indent}" + f",{indent}".join(rows) + f"{indent}]")
    with pytest.raises(DataError) as refused:
        list(read_rows(folder / "rows.json"))
    return str(refused.value)


@pytest.mark.parametrize("indent", ["", " ", "\n\t"])
@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("NaN", "NaN is no JSON value"),
        ('"a", "output": "b"', "key 'output' twice in one object"),
        ("1e999", "number 1e999 is too large"),
        ("9" * 5000, "4300 digits"),
        ('"\\ud800"', "holds half a character"),
        ("[" * 64 + "]" * 64, "nested deeper than 64 levels"),
        ("[" * 100_000 + "]" * 100_000, "nested deeper than 64 levels"),
        ('NaN, "cut" 1', "NaN is no JSON value"),
    ],
)
def test_the_first_item_that_cannot_be_read_is_named(
    tmp_path: Path, output: str, said: str, indent: str
) -> None:
    message = fault(tmp_path, indent=indent, item_61=output)
    assert message.startswith("rows.json:item 61: ") and said in message
    assert '{"input": "question 61", "output": ' in message and message.endswith("; correct the row")


def test_of_several_the_first_is_named_whatever_is_wrong_with_it(tmp_path: Path) -> None:
    message = fault(tmp_path, item_3='"\\ud800"', item_61="NaN")
    assert message.startswith("rows.json:item 3: holds half a character")


def test_what_is_no_item_of_its_own_is_counted_as_one(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('[1, "a, [b", [2, {}], {"a": -Infinity}]')
    with pytest.raises(DataError, match=r"rows\.json:item 4: -Infinity is no JSON value: '\{\"a\""):
        list(read_rows(tmp_path / "rows.json"))
