"""The cache folder on this machine: things that are dear to get, made once by whoever comes first."""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Final

from rung.errors import WeightsError
from rung.home import user_folder
from rung.runs import file_digest, locked

_MARKER: Final = "complete"


def cache_dir() -> Path:
    """The folder for weights and what is made of them: `RUNG_CACHE`, else the user's cache folder."""
    return user_folder("RUNG_CACHE", "XDG_CACHE_HOME", ".cache")


def is_made(folder: Path) -> bool:
    """Whether `folder` was filled by `made_once` and is whole."""
    return _is_unchanged(folder) or _has_same_bytes(folder)


def made_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Return `folder`, filled by `build(stage)` unless it's there and whole.

    The stage takes the place of `folder` when `build` returns, and the marker that proves completeness is
    written last. A copy with other times of change (from an image, an archive, another machine) is whole
    where its bytes are the same. Two processes never both build. Raises WeightsError when the disk refuses.
    """
    if _is_unchanged(folder):
        return folder
    try:
        with locked(folder.with_name(f".{folder.name}.lock"), nullcontext):
            if not _is_unchanged(folder):
                if not _has_same_bytes(folder):
                    _make(folder, build)
                _mark(folder)
    except OSError as error:
        if is_made(folder):
            return folder  # only the marker, or the lock, can't be written here
        raise WeightsError(
            f"can't write the cache folder {str(folder)!r}: {error.strerror or error}; free some space or "
            "set RUNG_CACHE to another folder"
        ) from error
    return folder


def digest_in(folder: Path, name: str) -> str | None:
    """The SHA-256 of a file that `made_once` put into a folder, as it was noted then; None if it wasn't."""
    fact = (_noted(folder) or {}).get(name, [])
    return fact[2] if len(fact) == 3 else None


def _make(folder: Path, build: Callable[[Path], None]) -> None:
    stage = folder.with_name(f".{folder.name}.partial")
    if stage.exists():
        shutil.rmtree(stage)
    stage.mkdir(parents=True)
    try:
        build(stage)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    for file in _files(stage):
        _flush(file)
    if folder.exists():
        shutil.rmtree(folder)
    stage.rename(folder)


def _mark(folder: Path) -> None:
    facts = {name: [*fact, file_digest(folder / name)] for name, fact in _facts(folder).items()}
    marker = folder / f".{_MARKER}"
    marker.write_text(json.dumps(facts, indent=1, sort_keys=True), encoding="utf-8")
    _flush(marker)
    marker.replace(folder / _MARKER)
    _flush(folder)


def _is_unchanged(folder: Path) -> bool:
    """True when the marker names the files as they are now (size and time of change)."""
    noted = _noted(folder)
    try:
        return noted is not None and {name: fact[:2] for name, fact in noted.items()} == _facts(folder)
    except OSError:
        return False


def _has_same_bytes(folder: Path) -> bool:
    """True when the marker names the files as they are now, their times apart. It reads them all."""
    noted = _noted(folder)
    try:
        found = _facts(folder)
        return (
            noted is not None
            and noted.keys() == found.keys()
            and all(fact[:1] == found[name][:1] and len(fact) == 3 for name, fact in noted.items())
            and all(fact[2] == file_digest(folder / name) for name, fact in noted.items())
        )
    except OSError:
        return False


def _noted(folder: Path) -> dict[str, list] | None:
    """Size, time of change and SHA-256 of each file as the marker has them; an older one lacks the last.

    None without a marker that can be read.
    """
    try:
        found = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_noted = isinstance(found, dict) and all(isinstance(fact, list) for fact in found.values())
    return found if is_noted else None


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name.lstrip(".") != _MARKER)


def _facts(folder: Path) -> dict[str, list[int]]:
    found = ((path.relative_to(folder).as_posix(), path.stat()) for path in _files(folder))
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in found}


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
