"""What a tag means: a System's folder, and what was said of it when it was tagged."""

from pathlib import Path
from typing import TypeAlias

from rung.errors import RungError
from rung.registry import Pointed, locate
from rung.serve.bench import aside

Located: TypeAlias = tuple[Path, Pointed | None]
Meaning: TypeAlias = tuple[Path, str | None]


def meaning(folder: Path, pointed: Pointed | None) -> Meaning:
    """What a tag means now, as long as it isn't tagged anew."""
    return folder.resolve(), None if pointed is None else pointed.calibration


async def located(tag: str | None) -> Located | None:
    """The folder that a tag names, and the line of the history; None where it names none."""
    if tag is None:
        return None
    try:
        return await aside(lambda: locate(tag))
    except (RungError, OSError):
        return None
