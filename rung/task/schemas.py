"""JSON Schemas of a task's answers: checking the user's, and inferring one from the rows."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rung.errors import TaskError
from rung.records import Json
from rung.task.outputs import check_parts
from rung.task.parts import by_pointers, objects_in
from rung.task.patterns import pattern_fault

INFERRED = "inferred by rung from the training and dev rows"
"""The `$comment` of a schema that nobody wrote: a test row outside it is no fault of the user's."""

MAX_SINGLE_SHARE = 0.01
"""Good-Turing: the chance that the next row brings an unseen value is about (values seen once) / rows."""
MIN_ROWS_FOR_ENUM = 20
MAX_ENUM = 50
MAX_FIXED_KEYS = 64


def check_schema(schema: object, where: str) -> dict[str, Any]:
    """The schema itself, its references as `by_pointers` has them, when it is a valid JSON Schema.

    Raises TaskError for one that isn't, or that refers to anything but itself.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    if not isinstance(schema, dict):
        raise TaskError(f"{where}: a JSON Schema is an object, not {type(schema).__name__}")
    if not isinstance(schema.get("$schema", ""), str):
        raise TaskError(f"{where}: $schema must be a string, not {schema['$schema']!r:.80}")
    try:
        check_parts(schema)
    except ValueError as error:
        raise TaskError(f"{where}: the schema {error}; correct it") from None
    # First: jsonschema compiles them too, and raises what re does for a number that is too large.
    for part in objects_in(schema):
        _check_patterns(part, where)
    try:
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except SchemaError as error:
        at = "/".join(str(part) for part in error.absolute_path) or "the top"
        raise TaskError(f"{where}: not a valid JSON Schema: at {at}: {error.message[:200]}") from error
    except RecursionError as error:
        raise TaskError(f"{where}: the schema is nested too deeply; write it flatter") from error
    return by_pointers(schema, where)


def infer_schema(values: Sequence[Json]) -> dict[str, Any]:
    """A JSON Schema that accepts all `values` and is closed to keys that none of them has.

    A key is required when every object has it. Strings become an enum only when the rows make an
    unseen value unlikely. An object with many keys that rarely recur is taken for a map.
    """
    return {"$comment": INFERRED, **_schema_of(list(values))}


def is_inferred(schema: dict[str, Any]) -> bool:
    """Whether `infer_schema` made it."""
    return schema.get("$comment") == INFERRED


def _check_patterns(part: dict[str, Any], where: str) -> None:
    named = part.get("patternProperties")
    patterns = [part.get("pattern"), *(named if isinstance(named, dict) else ())]
    for pattern in (one for one in patterns if isinstance(one, str)):
        fault = pattern_fault(pattern)
        if fault is not None:
            raise TaskError(
                f"{where}: pattern {pattern[:80]!r} can't be read ({fault}); write it as Python's re does"
            )


def _schema_of(values: list[Json]) -> dict[str, Any]:
    objects = [value for value in values if isinstance(value, dict)]
    arrays = [value for value in values if isinstance(value, list)]
    scalars = [value for value in values if not isinstance(value, (dict, list))]
    options = []
    if objects:
        options.append(_object_schema(objects))
    if arrays:
        items = [item for array in arrays for item in array]
        options.append({"type": "array", "items": _schema_of(items)} if items else {"type": "array"})
    if scalars:
        options.append(_scalar_schema(scalars))
    return options[0] if len(options) == 1 else {"anyOf": options}


def _object_schema(objects: list[dict[str, Json]]) -> dict[str, Any]:
    counts = Counter(key for value in objects for key in value)
    once = sum(count == 1 for count in counts.values())
    if len(counts) > MAX_FIXED_KEYS and once > MAX_SINGLE_SHARE * len(objects):
        members = [member for value in objects for member in value.values()]
        return {"type": "object", "additionalProperties": _schema_of(members)}
    return {
        "type": "object",
        "properties": {key: _schema_of([value[key] for value in objects if key in value]) for key in counts},
        "required": [key for key, count in counts.items() if count == len(objects)],
        "additionalProperties": False,
    }


def _scalar_schema(scalars: Sequence[Json]) -> dict[str, Any]:
    types = sorted({_type_name(value) for value in scalars})
    if "number" in types and "integer" in types:
        types.remove("integer")
    if types == ["string"]:
        counts = Counter(str(value) for value in scalars)
        once = sum(count == 1 for count in counts.values())
        if (
            len(scalars) >= MIN_ROWS_FOR_ENUM
            and len(counts) <= min(MAX_ENUM, len(scalars) // 5)
            and once <= MAX_SINGLE_SHARE * len(scalars)
        ):
            return {"type": "string", "enum": sorted(counts)}
    return {"type": types[0] if len(types) == 1 else types}


def _type_name(value: Json) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    return "number" if isinstance(value, float) else "string"
