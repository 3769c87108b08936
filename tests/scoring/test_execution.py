import copy
import json
import pickle
import sqlite3
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rung.records import Answer, Example
from rung.runs import digest_of
from rung.scoring import execution
from rung.scoring.execution import orders, query_in, right, runs
from rung.scoring.fillings import hints
from rung.scoring.measure import measurement
from rung.scoring.paired import discordant_share, gain, pair_up
from rung.scoring.scorers import SCORERS
from rung.task.tables import Query, Tables, tables_in

WIKISQL = Path(__file__).parents[2].parent / "shared" / "data" / "wikisql_partial_header" / "test.jsonl"
ROWS = [(1, "ann", 2.5), (2, "bob", None), (3, "ann", 0.1), (4, "cy", 0.2)]
SCRIPT = "CREATE TABLE t (id INTEGER, name TEXT, x REAL); INSERT INTO t VALUES " + ", ".join(
    f"({a}, '{b}', {'NULL' if c is None else c})" for a, b, c in ROWS
)


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("db") / "some data?.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(SCRIPT)
        connection.execute("CREATE VIEW v AS SELECT name, count(*) AS n FROM t GROUP BY name")
    connection.close()
    return path


@pytest.fixture(params=["file", "statements"])
def tables(request, database) -> Tables:
    if request.param == "file":
        return Tables(database=database)
    found = tables_in(f"The shop's tables:\n{SCRIPT};\nAnswer in SQL.")
    assert found is not None and found.has_rows
    return found


@pytest.mark.parametrize(
    ("wanted", "answer", "same"),
    [
        ("SELECT name FROM t", "SELECT name AS other FROM t", True),
        ("SELECT name FROM t", "SELECT name FROM t ORDER BY id DESC", True),
        ("SELECT name FROM t ORDER BY id", "SELECT name FROM t ORDER BY id DESC", False),
        ("SELECT name FROM t ORDER BY id", "SELECT name FROM t ORDER BY -id DESC", True),
        ("SELECT name FROM (SELECT * FROM t ORDER BY id)", "SELECT name FROM t ORDER BY id DESC", True),
        ("SELECT name FROM t", "SELECT DISTINCT name FROM t", False),
        ("SELECT id FROM t", "SELECT id * 1.0 FROM t", True),
        ("SELECT id FROM t", "SELECT CAST(id AS TEXT) FROM t", False),
        ("SELECT 0.3", "SELECT 0.1 + 0.2", True),
        ("SELECT 0.3", "SELECT 0.3000001", False),
        ("SELECT x FROM t WHERE id = 2", "SELECT NULL", True),
        ("SELECT id, name FROM t", "SELECT name, id FROM t", False),
        ("SELECT id FROM t WHERE name = 'ann'", "select id from t where name in ('ann')", True),
        ("SELECT id FROM t WHERE name = 'zoe'", "SELECT id FROM t WHERE name = 'ann'", False),
        ("SELECT id FROM t", "SELECT nothing FROM t", False),
        ("SELECT count(*) FROM t", "Sure:\n```sql\nSELECT count(id)\nFROM t;\n```\nThat counts.", True),
        ("SELECT nothing FROM t", "SELECT nothing FROM  t;", True),
        ("SELECT nothing FROM t", "SELECT nothing2 FROM t", False),
    ],
)
def test_an_answer_is_right_where_it_gives_the_expected_rows(tables, wanted, answer, same):
    assert right(answer, Query(wanted, tables)) == float(same)


def test_views_of_a_database_can_be_read(database):
    target = Query("SELECT n FROM v WHERE name = 'ann'", Tables(database=database))
    assert right("SELECT count(*) FROM t WHERE name = 'ann'", target) == 1


