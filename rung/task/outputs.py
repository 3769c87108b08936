"""Outputs as the task's kind of answer: reading one, naming the kind of many, showing one in a message."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence

from rung.records import Json, OutputKind
from rung.task.accepted import MORE_KEYS, is_leaderboard_call, more_of, of_leaderboard

LABEL_CHARS = 60
"""Longer outputs are sentences, not names of classes."""
MAX_LABELS = 300
ROWS_PER_LABEL = 3
INTEGER_LABELS = 20
"""Whole numbers with at most so many values are taken for class ids or stars, not for measurements."""
MOST_DISTINCT = 2 / 3
"""Where names come again so that no larger share of them is distinct, they may be classes with few rows."""
NEARLY_ALL, FEWEST_ALIKE = 0.95, 20
"""Where this share of the outputs is of one kind, and so many of them, the others are taken for faults."""

MAX_DEPTH = 64
EXACT = 2.0**53
"""Under it a float is the whole number that was written."""

_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?", re.ASCII)
_WRITTEN_AS_CODE = re.compile(r"0\d+|\+\d{7,}", re.ASCII)
_DIGITS = re.compile(r"\d{16,}", re.ASCII)
"""Whole numbers that a float may hold as others."""


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
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise ValueError(f"broken JSON at {line}column {error.colno} ({error.msg})") from error
    except RecursionError as error:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from error
    if _HALF.search(text) or text.count("[") + text.count("{") > MAX_DEPTH:
        check_parts(value)
    return value


def as_kind(value: Json, kind: OutputKind) -> Json:
    """The output read as `kind`; None where it can't be.

    A label and a text are strings (numbers and booleans are spelled as in JSON, labels lose outer blanks and
    whole ones their fraction); a number is a finite float; json is an object or a list, also when given as a
    string; a tool_call is a list of calls, as `as_calls` reads it.
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
    """An output as a list of calls, as `read_calls` has it; None where it is none."""
    try:
        return read_calls(value)
    except ValueError:
        return None


def why_not(value: Json, kind: OutputKind) -> str:
    """Why an output is no list of calls, which may be what else they accept; nothing of another kind."""
    if kind != "tool_call":
        return ""
    try:
        read_calls(value)
    except ValueError as error:
        return f": {error}"
    return ""


def read_calls(value: Json) -> list[Json]:
    """An output as a list of calls, with what else they accept. ValueError says why it is none.

    A list, also as JSON text or as `{"calls": […]}`, of calls with a `name` and `arguments`, or in OpenAI's
    form, whose arguments are JSON text, or in that of the Berkeley Function-Calling Leaderboard.
    """
    if isinstance(value, str):
        value = read_json(value)
    if isinstance(value, dict) and value.keys() == {"calls"}:
        value = value["calls"]
    if not isinstance(value, list):
        raise ValueError("it is no list of calls")
    calls: list[Json] = []
    for one in value:
        calls.append(of_leaderboard(one) if is_leaderboard_call(one) else _read_call(one))
    return calls


def are_calls(value: Json) -> bool:
    """Whether an output is meant as a list of calls, be it that what else they accept is wrong."""
    if isinstance(value, str):
        try:
            value = read_json(value)
        except ValueError:
            return False
    calls = value["calls"] if isinstance(value, dict) and value.keys() == {"calls"} else value
    if not isinstance(calls, list):
        return False
    return all(is_leaderboard_call(one) or as_calls([_without_more(one)]) is not None for one in calls)


def _without_more(call: Json) -> Json:
    return {k: v for k, v in call.items() if k not in MORE_KEYS} if isinstance(call, dict) else call


def _read_call(value: Json) -> dict[str, Json]:
    inner = value.get("function") if isinstance(value, dict) else None
    call = inner if isinstance(inner, dict) else value
    if not isinstance(call, dict) or not isinstance(value, dict):
        raise ValueError(f"{shown(value)} is no call")
    name, arguments = call.get("name"), call.get("arguments")
    if isinstance(arguments, str):
        arguments = read_json(arguments)
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        raise ValueError(f"a call needs a name and arguments, not {shown(value)}")
    more = more_of({"name": name, **{key: value.get(key, call.get(key)) for key in MORE_KEYS}})
    return {"name": name, "arguments": arguments, **more}


