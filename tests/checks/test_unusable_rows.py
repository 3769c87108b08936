"""Rows that can't be used are named and set aside, and stop a command only where none is left."""

import json
from pathlib import Path
from typing import Any

import pytest

from rung.checks.repair import ASIDE_FILE, repair
from rung.checks.rows import prepare
from rung.climb.checking import CheckOptions
from rung.errors import DataError
from rung.task import load_task
from tests.fixtures_climb import label_rows, write_rows


def spoiled(path: Path, count: int, output: Any) -> tuple[Path, list[dict]]:
    """A file of label rows, the eighth of which has another output; and these rows."""
    rows = label_rows(count)
    rows[7]["output"] = output
    return write_rows(path, rows), rows


@pytest.mark.parametrize("output", [{"label": "billing"}, ["billing"], "far too long for a label " * 4])
def test_one_output_that_is_no_label_is_a_broken_row_and_set_aside(output: Any, tmp_path: Path) -> None:
    data, rows = spoiled(tmp_path / "rows.jsonl", 120, output)
    prepared = prepare(data, CheckOptions())
    assert prepared.task.output.kind == "label"
    (broken,) = prepared.broken
    assert broken.where == "rows.jsonl:8" and broken.unlike
    assert "is no label, and 119 of 120 outputs are" in broken.reason
    done = repair(load_task(data), "auto", tmp_path / "out")
    assert done.kept == (("train.jsonl", 119),) and done.aside == (("broken_rows", 1),)
    (aside,) = map(json.loads, (tmp_path / "out" / ASIDE_FILE).read_text().splitlines())
    assert (aside["where"], aside["row"]) == ("rows.jsonl:8", rows[7])


def test_an_output_of_the_test_that_is_no_label_is_one_too(tmp_path: Path) -> None:
    train = write_rows(tmp_path / "rows.jsonl", label_rows(120))
    test, _ = spoiled(tmp_path / "test.jsonl", 60, {"label": "billing"})
    assert [row.where for row in prepare(train, CheckOptions(test=test)).broken] == ["test.jsonl:8"]
    done = repair(load_task(train, test=test), "auto", tmp_path / "out")
    assert ("broken_rows", 1) in done.aside


def test_a_test_of_which_no_row_can_be_used_says_why(tmp_path: Path) -> None:
    train, test = write_rows(tmp_path / "rows.jsonl", label_rows(60)), tmp_path / "test.csv"
    test.write_text("text,label\n" + "".join(f"question {n},\n" for n in range(30)))
    said = r"^test\.csv: no row of the test can be used \(30 rows\); the first: test\.csv:2: 'label' is miss"
    with pytest.raises(DataError, match=said):
        prepare(train, CheckOptions(test=test))
