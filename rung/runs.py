"""The run folder: atomic writes, append-only JSONL, digests, and resuming under the same digest only."""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from rung.errors import RunError
from rung.home import home_dir

RUN_FILE = "run.json"
LOCK_FILE = ".lock"
SHOWN_CHARS = 40
"""Of a setting in a message; digests and lists are longer."""
LINES = (".jsonl", ".ndjson")
"""Endings of files that hold a line of JSON for each row."""

T = TypeVar("T")


@dataclass(frozen=True)
class Shared:
    """A file that nothing changes as long as it's there, so that several folders may hold the one."""

    path: Path


def place(source: Path | Shared | str | bytes, target: Path) -> None:
    """Make a file of what is given: a copy, one file under two names where the disk knows such, or a text."""
    if isinstance(source, Shared):
        try:
            target.hardlink_to(source.path)
        except OSError:
            shutil.copyfile(source.path, target)
    elif isinstance(source, Path):
        shutil.copyfile(source, target)
    else:
        target.write_bytes(source if isinstance(source, bytes) else source.encode("utf-8"))


def storable(text: str) -> str:
    """A text with `?` for halves of surrogate pairs: JSON can spell them, and no file can hold them."""
    return text.encode("utf-8", "replace").decode("utf-8")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write `path` into a RunError that says what to do."""
    try:
        yield
    except OSError as error:
        way = "RUNG_HOME" if _is_at_home(path) else "--out, or with the option that named this one"
        raise RunError(
            f"can't write {str(path)!r}: {error.strerror or error}; free some space, mend the permissions, "
            f"or choose another place with {way}"
        ) from None


def _is_at_home(path: Path) -> bool:
    """Whether a path lies in the folder that `RUNG_HOME` names; in none where that leads nowhere."""
    try:
        return path.is_relative_to(home_dir())
    except RunError:
        return False


def need_lines_name(path: Path, option: str) -> None:
    """Raises RunError where a file that will hold a line of JSON for each row is named as something else.

    It couldn't be read back: files are read by their endings.
    """
    if path.suffix.lower() not in LINES:
        raise RunError(
            f"{option} {str(path)!r}: what is written there is a line of JSON for each row; name a file that "
            f"ends in {LINES[0]}"
        )


def write_text(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file whole or not at all, and have it on the disk before returning."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=_draft_prefix(path))
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(draft).chmod(mode)
            Path(draft).replace(path)
            _sync(path.parent)
        finally:
            Path(draft).unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file whole or not at all, keys sorted."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict:
    """Read a JSON object that this program wrote. Raises RunError where it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(_damaged(path, error)) from None
    if not isinstance(found, dict):
        raise RunError(_damaged(path, f"a {type(found).__name__}, not an object"))
    return found


def append_jsonl(path: Path, records: Sequence[Mapping]) -> None:
    """Append records as lines, on the disk before returning. A torn last line of a crash is cut off first."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut_torn_line(path)
        text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
        fresh = not path.exists()
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if fresh:
            _sync(path.parent)


def read_jsonl(path: Path, *, lasting: bool = False) -> list[dict]:
    """The whole records of an append-only file; a torn last line is left out. RunError for a damaged one.

    It names the line. What a `lasting` file holds can't be had again, so that its other lines are to stay.
    """
    return _read_lines(path, _object, lasting)


def read_records(path: Path, kind: type[T], *, lasting: bool = False) -> list[T]:
    """The same as records of a kind: a line that lacks what those have is damaged, too."""
    adapter = TypeAdapter(kind)
    return _read_lines(path, lambda line: adapter.validate_python(_object(line)), lasting)


def read_each(path: Path, read: Callable[[dict], T], *, lasting: bool = False) -> list[T]:
    """What `read` makes of each whole record: one that lacks what it takes from it is damaged, too."""

    def made(line: bytes) -> T:
        record = _object(line)
        try:
            return read(record)
        except KeyError as error:
            raise ValueError(f"it lacks {error}") from None
        except (TypeError, AttributeError) as error:
            raise ValueError(str(error)) from None

    return _read_lines(path, made, lasting)


def _read_lines(path: Path, read: Callable[[bytes], T], lasting: bool) -> list[T]:
    """What `read` makes of each whole line. RunError, which names the line, where it raises ValueError."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(_damaged(path, error, "make it readable" if lasting else "remove it")) from None
    found: list[T] = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            found += [read(line)] if line else []
        except ValueError as error:
            way = "mend that line or take it out" if lasting else "remove it"
            raise RunError(_damaged(path, f"line {number}: {_why(error)}", way)) from None
    return found


