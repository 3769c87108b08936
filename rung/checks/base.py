"""What a check is, what it looks at and what it finds."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np

from rung.checks.renders import Renders
from rung.data.sketches import Progress, no_progress
from rung.data.sources import Broken
from rung.data.splits import first_asked
from rung.records import Example, Finding, Json, Severity, Splits
from rung.task import Task

SHOWN_ROWS = 20
"""Rows that a finding names."""

MOST_SAMPLED = 50_000
"""Rows that a costly check looks at: of more, so many are drawn at random."""
SEEN = 10_000
"""Texts of which a check remembers what it found: many rows share an output or a context."""
AT_ONCE = 1024
"""Rows between two words on how far a check is."""

LARGEST_GROUP = 0.02
"""Of all rows: larger groups of near rows are parted."""

Embed: TypeAlias = Callable[[Sequence[Example]], np.ndarray]
"""Rows to unit vectors [rows, width]."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The rows in their parts, the task that `infer` completed, and what is known of its model.

    `broken` rows are in none of the parts, nor are `undesirable` ones, whose answers were judged to be bad;
    None where no row has a judgement. `near` are the ids of rows that are nearly the same, by group;
    `near_test` are rows of the file of training rows, each with a row of the given test that is nearly the
    same; None without one. `embed` and `renders` are None where their model isn't at hand. `audited` are
    test rows with the outputs that a second person gave them; None without any. `progress` is told how far a
    check is that takes long. `of` is the number of all rows where the parts hold a sample of them, else None.
    """

    task: Task
    splits: Splits
    broken: tuple[Broken, ...] = ()
    undesirable: tuple[Example, ...] | None = None
    near: tuple[tuple[str, ...], ...] = ()
    near_test: tuple[tuple[Example, Example], ...] | None = None
    embed: Embed | None = None
    renders: Renders | None = None
    audited: tuple[tuple[Example, Json], ...] | None = None
    progress: Progress = no_progress
    of: int | None = None

    @cached_property
    def rows(self) -> tuple[Example, ...]:
        """All rows: train, dev, test."""
        return (*self.splits.train, *self.splits.dev, *self.splits.test)

    @cached_property
    def everything(self) -> tuple[Example, ...]:
        """All rows and those whose answers were judged to be bad: whatever a rung may learn from."""
        return (*self.rows, *(self.undesirable or ()))

    @property
    def split(self) -> tuple[Example, ...]:
        """The rows that were parted: all, but for a test that was given."""
        return self.learned if self.splits.test_given else self.rows

    @property
    def learned(self) -> tuple[Example, ...]:
        """The rows outside the test."""
        return (*self.splits.train, *self.splits.dev)

    @cached_property
    def first_asked(self) -> np.ndarray:
        """For each of the `rows` the place of the first with its question: [rows]."""
        return first_asked(self.rows)

    @cached_property
    def asked_again(self) -> np.ndarray:
        """The places of the `rows` whose question another one has, too."""
        return np.flatnonzero(np.bincount(self.first_asked)[self.first_asked] > 1)

    @cached_property
    def sample(self) -> "Subject":
        """This subject, or one of `MOST_SAMPLED` of its rows: drawn from each part by its share, in order."""
        total = len(self.rows)
        if total <= MOST_SAMPLED:
            return self
        dice = random.Random(self.task.seed)

        def drawn(part: Sequence[Example]) -> tuple[Example, ...]:
            count = round(len(part) * MOST_SAMPLED / total)
            return tuple(part[place] for place in sorted(dice.sample(range(len(part)), count)))

        train, dev, test = map(drawn, (self.splits.train, self.splits.dev, self.splits.test))
        return replace(self, splits=replace(self.splits, train=train, dev=dev, test=test), of=total)

    def each(self) -> Iterator[Example]:
        """The rows of `everything` one by one, their number told to `progress`."""
        rows = self.everything
        for start in range(0, len(rows), AT_ONCE):
            yield from rows[start : start + AT_ONCE]
            self.progress(min(start + AT_ONCE, len(rows)), len(rows))


Needs: TypeAlias = Literal["rows", "vectors", "chat"]
"""What a check can't do without: the rows alone, their sentence vectors, or how the model is talked to."""
ALL_NEEDS: tuple[Needs, ...] = ("rows", "vectors", "chat")
Outcome: TypeAlias = list[Finding] | str
"""What a check found, or why it couldn't look."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One check of the table: its number and name, what it looks for in a few words, and the function.

    A `sampled` one is costly, and looks at a sample where there are many rows.
    """

    number: int
    name: str
    what: str
    run: Callable[[Subject], Outcome]
    needs: Needs = "rows"
    sampled: bool = False


def finding(
    check: str,
    severity: Severity,
    message: str,
    rows: Sequence[Example] = (),
    details: Sequence[str] = (),
) -> Finding:
    """A Finding that names the first of its rows."""
    return Finding(
        check=check,
        severity=severity,
        message=message,
        rows=tuple(row.where for row in rows[:SHOWN_ROWS]),
        count=len(rows),
        details=tuple(details),
    )


def on_one_side(size: int, rows: int) -> bool:
    """Whether a group of near rows is small enough to be kept on one side of a split of so many rows.

    Where hundreds of rows differ by a number only, no split could part them otherwise.
    """
    return size <= max(2, LARGEST_GROUP * rows)


def rows_text(count: int) -> str:
    """`1 row`, `2 rows`."""
    return "1 row" if count == 1 else f"{count:,} rows"


def such_as(rows: Sequence[Example]) -> str:
    """The place of the first row, as an example."""
    return f"such as {rows[0].where or rows[0].id}"


def by_share(share: float, *, warn: float, block: float) -> Severity | None:
    """How grave it is that this share of the rows is hit; None where it's no more than `warn`."""
    if share > block:
        return "block"
    return "warn" if share > warn else None
