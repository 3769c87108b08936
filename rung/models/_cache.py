"""The cache folder on this machine: things that are dear to get, made once by whoever comes first."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rung.errors import ModelError

_MARKER: Final = "complete"


def cache_dir() -> Path:
    """The folder for weights and what is made of them: `RUNG_CACHE`, else the user's cache folder."""
    if given := os.environ.get("RUNG_CACHE"):
        return Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "rung"


def is_made(folder: Path) -> bool:
    """Whether `folder` was filled by `made_once` and is whole."""
    return _is_whole(folder)


def made_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Return `folder`, filled by `build(stage)` unless it's there and whole.

    The stage is renamed to `folder` when `build` returns, and the marker that proves completeness is
    written last. Two processes never both build. Raises ModelError when the disk refuses.
    """
    if _is_whole(folder):
        return folder
    try:
        with locked(folder.with_name(f".{folder.name}.lock")):
            if not _is_whole(folder):
                _make(folder, build)
    except OSError as error:
        raise ModelError(
            f"can't write the cache folder {str(folder)!r}: {error.strerror or error}; free some space or "
            "set RUNG_CACHE to another folder"
        ) from error
    return folder


def _make(folder: Path, build: Callable[[Path], None]) -> None:
    stage = folder.with_name(f".{folder.name}.partial")
    for old in (stage, folder):
        if old.exists():
            shutil.rmtree(old)
    stage.mkdir(parents=True)
    try:
        build(stage)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    for file in _files(stage):
        _flush(file)
    stage.rename(folder)
    marker = folder / f".{_MARKER}"
    marker.write_text(json.dumps(_facts(folder), indent=1, sort_keys=True), encoding="utf-8")
    _flush(marker)
    marker.replace(folder / _MARKER)
    _flush(folder)


def _is_whole(folder: Path) -> bool:
    """True when the marker is there and names the files as they are now (size and time of change)."""
    try:
        return json.loads((folder / _MARKER).read_text(encoding="utf-8")) == _facts(folder)
    except (OSError, ValueError):
        return False


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


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, waiting while another process holds it. OSError where it can't be made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