def _why(error: ValueError) -> object:
    """What is wrong with a line, in a few words."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return error.msg if isinstance(error, json.JSONDecodeError) else error


def _object(line: bytes) -> dict:
    """The object that a line holds. Raises ValueError where it holds none."""
    found = json.loads(line)
    if not isinstance(found, dict):
        raise ValueError(f"a {type(found).__name__}, not an object")
    return found


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A draft folder that takes the place of `folder` when the block ends without an error.

    An OSError inside the block is one of writing too: a RunError. Drafts that a killed process left
    beside `folder` are cleared away.
    """
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _clear_drafts(folder)
        draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=_draft_prefix(folder)))
    try:
        with writing(folder):
            yield draft
            for path in (*sorted(draft.rglob("*")), draft):
                _sync(path)
            draft.chmod(0o755)
            if folder.exists():
                # Renamed before it is removed: a kill in between leaves a draft, never half a folder.
                folder.replace(Path(tempfile.mkdtemp(dir=folder.parent, prefix=_draft_prefix(folder))))
            draft.replace(folder)
            _sync(folder.parent)
    finally:
        _clear_drafts(folder)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run folder. Raises RunError where one is in it already.

    The kernel lets go when the process ends, however it ends. One that can't be written to is only read.
    """
    if folder.is_dir() and not os.access(folder, os.W_OK):
        yield
        return
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_FILE).open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"another climb is at work in {str(folder)!r}; wait for it, or choose another folder with "
                "--out"
            ) from None
        yield


@contextmanager
def locked(path: Path, making: Callable[[Path], AbstractContextManager[object]] = writing) -> Iterator[None]:
    """Hold the lock file `path`, waiting while another process holds it.

    RunError where it can't be made; with `nullcontext` for `making` an OSError, for who says that otherwise.
    """
    with making(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unlisted(folder: Path, below: Sequence[str], names: Collection[str]) -> str | None:
    """The first file, by its name in `folder`, that lies in a folder of it, `below`, and not in `names`."""
    found = sorted(path for name in below for path in (folder / name).rglob("*") if path.is_file())
    given = (path.relative_to(folder).as_posix() for path in found if not path.name.startswith("."))
    return next((name for name in given if name not in names), None)


def digest_of(value: object) -> str:
    """sha256 of a JSON-able value in canonical form, in hex."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def open_run(folder: Path, config: Mapping, free: Sequence[str] = ()) -> dict | None:
    """Make the run folder or take it up again; the settings that it has, where it was there already.

    Raises RunError when it can't be made, is no run, or belongs to other settings or data, naming what
    differs. Of the `free` settings any will do.
    """
    path = folder / RUN_FILE
    wanted = json.loads(json.dumps(config, default=str))
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{str(folder)!r} is a file and a run is a folder; choose another place with --out")
    if path.exists():
        found = read_json(path)
        if not found.keys() >= set(free):
            raise RunError(_damaged(path, f"it lacks {' and '.join(sorted(set(free) - found.keys()))}"))
        if differing := differences(found, {**wanted, **{key: found[key] for key in free}}):
            raise RunError(
                f"{str(folder)!r} belongs to another climb: {'; '.join(differing)}. Choose another folder "
                "with --out, or remove this one to start again"
            )
        return found
    with writing(folder):
        strangers = folder.exists() and any(not p.name.startswith(".") for p in folder.iterdir())
    if strangers:
        raise RunError(f"{str(folder)!r} isn't empty and isn't a run; choose another folder with --out")
    write_json(path, wanted)
    return None


def differences(found: Mapping, wanted: Mapping) -> list[str]:
    """Where the settings of a run that was `found` aren't those that are wanted, a clause each."""
    there, here = dict(_leaves(found)), dict(_leaves(wanted))
    keys = sorted(key for key in there.keys() | here.keys() if there.get(key) != here.get(key))
    return [f"{key} is {_shown(there.get(key))} there and {_shown(here.get(key))} here" for key in keys]


def _leaves(value: Mapping, place: str = "") -> Iterator[tuple[str, object]]:
    """Settings by their dotted names."""
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _leaves(item, f"{place}{key}.")
        else:
            yield f"{place}{key}", item


def _shown(value: object) -> str:
    text = "not set" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"


def _damaged(path: Path, why: object, way: str = "remove it") -> str:
    return f"can't read {str(path)!r}: {why}; {way} and run the same command again"


def _draft_prefix(path: Path) -> str:
    return f".{path.name}.draft-"


def _clear_drafts(folder: Path) -> None:
    for path in sorted(folder.parent.iterdir()):
        if path.name.startswith(_draft_prefix(folder)):
            shutil.rmtree(path, ignore_errors=True)


def _cut_torn_line(path: Path) -> None:
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return
        data = path.read_bytes()
        file.truncate(data.rfind(b"\n") + 1)


def _sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
