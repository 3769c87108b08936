"""The finished climb that a System comes from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rung.climb.stored import climbs_in, load_climb
from rung.records import Climb, RungResult

DEPTH: Final = 3
"""A run's folder is at most so many above a System's: RUN/rungs/NAME/system."""


@dataclass(frozen=True, kw_only=True)
class Climbed:
    """A finished climb, its folder, and a System's own result there. It may have been climbed again since."""

    folder: Path
    climb: Climb
    result: RungResult


def run_of(folder: Path) -> Path | None:
    """The folder of the finished run in which a System's folder lies; None where it lies in none."""
    return next((path for path in folder.resolve().parents[:DEPTH] if climbs_in(path)), None)


def climbed(run: Path, system: str) -> Climbed | None:
    """What the climbs of a run know of a System, by its digest; None for nothing.

    RunError where one of them is damaged.
    """
    for folder in climbs_in(run):
        climb = load_climb(folder)
        found = next((result for result in climb.results if result.system == system), None)
        if found is not None:
            return Climbed(folder=folder, climb=climb, result=found)
    return None
