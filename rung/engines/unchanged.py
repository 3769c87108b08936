"""What a System learned is what it was when that was loaded, or isn't used: folders are replaced."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

from rung.errors import EngineError
from rung.runs import file_digest

Files: TypeAlias = tuple[tuple[Path, str], ...]
"""Files, each with the SHA-256 that it has to have."""


def files_in(folder: Path, digests: Mapping[str, str], *beginnings: str) -> Files:
    """Those of the files of a folder whose names begin so."""
    named = sorted(digests.items())
    return tuple((folder / name, digest) for name, digest in named if name.startswith(beginnings))


def is_changed(path: Path, digest: str) -> bool:
    """Whether a file is gone, or holds something else."""
    try:
        return file_digest(path) != digest
    except OSError:
        return True


def require_unchanged(files: Iterable[tuple[Path, str]]) -> None:
    """Raises EngineError where one of the files isn't what it was."""
    for path, digest in files:
        if is_changed(path, digest):
            raise replaced(path)


def replaced(path: Path) -> EngineError:
    """What is wrong where a System's file isn't what it was."""
    return EngineError(
        f"{str(path)!r} was replaced or changed since its System was loaded, which would answer as another "
        "one: load the System again"
    )
