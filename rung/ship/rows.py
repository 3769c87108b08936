"""The rows that an export is proved on."""

from collections.abc import Sequence
from pathlib import Path

from rung.climb.again import moved, read_as_climbed, rows_again, rows_file
from rung.data.sources import conform, read_source
from rung.data.splits import question
from rung.errors import DataError, RunError, RungError, TaskError
from rung.records import Example
from rung.rungs.base import Reporter
from rung.runs import read_json
from rung.ship.climbed import Climbed
from rung.ship.parity import Asked
from rung.system import System
from rung.task.complete import METRICS
from rung.task.tables import with_tables


def asked_rows(
    system: System,
    origin: Climbed | None,
    given: Path | None,
    most: int,
    form: str = "auto",
    reporter: Reporter | None = None,
) -> Asked:
    """The first `most` dev rows of the climb, or rows of the file `given`.

    Of a file that holds as many dev rows as would be asked without it, these alone are asked; of another all
    rows but those that the climb is known to have learned from or sealed as its test. `form` is the format of
    that file. The `reporter` is told how far that is.

    Raises DataError where the rows can't be read, aren't labelled or aren't those of the climb, RunError
    where they aren't there any more, and TaskError for a format without a file.
    """
    if given is None and form != "auto":
        raise TaskError(
            f"--format {form!r} says how the rows of --rows FILE are written; without it the climb's own are "
            "asked, read as it read them: leave it out"
        )
    kind = system.spec.kind
    metric = origin.climb.metric if origin is not None else METRICS[kind][0]
    if metric == "judge":
        # An export has to say the same, not something as good: nobody is paid to compare.
        metric = METRICS[kind][0]
    ids = _dev_ids(origin)
    if given is None:
        file, written = _file_of(origin)
        rows = _dev(conform(read_source(file, written, lenient=True).examples, kind), ids)
        if len(rows) < min(most, len(ids)):
            raise DataError(
                f"{str(file)!r} holds {len(rows):,} of the {len(ids):,} dev rows of the climb, so it was "
                "changed since; restore it, or give labelled rows with --rows FILE"
            )
        told = f"dev rows of the climb, from {file.name}"
    else:
        read = read_as_climbed(origin and origin.folder, given, form, lenient=True)
        found = conform(read.examples, kind)
        rows, told = _dev(found, ids), f"rows of {given.name}, dev rows of the climb"
        if not rows or len(rows) < min(most, len(ids)):
            rows, told = _unseen(found, given, origin, reporter)
    if not rows:
        raise DataError("there are no rows to prove the export on; give labelled rows with --rows FILE")
    examples = with_tables(rows[:most], metric, _database_of(origin))
    return Asked(examples=examples, metric=metric, told=told)


def _dev_ids(origin: Climbed | None) -> list[str]:
    """The ids of the dev rows in the order in which the climb asked them, of the rung that was asked most."""
    measured = [r.dev.predictions for r in origin.climb.results if r.dev is not None] if origin else []
    return [p.example_id for p in max(measured, key=len, default=())]


def _file_of(origin: Climbed | None) -> tuple[Path, str]:
    if origin is None:
        raise DataError(
            "the System lies in no finished run, so its rows aren't known; give labelled rows with --rows "
            "FILE"
        )
    kept = rows_file(origin.folder)
    if not kept.is_file():
        raise DataError(
            f"{str(origin.folder)!r} doesn't say where its rows lie; give them with --rows FILE: the "
            "climb's dev rows are found among them"
        )
    said = read_json(kept)
    file, form = said.get("train"), said.get("format")
    if not isinstance(file, str) or not isinstance(form, str):
        raise RunError(f"{str(kept)!r} is damaged; give the rows with --rows FILE")
    if not Path(file).exists():
        raise moved(origin.folder, origin.climb.task, Path(file))
    return Path(file), form


def _database_of(origin: Climbed | None) -> Path | None:
    """The database that the climb's queries were run on, if it had one. RunError where that's gone."""
    kept = None if origin is None else rows_file(origin.folder)
    named = read_json(kept).get("database") if kept is not None and kept.is_file() else None
    if named is not None and not Path(named).is_file():
        raise RunError(f"the database that the climb's queries were run on is gone: {named!r}; restore it")
    return None if named is None else Path(named)


def _unseen(
    found: Sequence[Example], given: Path, origin: Climbed | None, reporter: Reporter | None
) -> tuple[list[Example], str]:
    """The rows of a file that the climb neither learned from nor sealed, as far as that is known.

    And which these are. A sealed row's answers aren't to be looked at for choosing a way to ship.
    """
    learned: set[tuple[str, str]] = set()
    sealed: set[tuple[str, str]] = set()
    if origin is not None:
        try:
            splits = rows_again(origin.folder, reporter).splits
            learned, sealed = ({question(row) for row in part} for part in (splits.train, splits.test))
        except RungError:
            pass  # Which rows these were can't be told any more, and the comparison holds on any.
    rows = [row for row in found if question(row) not in learned | sealed]
    if found and not rows:
        raise DataError(
            f"the climb learned from every row of {given.name!r} or sealed it as its test, which an export "
            "doesn't open; give others with --rows FILE, or leave it out to ask the climb's dev rows"
        )
    out = [
        f"{count:,} {what}"
        for part, what in ((learned, "that the climb learned from"), (sealed - learned, "of its sealed test"))
        if (count := sum(question(row) in part for row in found))
    ]
    return rows, f"rows of {given.name}" + (f", without {' and '.join(out)}" if out else "")


def _dev(rows: Sequence[Example], ids: Sequence[str]) -> list[Example]:
    """The rows with these ids, in the ids' order, which is that in which the climb asked them."""
    known = {row.id: row for row in rows}
    return [known[row] for row in ids if row in known]
