"""What SQL queries give: an answer is right where it gives the rows that the expected query gives.

A query is a model's output, so it is run where it can do no harm: reading only, functions of a list only, one
statement, a fixed number of SQLite's steps, of rows and of characters, and only so much memory. No clock
decides, so a score is the same on every machine, but for a query whose few steps are made to take for ever.
"""

import hashlib
import re
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote

from rung.records import Json
from rung.scoring.fillings import FILLINGS, fill, made_from_headers
from rung.scoring.packed import PackedFiles
from rung.task.tables import TOKEN, Query, Tables

MOST_STEPS = 50_000_000
"""Of SQLite's machine; a scan takes some five a row, a join for each pair of rows that it looks at."""
MOST_CPU_S = 60.0
"""Of the thread that asks, ten times what so many steps usually take: one call of a function is one step,
however long the texts that it's given."""
MOST_ROWS = 10_000
MOST_CHARS = 100_000
"""In a value, and in a row."""
MOST_GIVEN_CHARS = 10_000_000
"""In all rows that a query gives."""
MOST_BYTES = 512 * 1024 * 1024
"""That SQLite may hold in this process: there's no limit for one connection."""
_LOOK_STEPS = 200
_DIGITS = 12
_KEPT = 8192
_IMAGES = PackedFiles(most_bytes=64 * 1024 * 1024)

FUNCTIONS = frozenset(
    "-> ->> abs acos asin atan atan2 avg ceil ceiling char coalesce concat concat_ws cos count cume_dist "
    "date datetime degrees dense_rank exp first_value floor format glob group_concat hex ifnull iif instr "
    "json json_array json_array_length json_each json_extract json_object json_type json_valid julianday "
    "lag last_value lead length like likely ln log log10 log2 lower ltrim max min mod nth_value ntile "
    "nullif percent_rank pi pow power printf quote radians rank replace round row_number rtrim sign sin "
    "sqrt strftime string_agg substr substring sum tan time timediff total trim trunc typeof unicode "
    "unixepoch unlikely upper".split()
)
"""What a query may call: nothing that draws at random, reads or writes files, or loads code."""