ATTACKS = [
    "ATTACH DATABASE '{other}' AS o",
    "PRAGMA writable_schema = 1",
    "PRAGMA journal_mode = WAL",
    "SELECT * FROM pragma_table_info('t')",
    "SELECT load_extension('libevil')",
    "SELECT writefile('{other}', 'x')",
    "SELECT readfile('/etc/passwd')",
    "SELECT randomblob(10)",
    "SELECT random()",
    "SELECT zeroblob(1000000000)",
    "VACUUM INTO '{other}'",
    "VACUUM",
    "INSERT INTO t VALUES (5, 'eve', 1)",
    "UPDATE t SET x = 0",
    "DELETE FROM t",
    "DROP TABLE t",
    "CREATE TABLE u (a)",
    "CREATE TEMP TABLE u (a)",
    "CREATE VIRTUAL TABLE u USING fts5(a)",
    "ALTER TABLE t RENAME TO u",
    "REINDEX",
    "ANALYZE",
    "BEGIN EXCLUSIVE",
    "SELECT 1; DELETE FROM t",
    "SELECT 1; SELECT 2",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    "SELECT count(*) FROM t a, t b, t c, t d, t e, t f, t g, t h, t i, t j, t k, t l, t m, t n, t o, t p",
    "SELECT a.id FROM t a, t b, t c, t d, t e, t f, t g, t h",
    "SELECT replace(replace(hex(zeroblob(9)), '0', printf('%.*c', 99999, 'x')), 'x', 'yyyyyyyyyy')",
    "SELECT hex(printf('%.*c', 99999, 'x'))",
    "",
    "-- nothing",
    "SELECT '\ud800'",
    "SELECT 1\x00",
    "(" * 5000,
    "SELECT " + "(" * 900 + "1" + ")" * 900,
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_isnt_a_small_reading_query_is_refused_and_changes_no_file(tables, database, tmp_path, attack):
    other = tmp_path / "other.db"
    before, beside = database.read_bytes(), sorted(database.parent.iterdir())
    target = Query("SELECT count(*) FROM t", tables)
    query = attack.replace("{other}", str(other))
    assert not runs(query, target) and right(query, target) == 0
    assert database.read_bytes() == before and sorted(database.parent.iterdir()) == beside
    assert not other.exists()


def test_a_query_that_sorts_more_than_memory_may_hold_is_stopped():
    numbers = f"INSERT INTO n VALUES {', '.join(['(1)'] * 300)}"
    target = Query("SELECT 1", Tables(statements=("CREATE TABLE n (i)", numbers)))
    wide = "SELECT printf('%.*c', 50000, 'x') || a.i AS s FROM n a, n b ORDER BY s LIMIT 100000 OFFSET 1"
    assert not runs(f"SELECT count(*) FROM ({wide})", target)
    assert runs("SELECT count(*) FROM n", target)


def test_a_pattern_of_many_wildcards_ends():
    target = Query("SELECT 0", Tables(statements=("CREATE TABLE t (a)",)))
    text = "replace(printf('%.*c', 9999, 'x'), 'x', 'a')"
    assert runs(f"SELECT {text} LIKE '{'%a' * 400}b'", target)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    verb=st.sampled_from(["DELETE FROM", "UPDATE", "DROP TABLE", "SELECT * FROM", ";", "PRAGMA"]),
    rest=st.text(),
)
def test_no_text_changes_the_database(database, verb, rest):
    before = database.read_bytes()
    right(f"{verb} {rest}", Query("SELECT count(*) FROM t", Tables(database=database)))
    assert database.read_bytes() == before


def test_the_limit_of_steps_is_no_clock(monkeypatch):
    tables = Tables(statements=("CREATE TABLE n (i)", f"INSERT INTO n VALUES {', '.join(['(1)'] * 400)}"))
    query, target = "SELECT count(*) FROM n a, n b", Query("SELECT 160000", tables)

    def enough(steps: int) -> bool:
        monkeypatch.setattr(execution, "MOST_STEPS", steps)
        execution.given.cache_clear()
        return runs(query, target)

    low, high = 0, 10_000_000
    assert enough(high) and not enough(low)
    while high - low > 1000:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    assert 160_000 < high < 2_000_000
    assert {enough(high + 1000) for _ in range(3)} == {True} and {enough(low) for _ in range(3)} == {False}
    execution.given.cache_clear()


