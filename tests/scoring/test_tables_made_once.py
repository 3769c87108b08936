"""Tables that queries are run on are made once, and no query finds anything of another in them."""

import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.scoring import execution
from rung.scoring.fillings import FILLINGS, fill, made_from_headers
from rung.scoring.packed import BESIDE_BYTES, PackedFiles
from rung.task.tables import Tables

T, U = "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, x REAL)", "CREATE TABLE u (t_id INT, n INT)"
KINDS = {
    "rows": Tables(
        statements=(
            *(T, U, "CREATE TABLE v (n INT CHECK (n > 0), twice INT AS (2 * n), UNIQUE (n)) STRICT"),
            "INSERT INTO t VALUES (1, 'ann', 2.5), (2, 'bob', NULL), (3, 'ann', 0.1), (7, 'cy', 0.2)",
            "INSERT INTO u VALUES (1, 5), (1, 6), (3, 5), (9, NULL)",
            "INSERT OR IGNORE INTO v VALUES (1), (1), (4)",
        )
    ),
    "declared": Tables(statements=(T, U), has_rows=False),
    "header": Tables(headers=(("t", ("id", "name", "x")), ("u", ("t_id", "n"))), has_rows=False),
}
WANTED = ("SELECT name FROM t WHERE id >= 2 AND name = 'ann'", "SELECT n FROM u JOIN t ON id = t_id")
ALL = "SELECT *, (SELECT count(*) FROM sqlite_master) FROM t ORDER BY id, name, x"


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    execution.given.cache_clear()
    monkeypatch.setattr(execution, "_IMAGES", PackedFiles(most_bytes=execution._IMAGES.most_bytes))


@pytest.fixture
def made(monkeypatch) -> list[tuple[str, int]]:
    """For which expected query and which filling tables were made so far."""
    found: list[tuple[str, int]] = []
    making = execution._made

    def noted(tables: Tables, wanted: str, number: int) -> sqlite3.Connection:
        found.append((wanted, number))
        return making(tables, wanted, number)

    monkeypatch.setattr(execution, "_made", noted)
    return found


@pytest.fixture(params=list(KINDS))
def tables(request) -> Tables:
    return KINDS[request.param]


def afresh(query: str, wanted: str, tables: Tables) -> list[list[tuple]] | None:
    """The rows that a query gives on tables that are made for it alone, with nothing but SQLite."""
    found = []
    for number in range(1 if tables.has_rows else FILLINGS):
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            for statement in tables.statements or made_from_headers(tables.headers, wanted, number):
                connection.execute(statement)
            if not tables.has_rows:
                fill(connection, wanted, number)
            try:
                found.append(connection.execute(query).fetchall())
            except sqlite3.Error:
                return None
    return found


def listed(rows: Sequence[Sequence[tuple]] | None):
    return None if rows is None else tuple(execution._summed(iter(one)) for one in rows)


CELLS = st.sampled_from(
    [
        "id",
        "name",
        "x",
        "n",
        "t_id",
        "u.n",
        "count(*)",
        "max(x)",
        "sum(n) / 2",
        "upper(name)",
        "typeof(x)",
        "*",
    ]
)
QUERIES = st.builds(
    lambda cells, source, rest: f"SELECT {', '.join(cells)} FROM {source} {rest}",
    st.lists(CELLS, min_size=1, max_size=3),
    st.sampled_from(
        [
            "t",
            "u",
            "v",
            "t, u",
            "t JOIN u ON id = t_id",
            "t LEFT JOIN u ON id = t_id",
            "t a, t",
            "sqlite_master",
        ]
    ),
    st.sampled_from(
        [
            *("", "WHERE id > 2", "WHERE name = 'ann' AND x < 1", "WHERE n IN (5, 6) OR t_id IS NULL"),
            *("GROUP BY name", "GROUP BY id HAVING count(*) > 1", "ORDER BY name DESC, x LIMIT 3"),
            "WHERE id IN (SELECT t_id FROM u)",
        ]
    ),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(QUERIES, min_size=1, max_size=3), st.sampled_from(list(KINDS)), st.sampled_from(WANTED))
def test_a_query_gives_what_it_gives_on_tables_made_for_it_alone(queries, kind, wanted):
    for query in queries:
        assert execution.given(query, wanted, KINDS[kind]) == listed(afresh(query, wanted, KINDS[kind]))


def test_tables_are_made_once_for_all_queries_and_made_up_rows_once_for_an_expected_one(tables, made):
    each = 1 if tables.has_rows else FILLINGS
    for number in range(4):
        assert execution.given(f"SELECT {number} FROM t", WANTED[0], tables) is not None
    assert len(made) == each
    first, second = (execution.given(ALL, wanted, tables) for wanted in WANTED)
    assert len(made) == (1 if tables.has_rows else 2 * FILLINGS)
    assert (first == second) == tables.has_rows


ATTEMPTS = [
    "INSERT INTO t (id, name) VALUES (99, 'eve')",
    "INSERT INTO t (id, name) VALUES (99, 'eve') RETURNING id",
    "UPDATE t SET x = 0 RETURNING x",
    "DELETE FROM t",
    "DROP TABLE t",
    "ALTER TABLE t RENAME TO w",
    "CREATE TABLE w (a)",
    "CREATE TEMP TABLE t (id, name, x)",
    "CREATE TEMP VIEW t AS SELECT 1 AS id, 2 AS name, 3 AS x",
    "CREATE INDEX i ON t (name DESC)",
    "BEGIN",
    "BEGIN EXCLUSIVE",
    "SAVEPOINT s",
    "PRAGMA query_only = 1",
    "PRAGMA reverse_unordered_selects = 1",
    "ATTACH ':memory:' AS o",
    "SELECT random() FROM t",
    "SELECT id FROM t WHERE x = (SELECT 1 FROM",
]


