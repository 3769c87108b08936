"""Rows that a given test holds too, exactly or nearly: learned from, they flatter its score."""

from collections.abc import Sequence
from dataclasses import dataclass

from rung.data.near import rows_alike_in
from rung.data.sketches import Progress, no_progress
from rung.data.splits import question
from rung.records import Example

MOST = 0.5
"""Of the rows: where the test holds more of them, nearly, taking them out would leave too little."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """Rows, each with a test row like it: of the same question, or of nearly the same one."""

    exact: tuple[tuple[Example, Example], ...]
    near: tuple[tuple[Example, Example], ...]


def held_by(test: Sequence[Example], rows: Sequence[Example], *, progress: Progress = no_progress) -> Held:
    """The rows that the test holds; no row is in both lists."""
    asked = {question(row): row for row in test}
    exact = [(row, asked[question(row)]) for row in rows if question(row) in asked]
    like = [
        (rows[place], test[other]) for place, other in rows_alike_in(rows, test, progress=progress).items()
    ]
    near = [(row, other) for row, other in like if question(row) not in asked]
    return Held(exact=tuple(exact), near=tuple(near))


def is_most(held: Held, rows: Sequence[Example]) -> bool:
    """Whether the test holds most of the rows."""
    return len(held.exact) + len(held.near) > MOST * len(rows)