def test_a_query_of_few_steps_that_each_take_long_is_ended_by_the_processor_time(monkeypatch):
    tables = Tables(statements=("CREATE TABLE n (i)", f"INSERT INTO n VALUES {', '.join(['(1)'] * 40)}"))
    big = "replace(printf('%040000d', 0), '0', 'a')"
    slow = f"SELECT sum(instr(replace({big}, 'a', 'aa') || i, {big} || 'b')) FROM (SELECT n.i FROM n, n m)"
    monkeypatch.setattr(execution, "MOST_CPU_S", 0.05)
    execution.given.cache_clear()
    start = time.thread_time()
    assert not runs(slow, Query("SELECT 1", tables))
    assert time.thread_time() - start < 20, "it would take minutes"
    monkeypatch.setattr(execution, "MOST_CPU_S", 60.0)
    execution.given.cache_clear()
    assert runs("SELECT 1", Query("SELECT 1", tables))


cells = st.one_of(
    st.none(),
    st.integers(-9, 9),
    st.floats(-9, 9),
    st.text(alphabet="ab' ", max_size=3),
    st.sampled_from([1, 1.0]),
)


def _values(rows) -> str:
    def spelled(cell) -> str:
        if cell is None:
            return "NULL"
        return "'" + cell.replace("'", "''") + "'" if isinstance(cell, str) else repr(cell)

    return "VALUES " + ", ".join(f"({', '.join(map(spelled, row))})" for row in rows)


@settings(deadline=None)
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=6), st.randoms())
def test_permuted_rows_are_the_same_but_under_an_order(rows, dice):
    mixed = list(rows)
    dice.shuffle(mixed)
    # VALUES without a table has the order in which it's written.
    tables = Tables(statements=("CREATE TABLE t (a)",))
    assert right(f"{_values(mixed)} ", Query(f"SELECT * FROM ({_values(rows)})", tables)) == 1
    ordered = Query(f"SELECT * FROM ({_values(rows)}) ORDER BY 1 + 0", tables)

    def alike(one, other) -> bool:
        return [tuple(map(execution._plain, row)) for row in one] == [
            tuple(map(execution._plain, r)) for r in other
        ]

    assert right(f"SELECT * FROM ({_values(mixed)})", ordered) == float(alike(rows, mixed))


@settings(deadline=None)
@given(
    st.lists(st.tuples(cells, cells), min_size=1, max_size=5), st.lists(st.tuples(cells, cells), max_size=5)
)
def test_rows_are_compared_as_multisets(first, second):
    tables = Tables(statements=("CREATE TABLE t (a)",))
    found = right(_values(second or [(7, "z")]), Query(f"SELECT * FROM ({_values(first)})", tables))

    def bag(rows) -> list[str]:
        return sorted(
            str([float(f"{c:.12g}") if isinstance(c, (int, float)) else c for c in row]) for row in rows
        )

    assert found == float(bag(first) == bag(second or [(7, "z")]))


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("SELECT a FROM t ORDER BY a", True),
        ("select a from t order\n by a limit 1", True),
        ("SELECT a FROM (SELECT a FROM t ORDER BY a)", False),
        ("SELECT 'ORDER BY', \"order by\" FROM t -- ORDER BY a", False),
        ("SELECT rank() OVER (ORDER BY a) FROM t", False),
    ],
)
def test_an_order_is_seen_at_the_top_alone(query, found):
    assert orders(query) == found


def test_the_query_is_read_out_of_a_fence():
    assert query_in("```sql\nSELECT 1;\n```") == "SELECT 1"
    assert query_in("So:\n```\nSELECT 1\n``` or ```SELECT 2```") == "SELECT 1"
    assert query_in("```sql\nSELECT 1") == "SELECT 1"
    assert query_in(" SELECT 1 ;; ") == "SELECT 1"


@pytest.mark.parametrize(
    ("answer", "query"),
    [
        ("```SELECT 1```", "SELECT 1"),
        ("```with t AS (SELECT 1)\nSELECT * FROM t```", "with t AS (SELECT 1)\nSELECT * FROM t"),
        ("```sql SELECT 1```", "SELECT 1"),
        ("```selections\nSELECT 1```", "SELECT 1"),
        ("`SELECT 1;`", "SELECT 1"),
        ("It is `select a\nfrom t`.", "select a\nfrom t"),
        ("SELECT `with tax`, `select` FROM `t`", "SELECT `with tax`, `select` FROM `t`"),
        ("`name`", "`name`"),
    ],
)
def test_a_query_that_begins_right_behind_its_backticks_is_read_whole(answer, query):
    assert query_in(answer) == query


