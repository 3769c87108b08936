"""Rows of a climb whose queries were run on a database that is another one now."""

import json
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from rung.checks.rows import prepare
from rung.climb.again import keep_source
from rung.climb.opening import open_folder
from rung.climb.options import Options, config_of
from rung.climb.stored import CLIMB_FILE
from rung.compare.asked import Wanted, asked_rows
from rung.compare.sides import Side
from rung.errors import RunError
from rung.records import Climb
from rung.runs import RUN_FILE, read_json, write_json
from rung.ship.climbed import Climbed
from tests.fixtures_climb import Log, write_rows
from tests.report.climb_fixture import one_rung_climb


def fill(database: Path, *ages: int) -> None:
    made = sqlite3.connect(database)
    with made:
        made.execute("CREATE TABLE IF NOT EXISTS t (name TEXT, age INT)")
        made.executemany("INSERT INTO t VALUES (?, ?)", [(f"n{age}", age) for age in ages])
    made.close()


@pytest.fixture
def task(tmp_path) -> Path:
    fill(tmp_path / "shop.db", *range(100))
    rows = [
        {"input": f"How old is person {n} called n{n}?", "output": f"SELECT age FROM t WHERE name = 'n{n}'"}
        for n in range(100)
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    return written(tmp_path, database="shop.db")


def written(folder: Path, **data: str) -> Path:
    keys = {"name": "shop", "data": {"train": "rows.jsonl", **data}, "output": {"kind": "sql"}}
    (folder / "task.yaml").write_text(json.dumps(keys), encoding="utf-8")
    return folder


def climbed(task: Path, run: Path) -> Side:
    """What a finished climb of the task leaves of its rows and its settings."""
    prepared = prepare(task, Options())
    open_folder(run, config_of(prepared, [], Options()), prepared, Log())
    keep_source(run, task, prepared, Options())
    found = replace(one_rung_climb(), metric="execution", digests=(("data", prepared.splits.digest),))
    (run / CLIMB_FILE).write_bytes(TypeAdapter(Climb).dump_json(found))
    return Side(
        given=str(run), system=None, origin=Climbed(folder=run, climb=found, result=found.results[0]), run=run
    )


def test_the_rows_of_a_climb_are_not_scored_on_another_database_unless_the_task_is_named(task, tmp_path):
    sides = (climbed(task, tmp_path / "run"), Side(given="m", system=None, model="m"))
    shutil.copy(database := tmp_path / "shop.db", tmp_path / "old.db")
    asked = asked_rows(*sides, Wanted())
    assert asked.metric == "execution" and asked.told == "dev rows of the climb"
    fill(database, 7)
    said = r"queries of '.*run' were run on a database, and '.*shop\.db' is another one now: .* --task"
    with pytest.raises(RunError, match=said):
        asked_rows(*sides, Wanted())
    named = asked_rows(*sides, Wanted(task=task))
    assert [e.id for e in named.examples] == [e.id for e in asked.examples]
    assert not [note for note in named.notes if "can't be told" in note], "its rows are the same ones"
    shutil.copy(tmp_path / "old.db", database)
    assert asked_rows(*sides, Wanted()).examples == asked.examples
    written(task)
    with pytest.raises(RunError, match="were run on a database, and the task names none now: restore it"):
        asked_rows(*sides, Wanted())


def test_two_climbs_of_the_same_rows_on_two_databases_are_told_apart(task, tmp_path):
    sides = (climbed(task, tmp_path / "run"), climbed(task, tmp_path / "other"))
    assert asked_rows(*sides, Wanted()).examples
    file = tmp_path / "other" / RUN_FILE
    write_json(file, read_json(file) | {"database": "0" * 64})
    with pytest.raises(RunError, match="the queries of '.*other' were run on a database"):
        asked_rows(*sides, Wanted())
