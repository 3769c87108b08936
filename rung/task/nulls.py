"""Nulls for what isn't there: a table gives each of its rows every key that one of them has."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from rung.records import Json
from rung.task.order import names_keys, rule_of, rules_for, rules_of_items
from rung.task.parts import MAPS, holding

MAY_BE_NULL = ("default", "const")
VALUES = (*MAY_BE_NULL, "enum", "examples")
"""Keywords of a schema under which values stand, and no schemas."""
SAME_VALUE = ("anyOf", "oneOf", "allOf")


def offered(functions: list[Any]) -> list[Any]:
    """Functions, as somebody wrote them, without keys that have null; a default or constant may be null.

    Where such keys show that a table was written, so are they left out where the type beside them is another.
    """
    made = _offered(functions, tabled=False)
    return made if made == functions else _offered(functions, tabled=True)


def _offered(value: Any, *, tabled: bool, named: bool = False) -> Any:
    """A part of a function; `named`: its keys are names of parts, and no keywords."""
    if isinstance(value, list):
        return [_offered(item, tabled=tabled) for item in value]
    if not isinstance(value, dict):
        return value
    made = {}
    for key, part in value.items():
        if named or key not in VALUES:
            if part is not None:
                made[key] = _offered(part, tabled=tabled, named=not named and key in MAPS)
        elif part is not None or (key in MAY_BE_NULL and not (tabled and _is_of_another_type(value))):
            made[key] = part
    return made


def _is_of_another_type(schema: Mapping[str, Any]) -> bool:
    kind = schema.get("type")
    return isinstance(kind, str) and kind != "null"


def given(arguments: Mapping[str, Json], parameters: dict[str, Any]) -> dict[str, Json]:
    """A call's arguments without nulls for what wasn't given, also in objects whose keys the function names.

    A null is a value where the function's `parameters` say that it takes one, or that something is needed.
    """
    return _given_keys(arguments, parameters, parameters)


def nullable_in(parameters: dict[str, Any]) -> Callable[[str], bool]:
    """Whether a function with these parameters may take null for an argument, as far as that is quickly told.

    A reference isn't followed, and counts as if it led to null; so does a pattern of names.
    """
    named, needed = parameters.get("properties", {}), frozenset(parameters.get("required", ()))
    others = bool(parameters.get("patternProperties")) or _may_name_null(
        parameters.get("additionalProperties")
    )

    @cache
    def may_be_null(key: str) -> bool:
        return key in needed or (_may_name_null(named[key]) if key in named else others)

    return may_be_null


def _may_name_null(part: Json) -> bool:
    if not isinstance(part, dict):
        return False
    options = [one for key in SAME_VALUE if isinstance(listed := part.get(key), list) for one in listed]
    parts = [part, *(one for one in options if isinstance(one, dict))]
    return any("$ref" in one or _names_null(one) for one in parts)


def _given_keys(value: Mapping[str, Json], rules: dict[str, Json], root: Json) -> dict[str, Json]:
    needed = rules.get("required")
    made: dict[str, Json] = {}
    for key, item in value.items():
        part = rule_of(key, rules)
        if item is not None:
            made[key] = _given(item, part, root)
        elif (isinstance(needed, list) and key in needed) or _takes_null(part, root):
            made[key] = None
    return made


def _given(value: Json, part: Json, root: Json) -> Json:
    if not isinstance(value, (list, dict)):
        return value
    rules = rules_for(value, part, root)
    if isinstance(value, list):
        items = zip(value, rules_of_items(rules, len(value)), strict=False)
        return [_given(item, rule, root) for item, rule in items]
    # An object whose keys nobody names is a map, where null may be what a key is set to.
    return _given_keys(value, rules, root) if names_keys(rules) else value


def _takes_null(part: Json, root: Json) -> bool:
    """Whether a part says that it takes null; one that says nothing of types doesn't."""
    return isinstance(part, dict) and any(_names_null(one) for one in holding(part, root))


def _names_null(part: Mapping[str, Any]) -> bool:
    kinds, values = part.get("type"), part.get("enum")
    return (
        "null" in (kinds if isinstance(kinds, list) else [kinds])
        or (isinstance(values, list) and None in values)
        or ("const" in part and part["const"] is None)
    )
