"""Made-up rows for tables of which only the columns are known, so that queries on them can be told apart.

Two queries that give the same on several fillings very likely mean the same: test-suite accuracy (Zhong, Yu &
Klein 2020). Values are drawn near those that the expected query names, so that its conditions hold for some
rows, nearly hold for others, and fail for the rest.
"""

import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from rung.task.tables import TOKEN, Header, unquoted

FILLINGS = 10
HITS, NEAR_HITS, OTHERS = 4, 24, 8
"""Rows of each table that are drawn to meet the expected query's conditions, all but one of them, and any."""
_WORDS = "amber birch coral delta ember fjord grove heron ivory jetty koala lotus".split()
_FEW, _MANY = 12, 100_000
"""Numbers to draw from, in turns: few make tables join, many tell the smallest and the largest apart."""
_NUMBER = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?")
_OPERATORS = frozenset({"=", "==", "<", ">", "<=", ">=", "<>", "!=", "LIKE", "BETWEEN", "IN"})
_SUMMED = frozenset({"SUM", "AVG", "MIN", "MAX", "TOTAL"})

Value = int | float | str | None


@dataclass(frozen=True, kw_only=True)
class Hints:
    """What a query says of columns (case-folded): its conditions on each, and which hold numbers."""

    conditions: dict[str, list[tuple[str, str]]]
    summed: frozenset[str]
    constants: tuple[str, ...]

    def numeric(self, column: str) -> bool | None:
        """Whether the column holds numbers; None where the query doesn't tell."""
        known = self.conditions.get(column.casefold())
        if known:
            return all(operator != "LIKE" and _NUMBER.fullmatch(value) for operator, value in known)
        return True if column.casefold() in self.summed else None


@dataclass(frozen=True)
class Draw:
    """Where values come from."""

    dice: Random
    most: int

    def number(self) -> int:
        """Any."""
        return self.dice.randrange(1, self.most + 1)

    def word(self) -> str:
        """Any: of few where few numbers are drawn, too."""
        word = self.dice.choice(_WORDS)
        return word if self.most == _FEW else f"{word} {self.number()}"


def hints(query: str) -> Hints:
    """What the query compares its columns with."""
    conditions: dict[str, list[tuple[str, str]]] = defaultdict(list)
    summed, constants = set[str](), list[str]()
    column, operator, called, left = "", "", "", 0
    tokens = [token for token in TOKEN.finditer(query) if token.lastgroup != "comment"]
    for token, after in zip(tokens, [*tokens[1:], None], strict=True):
        said = token[0].upper()
        literal = token.lastgroup in ("text", "number") or (token.lastgroup == "name" and operator)
        if literal:
            # A double-quoted word that follows an operator is a text to SQLite where no column is called so.
            value = unquoted(token[0])
            constants.append(value)
            if operator and column:
                conditions[column].append((operator, value))
            left -= 1
            operator = operator if left else ""
        elif said in _OPERATORS:
            operator, left = said, {"BETWEEN": 2, "IN": -1}.get(said, 1)
        elif (said == "AND" and operator == "BETWEEN") or said in ("(", ",", "-", "NOT"):
            continue
        elif said in _SUMMED and after is not None and after[0] == "(":
            called = said
        elif token.lastgroup in ("name", "word"):
            column, operator = unquoted(token[0]).casefold(), ""
            if called:
                summed.add(column)
            called = ""
        else:
            operator = called = ""
    return Hints(conditions=dict(conditions), summed=frozenset(summed), constants=tuple(constants))


def made_from_headers(headers: Sequence[Header], query: str, number: int) -> Iterator[str]:
    """CREATE TABLE statements; a column of which the query says nothing holds now numbers, now text."""
    said, dice = hints(query), Random(f"columns {number} {query}")
    for table, columns in headers:
        cells = []
        for column in columns:
            numeric = said.numeric(column)
            if numeric is None:
                numeric = dice.random() < 0.5
            cells.append(f"{_quoted(column)} {'NUMERIC' if numeric else 'TEXT'}")
        yield f"CREATE TABLE {_quoted(table)} ({', '.join(cells)})"


