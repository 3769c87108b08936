"""Where rows come from: those that a model made."""

from collections.abc import Sequence

from rung.checks.base import Outcome, Subject, finding, rows_text, such_as
from rung.records import Example


def synthetic(subject: Subject) -> Outcome:
    """Rows marked as made by a model: a test of them measures how well that model is imitated.

    A given test alone may hold such, and dev beside one, where people wrote too few of the other rows.
    """
    found = []
    test = [row for row in subject.splits.test if row.synthetic]
    if test:
        message = (
            f"test rows that a model made: {_counted(test, subject.splits.test)}; the score would be "
            "one of imitating it: take them out of the test, or go on with --accept synthetic"
        )
        found.append(finding("synthetic", "block", message, test))
    dev = [row for row in subject.splits.dev if row.synthetic]
    if dev:
        message = (
            f"dev rows that a model made: {_counted(dev, subject.splits.dev)}, since people wrote too few of "
            "those outside the test; what is tried is chosen by how well it imitates that model, and the "
            "test alone says how well it does: give more rows that people wrote"
        )
        found.append(finding("synthetic", "warn", message, dev))
    learned = [row for row in subject.splits.train if row.synthetic]
    if learned:
        message = (
            f"train rows that a model made: {_counted(learned, subject.splits.train)}; what it gets wrong is "
            "learned, too: look through some of them"
        )
        if not dev:
            parts = "dev" if subject.splits.test_given else "dev or the test"
            message += f". None of them, nor of the rows of their groups and questions, is in {parts}"
        found.append(finding("synthetic", "info", message, learned))
    return found


def _counted(hit: Sequence[Example], of: Sequence[Example]) -> str:
    return f"{rows_text(len(hit))} ({len(hit) / len(of):.1%}), {such_as(hit)}"