def test_a_copy_of_an_expected_query_keeps_its_tables():
    tables = Tables(statements=("CREATE TABLE t (a)",))
    example = Example(id="1", input="?", output=Query("SELECT a FROM t", tables))
    for one in (copy.deepcopy(example), pickle.loads(pickle.dumps(example)), replace(example, input="!")):
        assert isinstance(one.output, Query) and one.output == example.output and one.output.tables == tables
    assert asdict(example)["output"].tables == tables
    plain = replace(example, output="SELECT a FROM t")
    assert example == plain and digest_of([example.output]) == digest_of([plain.output])
    assert json.loads(json.dumps(example.output)) == "SELECT a FROM t"


def test_what_a_query_says_of_its_columns_is_read():
    said = hints(
        "SELECT SUM(pay) FROM t WHERE name = 'O''Neil' AND t.age >= 30 AND city LIKE '%x' AND n IN (1, 2) "
        'AND y BETWEEN 1990 AND 2000 AND "full name" = "Ann"'
    )
    assert said.conditions == {
        "name": [("=", "O'Neil")],
        "age": [(">=", "30")],
        "city": [("LIKE", "%x")],
        "n": [("IN", "1"), ("IN", "2")],
        "y": [("BETWEEN", "1990"), ("BETWEEN", "2000")],
        "full name": [("=", "Ann")],
    }
    assert [said.numeric(name) for name in ("pay", "age", "name", "z")] == [True, True, False, None]


HEADER = 'Table "staff" with columns: "full name", "age (y, m)", pay, "city"'
DECLARED = 'CREATE TABLE staff (`full name` TEXT, "age (y, m)" INT, pay REAL, city VARCHAR(20))'


@pytest.mark.parametrize("context", [HEADER, DECLARED])
@pytest.mark.parametrize(
    ("answer", "same"),
    [
        ("SELECT pay FROM staff WHERE city IN ('Rome') AND \"age (y, m)\" > 29.5", True),
        ("SELECT pay FROM staff WHERE \"age (y, m)\" >= 30 AND city = 'Rome'", True),
        ("SELECT pay FROM staff WHERE \"age (y, m)\" >= 30 AND city = 'rome'", False),
        ("SELECT pay FROM staff WHERE \"age (y, m)\" > 30 AND city = 'Rome'", False),
        ("SELECT pay FROM staff WHERE \"age (y, m)\" >= 31 AND city = 'Rome'", False),
        ("SELECT pay FROM staff WHERE city = 'Rome'", False),
        ('SELECT pay FROM staff WHERE "age (y, m)" >= 30', False),
        ("SELECT DISTINCT pay FROM staff WHERE \"age (y, m)\" >= 30 AND city = 'Rome'", False),
        ('SELECT "full name" FROM staff WHERE "age (y, m)" >= 30 AND city = \'Rome\'', False),
        ("SELECT pay FROM staff WHERE \"age (y, m)\" >= 30 OR city = 'Rome'", False),
        ("SELECT max(pay) FROM staff WHERE \"age (y, m)\" >= 30 AND city = 'Rome'", False),
    ],
)
def test_made_up_rows_tell_queries_apart(context, answer, same):
    tables = tables_in(context)
    assert tables is not None and not tables.has_rows
    target = Query("SELECT pay FROM staff WHERE \"age (y, m)\" >= 30 AND city = 'Rome'", tables)
    assert right(answer, target) == float(same)


def test_made_up_tables_join():
    tables = tables_in("CREATE TABLE a (id INT PRIMARY KEY, name TEXT)\nCREATE TABLE b (a_id INT, n INT)")
    assert tables is not None and len(tables.statements) == 2
    target = Query("SELECT name, n FROM a JOIN b ON a.id = b.a_id", tables)
    assert right("SELECT name, n FROM b, a WHERE a_id = id", target) == 1
    assert right("SELECT name, n FROM b, a", target) == 0
    assert right("SELECT name, n FROM a LEFT JOIN b ON a.id = b.a_id", target) == 0


