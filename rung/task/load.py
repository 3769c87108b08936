"""Reading a task: a task folder, a .yaml file, or a bare data file."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from rung.errors import TaskError
from rung.task.model import (
    ONE_PRICE,
    PRICES_BY_NAME,
    DataFiles,
    JudgeSpec,
    Limits,
    Output,
    Prices,
    Task,
    Tuning,
)
from rung.task.outputs import read_json, shown
from rung.task.schemas import check_schema
from rung.task.text import BOM, utf8

MAX_BYTES = 256 * 1024
MAX_DEPTH = 64
DATABASE_HEADER = b"SQLite format 3\x00"
PLAIN_STEMS = {"train", "data", "rows"}
"""File names that say nothing about the job: the folder's name is taken instead."""
MODELS: dict[tuple[str, ...], type[BaseModel]] = {
    (): Task,
    ("data",): DataFiles,
    ("output",): Output,
    ("tuning",): Tuning,
    ("limits",): Limits,
    ("prices",): Prices,
    ("judge",): JudgeSpec,
}

WANTED: dict[tuple[str, ...], str] = {
    (): "data: {train: rows.jsonl}",
    ("judge",): "judge: {model: openai:NAME}",
    ("prices",): "prices: {input_usd_per_m: 0.25, output_usd_per_m: 2.0}",
}
"""By the place, how keys are written that can't be left out."""


class _Yaml(yaml.SafeLoader):
    """YAML 1.2 scalars (no is a word, 1:30 is no number), and no key twice."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None:
                raise yaml.MarkedYAMLError(problem="a key must be a word", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_Yaml.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(null|~|)\Z"), ["n", "~", ""])
_Yaml.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(true|false)\Z"), ["t", "f"])
_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"-?(0|[1-9][0-9]{0,17})\Z"), list("-0123456789")
)
_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?\Z"),
    list("-0123456789"),
)


def load_task(path: Path, *, test: Path | None = None, models: Sequence[str] = ()) -> Task:
    """The task at `path`: a folder with a task.yaml, a .yaml file, or a bare data file.

    `test` names the test rows, over what the file says. `models` are those that a command names in place of
    the file's: it may have prices of them, too. TaskError, one line per fault, for anything that can't be
    read, isn't known, or names a file that isn't there.
    """
    file = _task_file(path)
    _check_name(file.absolute())
    if file.suffix in (".yaml", ".yml"):
        given = _read_yaml(file)
    else:
        given = {"data": {"train": file.name}}
    if test is not None and isinstance(given.get("data"), dict):
        given = {**given, "data": {**given["data"], "test": str(test.absolute())}}
    given = {"name": _name_from(file), **given}
    if isinstance(given.get("output"), dict) and given["output"].get("schema") is not None:
        schema = _load_schema(given["output"]["schema"], file)
        given = {**given, "output": {**given["output"], "schema": schema}}
    try:
        context = {"folder": file.parent.absolute(), "models": tuple(models)}
        task = Task.model_validate(given, context=context)
    except ValidationError as error:
        raise TaskError("\n".join(_fault(file, fault) for fault in error.errors())) from error
    for key in ("train", "test", "documents", "unlabelled", "database"):
        named: Path | None = getattr(task.data, key)
        if named is not None and not named.exists():
            raise TaskError(f"{file}: data.{key}: no such file: {str(named)!r}{_near(named)}")
        if named is not None:
            _check_name(named)
    if task.judge is not None and (sheet := task.judge.checked) is not None and not sheet.is_file():
        raise TaskError(f"{file}: judge.checked: no such file: {str(sheet)!r}{_near(sheet)}")
    if task.data.database is not None and not _is_database(task.data.database):
        raise TaskError(
            f"{file}: data.database: no SQLite file: {str(task.data.database)!r}; name one that is"
        )
    return task


def _task_file(path: Path) -> Path:
    if path.is_dir():
        for name in ("task.yaml", "task.yml"):
            if (path / name).is_file():
                return path / name
        raise TaskError(
            f"{path}: no task.yaml in this folder; write one, or name a data file such as rows.jsonl"
        )
    if not path.is_file():
        raise TaskError(f"no such file: {str(path)!r}{_near(path)}")
    return path


def _check_name(path: Path) -> None:
    """TaskError for a name that no report could hold."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise TaskError(f"the name {str(path)!r} isn't UTF-8; rename that file or folder") from None


