"""A run that is taken up beside other hosted models than before: a new one is one step more.

What was built stays, a rival's own result too: it is asked nothing again. Where there was one rival and are
several now, or the other way, its candidate is called otherwise, and its result stands under that name too.
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rung.climb.clock import begin_anew
from rung.climb.options import Options
from rung.climb.rebudget import BUDGET, under_budget
from rung.climb.rivals import RIVALS, hosted_models, known_as, named_rivals, with_rivals
from rung.climb.stored import RESULT_FILE, RUNGS_FOLDER, dump, load
from rung.models.hosted import Hosted
from rung.records import RungResult, TokenPrice
from rung.rungs.api import prices
from rung.rungs.base import WORK_FOLDER, Reporter
from rung.runs import RUN_FILE, atomic_folder, write_json, writing
from rung.task import Task


def taken_up(
    run: Path, before: Mapping, config: Mapping, options: Options, task: Task, reporter: Reporter
) -> Options:
    """The options under which a run goes on that was begun with the settings `before`.

    The settings are written down last: a start that is killed before that does the same again.
    """
    had, wanted = before.get(RIVALS), config.get(RIVALS)
    options = under_budget(run, before, with_rivals(config, had), options, reporter)
    if had != wanted:
        _settle(run, task)
        names = ", ".join(model.given for model in named_rivals(task).values())
        reporter.say(f"{run} was begun beside other hosted models and goes on beside {names}")
        write_json(run / RUN_FILE, {**config, BUDGET: options.budget_s})
    return options


def forget_copies(run: Path, task: Task) -> None:
    """Remove what lies there of rivals under names that they had beside others, once a climb is finished.

    What becomes of a rival's own result from now on is true of no copy of it.
    """
    rivals = named_rivals(task)
    for model in rivals.values():
        for folder in (run / RUNGS_FOLDER / name for name in known_as(model) if name not in rivals):
            if _result_of(folder, model) is not None:
                with writing(folder):
                    shutil.rmtree(folder)


def _settle(run: Path, task: Task) -> None:
    """Have each rival's name stand for its own result at its own price, or for none."""
    rivals, rungs = named_rivals(task), run / RUNGS_FOLDER
    known = prices(task, hosted_models(task))
    anew = []
    for name, model in rivals.items():
        price = known.get((model.url, model.model))
        if (rungs / name).exists() and not _is_of(rungs / name, model, price):
            with writing(rungs / name):
                shutil.rmtree(rungs / name)
        if (rungs / name).exists():
            continue
        anew.append(name)
        twins = (rungs / other for other in known_as(model))
        if (twin := next((one for one in twins if _is_of(one, model, price)), None)) is not None:
            _copy(twin, rungs / name)
    begin_anew(run, anew)


def _is_of(folder: Path, model: Hosted, price: TokenPrice | None) -> bool:
    """Whether a result lies there that is of this model, at what it costs now."""
    found = _result_of(folder, model)
    return found is not None and found.price == price


def _result_of(folder: Path, model: Hosted) -> RungResult | None:
    """The result that lies there, if it is of this model."""
    path = folder / RESULT_FILE
    found = load(path, RungResult) if path.exists() else None
    return found if found is not None and found.what.startswith(f"{model.given}, ") else None


def _copy(source: Path, target: Path) -> None:
    """A rung's folder under another name; the finished climb that speaks of the old one keeps what it has."""
    with atomic_folder(target) as draft:
        shutil.copytree(source, draft, dirs_exist_ok=True, ignore=shutil.ignore_patterns(WORK_FOLDER))
        found = load(draft / RESULT_FILE, RungResult)
        place = Path(RUNGS_FOLDER) / target.name / Path(str(found.folder)).name
        dump(draft / RESULT_FILE, RungResult, replace(found, rung=target.name, folder=str(place)))
