"""Outputs as the task's kind of answer: reading one, naming the kind of many, showing one in a message."""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence

from rung.records import Json, OutputKind

LABEL_CHARS = 60
"""Longer outputs are sentences, not names of classes."""
MAX_LABELS = 300
ROWS_PER_LABEL = 3
INTEGER_LABELS = 20
"""Whole numbers with at most so many values are taken for class ids or stars, not for measurements."""

MAX_DEPTH = 64

_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
_WHOLE = re.compile(r"[-+]?\d+", re.ASCII)


def shown(value: object, limit: int = 80) -> str:
    """The value's repr for a message, cut to `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def canonical(value: Json) -> str:
    """One spelling per JSON value, so that equal outputs compare equal whatever their key order.

    ValueError for NaN and infinity, TypeError for what JSON doesn't have.
    """
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)


def check_text(text: str) -> None:
    """ValueError when the text holds half of a surrogate pair, which no UTF-8 file can store."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"holds half a character ({text[error.start]!r}) at {error.start + 1}") from error


def check_parts(value: object) -> None:
    """ValueError for text that can't be written as UTF-8, and for nesting that recursion couldn't follow."""
    open_parts = [(value, 0)]
    while open_parts:
        part, depth = open_parts.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(part, str):
            check_text(part)
        elif isinstance(part, list):
            open_parts += [(item, depth + 1) for item in part]
        elif isinstance(part, dict):
            open_parts += [(item, depth + 1) for item in (*part, *part.values())]


def read_json(text: str) -> Json:
    """Parse JSON strictly.

    ValueError says why not: broken, NaN or Infinity, a key twice, half a character, too deep.
    """
    try:
        value: Json = json.loads(
            text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_each_once
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"broken JSON at column {error.colno} ({error.msg})") from error
    except RecursionError as error:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from error
    if _HALF.search(text) or text.count("[") + text.count("{") > MAX_DEPTH:
        check_parts(value)
    return value


def as_kind(value: Json, kind: OutputKind) -> Json:
    """The output read as `kind`; None where it can't be.

    A label and a text are strings (numbers and booleans are spelled as in JSON, labels lose outer
    blanks); a number is a finite float; json is an object or a list, also when given as a string; a tool_call
    is a list of calls, as `as_calls` reads it.
    """
    if kind == "label":
        return _as_label(value)
    if kind == "number":
        return _as_number(value)
    if kind == "json":
        return _as_json(value)
    if kind == "tool_call":
        return as_calls(value)
    return _scalar_text(value)


def as_calls(value: Json) -> list[Json] | None:
    """An output as a list of calls; None where it is none.

    A list, also as JSON text or as `{"calls": […]}`, of calls with a `name` and `arguments`, or in OpenAI's
    form, whose arguments are JSON text.
    """
    if isinstance(value, str):
        try:
            value = read_json(value)
        except ValueError:
            return None
    if isinstance(value, dict) and value.keys() == {"calls"}:
        value = value["calls"]
    if not isinstance(value, list):
        return None
    calls = [_as_call(one) for one in value]
    return [one for one in calls if one is not None] if None not in calls else None


def _as_call(value: Json) -> dict[str, Json] | None:
    if not isinstance(value, dict):
        return None
    inner = value.get("function")
    call = inner if isinstance(inner, dict) else value
    name, arguments = call.get("name"), call.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = read_json(arguments)
        except ValueError:
            return None
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    return {"name": name, "arguments": arguments}


def kind_of(values: Sequence[Json]) -> OutputKind | None:
    """The kind that all these outputs share, or None when some are objects or lists and some are not."""
    structured = sum(isinstance(value, (dict, list)) for value in values)
    if structured:
        return "json" if structured == len(values) else None
    if all(isinstance(_as_json(value), dict) for value in values):
        return "json"
    if all(_as_number(value) is not None for value in values):
        whole = all(_WHOLE.fullmatch(str(value).strip()) for value in values)
        few = len({str(value) for value in values}) <= INTEGER_LABELS
        return "label" if whole and few and _are_labels(values) else "number"
    return "label" if _are_labels(values) else "text"


def _are_labels(values: Sequence[Json]) -> bool:
    """Few distinct short strings, nearly every one of them seen more than once."""
    labels = [_as_label(value) for value in values]
    if any(label is None or len(label) > LABEL_CHARS or "\n" in label for label in labels):
        return False
    counts = Counter(labels)
    once = sum(count == 1 for count in counts.values())
    return (
        len(counts) <= min(MAX_LABELS, max(2, len(labels) // ROWS_PER_LABEL))
        and once <= max(1, 0.05 * len(labels))
        and once < len(labels)
    )


def _scalar_text(value: Json) -> str | None:
    if value is None or isinstance(value, (dict, list)):
        return None
    return json.dumps(value) if not isinstance(value, str) else value


def _as_label(value: Json) -> str | None:
    text = _scalar_text(value)
    return text.strip() or None if text is not None else None


def _as_number(value: Json) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str) and not _NUMBER.fullmatch(value.strip()):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _as_json(value: Json) -> Json:
    if isinstance(value, str):
        if not value.lstrip().startswith(("{", "[")):
            return None
        try:
            value = read_json(value)
        except ValueError:
            return None
    return value if isinstance(value, (dict, list)) else None


def _refuse(constant: str) -> Json:
    raise ValueError(f"{constant} is no JSON value")


def _each_once(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {shown(twice, 40)} twice in one object")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"number {text[:40]} is too large")
    return number