def fill(connection: sqlite3.Connection, query: str, number: int) -> None:
    """Give every table rows, the same for the same query and number; those that break a rule are left out."""
    said, draw = hints(query), Draw(Random(f"rows {number} {query}"), _MANY if number % 2 else _FEW)
    tables = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
    ).fetchall()
    for (table,) in tables:
        columns = connection.execute("SELECT name, type FROM pragma_table_info(?)", (table,)).fetchall()
        places = ", ".join("?" * len(columns))
        asked = [name for name, _ in columns if name.casefold() in said.conditions] or [""]
        for row in range(HITS + NEAR_HITS + OTHERS):
            missed = asked[row % len(asked)] if row >= HITS else ""
            meets = {name: row < HITS + NEAR_HITS and name != missed for name in asked}
            values = [_drawn(said, name, kind, meets.get(name, False), draw) for name, kind in columns]
            connection.execute(f"INSERT OR IGNORE INTO {_quoted(table)} VALUES ({places})", values)


def _drawn(said: Hints, column: str, kind: str, meets: bool, draw: Draw) -> Value:
    """A value for a column: one that the query asks for, one near it, or any."""
    numeric = bool(re.search("INT|REAL|FLOA|DOUB|NUM|DEC|BOOL|SERIAL", kind.upper()))
    if not kind:
        numeric = bool(said.numeric(column))
    dice, known = draw.dice, said.conditions.get(column.casefold())
    luck = dice.random()
    if known and luck < (0.95 if meets else 0.2):
        return _fitting(_meeting(*dice.choice(known), draw), numeric, draw)
    if known and luck < 0.97:
        return _fitting(_missing(*dice.choice(known), draw), numeric, draw)
    if luck >= 0.97:
        return None
    if said.constants and draw.most == _FEW and dice.random() < 0.1:
        return _fitting(_number(dice.choice(said.constants)), numeric, draw)
    if re.search("DATE|TIME", kind.upper()):
        return f"20{dice.randrange(18, 24)}-{dice.randrange(1, 13):02}-{dice.randrange(1, 29):02}"
    return draw.number() if numeric else draw.word()


def _fitting(value: Value, numeric: bool, draw: Draw) -> Value:
    """The value where it fits the column, else any that does."""
    return draw.number() if numeric and isinstance(value, str) else value


def _number(text: str) -> int | float | str:
    """The text as the number that it is, if it is one."""
    if not _NUMBER.fullmatch(text) or len(text) > 15:
        return text
    value = float(text)
    return int(value) if value.is_integer() else value


def _meeting(operator: str, constant: str, draw: Draw) -> Value:
    """A value that meets the condition."""
    value, dice = _number(constant), draw.dice
    if operator == "LIKE":
        return re.sub("_", "x", re.sub("%", lambda _: dice.choice(("", draw.word())), constant))
    if operator in ("<>", "!="):
        return _near(constant, draw)
    step = dice.randrange(operator in ("<", ">"), 4) if operator[:1] in "<>" else 0
    if isinstance(value, str):
        return value + "z" * step if operator[:1] == ">" else value[: max(1, len(value) - step)]
    return value + step if operator[:1] == ">" else value - step


def _missing(operator: str, constant: str, draw: Draw) -> Value:
    """A value that just misses the condition, or misses it widely."""
    value = _near(constant, draw)
    bound = _number(constant)
    if operator[:1] not in "<>" or operator == "<>" or isinstance(value, str) or isinstance(bound, str):
        return bound if operator in ("<>", "!=") else value
    if operator in ("<", ">") and draw.dice.random() < 0.2:
        return bound
    return bound + abs(value - bound) * (1 if operator[:1] == "<" else -1)


def _near(constant: str, draw: Draw) -> int | float | str:
    """A value that a loose condition takes for the constant."""
    value, dice = _number(constant), draw.dice
    if not isinstance(value, str):
        far = (abs(value) + 5) * dice.randrange(1, 10)
        return value + dice.choice((-far, -2, -1, 1, 2, far))
    return dice.choice((value.swapcase(), f"{value} {draw.word()}", value[:-1], f"x{value}"))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
