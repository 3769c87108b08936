import json
import sqlite3
from dataclasses import replace
from types import SimpleNamespace

import pytest

from rung.checks.rows import prepare
from rung.climb.again import ROWS_FILE, keep_source
from rung.climb.options import Options
from rung.compare.asked import scored_rows
from rung.errors import RunError, TaskError
from rung.records import Answer, Prediction
from rung.ship.climbed import Climbed
from rung.ship.rows import asked_rows
from rung.task.tables import Query
from tests.report.climb_fixture import one_rung_climb


@pytest.fixture
def prepared(tmp_path):
    with sqlite3.connect(tmp_path / "shop.db") as made:
        made.execute("CREATE TABLE t (name TEXT, age INT)")
        made.executemany("INSERT INTO t VALUES (?, ?)", [(f"n{n}", n) for n in range(100)])
    made.close()
    rows = [
        {"input": f"How old is person {n} called n{n}?", "output": f"SELECT age FROM t WHERE name = 'n{n}'"}
        for n in range(100)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    (tmp_path / "task.yaml").write_text(
        "data: {train: rows.jsonl, database: shop.db}\noutput: {kind: sql}\n", encoding="utf-8"
    )
    return prepare(tmp_path, Options())


@pytest.fixture
def origin(prepared, tmp_path) -> Climbed:
    climb = one_rung_climb()
    (found,) = climb.results
    assert found.dev is not None
    asked = tuple(
        Prediction(example_id=e.id, answer=Answer(text="", value=None), score=0.0)
        for e in prepared.splits.dev
    )
    found = replace(found, dev=replace(found.dev, predictions=asked, metric="execution"))
    run = tmp_path / "run"
    run.mkdir()
    keep_source(run, tmp_path, prepared, Options())
    return Climbed(folder=run, climb=replace(climb, metric="execution", results=(found,)), result=found)


def test_the_rows_of_an_export_have_the_database_of_their_climb(prepared, origin, tmp_path):
    system = SimpleNamespace(spec=SimpleNamespace(kind="text"))
    asked = asked_rows(system, origin, None, 10)  # pyright: ignore[reportArgumentType]
    assert asked.metric == "execution" and len(asked.examples) == 10
    assert [e.output.tables for e in asked.examples] == [e.output.tables for e in prepared.splits.dev[:10]]
    written = json.loads((origin.folder / ROWS_FILE).read_text())
    assert written["database"] == str(tmp_path / "shop.db")
    (tmp_path / "shop.db").unlink()
    with pytest.raises(RunError, match="the database that the climb's queries were run on is gone"):
        asked_rows(system, origin, None, 10)  # pyright: ignore[reportArgumentType]


def test_rows_of_a_file_are_compared_on_the_database_of_the_run(prepared):
    plain = [replace(e, output=str(e.output)) for e in prepared.splits.dev]
    assert all(isinstance(e.output, Query) for e in scored_rows(plain, "execution", prepared))
    assert not any(isinstance(e.output, Query) for e in scored_rows(plain, "exact", prepared))
    with pytest.raises(TaskError, match="needs tables to run queries on"):
        scored_rows(plain, "execution", None)
