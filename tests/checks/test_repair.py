import json
from pathlib import Path

import pytest

from rung.checks.repair import ASIDE_FILE, repair, repair_text
from rung.data.sources import read_source
from rung.errors import DataError
from rung.task import load_task

FAULTY = [
    {"input": "where is my parcel with the blue ribbon", "output": "delivery", "note": "kept"},
    {"input": "Where is my  parcel with the blue ribbon", "output": "delivery"},
    {"input": "where is my parcel with the blue ribbon", "output": "login"},
    {"input": "the code for my account never came", "output": "login"},
    {"input": "", "output": "login"},
    {"input": "the price on the invoice is wrong, please correct it!", "output": "billing"},
]
TEST = [
    {"input": "the code for my ACCOUNT never came", "output": "login"},
    {"input": "the price on the invoice is wrong, please correct it.", "output": "billing"},
    {"input": "a courier came late", "output": "delivery"},
    {"input": "a courier came late", "output": "delivery"},
]


def written(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_does_harm_is_set_aside_with_its_reason_and_the_rest_kept_as_it_was(tmp_path):
    train, test = written(tmp_path / "train.jsonl", FAULTY), written(tmp_path / "test.jsonl", TEST)
    with train.open("a") as file:
        file.write("no json\n")
    before = train.read_bytes(), test.read_bytes()
    done = repair(load_task(train, test=test), "auto", tmp_path / "out")
    assert (train.read_bytes(), test.read_bytes()) == before
    assert lines(tmp_path / "out" / "train.jsonl") == [FAULTY[0], FAULTY[2]]
    assert lines(tmp_path / "out" / "test.jsonl") == TEST[:3]
    aside = lines(tmp_path / "out" / ASIDE_FILE)
    assert [(row["where"], row["check"]) for row in aside] == [
        ("train.jsonl:2", "repeats"),
        ("train.jsonl:4", "leaks"),
        ("train.jsonl:5", "broken_rows"),
        ("train.jsonl:6", "near_leaks"),
        ("train.jsonl:7", "broken_rows"),
        ("test.jsonl:4", "repeats"),
    ]
    assert aside[1]["row"] == FAULTY[3] and "test.jsonl:1" in aside[1]["reason"]
    assert aside[4]["row"] is None and "broken JSON" in aside[4]["reason"]
    assert repair_text(done).endswith(
        "kept train.jsonl 2 rows, test.jsonl 3 rows; set aside broken_rows 2 rows, leaks 1 row, "
        "near_leaks 1 row, repeats 2 rows (set_aside.jsonl)"
    )
    again = read_source(tmp_path / "out" / "train.jsonl")
    assert len(again.examples) == 2 and not again.broken


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    train = written(tmp_path / "train.jsonl", FAULTY)
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("x")
    with pytest.raises(DataError, match="isn't an empty folder"):
        repair(load_task(train), "auto", out)
    assert [path.name for path in out.iterdir()] == ["mine"]


def test_tables_become_lines_with_the_same_columns(tmp_path):
    table = tmp_path / "rows.csv"
    table.write_text("text,label,id\na parcel came,yes,1\na parcel came,yes,2\nbroken,row\nno parcel,no,3\n")
    done = repair(load_task(table), "auto", tmp_path / "out")
    assert lines(tmp_path / "out" / "train.jsonl") == [
        {"text": "a parcel came", "label": "yes", "id": "1"},
        {"text": "no parcel", "label": "no", "id": "3"},
    ]
    assert dict(done.aside) == {"broken_rows": 1, "repeats": 1}