def _is_database(path: Path) -> bool:
    """Whether a file begins as those of SQLite do. TaskError where it can't be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(DATABASE_HEADER)) == DATABASE_HEADER
    except OSError as error:
        raise TaskError(f"can't read {path}: {error.strerror}; mend that and run it again") from None


def _near(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; its folder {str(path.parent)!r} does not exist either"
    names = sorted(entry.name for entry in path.parent.iterdir())
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "; check the path"


def _name_from(file: Path) -> str:
    absolute = file.absolute()
    if file.suffix in (".yaml", ".yml"):
        plain = file.stem == "task"
    else:
        plain = file.stem.lower() in PLAIN_STEMS
    raw = absolute.parent.name if plain else file.stem
    # Not \w: Python's has characters such as ², which the pattern of a task's name has not.
    kept = "".join(c if c.isalpha() or c.isdecimal() or c in "_.-" else " " for c in raw)
    return "-".join(kept.split()).strip("-.")[:80] or "task"


def _read_yaml(file: Path) -> dict[Any, Any]:
    """The mapping in the file. Aliases, tags, big or deep files are refused before they are built."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise TaskError(f"can't read {file}: {error.strerror}; mend that and run it again") from None
    if len(raw) > MAX_BYTES:
        raise TaskError(
            f"{file}: larger than {MAX_BYTES} bytes; put rows and schemas into files of their own"
        )
    try:
        text = utf8(raw.removeprefix(BOM))
    except UnicodeDecodeError as error:
        raise TaskError(f"{file}: not UTF-8 at byte {error.start + 1}; save it as UTF-8") from error
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_Yaml):
            if isinstance(event, yaml.AliasEvent):
                raise TaskError(f"{_at(file, event.start_mark)}: aliases (*name) are not read; write it out")
            if getattr(event, "tag", None) is not None:
                raise TaskError(f"{_at(file, event.start_mark)}: tags (!name) are not read; take it out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise TaskError(f"{_at(file, event.start_mark)}: nested deeper than {MAX_DEPTH} levels")
        given = yaml.load(text, Loader=_Yaml)  # a SafeLoader: builds plain values only
    except yaml.MarkedYAMLError as error:
        raise TaskError(f"{_at(file, error.problem_mark)}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise TaskError(f"{file}: not valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(given, dict):
        raise TaskError(
            f"{file}: must be keys and values such as 'data: {{train: rows.jsonl}}', not {shown(given)}"
        )
    return given


def _at(file: Path, mark: Any) -> str:
    return f"{file}:{mark.line + 1}" if mark is not None else str(file)


def _load_schema(given: object, file: Path) -> object:
    if isinstance(given, dict):
        return check_schema(given, f"{file}: output.schema")
    if not isinstance(given, str) or given.lstrip().startswith("{"):
        raise TaskError(
            f"{file}: output.schema: name a file or write the schema itself as keys, not {shown(given)}"
        )
    path = (file.parent / given).absolute()
    if not path.is_file():
        raise TaskError(f"{file}: output.schema: no such file: {str(path)!r}{_near(path)}")
    try:
        schema = read_json(utf8(path.read_bytes().removeprefix(BOM)))
    except OSError as error:
        raise TaskError(f"can't read {path}: {error.strerror}; mend that and run it again") from None
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: not UTF-8 at byte {error.start + 1}; save it as UTF-8") from None
    except ValueError as error:
        raise TaskError(f"{path}: not JSON: {error}; a JSON Schema file is needed here") from error
    return check_schema(schema, str(path))


def _fault(file: Path, fault: Any) -> str:
    """One pydantic fault as a line: where, what, the value, the way out."""
    loc = _as_written(fault["loc"])
    place, key = loc[:-1], ".".join(str(part) for part in loc)
    if fault["type"] == "extra_forbidden":
        return f"{file}: unknown key {key!r}; {_nearest_key(place, str(loc[-1]))}"
    if fault["type"] == "missing":
        return f"{file}: key {key!r} is missing; write '{WANTED.get(_kind(place), WANTED[()])}'"
    if fault["type"] == "value_error":
        return f"{file}: {key}: {fault['ctx']['error']}"
    message = str(fault["msg"]).removeprefix("Input ")
    if fault["type"] == "too_short":
        message = f"needs at least {fault['ctx']['min_length']}"
    if fault["type"] == "string_pattern_mismatch":
        message = "use letters, digits, '_', '.' and '-' only, 80 at most"
    if fault["type"] in ("model_type", "dict_type"):
        message = f"needs keys and values: {', '.join(_keys(loc))}"
    return f"{file}: {key}: {message}, not {shown(fault['input'])}"


def _as_written(loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Where a fault is in the file: without the form in which `prices` were read."""
    return (loc[0], *loc[2:]) if loc[1:2] in ((ONE_PRICE,), (PRICES_BY_NAME,)) else loc


def _kind(place: tuple[str | int, ...]) -> tuple[str, ...]:
    """A place whose keys are known: a model's price has those of one price."""
    return ("prices",) if place[:1] == ("prices",) else tuple(str(part) for part in place)


def _keys(place: tuple[str | int, ...]) -> list[str]:
    model = MODELS.get(_kind(place), Task)
    return [field.alias or name for name, field in model.model_fields.items()]


def _nearest_key(place: tuple[str | int, ...], key: str) -> str:
    known = _keys(place)
    close = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
