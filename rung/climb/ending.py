"""The end of a climb: whether it is reached, and the test's decision where it stands on dev's."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rung.climb.curve import drawn_all
from rung.climb.hosted import cap_usd, capped
from rung.climb.options import Options
from rung.climb.stored import CLIMB_FILE, load_climb
from rung.data.checked import checked_digest
from rung.records import Decision, RungResult
from rung.scoring.notation import score_text
from rung.task import Task


def is_complete(run: Path, options: Options, task: Task) -> bool:
    """Whether the climb is finished, and holds the test scores and the curves that are asked for.

    One in which a rung ended at the cap of what may be paid isn't where more may be paid now, nor one whose
    judge people have said something new of.
    """
    if not (run / CLIMB_FILE).exists():
        return False
    found = load_climb(run)
    tested = not options.test_all or all(r.dev is None or r.test is not None for r in found.results)
    short = capped(found) and cap_usd(task, options) > found.paid_cap_usd
    known = "" if found.judged is None else found.judged.checked
    same = task.judge is None or checked_digest(task.judge.checked) == known
    return tested and not short and same and (not options.curve or drawn_all(found))


def with_dev(on_test: Decision, on_dev: Decision, results: Sequence[RungResult]) -> Decision:
    """The test's decision; where one System inside the limits was scored there, it stands on dev's."""
    tested = [r for r in results if r.test is not None]
    alone = [r for r in tested if not r.over_limits]
    if len(alone) != 1 or alone[0].test is None or on_test.chosen is None or on_dev.chosen != on_test.chosen:
        return on_test
    found = alone[0].test
    opened = ", which were opened for it alone" if len(tested) == 1 else ""
    sentence = (
        f"Ship {on_test.chosen}: {score_text(found.score, found.metric)} on {found.n:,} test rows{opened}. "
        f"On dev: {on_dev.sentence[0].lower()}{on_dev.sentence[1:]}"
    )
    return replace(
        on_test,
        kind=on_dev.kind,
        sentence=sentence,
        comparisons=on_dev.comparisons,
        rows_needed=on_dev.rows_needed,
    )
