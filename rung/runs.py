"""The run folder: atomic writes, append-only JSONL, digests, and resuming under the same digest only."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rung.errors import RunError

RUN_FILE = "run.json"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write `path` into a RunError that says what to do."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"can't write {path}: {error.strerror or error}; free some space, mend the permissions, or choose "
            "another place with --out"
        ) from None


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, and have it on the disk before returning."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(draft).chmod(0o644)
            Path(draft).replace(path)
        finally:
            Path(draft).unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file whole or not at all, keys sorted."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict:
    """Read a JSON file that this program wrote. Raises RunError where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"can't read {path}: {error}; remove it and run the same command again") from None


def append_jsonl(path: Path, records: list[dict]) -> None:
    """Append records as lines. A torn last line, left by a crash, is cut off first."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut_torn_line(path)
        text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def read_jsonl(path: Path) -> list[dict]:
    """The whole records of an append-only file; a torn last line is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    try:
        return [json.loads(line) for line in lines[:-1] if line]
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}; remove it and run the same command again") from None


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A draft folder that takes the place of `folder` when the block ends without an error."""
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield draft
        with writing(folder):
            for path in sorted(draft.rglob("*")):
                if path.is_file():
                    _sync(path)
            draft.chmod(0o755)
            if folder.exists():
                shutil.rmtree(folder)
            draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(value: object) -> str:
    """sha256 of a JSON-able value in canonical form, in hex."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def open_run(folder: Path, config: dict) -> bool:
    """Make the run folder or take it up again; True when it was there already.

    Raises RunError when it belongs to other settings or data, naming what differs.
    """
    path = folder / RUN_FILE
    wanted = json.loads(json.dumps(config, default=str))
    if path.exists():
        found = read_json(path)
        differing = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
        if differing:
            raise RunError(
                f"{folder} belongs to a climb with another {', '.join(differing)}; choose another folder with "
                "--out, or remove this one to start again"
            )
        return True
    if folder.exists() and any(folder.iterdir()):
        raise RunError(f"{folder} isn't empty and isn't a run; choose another folder with --out")
    write_json(path, wanted)
    return False


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
    with path.open("rb") as file:
        os.fsync(file.fileno())
