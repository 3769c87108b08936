"""The smallest answer that a JSON Schema admits, for engines without weights."""

from collections.abc import Mapping

from rung.errors import EngineError
from rung.records import Json
from rung.task.parts import local_part
from rung.task.validator import validator_of

EMPTY: Mapping[str, Json] = {"string": "", "boolean": False, "null": None}


def smallest(schema: Json) -> Json:
    """A smallest valid instance of `schema`: required properties only, empty strings, least numbers.

    Raises EngineError where none is found by that rule (a `pattern` or `format` on a required string).
    """
    value = _smallest(schema, schema)
    if not isinstance(schema, dict):
        return value
    fault = next(iter(validator_of(schema).iter_errors(value)), None)
    if fault is not None:
        raise EngineError(
            f"the fake engine found no instance of the JSON Schema: {fault.message} at {fault.json_path}; "
            "give it `answers`"
        )
    return value


def _smallest(schema: Json, root: Json) -> Json:
    if not isinstance(schema, dict):
        return None
    if "$ref" in schema:
        return _smallest(local_part(str(schema["$ref"]), root), root)
    if "const" in schema:
        return schema["const"]
    for key in ("enum", "anyOf", "oneOf"):
        options = schema.get(key)
        if isinstance(options, list) and options:
            return (
                options[0] if key == "enum" else _smallest({**schema, key: [], **_object(options[0])}, root)
            )
    kind = schema.get("type", "object" if "properties" in schema else "null")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        properties, required = _object(schema.get("properties")), schema.get("required")
        names = required if isinstance(required, list) else []
        return {str(name): _smallest(properties.get(str(name)), root) for name in names}
    if kind == "array":
        first = schema.get("prefixItems")
        items = list(first) if isinstance(first, list) else []
        size = _number(schema, "minItems", 0)
        items += [schema.get("items")] * max(0, int(size) - len(items))
        return [_smallest(item, root) for item in items[: int(size)]]
    if kind == "string":
        return "a" * int(_number(schema, "minLength", 0))
    if kind in ("integer", "number"):
        return _least_number(schema, kind == "integer")
    return EMPTY.get(str(kind))


def _least_number(schema: dict[str, Json], whole: bool) -> int | float:
    """0 if it is allowed, else the bound nearest to it, one step inside where the bound is exclusive."""
    step = _number(schema, "multipleOf", 1)
    low = max(_number(schema, "minimum", -float("inf")), _number(schema, "exclusiveMinimum", -float("inf")))
    high = min(_number(schema, "maximum", float("inf")), _number(schema, "exclusiveMaximum", float("inf")))
    value: int | float = 0
    if low > 0 or low == schema.get("exclusiveMinimum") == 0:
        value = -(-low // step) * step
        value += step if value == schema.get("exclusiveMinimum") else 0
    elif high < 0 or high == schema.get("exclusiveMaximum") == 0:
        value = high // step * step
        value -= step if value == schema.get("exclusiveMaximum") else 0
    return int(value) if whole else value


def _object(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}


def _number(schema: dict[str, Json], key: str, default: float) -> int | float:
    value = schema.get(key, default)
    return value if isinstance(value, (int, float)) else default
