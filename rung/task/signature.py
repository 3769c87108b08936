"""A function's signature: its arguments as a JSON Schema, and whether that can be followed."""

import json
from collections.abc import Collection, Iterator, Mapping
from itertools import product
from typing import Any

from rung.errors import TaskError
from rung.records import Json
from rung.task.kept import kept_if_short
from rung.task.outputs import MAX_DEPTH
from rung.task.parts import REFERENCES, named_part, over_parts, pointing
from rung.task.schemas import check_schema

NAMES = ("object", "array", "string", "number", "integer", "boolean", "null")
TYPES = {
    "dict": "object",
    "hashmap": "object",
    "map": "object",
    "list": "array",
    "tuple": "array",
    "arraylist": "array",
    "set": "array",
    "str": "string",
    "char": "string",
    "float": "number",
    "double": "number",
    "int": "integer",
    "long": "integer",
    "bool": "boolean",
}
"""Types as other languages name them. Any other name, such as `any`, admits everything."""
UNREAD = frozenset({"type", "required", "$schema", "$id", "title", "description", "examples", "$comment"})
"""Keywords that are read otherwise than they are written, or that only describe."""
SAME_VALUE = ("anyOf", "oneOf", "allOf", "not", "if", "then", "else")
"""Keywords whose schemas are held against the value itself, and not a part of it."""


def parameters_of(function: Mapping[str, Any], *, words: Collection[str] = ()) -> dict[str, Any]:
    """The JSON Schema of a function's arguments, which admits no others than it names unless it says so.

    `words` are the keywords that only describe and stay nevertheless, where they hold a text.
    """
    found = function.get("parameters")
    schema = _typed(pointing(found), words) if isinstance(found, dict) else {}
    schema["type"] = "object"
    if isinstance(schema.get("properties"), dict):
        schema.setdefault("additionalProperties", False)
        schema["required"] = [k for k in schema.get("required", ()) if k in schema["properties"]]
    return schema


def at_place(schema: Any, place: str) -> Any:
    """A schema that refers to itself as a part of another one, at the JSON pointer `place` there."""
    if not isinstance(schema, dict):
        return schema
    made = over_parts(schema, lambda part: at_place(part, place))
    for key in REFERENCES:
        if isinstance(made.get(key), str) and made[key].startswith("#"):
            made[key] = place + made[key].removeprefix("#")
    return made


def signature_fault(function: Mapping[str, Any]) -> str | None:
    """Why no arguments can be held against a function's signature; None where they can."""
    return _fault(str(function["name"]), json.dumps(parameters_of(function)))


@kept_if_short(1024)
def _fault(name: str, text: str) -> str | None:
    schema, where = json.loads(text), f"the schema of {name!r}"
    try:
        check_schema(schema, where)
    except TaskError as error:
        return str(error)
    parts = list(_parts(schema))
    places = {id(part) for part in parts}
    for part, key in product(parts, REFERENCES):
        named = None if part.get(key) is None else named_part(str(part[key]), schema)
        if key in part and not isinstance(named, bool) and id(named) not in places:
            return f"{where}: {key} {part[key][:80]!r} leads nowhere; correct it"
    done = set[str]()
    try:
        returns = any(_returns(part, schema, (), done) for part in parts)
    except RecursionError:
        returns = True
    return f"{where}: a $ref leads back to itself; a part must get smaller each time" if returns else None


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """The schema and every one in it."""
    left = [schema]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            yield part
            over_parts(part, left.append)


def _returns(part: Json, root: Json, through: tuple[str, ...], done: set[str]) -> bool:
    """Whether references from a part come back, for one value, to one of those `through` which they went.

    So many that no validator could follow them count as such. Those in `done` were followed before.
    """
    if not isinstance(part, dict):
        return False
    options = [part[key] for key in SAME_VALUE if key in part]
    below = [one for some in options for one in (some if isinstance(some, list) else [some])]
    if any(_returns(one, root, through, done) for one in below):
        return True
    reference = part.get("$ref")
    if not isinstance(reference, str) or reference in done:
        return False
    if reference in through or len(through) == MAX_DEPTH:
        return True
    if _returns(named_part(reference, root), root, (*through, reference), done):
        return True
    done.add(reference)
    return False


def _typed(part: Any, words: Collection[str] = ()) -> Any:
    """A schema with types as JSON Schema names them, and of what only describes with the `words` alone."""
    if not isinstance(part, dict):
        return part
    made = {
        key: value
        for key, value in over_parts(part, lambda below: _typed(below, words)).items()
        if key not in UNREAD or (key in words and isinstance(value, str))
    }
    if isinstance(first := part.get("items"), list):
        # As drafts before 2020-12 write a tuple.
        made |= {
            "prefixItems": [_typed(one, words) for one in first],
            "items": _typed(part.get("additionalItems", True), words),
        }
    if not isinstance(made.get("properties", {}), dict):
        del made["properties"]
    if isinstance(part.get("required"), list):
        made["required"] = list(dict.fromkeys(key for key in part["required"] if isinstance(key, str)))
    kinds = part.get("type")
    if isinstance(kinds, str):
        kinds = [kinds]
    if isinstance(kinds, list):
        named = [TYPES.get(str(kind).lower(), str(kind).lower()) for kind in kinds]
        if named and all(name in NAMES for name in named):
            made["type"] = named[0] if len({*named}) == 1 else list(dict.fromkeys(named))
    return made
