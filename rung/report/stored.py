"""Finding a finished run to report on."""

from pathlib import Path

from rung.climb.climb import CLIMB_FILE
from rung.errors import RunError
from rung.runs import RUN_FILE

HOW_TO_MAKE_ONE = "make one with `rung climb TASK`, where TASK is a task.yaml or a file of rows"


def find_run(run: Path | None, runs: Path) -> Path:
    """The run asked for, or the one under `runs` that was finished last.

    Raises RunError where there is none, and says how to make or finish one.
    """
    if run is None:
        found = [(path.stat().st_mtime_ns, path.parent) for path in sorted(runs.glob(f"*/{CLIMB_FILE}"))]
        if not found:
            raise RunError(f"no finished climb in {runs}/; {HOW_TO_MAKE_ONE}")
        return max(found)[1]
    if (run / CLIMB_FILE).is_file():
        return run
    if (run / RUN_FILE).is_file():
        raise RunError(
            f"the climb in {run} isn't finished; run the same `rung climb` again, it goes on from there"
        )
    raise RunError(f"{run} {'holds no climb' if run.exists() else 'does not exist'}; {HOW_TO_MAKE_ONE}")
