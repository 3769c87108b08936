"""The finished climb that a System comes from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rung.climb.stored import CLIMB_FILE, load_climb
from rung.records import Climb, RungResult

DEPTH: Final = 3
"""A run's folder is at most so many above a System's: RUN/rungs/NAME/system."""


@dataclass(frozen=True, kw_only=True)
class Climbed:
    """A finished climb, its run folder, and a System's own result there."""

    folder: Path
    climb: Climb
    result: RungResult


def run_of(folder: Path) -> Path | None:
    """The folder of the finished run in which a System's folder lies; None where it lies in none."""
    return next((p for p in folder.resolve().parents[:DEPTH] if (p / CLIMB_FILE).is_file()), None)


def climbed(run: Path, system: str) -> Climbed | None:
    """What a run knows of a System, by its digest; None for nothing. RunError where the climb is damaged."""
    climb = load_climb(run)
    found = next((result for result in climb.results if result.system == system), None)
    return None if found is None else Climbed(folder=run, climb=climb, result=found)
