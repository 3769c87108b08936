"""What stands in the turns of a conversation: their order, and images among them."""

from pathlib import Path

from rung.checks.base import SHOWN_ROWS, Outcome, Subject, finding, rows_text, such_as
from rung.records import Example
from rung.task.outputs import shown

REMOTE = ("http://", "https://", "data:", "file:", "s3://", "gs://", "hf://")
"""Images that are no paths; whether they are there isn't looked up."""


def turns(subject: Subject) -> Outcome:
    """Conversations with a late system turn, or one side speaking twice in a row."""
    rows = [row for row in subject.everything if row.faults]
    if not rows:
        return []
    message = (
        f"conversations in an order that no chat has: {rows_text(len(rows))}, {such_as(rows)} "
        f"({rows[0].faults[0]}); a model would read them unlike any other: `rung check --fix OUT` sets them "
        "aside, or go on with --accept turns"
    )
    details = [f"{row.where}: {'; '.join(row.faults)}" for row in rows[:SHOWN_ROWS]]
    return [finding("turns", "block", message, rows, details)]


def images(subject: Subject) -> Outcome:
    """Rows with images, which no rung looks at, and those whose files aren't there."""
    rows = [row for row in subject.everything if row.images]
    if not rows:
        return []
    missing = [(row, image) for row in rows for image in row.images if _is_missing(subject, row, image)]
    lost = ""
    if missing:
        first, image = missing[0]
        lost = f"; files that aren't there: {len(missing):,}, such as {first.where}: {shown(image)}"
    message = (
        f"rows with images: {rows_text(len(rows))}, {such_as(rows)} ({shown(rows[0].images[0], 60)}); no "
        "rung of this version looks at them, so that answers would be guessed from the text alone: write "
        f"what they show as text, leave those rows out, or go on with --accept images{lost}"
    )
    details = [f"{row.where}: no such file: {shown(image)}" for row, image in missing[:SHOWN_ROWS]]
    return [finding("images", "block", message, rows, details)]


def _is_missing(subject: Subject, row: Example, image: str) -> bool:
    """Whether a path leads nowhere from the folder of the row's file."""
    if image.lower().startswith(REMOTE):
        return False
    data = subject.task.data
    in_test = data.test is not None and row.where.startswith(f"{data.test.name}:")
    file: Path = data.test if data.test is not None and in_test else data.train
    try:
        return not (file.parent / image).exists()
    except (OSError, ValueError):
        return True
