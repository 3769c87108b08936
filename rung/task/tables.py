"""The tables that an SQL query is about: a database, statements that make them, or their header alone.

An expected query carries its tables along, so that whoever scores an answer to it can run both.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from rung.records import Example, MetricName

Header = tuple[str, tuple[str, ...]]
"""A table's name and those of its columns."""

TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))
    |(?P<text>'(?:[^']|'')*')
    |(?P<name>"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\[\]]*\])
    |(?P<number>[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|\.[0-9]+)
    |(?P<word>\w+)
    |(?P<sign><>|!=|<=|>=|==|\|\||[^\s\w])""",
    re.VERBOSE | re.DOTALL,
)

_BEGIN = re.compile(r"\b(?:CREATE\s+(?:TEMP(?:ORARY)?\s+)?TABLE|INSERT\s+(?:OR\s+\w+\s+)?INTO)\b", re.I)
_QUOTED = r"\"(?:[^\"]|\"\"){1,200}\"|`[^`]{1,200}`|\[[^\]]{1,200}\]"
_NAME = rf"{_QUOTED}|\w+"
_CELLS = rf"(?:{_QUOTED}|[^\"`\[\]\n])+"
_WITH_COLUMNS = re.compile(
    rf"\btables?[ \t]*(?::[ \t]*)?(?P<table>{_NAME})[ \t]*(?:(?:with|has)[ \t]*)?(?:the[ \t]+)?"
    rf"columns?[ \t]*(?::[ \t]*)?(?P<cells>{_CELLS})",
    re.IGNORECASE,
)
_IN_BRACKETS = re.compile(rf"^[-#* \t]*(?P<table>{_NAME})[ \t]*\((?P<cells>[^()\n]+)\)[ \t]*;?[ \t]*$", re.M)
_CELL = re.compile(rf"\s*(?:{_QUOTED})[^,]*|[^,]+")
_TYPED = re.compile(
    rf"({_QUOTED}|[^\s\"`\[]+)[ \t]+(?:text|int|integer|bigint|real|float|double|numeric|number|decimal|bool|"
    r"boolean|date|datetime|time|timestamp|(?:var)?char)\b.*",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tables:
    """A `database` file, or else the `statements` that make tables, or else `headers` alone.

    `has_rows` is false where there are tables and nothing in them.
    """

    database: Path | None = None
    statements: tuple[str, ...] = ()
    headers: tuple[Header, ...] = ()
    has_rows: bool = True


class Query(str):
    """An expected query with the tables that it is to be run on; in all else the text that it is."""

    tables: Tables

    def __new__(cls, text: str, tables: Tables) -> "Query":
        """The text, with its tables."""
        made = super().__new__(cls, text)
        made.tables = tables
        return made

    def __getnewargs__(self) -> tuple[str, Tables]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """What a copy is made of."""
        return str(self), self.tables


def tables_of(example: Example, database: Path | None) -> Tables | None:
    """What the queries of a row are run on: the database, else its context's tables, else its input's."""
    if database is not None:
        return Tables(database=database)
    return next(
        (found for text in (example.context, example.input) if text and (found := tables_in(text))), None
    )


def with_tables(
    examples: Iterable[Example], metric: MetricName | None, database: Path | None
) -> tuple[Example, ...]:
    """The rows, their outputs with their tables where answers are scored by what they give."""
    return tuple(examples) if metric != "execution" else tuple(_bound(e, database) for e in examples)


def _bound(example: Example, database: Path | None) -> Example:
    tables = tables_of(example, database)
    if tables is None or not isinstance(example.output, str):
        return example
    return replace(example, output=Query(example.output, tables))


@lru_cache(maxsize=4096)
def tables_in(text: str) -> Tables | None:
    """The tables that a text makes by CREATE TABLE, or whose columns it lists; None where it does neither.

    INSERT statements are read too. Of a header these are read: `Table NAME with columns: A, B`, and lines
    such as `NAME(A, B)`.
    """
    statements = tuple(_statements(text))
    if any(one[:6].upper() == "CREATE" for one in statements):
        return Tables(statements=statements, has_rows=any(one[:6].upper() == "INSERT" for one in statements))
    found = [*_WITH_COLUMNS.finditer(text)] or [*_IN_BRACKETS.finditer(text)]
    headers = {unquoted(match["table"]): _columns(match["cells"]) for match in found}
    return Tables(headers=tuple(headers.items()), has_rows=False) if headers else None


def unquoted(name: str) -> str:
    """A name without the quotes, backticks or brackets around it."""
    name = name.strip()
    if len(name) > 1 and name[0] + name[-1] in ('""', "``", "''"):
        return name[1:-1].replace(name[0] * 2, name[0])
    return name[1:-1] if name[:1] == "[" and name[-1:] == "]" else name


def _columns(cells: str) -> tuple[str, ...]:
    """Names, each once; a type behind one is left out."""
    found: dict[str, str] = {}
    for cell in _CELL.findall(cells):
        bare = cell.strip().rstrip(".;")
        typed = _TYPED.fullmatch(bare)
        name = unquoted(typed[1] if typed else bare)
        if name:
            found.setdefault(name.casefold(), name)
    return tuple(found.values())


def _statements(text: str) -> Iterator[str]:
    """Each CREATE TABLE and INSERT statement of a text that may hold more."""
    begin = _BEGIN.search(text)
    while begin is not None:
        end = _end(text, begin.end(), begin[0][:6].upper() == "INSERT")
        yield text[begin.start() : end]
        begin = _BEGIN.search(text, end)


def _end(text: str, at: int, inserts: bool) -> int:
    """Where the statement ends: at its semicolon, or behind the brackets that make it whole."""
    depth, end, closed, valued = 0, len(text), False, not inserts
    for token in TOKEN.finditer(text, at):
        said = token[0].upper()
        if depth == 0 and said == ";":
            return token.start()
        if (
            depth == 0
            and closed
            and said not in (",", "WITHOUT", "ROWID", "STRICT", "ON", "CONFLICT", "DO", "NOTHING", "(")
        ):
            return end
        valued = valued or said == "VALUES"
        depth += (said == "(") - (said == ")")
        closed = closed or (depth == 0 and said == ")" and valued)
        end = token.end()
    return end
