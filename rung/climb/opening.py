"""The folder of a run, made or taken up again, and why one that seems the same isn't gone on with."""

import json
from collections.abc import Mapping
from pathlib import Path

from rung.checks.rows import Prepared
from rung.climb.rebudget import BUDGET
from rung.errors import RunError
from rung.rungs.base import Reporter
from rung.runs import RUN_FILE, open_run, read_json

BY_MODELS = ("data", "dev_rows", "model", "models")
"""Settings that are others on other models: what the budget affords each of dev rows may be, too."""
TEACHER = "teacher"


def open_folder(run: Path, config: Mapping, prepared: Prepared, reporter: Reporter) -> dict | None:
    """`open_run` under any budget.

    A run that was begun with the same settings isn't passed over in silence where the program has other ones
    of itself since: a base model beside the usual one, or the teacher's weights. Raises RunError as
    `open_run` does.
    """
    try:
        before = open_run(run, config, free=(BUDGET,))
    except RunError as error:
        if why := _apart(run / RUN_FILE, config, prepared):
            raise RunError(f"{error}. It was {why}") from None
        raise
    if before is None:
        for path in sorted(run.parent.glob(f"{prepared.task.name}-*/{RUN_FILE}")):
            if why := _apart(path, config, prepared):
                reporter.say(f"this is {run}; {path.parent} was {why}")
    return before


def _apart(path: Path, config: Mapping, prepared: Prepared) -> str | None:
    """Why a run of the same settings is another one all the same; None where they are others, or these."""
    try:
        found = read_json(path)
    except RunError:
        return None
    wanted = json.loads(json.dumps(config, default=str))
    if prepared.added is not None:
        usual = [name for name in prepared.task.models if name != prepared.added]
        named = {**wanted, "task": {**wanted["task"], "models": usual}}
        if _without(found, *BY_MODELS) == _without(named, *BY_MODELS):
            names = ",".join(usual)
            return f"climbed on {', '.join(usual)} alone; to go on with that one: --models {names}"
    if TEACHER in wanted and TEACHER not in found and _without(found) == _without(wanted, TEACHER):
        return "begun by an earlier version, whose optimise had no teacher of this machine write instructions"
    return None


def _without(config: Mapping, *names: str) -> dict:
    return {key: value for key, value in config.items() if key not in (*names, BUDGET)}
