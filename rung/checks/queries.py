"""Whether expected SQL queries can be run, so that answers can be scored by what they give."""

import random
from collections.abc import Callable

from rung.checks.base import AT_ONCE, Outcome, Subject, finding, rows_text, such_as
from rung.records import Example
from rung.scoring.execution import given, query_in, tells
from rung.task.outputs import shown
from rung.task.tables import Query

MOST_ROWS = 2000
"""Rows whose queries are run: of more, so many are drawn."""


def queries(subject: Subject) -> Outcome:
    """Expected queries that have no tables, that don't run, or that give nothing on any made-up rows."""
    if subject.task.metric != "execution":
        return []
    rows = list(subject.rows)
    if len(rows) > MOST_ROWS:
        rows = random.Random(subject.task.seed).sample(rows, MOST_ROWS)
    faults: dict[str, list[Example]] = {}
    for number, row in enumerate(rows):
        for fault, has in _FAULTS.items():
            if has(row):
                faults.setdefault(fault, []).append(row)
                break
        if number % AT_ONCE == 0:
            subject.progress(number, len(rows))
    of = "" if len(rows) == len(subject.rows) else f" of {len(rows):,} looked at"
    return [
        finding(
            "queries",
            "warn",
            f"{fault}: {rows_text(len(found))}{of}, {such_as(found)} {shown(found[0].output)}; only "
            "an answer with the same text is right there: correct them, or leave them out",
            found,
        )
        for fault, found in faults.items()
    ]


def _fails(row: Example) -> bool:
    wanted = query_in(str(row.output))
    return isinstance(row.output, Query) and given(wanted, wanted, row.output.tables) is None


def _says_nothing(row: Example) -> bool:
    return isinstance(row.output, Query) and not tells(query_in(row.output), row.output.tables)


_FAULTS: dict[str, Callable[[Example], bool]] = {
    "queries without tables to run them on": lambda row: not isinstance(row.output, Query),
    "queries that don't run, or take too long": _fails,
    "queries that give nothing on any made-up rows": _says_nothing,
}