@pytest.mark.parametrize("let_through", [False, True])
@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_nothing_that_a_query_does_is_there_for_the_next_one(tables, attempt, let_through, monkeypatch):
    """Even where SQLite were told to allow all of it."""
    before = execution.given(ALL, WANTED[0], tables)
    assert before is not None
    with monkeypatch.context() as patch:
        if let_through:
            patch.setattr(execution, "_READING", frozenset(range(100)))
        found = execution.given(attempt, WANTED[0], tables)
        assert (found is not None) == (let_through and "RETURNING" in attempt)
    execution.given.cache_clear()
    assert execution.given(ALL, WANTED[0], tables) == before
    assert execution.given("SELECT * FROM w", WANTED[0], tables) is None
    assert execution.given("SELECT id FROM t WHERE id = 99 AND name = 'eve'", WANTED[0], tables) == listed(
        [[]] * len(before)
    )


def test_temporary_tables_of_a_context_are_there_for_each_query():
    made = ("CREATE TEMP TABLE t (a)", "CREATE TABLE temp.u (b)", "CREATE TABLE w (c)")
    tables = Tables(statements=(*made, "INSERT INTO t VALUES (3)", "INSERT INTO u VALUES (4)"))
    for query in ("SELECT a, b FROM t, u", "SELECT a, b FROM u, t"):
        assert execution.given(query, "SELECT 1", tables) == listed([[(3, 4)]])


@pytest.mark.parametrize(
    "broken", [("CREATE TABLE t (a",), ("CREATE TABLE t (a DEFAULT (random()))", "DROP TABLE t")]
)
def test_nothing_runs_on_tables_that_cannot_be_made(broken):
    for query in ("SELECT 1", "SELECT 2", "SELECT 1"):
        assert execution.given(query, "SELECT 1", Tables(statements=broken)) is None


def test_several_threads_get_what_one_gets(tables):
    queries = [f"SELECT id, name, {number} FROM t WHERE id > {number % 5}" for number in range(40)]
    with ThreadPoolExecutor(8) as threads:
        found = [*threads.map(lambda query: execution.given(query, WANTED[0], tables), queries)]
    assert found == [listed(afresh(query, WANTED[0], tables)) for query in queries]


def test_tables_of_many_expected_queries_are_kept_up_to_so_many_bytes_the_last_used_ones(made, monkeypatch):
    wide = Tables(headers=(("t", tuple(f"column {at}" for at in range(60))),), has_rows=False)
    asked = [f'SELECT "column 1" FROM t WHERE "column 2" > {number}' for number in range(6)]

    def ask(wanted: str) -> list[tuple[str, int]]:
        made.clear()
        execution.given.cache_clear()
        assert execution.given(wanted, wanted, wide) == listed(afresh(wanted, wanted, wide))
        return list(made)

    ask(asked[0])
    each = execution._IMAGES.held_bytes
    assert each > FILLINGS * BESIDE_BYTES
    kept = PackedFiles(most_bytes=int(2.5 * each))
    monkeypatch.setattr(execution, "_IMAGES", kept)
    for wanted in asked:
        assert ask(wanted) == [(wanted, number) for number in range(FILLINGS)]
        assert 0 < kept.held_bytes <= kept.most_bytes
    assert ask(asked[-1]) == [] == ask(asked[-2])
    assert len(ask(asked[0])) == FILLINGS
    assert ask(asked[-2]) == [], "it was used last before the one that needed room"


def test_tables_that_are_too_large_to_be_kept_are_made_for_each_query(made, monkeypatch):
    tables = KINDS["rows"]
    kept = PackedFiles(most_bytes=BESIDE_BYTES + 10)
    monkeypatch.setattr(execution, "_IMAGES", kept)
    for query in ("SELECT id FROM t", "SELECT name FROM t", "SELECT x FROM t"):
        assert execution.given(query, "SELECT 1", tables) == listed(afresh(query, "SELECT 1", tables))
    assert len(made) == 1 + 3 and kept.held_bytes == BESIDE_BYTES


@settings(deadline=None)
@given(st.integers(0, 5 * BESIDE_BYTES), st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30))
def test_files_are_what_was_made_and_never_more_than_fit(most, steps):
    files, sizes = PackedFiles(most_bytes=most), [0, 1, 700, 1500, 2500, 9000]
    for key, breaks in steps:
        before = files.held_bytes

        def make(key=key, breaks=breaks) -> bytes:
            if breaks:
                raise MemoryError
            return bytes([key]) * sizes[key]

        fits = sizes[key] + BESIDE_BYTES <= most
        try:
            assert files.get(key, make) == (make(breaks=False) if fits else b"")
        except MemoryError:
            assert breaks and files.held_bytes == before, "what couldn't be made isn't kept"
        assert files.held_bytes <= most


LARGE = """
from rung.scoring import execution
from rung.task.tables import Tables

execution.MOST_BYTES = 32 * 1024 * 1024
rows = "INSERT INTO n VALUES " + ", ".join(["(1)"] * 400)
text = "INSERT INTO large SELECT printf('%.*c', 50000, 'x') || i FROM n"
tables = Tables(statements=("CREATE TABLE n (i)", rows, "CREATE TABLE large (s)", text))
for query in ("SELECT count(*), sum(length(s)) FROM large", "SELECT count(*), 20000400 FROM large"):
    assert execution.given(query, "SELECT 1", tables) == (execution._summed(iter([(400, 20000400)])),)
"""


def test_tables_that_memory_holds_once_and_not_twice_can_be_queried():
    """In a process to itself: SQLite's limit can be made smaller there, and never larger again."""
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
