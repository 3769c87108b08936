"""The rows that an export is proved on, and what is known of the climb that its System comes from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rung.climb.climb import ROWS_FILE
from rung.climb.stored import CLIMB_FILE, load_climb
from rung.data.sources import conform, read_source
from rung.errors import DataError, RunError
from rung.records import Climb, Example, RungResult
from rung.runs import RUN_FILE, read_json
from rung.ship.parity import Asked
from rung.system import System
from rung.task.complete import METRICS

DEPTH: Final = 3
"""A run's folder is at most so many above a System's: RUN/rungs/NAME/system."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The finished climb in whose folder a System lies, and the System's own result there."""

    folder: Path
    climb: Climb
    result: RungResult


def origin_of(system: System) -> Origin | None:
    """The climb that a System lies in; None where it lies elsewhere. RunError where the climb is damaged."""
    for folder in system.folder.absolute().parents[:DEPTH]:
        if (folder / RUN_FILE).is_file() and (folder / CLIMB_FILE).is_file():
            climb = load_climb(folder)
            found = next((r for r in climb.results if r.system == system.digest), None)
            return None if found is None else Origin(folder=folder, climb=climb, result=found)
    return None


def asked_rows(system: System, origin: Origin | None, given: Path | None, most: int) -> Asked:
    """The first `most` dev rows of the climb, or of the file `given`: its dev rows alone if it has any.

    Raises DataError where the rows can't be read, aren't labelled or aren't those of the climb.
    """
    kind = system.spec.kind
    metric = origin.climb.metric if origin is not None else METRICS[kind][0]
    ids = _dev_ids(origin)
    if given is None:
        file, form = _file_of(origin)
        rows = _dev(_read(file, form, system), ids)
        if len(rows) < min(most, len(ids)):
            raise DataError(
                f"{str(file)!r} holds {len(rows):,} of the {len(ids):,} dev rows of the climb, so it was "
                "changed since; restore it, or give labelled rows with --rows FILE"
            )
        told = f"dev rows of the climb, from {file.name}"
    else:
        found = _read(given, "auto", system)
        rows = _dev(found, ids) or list(found)
        told = f"rows of {given.name}" + (", dev rows of the climb" if _dev(found, ids) else "")
    if not rows:
        raise DataError("there are no rows to prove the export on; give labelled rows with --rows FILE")
    return Asked(examples=tuple(rows[:most]), metric=metric, told=told)


def _dev_ids(origin: Origin | None) -> list[str]:
    """The ids of the dev rows in the order in which the climb asked them, of the rung that was asked most."""
    measured = [r.dev.predictions for r in origin.climb.results if r.dev is not None] if origin else []
    return [p.example_id for p in max(measured, key=len, default=())]


def _file_of(origin: Origin | None) -> tuple[Path, str]:
    if origin is None:
        raise DataError(
            "the System lies in no finished run, so its rows aren't known; give labelled rows with --rows "
            "FILE"
        )
    kept = origin.folder / ROWS_FILE
    if not kept.is_file():
        raise DataError(
            f"{str(origin.folder)!r} doesn't say where its rows lie; give them with --rows FILE: the "
            "climb's dev rows are found among them"
        )
    said = read_json(kept)
    file, form = said.get("train"), said.get("format")
    if not isinstance(file, str) or not isinstance(form, str):
        raise RunError(f"{str(kept)!r} is damaged; give the rows with --rows FILE")
    return Path(file), form


def _read(file: Path, form: str, system: System) -> tuple[Example, ...]:
    return conform(read_source(file, form, lenient=True).examples, system.spec.kind)


def _dev(rows: Sequence[Example], ids: Sequence[str]) -> list[Example]:
    """The rows with these ids, in the ids' order, which is that in which the climb asked them."""
    known = {row.id: row for row in rows}
    return [known[row] for row in ids if row in known]
