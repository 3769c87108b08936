"""The folder of a run, made or taken up again, and why one that seems the same isn't gone on with."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from rung.checks.rows import Prepared
from rung.climb.rebudget import BUDGET
from rung.climb.rivals import RIVALS, with_rivals
from rung.errors import RunError
from rung.rungs.base import Reporter
from rung.runs import RUN_FILE, differences, open_run, read_json

WEIGHTS: Final = ("model", "models")
BY_MODELS: Final = ("data", "dev_rows", *WEIGHTS)
"""Settings that are others on other models: what the budget affords each of dev rows may be, too."""
TEACHER: Final = "teacher"
MOST_TOLD: Final = 3
"""Settings in which another run differs, in one line."""


def open_folder(run: Path, config: Mapping, prepared: Prepared, reporter: Reporter) -> dict | None:
    """`open_run` under any budget, and beside whichever hosted models but the first.

    A run that was begun with the same settings isn't passed over in silence where the program has other ones
    of itself since: a base model beside the usual one, the teacher's weights, or other weights by the same
    name. Else the one on the same rows and weights that differs in the fewest settings is told of: nothing
    that was built there is known here. Raises RunError as `open_run` does.
    """
    kept = _kept(run / RUN_FILE) if (run / RUN_FILE).exists() else None
    wanted = config if kept is None else with_rivals(config, kept.get(RIVALS))
    try:
        before = open_run(run, wanted, free=(BUDGET,))
    except RunError as error:
        if why := _apart(run / RUN_FILE, config, prepared):
            raise RunError(f"{error}. It was {why}") from None
        raise
    if before is None:
        others = sorted(run.parent.glob(f"{prepared.task.name}-*/{RUN_FILE}"))
        others = [path for path in others if path.parent != run]
        apart = [(path, why) for path in others if (why := _apart(path, config, prepared))]
        for path, why in apart or _nearest(others, config):
            reporter.say(f"this is {run}; {path.parent} was {why}")
    return before


def _nearest(others: Sequence[Path], config: Mapping) -> list[tuple[Path, str]]:
    """The run on the same rows and weights that differs in the fewest settings, if any, and in which."""
    wanted = _as_written(config)
    found = [(path, kept) for path in others if (kept := _kept(path)) is not None]
    differing = [
        (path, changes)
        for path, kept in found
        if all(kept.get(name) == wanted.get(name) for name in ("data", *WEIGHTS))
        and (changes := differences(_without(kept), _without(wanted)))
    ]
    if not differing:
        return []
    path, changes = min(differing, key=lambda one: len(one[1]))
    more = f"; and {len(changes) - MOST_TOLD} more" if len(changes) > MOST_TOLD else ""
    return [(path, f"climbed with other settings: {'; '.join(changes[:MOST_TOLD])}{more}")]


def _apart(path: Path, config: Mapping, prepared: Prepared) -> str | None:
    """Why a run of the same settings is another one all the same; None where they are others, or these."""
    if (found := _kept(path)) is None:
        return None
    wanted = _as_written(config)
    if prepared.added is not None:
        usual = [name for name in prepared.task.models if name != prepared.added]
        named = {**wanted, "task": {**wanted["task"], "models": usual}}
        if _without(found, *BY_MODELS) == _without(named, *BY_MODELS):
            names = ",".join(usual)
            return f"climbed on {', '.join(usual)} alone; to go on with that one: --models {names}"
    if TEACHER in wanted and TEACHER not in found and _without(found) == _without(wanted, TEACHER):
        return "begun by an earlier version, whose optimise had no teacher of this machine write instructions"
    weights = [[one.get(name) for name in WEIGHTS] for one in (found, wanted)]
    if weights[0] != weights[1] and _without(found, *WEIGHTS) == _without(wanted, *WEIGHTS):
        return f"climbed on other weights by the name {', '.join(prepared.task.models)}"
    return None


def _kept(path: Path) -> dict | None:
    """The settings of a run; None where they can't be read."""
    try:
        return read_json(path)
    except RunError:
        return None


def _as_written(config: Mapping) -> dict:
    """Settings as they are read back from a file."""
    return json.loads(json.dumps(config, default=str))


def _without(config: Mapping, *names: str) -> dict:
    return {key: value for key, value in config.items() if key not in (*names, BUDGET)}