_READING = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ})
_MAKING = frozenset(
    {
        *_READING,
        sqlite3.SQLITE_CREATE_TABLE,
        sqlite3.SQLITE_CREATE_TEMP_TABLE,
        sqlite3.SQLITE_CREATE_INDEX,
        sqlite3.SQLITE_CREATE_TEMP_INDEX,
        sqlite3.SQLITE_REINDEX,
        sqlite3.SQLITE_INSERT,
        sqlite3.SQLITE_UPDATE,
        sqlite3.SQLITE_TRANSACTION,
    }
)
_LIMITS = {
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 1_000_000,
    sqlite3.SQLITE_LIMIT_COLUMN: 500,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 50,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 50,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1000,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
}
_BEGINS = r"(?:select|with|values)\b"
_FENCE = re.compile(rf"```[ \t]*(?:(?!{_BEGINS})\w+)?[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_INLINE = re.compile(rf"(?!\s*{_BEGINS})[^`]*`\s*({_BEGINS}\s[^`]+)`(?!`)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """What a query gave: digests of its rows in their order and in any order, and whether they say anything.

    Rows say nothing where there are none, or all their values are NULL or 0.
    """

    listed: bytes
    any_order: bytes
    says: bool


def right(answer: Json, target: Json) -> float:
    """1 where the answer's query gives what the expected one gives, on all tables that it's run on.

    Rows are compared in any order, in theirs where the expected query orders them; a row may stand there
    several times. Numbers are compared by value to 12 digits, NULL is NULL, columns' names don't count. Where
    rows are made up, the expected query has to give some: else only the same text is right, as where it has
    no tables or doesn't run. The same text is always right.
    """
    query, wanted = query_in(str(answer)), query_in(str(target))
    if _spaced(query) == _spaced(wanted):
        return 1.0
    if not isinstance(target, Query):
        return 0.0
    gold, found = given(wanted, wanted, target.tables), given(query, wanted, target.tables)
    if gold is None or found is None or not tells(wanted, target.tables):
        return 0.0
    ordered = orders(wanted)
    pairs = zip(gold, found, strict=True)
    return float(all((a.listed == b.listed) if ordered else (a.any_order == b.any_order) for a, b in pairs))


def runs(answer: Json, target: Json) -> bool:
    """Whether the answer's query runs on the expected query's tables: not refused, not stopped, no error."""
    if not isinstance(target, Query):
        return False
    return given(query_in(str(answer)), query_in(str(target)), target.tables) is not None


def tells(wanted: str, tables: Tables) -> bool:
    """Whether the expected query runs and, where rows are made up, gives something on some of them."""
    gold = given(wanted, wanted, tables)
    return gold is not None and (tables.has_rows or any(one.says for one in gold))


def query_in(text: str) -> str:
    """The query that an answer holds: what stands in its first code fence, or else all of it.

    A word behind the fence is the language, unless a query begins with it. Where the answer itself doesn't
    begin as a query, one between single backticks counts as fenced: in a query they stand around names.
    """
    found = _FENCE.search(text) or _INLINE.match(text)
    return (found[1] if found else text).strip().rstrip(";").rstrip()


def orders(query: str) -> bool:
    """Whether the query itself, and not only one inside it, has an ORDER BY."""
    depth, before = 0, ""
    for token in TOKEN.finditer(query):
        said = token[0].upper()
        if token.lastgroup == "comment":
            continue
        if depth == 0 and (before, said) == ("ORDER", "BY"):
            return True
        depth += (said == "(") - (said == ")")
        before = said
    return False


@lru_cache(maxsize=_KEPT)
def given(query: str, wanted: str, tables: Tables) -> tuple[Given, ...] | None:
    """What the query gives on the tables, or on each filling of empty ones, drawn for the `wanted` query.

    None where one of them can't be made, or the query fails, is refused or is stopped on it.
    """
    found: list[Given] = []
    try:
        for number in range(1 if tables.has_rows else FILLINGS):
            with closing(_opened(tables, wanted, number)) as connection:
                _held(connection, _READING)
                found.append(_summed(_rows(connection, query)))
    except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError):
        return None
    return tuple(found)


def _opened(tables: Tables, wanted: str, number: int) -> sqlite3.Connection:
    """The database, or the row's own tables in memory: a connection for one query, which ends with it.

    So nothing that a query does is there for the next one.
    """
    if tables.database is not None:
        return _database(tables)
    made_for = "" if tables.has_rows else wanted
    image = _image(tables, made_for, number)
    if not image:
        return _made(tables, made_for, number)
    connection = sqlite3.connect(":memory:", isolation_level=None)
    with ExitStack() as stack:
        stack.callback(connection.close)
        _in_memory(connection)
        connection.deserialize(zlib.decompress(image))
        stack.pop_all()
    return connection


def _image(tables: Tables, wanted: str, number: int) -> bytes:
    """The row's own tables as a database file, packed, for each query to begin with; empty where none can be.

    Making rows up takes far longer than a query. What is kept is no open database, so that a query may hold
    as much memory however many there are.
    """
    return _IMAGES.get((tables, wanted, number), lambda: _packed(tables, wanted, number))


def _packed(tables: Tables, wanted: str, number: int) -> bytes:
    with closing(_made(tables, wanted, number)) as connection:
        # SQLite asks it about what it does for itself here, too.
        connection.set_authorizer(None)
        (temporary,) = connection.execute("SELECT count(*) FROM sqlite_temp_master").fetchone()
        if temporary:
            return b""  # they are in no file
        try:
            return zlib.compress(connection.serialize(), 1)
        except (sqlite3.Error, MemoryError):
            return b""  # memory holds them once, and not twice


def _made(tables: Tables, wanted: str, number: int) -> sqlite3.Connection:
    """The row's own tables in memory, made by its statements, and filled where they are empty."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    with ExitStack() as stack:
        stack.callback(connection.close)
        _in_memory(connection)
        _held(connection, _MAKING)
        for statement in tables.statements or made_from_headers(tables.headers, wanted, number):
            connection.execute(statement)
        if not tables.has_rows:
            connection.set_authorizer(None)
            fill(connection, wanted, number)
        stack.pop_all()
    return connection


def _database(tables: Tables) -> sqlite3.Connection:
    """Opened for reading. Without a log of pending writes beside it no lock or index file is made either."""
    path = tables.database
    assert path is not None, "the caller looked"
    pending = path.with_name(path.name + "-wal").exists()
    uri = f"file:{quote(str(path))}?mode=ro" + ("" if pending else "&immutable=1")
    connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    _in_memory(connection)
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _in_memory(connection: sqlite3.Connection) -> None:
    """What a query sorts and puts aside is in memory, of which there is only so much: never on the disk."""
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute(f"PRAGMA hard_heap_limit = {MOST_BYTES}").fetchall()


def _held(connection: sqlite3.Connection, allowed: frozenset[int]) -> None:
    """Keep a connection to what is allowed, and to its steps from here on."""
    for limit, most in _LIMITS.items():
        connection.setlimit(limit, most)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_CHARS)
    connection.text_factory = _text
    connection.set_authorizer(_authorizer(allowed))
    left, end_s = MOST_STEPS // _LOOK_STEPS, time.thread_time() + MOST_CPU_S

    def counted() -> bool:
        nonlocal left
        left -= 1
        return left < 0 or time.thread_time() > end_s

    connection.set_progress_handler(counted, _LOOK_STEPS)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _authorizer(allowed: frozenset[int]) -> Callable[..., int]:
    """Says yes to the actions that are allowed, to reading tables and to calling the FUNCTIONS."""

    def says(action: int, first: str | None, second: str | None, *_: str | None) -> int:
        if action == sqlite3.SQLITE_FUNCTION:
            fine = (second or "").casefold() in FUNCTIONS
        elif action == sqlite3.SQLITE_READ:
            fine = not (first or "").casefold().startswith("pragma_")
        else:
            fine = action in allowed
        return sqlite3.SQLITE_OK if fine else sqlite3.SQLITE_DENY

    return says


def _rows(connection: sqlite3.Connection, query: str) -> Iterator[tuple[object, ...]]:
    """The rows that a query gives. ValueError where they are too many, or it's no query."""
    cursor = connection.execute(query)
    if cursor.description is None:
        raise ValueError("not a query")
    chars = 0
    for count, row in enumerate(cursor):
        chars += sum(len(cell) for cell in row if isinstance(cell, (str, bytes)))
        if count >= MOST_ROWS or chars > MOST_GIVEN_CHARS:
            raise ValueError("too many rows")
        yield row


def _summed(rows: Iterator[tuple[object, ...]]) -> Given:
    lines, says = [], False
    for row in rows:
        lines.append(hashlib.sha256(repr([_plain(cell) for cell in row]).encode("utf-8", "replace")).digest())
        says = says or any(cell is not None and cell != 0 for cell in row)
    return Given(
        listed=hashlib.sha256(b"".join(lines)).digest(),
        any_order=hashlib.sha256(b"".join(sorted(lines))).digest(),
        says=says,
    )


def _plain(cell: object) -> object:
    """A value as it is compared: 2.0 is 2, and what sums in another order differ by is cut off."""
    if not isinstance(cell, float):
        return cell
    short = cell if cell.is_integer() else float(f"{cell:.{_DIGITS}g}")
    return int(short) if short.is_integer() else short


def _spaced(text: str) -> str:
    return " ".join(text.split())
