import json
from pathlib import Path

import pytest

from rung.checks.repair import ASIDE_FILE, repair, repair_text
from rung.climb.checking import embedding
from rung.data.sources import read_source
from rung.errors import DataError
from rung.task import load_task
from tests.fixtures_climb import Log

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


def test_rows_that_say_nearly_the_same_get_one_group(tmp_path):
    said = {
        "delivery": (
            "has my parcel been sent yet",
            "when will my parcel arrive",
            "is a courier here",
        ),
        "login": ("I can't log in to my account", "I forgot the password", "the code never arrived"),
    }
    pairs = [
        ("My card payment was declined, why?", "Why was my card payment declined?"),
        ("How do I change my home address?", "How can I change my home address?"),
        ("I was charged twice for the same order.", "I was charged two times for the same order."),
    ]
    rows = [{"input": text, "output": label} for label, texts in said.items() for text in texts]
    rows += [{"input": text, "output": "billing", "note": 1} for pair in pairs for text in pair]
    rows[0]["doc_id"] = rows[3]["doc_id"] = "one mail"
    train = written(tmp_path / "train.jsonl", rows)
    done = repair(load_task(train), "auto", tmp_path / "out", embedding(Log()))
    found = lines(tmp_path / "out" / "train.jsonl")
    groups = [row.pop("group", None) for row in found]
    assert found == rows
    assert groups[6] == groups[7] and groups[8] == groups[9] and groups[10] == groups[11]
    assert groups[0] is groups[3] is groups[1] is groups[4] is None
    assert len({groups[6], groups[8], groups[10]}) == 3
    assert done.alike == 6
    assert repair_text(done).endswith("; 6 rows grouped with rows that say nearly the same")
    again = read_source(tmp_path / "out" / "train.jsonl")
    assert [row.group for row in again.examples] == [g or rows[i].get("doc_id") for i, g in enumerate(groups)]


def test_groups_that_become_one_keep_a_name_that_the_test_has_too(tmp_path):
    rows = [
        {"input": "My card payment was declined, why?", "output": "billing", "group": "u1"},
        {"input": "Why was my card payment declined?", "output": "billing", "group": "u2"},
        {"input": "has my parcel been sent yet", "output": "delivery", "group": "u2"},
        {"input": "I forgot the password", "output": "login", "group": "u3"},
        {"input": "the code never arrived", "output": "login"},
    ]
    tested = [
        {"input": "is a courier here", "output": "delivery", "user_id": "u2"},
        {"input": "I can't log in to my account", "output": "login", "group": "u3"},
    ]
    train, test = written(tmp_path / "train.jsonl", rows), written(tmp_path / "test.jsonl", tested)
    done = repair(load_task(train, test=test), "auto", tmp_path / "out", embedding(Log()))
    made = [read_source(tmp_path / "out" / name).examples for name in ("train.jsonl", "test.jsonl")]
    assert [[row.group for row in part] for part in made] == [["u1", "u1", "u1", "u3", None], ["u1", "u3"]]
    assert done.alike == 2


def questions(count: int) -> list[str]:
    """Inputs that are unlike each other."""
    words = "parcel invoice account courier refund password ribbon station weather harbour".split()
    return [
        " ".join(words[(n * step + step) % 10] for step in range(1, 9)) + f" {n * 7919}" for n in range(count)
    ]


def test_a_fault_in_train_takes_no_row_out_of_a_test_whose_file_has_the_same_name(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    asked = questions(8)
    rows = [{"input": text, "output": "ab"[n % 2]} for n, text in enumerate(asked[:3])]
    train = written(tmp_path / "a" / "data.jsonl", [*rows, rows[0]])
    tested = [{"input": text, "output": "ab"[n % 2]} for n, text in enumerate(asked[4:])]
    test = written(tmp_path / "b" / "data.jsonl", tested)
    done = repair(load_task(train, test=test), "auto", tmp_path / "out")
    assert lines(tmp_path / "out" / "train.jsonl") == rows
    assert lines(tmp_path / "out" / "test.jsonl") == tested
    assert done.aside == (("repeats", 1),)
    assert [(row["file"], row["where"]) for row in lines(tmp_path / "out" / ASIDE_FILE)] == [
        ("train.jsonl", "data.jsonl:4")
    ]


def test_rows_are_read_in_the_format_that_the_task_file_names(tmp_path):
    rows = [
        {"prompt": text, "completion": "ab"[n % 2], "instruction": "Sort.", "output": "draft"}
        for n, text in enumerate(questions(4))
    ]
    written(tmp_path / "rows.jsonl", rows)
    (tmp_path / "task.yaml").write_text("data: {train: rows.jsonl, format: prompt_completion}\n")
    task = load_task(tmp_path)
    assert repair(task, "auto", tmp_path / "out").kept == (("train.jsonl", 4),)
    assert repair(task, "alpaca", tmp_path / "other").kept == (("train.jsonl", 1),)


def test_an_output_that_was_cut_off_is_set_aside(tmp_path):
    rows = [{"input": text, "output": json.dumps({"n": n})} for n, text in enumerate(questions(40))]
    rows[7]["output"] = rows[7]["output"][:-2]
    done = repair(load_task(written(tmp_path / "train.jsonl", rows)), "auto", tmp_path / "out")
    assert lines(tmp_path / "out" / "train.jsonl") == [*rows[:7], *rows[8:]]
    (aside,) = lines(tmp_path / "out" / ASIDE_FILE)
    assert (aside["check"], aside["row"]) == ("broken_rows", rows[7]) and done.aside == (("broken_rows", 1),)
    assert "train.jsonl:8: output '{\"n\": ' is no json, and 39 of 40 outputs are; correct" in aside["reason"]


def test_pairs_with_another_rejected_answer_are_no_repeats(tmp_path):
    pairs = [{"prompt": "where is it", "chosen": "here", "rejected": said} for said in ("there", "no", "no")]
    repair(load_task(written(tmp_path / "train.jsonl", pairs)), "auto", tmp_path / "out")
    assert lines(tmp_path / "out" / "train.jsonl") == pairs[:2]


def test_what_json_does_not_have_becomes_text(tmp_path):
    from datetime import UTC, date, datetime
    from decimal import Decimal

    import pyarrow
    from pyarrow import parquet

    rows = [
        {
            "text": text,
            "label": "ab"[n % 2],
            "at": datetime(2024, 1, 2, 3, tzinfo=UTC),
            "cells": {
                "day": date(2024, 1, 2),
                "raw": b"ab",
                "price": Decimal("1.50"),
                "none": [float("nan")],
            },
        }
        for n, text in enumerate(questions(3))
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train.parquet")
    repair(load_task(tmp_path / "train.parquet"), "auto", tmp_path / "out")
    found = lines(tmp_path / "out" / "train.jsonl")
    cells = {"day": "2024-01-02", "raw": "YWI=", "price": "1.50", "none": [None]}
    assert [row["text"] for row in found] == questions(3)
    assert {row["at"] for row in found} == {"2024-01-02T03:00:00+00:00"}
    assert all(row["cells"] == cells for row in found)
    assert not read_source(tmp_path / "out" / "train.jsonl").broken
