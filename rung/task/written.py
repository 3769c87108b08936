"""A task as a commented task.yaml, and the JSON Schema by which editors know its keys."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rung.task.model import Task

_WORDS = re.compile(r"[A-Za-z][\w-]*( [\w-]+)*", re.ASCII)
TAKEN = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
"""Words that YAML, in one version or another, takes for something else than text."""


def task_yaml(given: Mapping[str, Any], heading: Sequence[str]) -> str:
    """Every key of a task file under its explanation: those in `given` as they are, the others after a `#`.

    `given` is nested as the file is; a value is what JSON can hold or a Path.
    """
    lines = [f"# {line}" for line in heading]
    for name, field in Task.model_fields.items():
        lines += ["", *_entry(name, field, given, "")]
    return "\n".join(lines) + "\n"


def task_schema() -> dict[str, Any]:
    """The JSON Schema of a task file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Task.model_json_schema()}


def _entry(name: str, field: FieldInfo, given: Mapping[str, Any], indent: str) -> list[str]:
    key = field.alias or name
    lines = [f"{indent}# {field.description}"]
    part = field.annotation
    if isinstance(part, type) and issubclass(part, BaseModel):
        inner = given.get(key, {})
        lines.append(f"{indent}{'' if inner else '#'}{key}:")
        for inner_name, inner_field in part.model_fields.items():
            lines += _entry(inner_name, inner_field, inner, indent + "  ")
    elif key not in given:
        lines.append(f"{indent}#{key}: {_value(field.get_default(call_default_factory=True))}")
    elif isinstance(given[key], (list, tuple)):
        lines += [f"{indent}{key}:", *(f"{indent}  - {_value(item)}" for item in given[key])]
    else:
        lines.append(f"{indent}{key}: {_value(given[key])}")
    return lines


def _value(value: Any) -> str:
    """A value on one line. Text that could be read as something else is quoted."""
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str):
        plain = _WORDS.fullmatch(value) and value.lower() not in TAKEN
        return value if plain else _dumped(value, '"')
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    return _dumped(value, None)


def _dumped(value: Any, style: str | None) -> str:
    text: str = yaml.safe_dump(value, default_style=style, allow_unicode=True, width=10**9)
    return text.removesuffix("\n").removesuffix("\n...")
