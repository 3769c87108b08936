"""The folder of a run, made or taken up again, and which models to name to go on with one of others."""

import json
from collections.abc import Mapping
from pathlib import Path

from rung.checks.rows import Prepared
from rung.climb.rebudget import BUDGET
from rung.errors import RunError
from rung.rungs.base import Reporter
from rung.runs import RUN_FILE, open_run, read_json

BY_MODELS = (BUDGET, "data", "dev_rows", "model", "models")
"""Settings that are others on other models: what the budget affords each of dev rows may be, too."""


def open_folder(run: Path, config: Mapping, prepared: Prepared, reporter: Reporter) -> dict | None:
    """`open_run` under any budget.

    Where a base model was put beside the usual one, a run of the same settings on that alone isn't passed
    over in silence: it was begun before this was done, or with --models. Raises RunError as `open_run` does.
    """
    usual = [name for name in prepared.task.models if name != prepared.added]
    way = f"to go on with that one: --models {','.join(usual)}"
    try:
        before = open_run(run, config, free=(BUDGET,))
    except RunError as error:
        if prepared.added is not None and _is_of(run / RUN_FILE, config, usual):
            raise RunError(f"{error}. It was climbed on {', '.join(usual)} alone; {way}") from None
        raise
    if before is None and prepared.added is not None:
        beside = sorted(run.parent.glob(f"{prepared.task.name}-*/{RUN_FILE}"))
        for path in beside:
            if _is_of(path, config, usual):
                reporter.say(f"{path.parent} was climbed on {', '.join(usual)} alone, this is {run}; {way}")
    return before


def _is_of(path: Path, config: Mapping, models: list[str]) -> bool:
    """Whether a run's file is that of a climb with the settings of `config`, but on these models."""
    try:
        found = read_json(path)
    except RunError:
        return False
    wanted = json.loads(json.dumps(config, default=str))
    wanted["task"] = {**wanted["task"], "models": models}
    return _bare(found) == _bare(wanted)


def _bare(config: Mapping) -> dict:
    return {key: value for key, value in config.items() if key not in BY_MODELS}
