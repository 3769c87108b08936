"""What a climb left in its run folder, read back."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from rung.errors import RunError, SystemFolderError
from rung.records import Climb, Example, RungResult
from rung.runs import RUN_FILE, write_text
from rung.scoring.measure import rescored
from rung.system import System

CLIMB_FILE, CLOCK_FILE = "climb.json", "clock.json"
RESULT_FILE, FAILED_FILE = "result.json", "failed.json"
RUNGS_FOLDER, WINNER_FOLDER, CURVE_FOLDER = "rungs", "winner", "curve"
EARLIER_FOLDER = "earlier"
"""A finished climb that was climbed again lies in a folder there, as a run of its own without its answers."""

T = TypeVar("T")


@cache
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    """What reads and writes a kind of record; it takes longer to make than a small record to write."""
    return TypeAdapter(kind)


def climbs_in(run: Path) -> list[Path]:
    """The folders of a run's finished climbs: its own, and those that were climbed again since."""
    try:
        begun = (run / RUN_FILE).is_file()
        again = sorted((run / EARLIER_FOLDER).glob("*")) if begun else []
        return [folder for folder in (run, *again) if (folder / CLIMB_FILE).is_file()]
    except OSError:  # nobody may look there, or a text is too long for a path
        return []


def run_above(climb: Path) -> Path:
    """The run that a finished climb belongs to, which has its answers and counts the looks at its test.

    One that wasn't climbed again is that run itself. The path is absolute, so that a run has one alone.
    """
    climb = climb.resolve()
    above = climb.parent.parent
    return above if climb.parent.name == EARLIER_FOLDER and (above / RUN_FILE).is_file() else climb


def load_climb(run: Path) -> Climb:
    """Read a finished climb. Raises RunError where there is none."""
    if not (run / CLIMB_FILE).exists():
        raise RunError(
            f"{str(run)!r} holds no finished climb; run `rung climb` again with the same arguments"
        )
    return load(run / CLIMB_FILE, Climb)


def dump(path: Path, kind: type[T], record: T) -> None:
    """Write a record as `load` reads it. Raises RunError where that can't be."""
    write_text(path, _adapter(kind).dump_json(record).decode("utf-8"))


def load(path: Path, kind: type[T]) -> T:
    """Read a record that this program wrote. Raises RunError where it is damaged."""
    try:
        return _adapter(kind).validate_json(path.read_bytes())
    except ValidationError as error:
        why = f"{error.errors()[0]['msg']} at {'.'.join(map(str, error.errors()[0]['loc'])) or 'its start'}"
        raise RunError(
            f"{str(path)!r} is damaged ({why}); remove it and run the same command again"
        ) from None
    except OSError as error:
        raise RunError(f"can't read {str(path)!r}: {error.strerror}; mend that and run it again") from None


def kept_results(run: Path, order: Mapping[str, int], dev: Sequence[Example]) -> dict[str, RungResult]:
    """What a run has of these rungs from before, to stand in this `order` beside those to come; by name.

    Raises RunError where a result is damaged.
    """
    kept: dict[str, RungResult] = {}
    for name, place in order.items():
        path = run / RUNGS_FOLDER / name / RESULT_FILE
        if path.exists():
            found = replace(load(path, RungResult), order=place)
            kept[name] = found if found.dev is None else replace(found, dev=rescored(found.dev, dev))
    return kept


def system_of(run: Path, result: RungResult) -> System:
    """The System that a rung's scores are of. Raises SystemFolderError where it isn't there as it was."""
    folder = run / str(result.folder)
    found = System.load(folder)
    if found.digest != result.system:
        raise SystemFolderError(
            f"{str(folder)!r} holds the System {found.digest}, and what was scored is {result.system}: "
            f"{result.rung} was built on since, and that climb didn't come to its end; run it again"
        )
    return found


def kept_system(run: Path, result: RungResult) -> System:
    """The System of a rung that was built before. Raises RunError where it isn't there as it was."""
    try:
        return system_of(run, result)
    except SystemFolderError as error:
        rung = (run / str(result.folder)).parent
        raise RunError(f"{error}. To have the rung built again, remove {str(rung)!r}") from None
