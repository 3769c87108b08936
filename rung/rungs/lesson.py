"""What a tune learns from, beside its state: whether one that is gone on with was begun on the same."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rung.errors import OtherLessonError, OtherTrainingError, RunError
from rung.rungs.base import Context
from rung.runs import read_json, write_json

LESSON_FILE = "lesson.json"


@contextmanager
def of_the_same_lesson(context: Context, state: Path, learns: str, how: Sequence[str]) -> Iterator[None]:
    """Around the opening of a tune's state: keeps what that learns from, by digest, and how it's computed.

    Where the state is refused: raises OtherLessonError if it's known that something else was learned from and
    nothing but that has changed. What is computed otherwise may be gone on with where it was begun, and of a
    state without a lesson nothing is known: that is a RunError, which says what to remove.
    """
    path, now = state / LESSON_FILE, {"learns": learns, "how": [*how]}
    try:
        yield
    except OtherTrainingError as error:
        before = read_json(path) if path.exists() else now
        remove = f"remove {str(state.parent)!r} to have it begun anew"
        if before.get("how") != now["how"]:
            then, here = (", ".join(map(str, one.get("how") or ["unknown"])) for one in (before, now))
            where = f"it was computed as {then} and is as {here} now: go on as it was begun, or"
            raise RunError(f"{error}; {where} {remove}") from None
        if error.differing == ("digest",) and before.get("learns") != learns:
            message = f"{error}: what it learns from has changed; {remove}"
            raise OtherLessonError(message, context.folder) from None
        raise RunError(f"{error}; {remove}") from None
    if not path.exists() or read_json(path) != now:
        write_json(path, now)
