"""What a System learned, and the weights below, are what they were when loaded, or aren't used."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from rung.errors import EngineError
from rung.models.files import KnownFile, changed
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


def require_unchanged(files: Iterable[tuple[Path, str]], base: Iterable[KnownFile] = ()) -> None:
    """Raises EngineError where a System's file, or one of the `base` model's, isn't what it was."""
    for path, digest in files:
        if is_changed(path, digest):
            raise replaced(path)
    if (moved := changed(base)) is not None:
        raise EngineError(
            f"{str(moved)!r} was removed, replaced or changed since its model was loaded, which would answer "
            "as another model: put the old file back; to use the new one, load it as a model, or climb on it"
        )


@contextmanager
def unchanged(files: Iterable[tuple[Path, str]], base: Iterable[KnownFile] = ()) -> Iterator[None]:
    """What is read within comes from files that are what they were. Raises EngineError where one isn't."""
    try:
        yield
    finally:
        # Afterwards: looked at before, they could be replaced before they are read.
        require_unchanged(files, base)


def replaced(path: Path) -> EngineError:
    """What is wrong where a System's file isn't what it was."""
    return EngineError(
        f"{str(path)!r} was replaced or changed since its System was loaded, which would answer as another "
        "one: load the System again"
    )
