"""Documents that answers may be looked up in, as plain text. Nothing in them is executed or fetched."""

import json
import os
import re
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

from rung.data.rows import read_rows
from rung.errors import DataError
from rung.task.outputs import shown
from rung.task.text import BOM, utf8

MAX_FILE_BYTES = 32 * 2**20
MAX_FILES = 20_000
MAX_CHARACTERS = 100_000_000
FILE_S = 60.0
"""A PDF or a page that takes longer to read means harm, or would take others' time."""
TEXTS = (".txt", ".md", ".markdown")
PAGES = (".html", ".htm", ".pdf")
ROWS = (".jsonl",)
ENDINGS = (*TEXTS, *PAGES, *ROWS)
BESIDE = {
    *(".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".ico", ".bmp"),
    *(".css", ".js", ".map", ".woff", ".woff2", ".ttf", ".otf"),
}
"""What lies beside pages and holds no text: not worth a word."""

HEADING = re.compile(r"^#{1,6}[ \t]+\S[^\n]*", re.MULTILINE)
"""A line that is a heading in Markdown."""
LISTED_ENDINGS = 5
"""Of the endings that aren't read, told apart."""
LONGEST_TITLE = 200
"""Characters of a title or a heading: it's said again above each of its passages."""
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufeff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One document: `id` is its path in the folder, or what its row says; headings are as in Markdown."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Documents:
    """What a folder or a file holds, in the order of the names; `notes` are on what was left out, and why."""

    documents: tuple[Document, ...]
    notes: tuple[str, ...]


def read_documents(path: Path) -> Documents:
    """Every document of a folder (txt, md, html, pdf, jsonl), folders in it included, or of one such file.

    A file that can't be read is left out with a note. Raises DataError where nothing is left, or it is the
    only one, and for more than the machine should hold.
    """
    files, notes = _files(path) if path.is_dir() else ([path], [])
    found: list[Document] = []
    held = 0
    with _Plain() as plain:
        for file in files:
            name = _line(file.relative_to(path).as_posix() if path.is_dir() else file.name)
            try:
                for document in _documents(file, name, plain, notes):
                    held += len(document.text)
                    if held > MAX_CHARACTERS:
                        raise DataError(
                            f"{path}: over {MAX_CHARACTERS:,} characters of documents; leave some out"
                        )
                    found.append(document)
            except ValueError as error:
                notes.append(f"{name} {error}")
    if not found:
        why = "; ".join(notes[:3]) or f"there is none with the ending {', '.join(ENDINGS)}"
        raise DataError(f"{path}: no document can be read: {why}")
    _once(found, path)
    return Documents(documents=tuple(found), notes=tuple(notes))


def _files(folder: Path) -> tuple[list[Path], list[str]]:
    """The documents' files by name, and notes on what isn't followed or read. Hidden ones are passed over."""
    found: list[Path] = []
    notes: list[str] = []
    others = Counter[str]()
    root = folder.resolve()
    for place, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        linked = [name for name in folders if (Path(place) / name).is_symlink()]
        for name in (*linked, *sorted(names)):
            path = Path(place) / name
            if name in linked or not path.resolve().is_relative_to(root):
                notes.append(f"{path.relative_to(folder).as_posix()} is a link to elsewhere, not followed")
            elif not name.startswith("."):
                ending = path.suffix.lower()
                if ending in ENDINGS:
                    found.append(path)
                elif ending not in BESIDE:
                    others[ending or "none"] += 1
            if len(found) > MAX_FILES:
                raise DataError(f"{folder}: over {MAX_FILES:,} files; put the documents into .jsonl files")
    if others:
        listed = ", ".join(f"{ending} {count:,}" for ending, count in others.most_common(LISTED_ENDINGS))
        more = f" and {len(others) - LISTED_ENDINGS:,} more" if len(others) > LISTED_ENDINGS else ""
        files = f"{others.total():,} files have" if others.total() > 1 else "1 file has"
        notes.append(
            f"{files} an ending that isn't read ({listed}{more}); what is read: {', '.join(ENDINGS)}"
        )
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix()), notes