def test_a_query_that_gives_nothing_on_made_up_rows_is_matched_by_its_text_alone():
    tables = tables_in(HEADER)
    assert tables is not None
    target = Query("SELECT pay FROM staff WHERE 1 = 2", tables)
    assert right("SELECT pay FROM staff WHERE 2 = 1", target) == 0
    assert right("SELECT  pay FROM staff WHERE 1 = 2;", target) == 1


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        (
            'Table people with columns: name, age INT, "home, town".',
            (("people", ("name", "age", "home, town")),),
        ),
        (
            "# singer(id, name)\n# concert(id, year)",
            (("singer", ("id", "name")), ("concert", ("id", "year"))),
        ),
        ("Which singer (of all) is it?", None),
    ],
)
def test_headers_are_read(text, headers):
    found = tables_in(text)
    assert (None if found is None else found.headers) == headers


def test_a_context_cannot_do_more_than_make_tables(tmp_path):
    victim = tmp_path / "victim.db"
    for statement in (
        "CREATE TABLE t AS SELECT load_extension('x')",
        "CREATE TABLE t AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
        f"CREATE TABLE t (a); INSERT INTO t SELECT writefile('{victim}', 'x')",
    ):
        tables = tables_in(statement)
        assert tables is not None
        assert not runs("SELECT 1 ", Query("SELECT 1", tables))
    assert not victim.exists()


def test_scores_beside_and_pairs_are_those_of_rows_that_ran(database):
    tables = Tables(database=database)
    wanted = [
        "SELECT id FROM t",
        "SELECT name FROM t",
        "SELECT x FROM t ORDER BY id",
        "SELECT max(id) FROM t",
    ]
    examples = [Example(id=str(n), input=q, output=Query(q, tables)) for n, q in enumerate(wanted)]
    first = ["SELECT id FROM t WHERE 1", "SELECT nam FROM t", None, "SELECT 4"]
    second = ["SELECT id + 0 FROM t", "SELECT name FROM t LIMIT 9", "SELECT x FROM t", "DROP TABLE t"]
    found = [
        measurement(
            system=name,
            split="dev",
            metric="execution",
            examples=examples,
            answers=[Answer(text=str(v), value=v) for v in values],
        )
        for name, values in (("a", first), ("b", second))
    ]
    assert [[p.score for p in one.predictions] for one in found] == [[1, 0, 0, 1], [1, 1, 1, 0]]
    assert [dict(one.secondary) for one in found] == [
        {"runs": 0.5, "exact": 0.0, "readable": 0.75},
        {"runs": 0.75, "exact": 0.0, "readable": 1.0},
    ]
    pair = pair_up(*found, targets={e.id: e.output for e in examples}, groups=None)
    assert (gain(pair), discordant_share(pair)) == (0.25, 0.75)
    assert SCORERS["execution"].summary(first, [e.output for e in examples]) == 0.5


@pytest.mark.skipif(not WIKISQL.exists(), reason="without the data")
def test_real_queries_equal_themselves_and_not_their_neighbours():
    rows = [json.loads(line) for line in WIKISQL.read_text(encoding="utf-8").splitlines()[:100]]
    same = different = changed = 0
    for row in rows:
        tables = tables_in(row["context"])
        assert tables is not None
        target, conditions = Query(row["output"], tables), row["meta"]["conds"]
        same += right(row["output"].replace("SELECT", "select /* the same */"), target)
        for name, operator, value in conditions[:1]:
            spelled = f'"{name}" {operator} \'' + str(value).replace("'", "''")
            assert spelled in row["output"]
            different += right(row["output"].replace(spelled, spelled + "1"), target)
            changed += 1
    assert same >= 0.99 * len(rows) and changed > 75 and different <= 0.05 * changed


@pytest.mark.parametrize(
    "text",
    [
        "\n" * 500_000,
        "table" + " " * 1_000_000,
        "table a" + " " * 1_000_000,
        "table [" * 140_000,
        "[\n" * 500_000,
    ],
)
def test_text_that_names_no_table_is_read_once(text):
    assert tables_in(text) is None


def test_an_open_bracket_in_a_statement_is_read_once():
    found = tables_in("CREATE TABLE a (" + "[" * 900_000)
    assert found is not None and len(found.statements) == 1


@pytest.mark.parametrize(
    "text", ["\n\n- shop(a, b)", "Tables : shop with the columns: a, b", "table shop columns a,b"]
)
def test_headers_are_found_with_blanks_and_lines_before_them(text):
    found = tables_in(text)
    assert found is not None and found.headers == (("shop", ("a", "b")),)
