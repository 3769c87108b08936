"""A climb on disk: reading `climb.json`, and finding the newest run."""

from pathlib import Path

from rung.errors import RunError
from rung.records import Climb
from rung.runs import RUN_FILE

CLIMB_FILE = "climb.json"
HOW_TO_MAKE_ONE = "make one with `rung climb TASK`, where TASK is a task.yaml or a file of rows"


def read_climb(run: Path) -> Climb:
    """Read the climb of a run folder. Raises RunError where it isn't there, isn't finished or is damaged."""
    from pydantic import TypeAdapter, ValidationError

    path = run / CLIMB_FILE
    try:
        return TypeAdapter(Climb).validate_json(path.read_bytes())
    except FileNotFoundError:
        raise RunError(_absent(run)) from None
    except OSError as error:
        raise RunError(f"can't read {path}: {error.strerror or error}; give a run folder") from None
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"])) or "the file"
        raise RunError(
            f"{path} isn't a climb of this version ({where}: {problem['msg']}); climb again"
        ) from None


def newest_run(folder: Path) -> Path:
    """The run under `folder` that was finished last. Raises RunError that says how to make one."""
    found = [(path.stat().st_mtime_ns, path.parent) for path in sorted(folder.glob(f"*/{CLIMB_FILE}"))]
    if not found:
        raise RunError(f"no finished climb in {folder}; {HOW_TO_MAKE_ONE}")
    return max(found)[1]


def _absent(run: Path) -> str:
    if (run / RUN_FILE).is_file():
        return f"the climb in {run} isn't finished; run the same `rung climb` again, it goes on where it was"
    if not run.exists():
        return f"no run at {run}; {HOW_TO_MAKE_ONE}"
    return f"{run} isn't a run: it has no {CLIMB_FILE}; {HOW_TO_MAKE_ONE}"
