"""The files that a model's digest is of, as they were when it was found, and whether they still are."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from rung.runs import file_digest

Facts: TypeAlias = tuple[int, int, int]
"""Size in bytes, time of change in ns and inode: what a replacement changes, told without reading."""


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file, the SHA-256 of its bytes, and the facts that it had with them."""

    path: Path
    digest: str
    facts: Facts = field(compare=False)


def noted(path: Path, digest: str | None = None) -> KnownFile:
    """A file as it is now; it is read unless its digest is given. Raises OSError where it can't be."""
    facts = _facts(path)  # before it is read: what is put in its place meanwhile has others
    return KnownFile(path, digest or file_digest(path), facts)


def changed(files: Iterable[KnownFile]) -> Path | None:
    """The first of the files that is gone or has other bytes; one with the facts that it had isn't read."""
    return next((file.path for file in files if _is_changed(file)), None)


def _is_changed(file: KnownFile) -> bool:
    try:
        facts = _facts(file.path)
        return facts != file.facts and _digest_with(file.path, facts) != file.digest
    except OSError:
        return True


@lru_cache(maxsize=64)
def _digest_with(path: Path, facts: Facts) -> str:
    """Of a file with these facts, which were taken before: a start that is tried over and over reads once."""
    return file_digest(path)


def _facts(path: Path) -> Facts:
    state = path.stat()
    return state.st_size, state.st_mtime_ns, state.st_ino
