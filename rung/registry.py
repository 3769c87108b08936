"""The registry of tags: which System a name such as `helpdesk:1.2` points at, and which it did before.

A tagged System is copied in, under its digest, so that a tag still has its System when the run is removed.
Copied and not linked: a file that is edited in the run would change the tagged System too. Its calibration,
which its digest leaves out, lies under a digest of its own. A name's history is one file that is only ever
appended to.
"""

import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, TypeAdapter, ValidationError

from rung.calibration import calibration_digest, read_calibration, write_calibration
from rung.errors import RunError, SystemFolderError, TaskError
from rung.home import expanded, home_dir
from rung.models.catalog import CATALOG, entry_named
from rung.models.offered import OFFERED, offered_named
from rung.models.resolve import HUB_ID
from rung.records import Calibration, Interval, MetricName, SplitName, VerdictKind
from rung.runs import LOCK_FILE, RUN_FILE, append_jsonl, locked, writing
from rung.system import SPEC_FILE, System, copy
from rung.task.outputs import shown

REGISTRY_FOLDER = "registry"
TAGS_FOLDER = "tags"
SYSTEMS_FOLDER = "systems"
CALIBRATIONS_FOLDER = "calibrations"
BESIDE = "beside"
"""The calibration of a tag that was made before they were named: the file in the stored System's folder."""
LATEST = "latest"
TAG_FORM = (
    "a tag is NAME or NAME:VERSION; the name has small letters and digits with . _ or - between them, the "
    "version letters, digits, . _ and -, as in helpdesk:1.2; at most 64 characters each"
)
LONGEST = 64
_NAME = re.compile(r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*", re.ASCII)
_VERSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*", re.ASCII)
DIGEST_CHARS = 16
_EARLIER = re.compile(r"(?P<name>[^@]*)@(?P<which>[0-9a-f]{16}(?:-(?:[0-9a-f]{16}|none|beside))?)", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tag:
    """A name and a version of it."""

    name: str
    version: str = LATEST

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TaggedModel:
    """A model that a System answers with: its base model, or that of its sentence vectors."""

    name: str
    digest: str
    licence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """What the climb that made a System says of it.

    `data` is the digest of the rows and their splits, `config` that of the task's settings. The score is that
    of the sealed test where the System was scored there, else that of dev; `n` counts its rows. `chosen`: the
    verdict is to ship this System.
    """

    run: str
    data: str | None
    config: str | None
    metric: MetricName
    split: SplitName
    score: float
    interval: Interval
    n: int
    verdict: VerdictKind
    chosen: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Pointed:
    """A line of a name's history: a tag was pointed at a System, or was removed and points nowhere.

    `source` is the folder or the tag that was given, `system` the System's digest, `size` the bytes of its
    folder, `calibration` the digest of its calibration or None without one. `origin` says in words why there
    is none where that is so.
    """

    at: AwareDatetime
    action: Literal["tag", "remove"]
    name: str
    version: str
    system: str
    source: str
    rung: str
    task: str
    models: tuple[TaggedModel, ...]
    size: int
    origin: Origin | str
    calibration: str | None = BESIDE

    @property
    def tag(self) -> Tag:
        """The tag that was pointed."""
        return Tag(name=self.name, version=self.version)

    @property
    def which(self) -> str:
        """The System with this very calibration, as it is named after an @."""
        return f"{self.system}-{self.calibration or 'none'}"


_POINTED = TypeAdapter(Pointed)


def read_tag(text: str) -> Tag:
    """Read `NAME:VERSION`, or `NAME` for `NAME:latest`. Raises TaskError, which names the form."""
    name, colon, version = text.partition(":")
    if not _fits(_NAME, name) or (colon and not _fits(_VERSION, version)):
        raise TaskError(f"{shown(text)} is no tag: {TAG_FORM}")
    return Tag(name=name, version=version or LATEST)


def history(name: str) -> list[Pointed]:
    """Every event of a name's tags, the oldest first. Raises RunError where the file is damaged."""
    path = _history_file(name)
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"can't read {str(path)!r}: {error.strerror}; mend that and try again") from None
    found = []
    # What stands after the last line break was torn off by a crash: that tag was never made.
    for number, line in enumerate(lines[:-1], start=1):
        try:
            found.append(_POINTED.validate_json(line))
        except ValidationError as error:
            raise RunError(
                f"{str(path)!r} is damaged in line {number} ({error.errors()[0]['msg']}): take that line "
                "out; the tag that it made is lost, its System isn't"
            ) from None
    return found


def tags(name: str | None = None) -> list[Pointed]:
    """What each tag, of one name or of all, points at now, sorted. Raises RunError for a damaged history."""
    names = _names() if name is None else [name]
    return [pointed for each in names for _, pointed in sorted(_now(each).items())]


def point(
    system: System, tag: Tag, *, source: str, origin: Origin | str, keep_latest: bool = False
) -> list[Pointed]:
    """Copy a System into the registry and have a tag point at it, and NAME:latest too unless that is kept.

    Returns the new lines of the history. Raises RunError where the registry can't be written or read, and
    SystemFolderError where the System was changed.
    """
    versions = [tag.version] if keep_latest or tag.version == LATEST else [tag.version, LATEST]
    refs = [ref for ref in (system.spec.model, system.spec.vectors) if ref is not None]
    with _held():
        history(tag.name)  # A damaged one is told of before it is added to.
        size = _size(_stored(system))
        calibration = _stored_calibration(system)
        events = [
            Pointed(
                at=datetime.now(UTC),
                action="tag",
                name=tag.name,
                version=version,
                system=system.digest,
                source=source,
                rung=system.spec.rung,
                task=system.spec.task,
                models=tuple(TaggedModel(name=r.name, digest=r.digest, licence=r.licence) for r in refs),
                size=size,
                origin=origin,
                calibration=calibration,
            )
            for version in versions
        ]
        _append(tag.name, events)
    return events


def remove(tag: Tag) -> Pointed:
    """Take a tag away; what it pointed at. Its history and its System stay. TaskError where there is none."""
    with _held():
        last = _now(tag.name).get(tag.version)
        if last is None:
            raise TaskError(f"there is no tag {str(tag)!r}{_nearest(str(tag))}")
        _append(tag.name, [replace(last, at=datetime.now(UTC), action="remove", source=str(tag))])
    return last


def prune() -> tuple[list[str], int]:
    """Remove the stored Systems at which no tag points now: their digests, and the bytes that they took.

    The calibrations that no tag names go with them. Histories stay. Raises RunError, and removes nothing,
    where one of them is damaged.
    """
    removed, size = [], 0
    with _held(), writing(_systems()):
        pointed = tags()
        for place, kept in (
            (_systems(), {p.system for p in pointed}),
            (_calibrations(), {p.calibration for p in pointed}),
        ):
            for folder in sorted(place.iterdir()) if place.is_dir() else []:
                if folder.name not in kept:
                    size += _size(folder)
                    shutil.rmtree(folder)
                    # A draft, of a process that was killed, begins with a dot.
                    removed += [folder.name] if place == _systems() and folder.name[0] != "." else []
    return removed, size


def find(text: str) -> Pointed | None:
    """What a tag points at, or for `NAME@DIGEST` what one of that name's tags once did; None for no tag.

    Of several calibrations that a System had there the last one is meant, unless it is named too.
    """
    if earlier := _EARLIER.fullmatch(text):
        name, which = earlier["name"], earlier["which"]
        past = [p for p in history(name) if p.action == "tag"] if _fits(_NAME, name) else []
        return next((p for p in reversed(past) if which in (p.system, p.which)), None)
    try:
        tag = read_tag(text)
    except TaskError:
        return None
    return _now(tag.name).get(tag.version)


def load_system(text: str) -> tuple[System, Pointed | None]:
    """Load the System of a folder, a tag or NAME@DIGEST, with its calibration; and the line of the history.

    That is None for a folder. Raises SystemFolderError as `locate` does, or where it isn't whole.
    """
    folder, pointed = locate(text)
    system = System.load(folder)
    if pointed is not None and pointed.calibration != BESIDE:
        system.calibration = _calibration(pointed)
    return system, pointed


def resolve_system(text: str) -> Path:
    """The folder of a System: `text` is such a folder itself, else a tag, or NAME@DIGEST from a history.

    A tag's calibration isn't in that folder: `load_system` brings it along. Raises SystemFolderError where it
    is neither, naming the nearest tags, or the System was pruned.
    """
    return locate(text)[0]


def locate(text: str) -> tuple[Path, Pointed | None]:
    """As `resolve_system`, with the line of the history that names the folder where a tag was given."""
    try:
        if (Path(text) / SPEC_FILE).is_file():
            return Path(text), None
    except OSError as error:
        raise SystemFolderError(
            f"no System at {shown(text)}: {error.strerror}; give a folder with a {SPEC_FILE}, or a tag"
        ) from None
    pointed = find(text)
    if pointed is None:
        raise SystemFolderError(
            f"no System at {shown(text)}: it is neither a folder with a {SPEC_FILE}, such as a run's "
            f"`winner`, nor a tag{_nearest(text)}{_as_model(text)}"
        )
    folder = system_folder(pointed.system)
    if not folder.is_dir():
        raise SystemFolderError(
            f"the System {pointed.system} of {shown(text)} is in the registry no longer; tag its folder again"
        )
    return folder, pointed


def names_model(text: str) -> bool:
    """Whether a text that names no System names a base model: of the catalog, of a hub, or files of weights.

    What has the form of a hub id (`org/name`) is none where a folder `org` is here: it's a path with a slip.
    """
    path = expanded(text)
    if entry_named(text) is not None or offered_named(text) is not None:
        return True
    if text.startswith("hf:") or path.suffix == ".gguf":
        return True
    try:
        if path.exists():
            # A run is none either: its `winner` is meant.
            return path.is_dir() and not any((path / name).is_file() for name in (SPEC_FILE, RUN_FILE))
        return HUB_ID.fullmatch(text) is not None and not path.parent.is_dir()
    except OSError:  # a text that is too long for a path
        return False


def system_folder(digest: str) -> Path:
    """Where a tagged System lies, unless it was pruned."""
    return _systems() / digest


def _nearest(text: str) -> str:
    """The tags most like a text, as the end of a message."""
    try:
        known = [str(pointed.tag) for pointed in tags()]
    except RunError:
        return ""  # Another name's damaged history is not what was asked about.
    spelled = {**{tag.removesuffix(f":{LATEST}"): tag for tag in known}, **{tag: tag for tag in known}}
    name = text.partition(":")[0]
    same = [tag for tag in known if tag.startswith(f"{name}:")]
    near = list(dict.fromkeys([*same, *(spelled[hit] for hit in get_close_matches(text, spelled, n=5))]))[:3]
    if near:
        return f"; did you mean {' or '.join(near)}?"
    if known:
        return "; `rung tags` shows those that there are"
    return "; there are no tags yet, `rung tag SYSTEM NAME` makes one"


def _as_model(text: str) -> str:
    """What is to be said where it may be a model that is meant, as the end of a message."""
    if entry_named(text) is not None or offered_named(text) is not None:
        return "; it names a model: `rung climb` makes Systems with one, `rung serve` serves one as it is"
    names = [entry.name for entry in (*CATALOG, *OFFERED)]
    near = get_close_matches(text.lower(), names, n=2, cutoff=0.75)
    return f"; models by a like name: {', '.join(near)}" if near else ""


def _now(name: str) -> dict[str, Pointed]:
    """What each version points at after the last event of its tag."""
    found = {pointed.version: pointed for pointed in history(name)}
    return {version: pointed for version, pointed in found.items() if pointed.action == "tag"}


def _names() -> list[str]:
    """The names that have a history."""
    found = (_registry() / TAGS_FOLDER).glob("*.jsonl")
    return sorted(path.stem for path in found if _fits(_NAME, path.stem))


def _append(name: str, events: Iterable[Pointed]) -> None:
    append_jsonl(_history_file(name), [_POINTED.dump_python(event, mode="json") for event in events])


def _stored(system: System) -> Path:
    """The System's folder in the registry, copied there unless it is there and whole.

    Raises SystemFolderError where the calibration that an older tag has there is damaged.
    """
    folder = system_folder(system.digest)
    beside = read_calibration(folder, system.digest)
    try:
        whole = System.load(folder).spec == system.spec
    except SystemFolderError:
        whole = False
    if not whole:
        plain = System(system.folder, system.spec)
        plain.calibration = beside
        copy(plain, folder)
    return folder


def _stored_calibration(system: System) -> str | None:
    """The digest under which the registry has the System's calibration; None where it has none."""
    if system.calibration is None:
        return None
    digest = calibration_digest(system.digest, system.calibration)[:DIGEST_CHARS]
    write_calibration(_calibrations() / digest, system.digest, system.calibration)
    return digest


def _calibration(pointed: Pointed) -> Calibration | None:
    """The calibration that a tag names. Raises SystemFolderError where it is gone or damaged."""
    if pointed.calibration is None:
        return None
    found = read_calibration(_calibrations() / pointed.calibration, pointed.system)
    if found is None:
        raise SystemFolderError(
            f"the calibration {pointed.calibration} of {str(pointed.tag)!r} is in the registry no longer; "
            "tag its folder again"
        )
    return found


def _size(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def _held() -> Iterator[None]:
    """Keep other processes from changing the registry."""
    with locked(_registry() / LOCK_FILE):
        yield


def _fits(pattern: re.Pattern[str], text: str) -> bool:
    return len(text) <= LONGEST and pattern.fullmatch(text) is not None


def _registry() -> Path:
    return home_dir() / REGISTRY_FOLDER


def _systems() -> Path:
    return _registry() / SYSTEMS_FOLDER


def _calibrations() -> Path:
    return _registry() / CALIBRATIONS_FOLDER


def _history_file(name: str) -> Path:
    return _registry() / TAGS_FOLDER / f"{name}.jsonl"
