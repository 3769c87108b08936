"""The rows of a run, made again from the files that the climb read: the same ones, or an error."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rung.checks.rows import Prepared, prepare
from rung.climb.options import Options
from rung.climb.rivals import RIVALS
from rung.climb.stored import CLIMB_FILE, load_climb, run_above
from rung.data.sources import Source, read_source
from rung.errors import DataError, RunError
from rung.rungs.base import Reporter
from rung.runs import RUN_FILE, file_digest, read_json, write_json
from rung.task import Task

ROWS_FILE = "rows.json"
"""Where the rows lie and how they are written: exports and comparisons ask some of them again."""


def keep_source(run: Path, source: Path, prepared: Prepared, options: Options) -> None:
    """Write down what the rows were made of, and where that lies now.

    A finished run stays as it is where it can't be written to.
    """
    data, form = prepared.task.data, options.format
    found = {
        "train": str(data.train),
        "format": form if form != "auto" else data.format,
        "database": None if data.database is None else str(data.database),
        "source": str(source.absolute()),
        "options": {
            "test": None if options.test is None else str(options.test.absolute()),
            "models": list(options.models),
            "dev_rows": options.dev_rows,
            "budget_s": options.budget_s,
            "seed": options.seed,
            "format": form,
        },
    }
    try:
        write_json(run / ROWS_FILE, found)
    except RunError:
        if not (run / CLIMB_FILE).is_file():
            raise


def rows_file(run: Path) -> Path:
    """Where that is written down; for a climb that was climbed again, in its run: the rows are the same."""
    return run_above(run) / ROWS_FILE


def read_as_climbed(run: Path | None, file: Path, form: str = "auto", *, lenient: bool = False) -> Source:
    """The rows of another file, read as those of the run were where they are written so, else as they show.

    A `form` other than auto says how they are written. A `lenient` reader puts broken rows aside. DataError
    where the file can't be read.
    """
    kept = None if run is None or form != "auto" else rows_file(run)
    known = read_json(kept).get("format") if kept is not None and kept.is_file() else None
    if not isinstance(known, str) or known == "auto":
        return read_source(file, form, lenient=lenient)
    try:
        return read_source(file, known, lenient=lenient)
    except DataError as error:
        try:
            return read_source(file, lenient=lenient)
        except DataError:
            raise error from None


def moved(run: Path, task: str, gone: Path) -> RunError:
    """What is wrong where a file that a run's rows were read from isn't there any more."""
    home = str(run_above(run))
    return RunError(
        f"the rows of {home!r} were read from {str(gone)!r}, which isn't there: run the same `rung climb` on "
        f"their new place, with --out {home!r} and the task's name still {task!r} (nothing is run again, the "
        "place is noted), or give rows with --rows FILE to a command that takes them"
    )


def rows_again(run: Path, reporter: Reporter | None = None) -> Prepared:
    """The task and the rows of a finished climb, in the same parts and in the same order.

    Raises RunError where the run doesn't say what they were made of, that lies elsewhere, or they are others
    by now.
    """
    climb = load_climb(run)
    source, options = _source(run)
    for path in (source, options.test):
        if path is not None and not path.exists():
            raise moved(run, climb.task, path)
    prepared = prepare(source, options, reporter)
    if ("data", prepared.splits.digest) not in climb.digests:
        raise RunError(
            f"the rows of {str(run)!r} were changed since its climb, or an earlier version read them "
            f"otherwise ({str(source)!r}); restore them, or give others with --rows FILE"
        )
    return prepared


def need_database(run: Path, task: Task) -> None:
    """Raises RunError where the queries of a run were run on another database than the task has now.

    What a query gives there hangs on it, and so does which answers are right.
    """
    file, database = run_above(run) / RUN_FILE, task.data.database
    known = read_json(file).get("database") if file.is_file() else None
    if known is None or (database is not None and file_digest(database) == known):
        return
    now = "the task names none now" if database is None else f"{str(database)!r} is another one now"
    raise RunError(
        f"the queries of {str(run)!r} were run on a database, and {now}: restore it, or name the task itself "
        "with --task TASK, which runs them on what it has now"
    )


def _source(run: Path) -> tuple[Path, Options]:
    path = rows_file(run)
    if not path.is_file():
        raise RunError(f"{str(run)!r} doesn't say where its rows lie; give rows with --rows FILE")
    kept: dict[str, Any] = read_json(path)
    if "source" not in kept:
        raise RunError(
            f"{str(path)!r} is of an earlier version and doesn't say how its rows were split; give rows with "
            "--rows FILE"
        )
    try:
        source, options = Path(kept["source"]), TypeAdapter(Options).validate_python(kept["options"])
    except (ValidationError, TypeError, KeyError):
        raise RunError(f"{str(path)!r} is damaged; give rows with --rows FILE") from None
    return source, options if options.models else replace(options, models=_climbed_on(path.parent))


def _climbed_on(run: Path) -> tuple[str, ...]:
    """The models of a run that was asked for none; none where it doesn't say.

    Their number bears on how many dev rows there are, and what is climbed on unasked may be more by now.
    """
    file = run / RUN_FILE
    config = read_json(file) if file.is_file() else {}
    # The first hosted model is before the others, as where they were named.
    return (*config.get("task", {}).get("models", ()), *config.get(RIVALS, {}).get("models", ()))