def _documents(file: Path, name: str, plain: "_Plain", notes: list[str]) -> Iterator[Document]:
    """The documents of one file. Raises ValueError, to be read after its name, where it can't be read."""
    ending = file.suffix.lower()
    if ending not in ENDINGS:
        raise ValueError(f"has the ending {ending!r}, which isn't read; use {', '.join(ENDINGS)}")
    try:
        status = file.stat()
    except OSError as error:
        raise ValueError(f"can't be read: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("is no plain file")
    if status.st_size == 0:
        raise ValueError("is empty")
    if ending in ROWS:
        yield from _rows(file, name, notes)
        return
    if status.st_size > MAX_FILE_BYTES:
        raise ValueError(f"is over {MAX_FILE_BYTES // 2**20} MB; split it, or save its text alone")
    title, text = plain.read(file) if ending in PAGES else ("", _decoded(file))
    text = tidy(text)
    if not text:
        raise ValueError("holds no text")
    heading = HEADING.search(text)
    first = heading_words(heading) if heading else ""
    yield Document(id=name, title=(_line(title) or first)[:LONGEST_TITLE] or Path(name).stem, text=text)


def _rows(file: Path, name: str, notes: list[str]) -> Iterator[Document]:
    """The rows of a JSON lines file that have a `text`; the others are noted."""
    try:
        for where, row in read_rows(file):
            place = f"{name}:{where.rpartition(':')[2]}"
            if isinstance(row, DataError):
                notes.append(str(row))
                continue
            text, title, given = row.get("text"), row.get("title"), row.get("id")
            if not isinstance(text, str) or not tidy(text):
                notes.append(f"{place} has no text, only {shown(row)}")
                continue
            if not isinstance(given, str | int | None) or isinstance(given, bool):
                notes.append(f"{place} has the id {shown(given)}; give a text or a whole number")
                continue
            named = _line(str(given)) if given is not None else ""
            called = _line(title)[:LONGEST_TITLE] if isinstance(title, str) else ""
            yield Document(id=named or place, title=called, text=tidy(text))
    except DataError as error:
        raise ValueError(f"can't be read: {error}") from None


def tidy(text: str) -> str:
    """Text with line breaks of one kind, without control characters, and without blanks around."""
    return _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n\n")).strip()


def heading_words(match: re.Match[str]) -> str:
    """What a heading says."""
    return match[0].strip("# \t")[:LONGEST_TITLE]


def _line(text: str) -> str:
    """Text on one line."""
    return " ".join(tidy(text).split())


def _decoded(file: Path) -> str:
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise ValueError(f"can't be read: {error.strerror}") from None
    try:
        if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            return raw.decode("utf-16")
        if b"\0" in raw:
            raise ValueError("holds binary data, not text")
        return utf8(raw.removeprefix(BOM))
    except UnicodeDecodeError as error:
        part = raw[error.start : error.start + 4]
        raise ValueError(f"is not UTF-8 at byte {error.start + 1} ({part!r}); save it as UTF-8") from None


def _once(found: Sequence[Document], path: Path) -> None:
    seen: set[str] = set()
    for document in found:
        if document.id in seen:
            raise DataError(f"{path}: two documents have the id {document.id!r}; answers couldn't cite them")
        seen.add(document.id)


class _Plain(AbstractContextManager["_Plain"]):
    """A process of its own that reads PDF and HTML files; one that a file kills is started again."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def read(self, file: Path, limit_s: float = FILE_S) -> tuple[str, str]:
        """Title and text. Raises ValueError where the file can't be read within the limits."""
        process = self._running()
        assert process.stdin is not None and process.stdout is not None, "both are pipes"
        watchdog = Timer(limit_s, process.kill)
        watchdog.start()
        try:
            process.stdin.write(json.dumps(str(file)) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            watchdog.cancel()
        if not line.endswith("\n"):
            self._stop()
            raise ValueError(f"can't be read in {limit_s:.0f} s and 1 GB of memory; leave it out or split it")
        found = json.loads(line)
        if "fault" in found:
            raise ValueError(found["fault"])
        return found["title"], found["text"]

    def _running(self) -> "subprocess.Popen[str]":
        if self._process is None:
            program = Path(__file__).with_name("_plain.py")
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(program)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __exit__(self, *exc: object) -> None:
        self._stop()
