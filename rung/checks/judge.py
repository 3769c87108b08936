"""Whether a task's judge may judge: no family judges its own answers, and people check whom it prefers."""

from collections.abc import Iterator
from typing import Final

from rung.data.checked import read_checked
from rung.errors import TaskError
from rung.models.family import family_of
from rung.records import Finding
from rung.task import Task

FEWEST_CHECKED: Final = 50
LEAST_AGREEMENT: Final = 0.8
LEAST_KAPPA: Final = 0.6
CHECK = "judge"


def judge_notes(task: Task) -> tuple[Finding, ...]:
    """What is to be said of a task's judge beforehand; nothing without one.

    Raises TaskError where a model that answers is of its family, and DataError where the file of what people
    said can't be read.
    """
    return tuple(_notes(task)) if task.judge is not None else ()


def _notes(task: Task) -> Iterator[Finding]:
    assert task.judge is not None, "only judged tasks are looked at"
    name, family = task.judge.model, family_of(task.judge.model)
    own = [model for model in task.models if family_of(model) == family]
    if own:
        raise TaskError(
            f"judge.model: {name!r} is of one family ({family}) with {own[0]!r}, which answers, and models "
            "prefer their own family's answers; name a judge of another one"
        )
    if task.teacher is not None and family_of(task.teacher) == family:
        yield _warning(
            f"the judge {name} is of one family ({family}) with the teacher {task.teacher}: what was "
            "learned from that may please it more than it should"
        )
    if task.metric == "style":
        # It compares no answers: there is nothing for people to check.
        return
    if task.judge.checked is None:
        yield _warning(
            f"no person checked the judge {name}, so nothing will be decided: `rung judge sheet RUN` writes "
            f"pairs to mark once a climb is done; name the file as judge.checked"
        )
        return
    pairs, empty = read_checked(task.judge.checked)
    if len(pairs) < FEWEST_CHECKED:
        more = f", {empty} more aren't filled in" if empty else ""
        yield _warning(
            f"{task.judge.checked.name}: {len(pairs)} pairs were judged by a person{more}; without "
            f"{FEWEST_CHECKED} nothing will be decided"
        )


def _warning(message: str) -> Finding:
    return Finding(check=CHECK, severity="warn", message=message)
