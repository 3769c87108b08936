"""Where rows come from: those that a model made."""

from collections.abc import Sequence

from rung.checks.base import Outcome, Subject, finding, rows_text, such_as
from rung.records import Example


def synthetic(subject: Subject) -> Outcome:
    """Rows marked as made by a model: a test of them measures how well that model is imitated."""
    found = []
    test = [row for row in subject.splits.test if row.synthetic]
    if test:
        way_out = (
            "take them out of the test"
            if subject.splits.test_given
            else "give test rows that people wrote, with --test"
        )
        message = (
            f"test rows that a model made: {_counted(test, subject.splits.test)}; the score would be "
            f"one of imitating it: {way_out}, or go on with --accept synthetic"
        )
        found.append(finding("synthetic", "block", message, test))
    learned = [row for row in subject.learned if row.synthetic]
    if learned:
        message = (
            f"train and dev rows that a model made: {_counted(learned, subject.learned)}; what it gets "
            "wrong is learned, too: look through some of them"
        )
        found.append(finding("synthetic", "info", message, learned))
    return found


def _counted(hit: Sequence[Example], of: Sequence[Example]) -> str:
    return f"{rows_text(len(hit))} ({len(hit) / len(of):.1%}), {such_as(hit)}"
