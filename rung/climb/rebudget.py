"""A run under another budget: one that isn't finished goes on with it, a finished one is climbed again.

What was asked stays: answers, sentence vectors and what hosted models were paid lie beside the rungs, under
names that say what they belong to. So a longer budget pays for what it adds. The times of single requests,
which a limit may hang on, are taken anew: a busy machine is no part of a System.
"""

import itertools
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from rung.climb.again import ROWS_FILE
from rung.climb.clock import begin_anew
from rung.climb.curve import POINT_FILE, point_name
from rung.climb.options import Options
from rung.climb.rebuilding import forget, in_training, wants_time
from rung.climb.rivals import RIVALS
from rung.climb.stored import (
    CLIMB_FILE,
    CLOCK_FILE,
    CURVE_FOLDER,
    EARLIER_FOLDER,
    RESULT_FILE,
    RUNGS_FOLDER,
    WINNER_FOLDER,
)
from rung.errors import SystemFolderError
from rung.evaluate import ANSWERS_FOLDER, Store
from rung.rungs.base import Reporter
from rung.runs import RUN_FILE, digest_of, write_json, writing
from rung.scoring.notation import duration_text
from rung.system import System, copy

BUDGET = "budget_s"
"""The one setting under which a run folder may be taken up again when it's another."""
REPORT_FILE = "report.html"


def name_of(config: Mapping) -> str:
    """What tells a run's folder from those of other settings: the same one under every budget.

    And beside whichever other hosted models than the first.
    """
    return digest_of({key: value for key, value in config.items() if key not in (BUDGET, RIVALS)})[:8]


def under_budget(
    run: Path, before: Mapping, config: Mapping, options: Options, reporter: Reporter
) -> Options:
    """The options under which a run goes on that was begun with the settings `before`.

    A finished climb stays as it is under a shorter budget. Under a longer one all rungs are built again, each
    with its new share, and the climb so far goes to `earlier/BUDGET`. An unfinished one goes on under either:
    rungs that were built stay, those that were left out or failed for want of time are begun anew.
    """
    had_s, wanted_s = float(before[BUDGET]), options.budget_s
    if had_s == wanted_s:
        return options
    had, wanted = duration_text(had_s), duration_text(wanted_s)
    finished = (run / CLIMB_FILE).exists()
    if finished and wanted_s < had_s:
        reporter.say(f"{run} was climbed with a budget of {had}: for one with {wanted} name another --out")
        return replace(options, budget_s=had_s)
    if finished:
        kept = _free(run, had.replace(" ", ""))
        reporter.say(
            f"{run} was climbed with a budget of {had} and is climbed again with {wanted}: answers that are "
            f"known aren't asked again, and the climb so far is kept in {kept}"
        )
        _put_aside(run, run / kept)
    else:
        reporter.say(f"{run} was begun with a budget of {had} and goes on with {wanted}")
        _ask_again(run)
    write_json(run / RUN_FILE, config)
    return options


def _free(run: Path, name: str) -> Path:
    """Where in a run a finished climb is put aside: beside those that lie there, under the same budget too.

    A folder without a climb's record is one that a start which was killed didn't get done with.
    """
    places = (Path(EARLIER_FOLDER) / (name if at == 1 else f"{name}-{at}") for at in itertools.count(1))
    return next(place for place in places if not (run / place / CLIMB_FILE).exists())


def _put_aside(run: Path, kept: Path) -> None:
    """Move what the budget shaped; the winner stays where it is served from until there is a new one.

    The climb's record goes last: killed before that, the run is still a finished one, and this is done again.
    """
    with writing(kept):
        kept.mkdir(parents=True, exist_ok=True)
        with suppress(SystemFolderError):  # there is none, or one that was changed; it lies with its rung too
            copy(System.load(run / WINNER_FOLDER), kept / WINNER_FOLDER)
        for name in (ROWS_FILE, RUN_FILE):
            shutil.copyfile(run / name, kept / name)
        shutil.rmtree(run / CURVE_FOLDER, ignore_errors=True)
        Store(run / ANSWERS_FOLDER).forget_times()
        (run / CLOCK_FILE).unlink(missing_ok=True)
        for name in (RUNGS_FOLDER, REPORT_FILE, CLIMB_FILE):
            if not (run / name).exists():
                continue
            if (kept / name).is_dir():
                shutil.rmtree(kept / name)
            (run / name).replace(kept / name)


def _ask_again(run: Path) -> None:
    """Forget what the clock settled for rungs and points of a curve that were left out, or lacked time.

    One in which a model is being trained keeps its course: hours may lie in that. Not so where that course
    ended for want of time, which it would again: what it took isn't taken off its new share. Answers lie
    elsewhere.
    """
    rungs, points = (sorted((run / name).glob("*")) for name in (RUNGS_FOLDER, CURVE_FOLDER))
    there = [*rungs, *(folder for folder in points if not (folder / POINT_FILE).exists())]
    asked = [folder for folder in there if not in_training(folder) or wants_time(folder)]
    anew = [folder for folder in asked if not (folder / RESULT_FILE).exists()]
    # First: a start that is killed finds the folders, and does this again.
    begin_anew(run, [point_name(one.name) if one in points else one.name for one in anew])
    for folder in asked:
        if folder in anew:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            forget(folder)
