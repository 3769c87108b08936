"""A rung that is built a second time: what is forgotten of the first, and which of the two results stands."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from rung.climb.clock import Clock
from rung.climb.stored import FAILED_FILE, RESULT_FILE, RUNGS_FOLDER, load
from rung.errors import OtherLessonError
from rung.hosted import ANOTHER
from rung.judging import BROKE
from rung.records import Example, RungResult
from rung.rungs.base import JOURNAL_FILE, SETTLED_FILE, WORK_FOLDER, Context, Reporter, first_score
from rung.runs import read_json, writing
from rung.scoring.notation import score_text
from rung.scoring.scorers import SCORERS

BUDGET_OPTION = "--budget"
NO_TIME = f"no time of the budget is left to go on with it; raise {BUDGET_OPTION}"

T = TypeVar("T")


def forget(folder: Path) -> None:
    """Forget what the clock settled for a rung: it has other time now. What was asked lies elsewhere."""
    with writing(folder):
        (folder / SETTLED_FILE).unlink(missing_ok=True)
        (folder / FAILED_FILE).unlink(missing_ok=True)


def forget_failed(folder: Path) -> bool:
    """The same of one that failed; not where a model is being trained in it, or where it wants time.

    Whether it was forgotten: it begins anew then.
    """
    if not (folder / FAILED_FILE).exists() or in_training(folder) or wants_time(folder):
        return False
    forget(folder)
    return True


def forget_moved(run: Path, result: RungResult, why: str) -> None:
    """Forget the result of a rung that broke on the test as its hosted model is another by now.

    The same command measures that one, under its own name. The result may lie there under other names, too,
    from beside other hosted models. Nothing is forgotten where it's the judge's model that moved.
    """
    if ANOTHER not in why or BROKE in why:
        return
    for path in sorted((run / RUNGS_FOLDER).glob(f"*/{RESULT_FILE}")):
        if load(path, RungResult).system == result.system:
            with writing(path.parent):
                path.unlink()
            forget(path.parent)


def in_training(folder: Path) -> bool:
    """Whether a tune has begun there, whose course was settled with its first steps."""
    return any((folder / WORK_FOLDER).rglob(JOURNAL_FILE))


def wants_time(folder: Path) -> bool:
    """Whether a rung failed there, and asked for more time."""
    path = folder / FAILED_FILE
    return path.exists() and BUDGET_OPTION in str(read_json(path).get("failed"))


def or_anew(made: Callable[[], T], folder: Path, name: str, clock: Clock, reporter: Reporter) -> T:
    """What `made` gives, which works in that folder; where a tune in it was of other rows that begins anew.

    A rung below may be another one by now, for more time or since it failed: what a model in training reads,
    or goes on from, changes with it. Of a rung's work nothing goes but the part that learns from that. The
    seconds so far are no part of the new share.
    """
    begun = (folder / WORK_FOLDER).exists()
    try:
        return made()
    except OtherLessonError as error:
        if not begun:
            raise
        part = error.folder
    # Not before the error is gone: its frames hold the model.
    what = name if part == folder else f"{name}, {part.name},"
    reporter.say(f"{what} begins anew: what it learns from has changed")
    work = part / WORK_FOLDER
    forget(part)
    with writing(work):
        for journal in sorted(work.rglob(JOURNAL_FILE)):
            # Before the states: killed in between, scores without the training they are of would be believed.
            journal.unlink()
    shutil.rmtree(work, ignore_errors=True)
    clock.building.pop(name, None)
    return made()


def why_not(context: Context) -> str | None:
    """Why a rung isn't built on under the cap that holds now; None where it is.

    What was settled before is forgotten once under each cap: a start of the program that goes on with the
    building keeps to what this one settles, and begins none that came to nothing.
    """
    begun = _building_on(context)
    if context.told(begun) is None:
        if context.seconds_left <= 0:
            return NO_TIME
        forget(context.folder)
        shutil.rmtree(context.work, ignore_errors=True)
        context.settled(begun, lambda: True)
    found = context.told(f"{begun}: came to")
    return None if found is None else str(found)


def came_to(context: Context, had: RungResult, result: RungResult) -> str | None:
    """Why what was built on doesn't take the place of what a rung `had`; None where it does.

    One that was stopped on dev, or is over a limit, is behind one that isn't. Else the score decides, on the
    dev rows that both answered, with broken calls as unreadable answers; a tie goes to the new one.
    """
    if result.dev is None or had.dev is None:
        return result.failed or result.skipped
    if _standing(result, had, context.dev) >= _standing(had, result, context.dev):
        return None
    ours, theirs = (score_text(one.score, one.metric) for one in (result.dev, had.dev))
    said = f"built on it is worse on dev, {ours}; it has {theirs}"
    if result.over_limits and not had.over_limits:
        said = f"built on it is over a limit: {'; '.join(result.over_limits)}"
    return str(context.settled(f"{_building_on(context)}: came to", lambda: said))


def _building_on(context: Context) -> str:
    till = context.pool.till
    return f"building on under ${0.0 if till is None else till.cap_usd:g}"


def _standing(result: RungResult, other: RungResult, dev: Sequence[Example]) -> tuple[bool, bool, float]:
    assert result.dev is not None and other.dev is not None, "both were scored"
    both = {p.example_id for p in result.dev.predictions} & {p.example_id for p in other.dev.predictions}
    rows = [row for row in dev if row.id in both]
    sign = 1 if SCORERS[result.dev.metric].higher_is_better else -1
    # Asked in two orders, and cut short in both: with no row in common the scores say nothing.
    score = sign * first_score(result.dev, rows) if rows else 0.0
    return result.stopped is None, not result.over_limits, score
