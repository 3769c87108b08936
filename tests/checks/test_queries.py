import json
import sqlite3
from pathlib import Path

import pytest

from rung.checks.examine import examined
from rung.checks.rows import prepare
from rung.climb.options import Options, config_of
from rung.errors import TaskError
from rung.scoring import execution
from rung.task import load_task
from rung.task.tables import Query

WORDS = "amber birch coral delta ember fjord grove heron ivory jetty koala lotus".split()


def row(number: int) -> dict:
    one, other = WORDS[number % 12], WORDS[number // 12 % 12]
    return {
        "input": f"Ages of {one} {other} {number}?",
        "output": f"SELECT age FROM t WHERE name = '{one}{number}'",
    }


def task(folder: Path, rows: list[dict], *, output: str = "{kind: text}", more: str = "", metric="execution"):
    (folder / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    named = f"metric: {metric}\n" if metric else ""
    (folder / "task.yaml").write_text(
        f"data: {{train: rows.jsonl{more}}}\noutput: {output}\n{named}", encoding="utf-8"
    )
    return prepare(folder, Options())


def findings(prepared) -> list:
    return [one for one in examined(prepared, (), ("rows",)).findings if one.check == "queries"]


def test_rows_carry_the_tables_of_their_context(tmp_path):
    rows = [row(n) | {"context": "CREATE TABLE t (name TEXT, age INT)"} for n in range(100)]
    prepared = task(tmp_path, rows)
    splits = prepared.splits
    assert all(isinstance(e.output, Query) for e in (*splits.train, *splits.dev, *splits.test))
    assert any("made-up rows" in said for said in prepared.inferred)
    assert findings(prepared) == []


def test_sql_with_tables_is_scored_by_what_it_gives(tmp_path):
    rows = [row(n) | {"context": 'Table "t" with columns: "name", "age"'} for n in range(100)]
    prepared = task(tmp_path, rows, output="{kind: sql}", metric="")
    assert (prepared.task.metric, prepared.task.output.kind) == ("execution", "text")


def test_a_database_counts_for_every_row_and_for_the_run(tmp_path):
    file = tmp_path / "some.db"
    with sqlite3.connect(file) as made:
        made.execute("CREATE TABLE t (name TEXT, age INT)")
    made.close()
    rows = [row(n) for n in range(100)]
    rows[3]["output"] = "SELECT agge FROM t"
    prepared = task(tmp_path, rows, more=", database: some.db")
    assert all(e.output.tables.database == file for e in prepared.splits.dev)
    (found,) = findings(prepared)
    assert found.severity == "warn" and found.rows == ("rows.jsonl:4",) and "don't run" in found.message
    before = config_of(prepared, [], Options())
    with sqlite3.connect(file) as made:
        made.execute("INSERT INTO t VALUES ('a', 1)")
    made.close()
    assert config_of(prepared, [], Options()) != before


def test_rows_without_tables_are_told_of_and_none_at_all_refused(tmp_path):
    rows = [row(n) | {"context": "CREATE TABLE t (name TEXT, age INT)"} for n in range(100)]
    del rows[5]["context"]
    rows[7]["output"] = "SELECT age FROM t WHERE 1 = 2"
    found = findings(task(tmp_path, rows))
    assert {(one.rows, one.message.split(":")[0]) for one in found} == {
        (("rows.jsonl:6",), "queries without tables to run them on"),
        (("rows.jsonl:8",), "queries that give nothing on any made-up rows"),
    }
    with pytest.raises(TaskError, match=r"needs tables to run queries on, .* data\.database"):
        task(tmp_path, [row(n) for n in range(100)])


def test_the_task_of_the_page_is_one_and_its_limits_are_those_of_the_code(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "execution.md").read_text(encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text("{}\n", encoding="utf-8")
    with sqlite3.connect(tmp_path / "shop.db") as made:
        made.execute("CREATE TABLE t (a)")
    made.close()
    (tmp_path / "task.yaml").write_text(page.split("```yaml\n")[1].split("```")[0], encoding="utf-8")
    assert load_task(tmp_path).metric == "execution"
    said = " ".join(page.split())
    assert f"{execution.MOST_STEPS // 10**6} million steps" in said
    assert f"give {execution.MOST_ROWS:,} rows" in said
    assert f"{execution.MOST_CHARS:,} characters in a value and {execution.MOST_BYTES // 2**20} MiB" in said