def kind_of(values: Sequence[Json]) -> tuple[OutputKind | None, tuple[int, ...]]:
    """The kind that all these outputs share or nearly all of them, and the places of those that don't.

    None when some are objects or lists and some are not, and neither are nearly all.
    """
    structured = _places(values, lambda value: isinstance(value, (dict, list)))
    strange = _places(values, lambda value: _as_json(value) is None)
    if structured and is_few(len(strange), len(values)):
        return "json", strange
    if structured and not is_few(len(structured), len(values)):
        return None, ()
    fitting = (found for found in _candidates(values) if is_few(len(found[1]), len(values)))
    return next(fitting, ("text", structured))


def mostly(values: Sequence[Json]) -> tuple[OutputKind, tuple[int, ...]] | None:
    """The kind of more than half of the outputs, if any but text, and the places of the others."""
    return next((found for found in _candidates(values) if 2 * len(found[1]) < len(values)), None)


def _candidates(values: Sequence[Json]) -> Iterator[tuple[OutputKind, tuple[int, ...]]]:
    """The kinds that outputs may be of, the narrowest first, each with the places of those that aren't."""
    yield "json", _places(values, lambda value: not isinstance(_as_json(value), dict))
    strange = _places(values, lambda value: _as_number(value) is None)
    if not _are_ids(_without(values, strange)):
        yield "number", strange
    strange = _places(values, lambda value: not is_name(value))
    if are_labels(_without(values, strange)):
        yield "label", strange


def is_few(strange: int, of: int) -> bool:
    """Whether so few outputs are unlike the others that they are taken for faults; so is none at all."""
    return not strange or (strange <= (1 - NEARLY_ALL) * of and of - strange >= FEWEST_ALIKE)


def is_name(value: Json) -> bool:
    """Whether an output is short enough to be the name of a class."""
    label = _as_label(value)
    return label is not None and len(label) <= LABEL_CHARS and "\n" not in label


def are_labels(values: Sequence[Json]) -> bool:
    """Whether outputs are few distinct short strings, nearly every one of them seen more than once."""
    if not all(map(is_name, values)):
        return False
    counts = Counter(map(_as_label, values))
    once = sum(count == 1 for count in counts.values())
    return (
        len(counts) <= min(MAX_LABELS, max(2, len(values) // ROWS_PER_LABEL))
        and once <= max(1, 0.05 * len(values))
        and once < len(values)
    )


def come_again(values: Sequence[Json]) -> bool:
    """Whether outputs are short strings of which a third or more were seen before: classes, it may be."""
    return all(map(is_name, values)) and len(set(map(_as_label, values))) <= MOST_DISTINCT * len(values)


def are_codes(values: Sequence[Json]) -> bool:
    """Whether numbers are codes, such as those of post, telephones and parcels: of one length, or often.

    A code has a zero in front, a plus and many digits, or more digits than a float keeps.
    """
    texts = [str(value).strip() for value in values if isinstance(value, (str, int))]
    codes = sum(map(_is_code, texts))
    of_one_length = len(texts) == len(values) and len(set(map(len, texts))) == 1
    return bool(codes) and (of_one_length or not is_few(codes, len(values)))


def _is_code(text: str) -> bool:
    if _WRITTEN_AS_CODE.fullmatch(text):
        return True
    return _DIGITS.fullmatch(text) is not None and f"{float(text):.0f}" != text


def _are_ids(numbers: Sequence[Json]) -> bool:
    """Whether numbers are codes, or few whole ones that stand for classes."""
    if are_codes(numbers):
        return True
    read = [_as_number(value) for value in numbers]
    whole = all(number is not None and number.is_integer() for number in read)
    return whole and len(set(read)) <= INTEGER_LABELS and are_labels(numbers)


def _places(values: Sequence[Json], fits: Callable[[Json], bool]) -> tuple[int, ...]:
    return tuple(place for place, value in enumerate(values) if fits(value))


def _without(values: Sequence[Json], places: Collection[int]) -> list[Json]:
    left = set(places)
    return [value for place, value in enumerate(values) if place not in left]


def _scalar_text(value: Json) -> str | None:
    if value is None or isinstance(value, (dict, list)):
        return None
    return json.dumps(value) if not isinstance(value, str) else value


def _as_label(value: Json) -> str | None:
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
        value = int(value)  # a table with an empty cell has its whole numbers as floats
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
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key in counts if counts[key] > 1)
        raise ValueError(f"key {shown(twice, 40)} twice in one object")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"number {text[:40]} is too large")
    return number
