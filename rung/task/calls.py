"""Function calls: what a question offers, what an answer calls, and the JSON Schema of the one by the other.

The functions stand at the end of a row's context, as JSON. An answer is a list of calls, each with the `name`
of a function and its `arguments`; an empty list calls none.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from rung.records import Json
from rung.task.kept import kept_if_short
from rung.task.nulls import given, nullable_in
from rung.task.order import in_order
from rung.task.outputs import as_calls, canonical
from rung.task.parts import objects_in
from rung.task.signature import at_place, parameters_of, signature_fault
from rung.task.validator import validator_of

FUNCTIONS = "Functions (JSON):\n"
"""What stands before the functions that an answer may call."""


def functions_in(context: str | None) -> tuple[dict[str, Any], ...]:
    """The functions that a context ends with; none where it ends with none."""
    if not context or FUNCTIONS not in context:
        return ()
    return _functions(context.rpartition(FUNCTIONS)[2])


@kept_if_short(512)
def _functions(text: str) -> tuple[dict[str, Any], ...]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    if not isinstance(found, list) or not all(
        isinstance(one, dict) and isinstance(one.get("name"), str) for one in found
    ):
        return ()
    return tuple(found)


def without_functions(context: str | None) -> str | None:
    """The context before its functions; None where nothing else is there."""
    if not functions_in(context):
        return context
    assert context is not None, "it holds functions"
    return context.rpartition(FUNCTIONS)[0].strip() or None


def call_schema(
    functions: Sequence[Mapping[str, Any]], *, loose: Collection[int] = (), most: int | None = None
) -> dict[str, Json]:
    """The JSON Schema of an answer: a list of calls of these functions, each with its own arguments.

    A function takes no other arguments than it names, unless it says so. `loose` are the places of functions
    whose arguments are left open. The list is at most `most` long.
    """
    if not functions:
        return {"type": "array", "maxItems": 0}
    one_alone = len(functions) == 1
    options: list[Json] = [
        {
            "type": "object",
            "properties": {
                "name": {"const": one["name"]},
                "arguments": {"type": "object"}
                if place in loose
                else at_place(
                    parameters_of(one),
                    f"#/items{'' if one_alone else f'/anyOf/{place}'}/properties/arguments",
                ),
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for place, one in enumerate(functions)
    ]
    calls: dict[str, Json] = {"type": "array", "items": options[0] if one_alone else {"anyOf": options}}
    return calls if most is None else {**calls, "maxItems": most}


def call_fault(calls: Sequence[Json], functions: Sequence[Mapping[str, Any]]) -> tuple[bool, str] | None:
    """Why calls don't fit the functions, and whether none has that name; None where all of them fit."""
    by_name = {one["name"]: one for one in functions}
    for call in calls:
        assert isinstance(call, dict), "as_calls made it"
        name = str(call["name"])
        if name not in by_name:
            return True, f"{name!r} isn't among the row's functions ({', '.join(by_name) or 'it has none'})"
        fault = signature_fault(by_name[name])
        if fault is not None:
            return False, fault
        validator = validator_of(parameters_of(by_name[name]), linear=True, lenient=True)
        for arguments in _every_way(call):
            error = next(validator.iter_errors(arguments), None)
            if error is not None:
                return False, f"arguments of {name!r} at {error.json_path}: {error.message[:160]}"
    return None


def _every_way(call: Mapping[str, Any]) -> Iterator[dict[str, Json]]:
    """The arguments of a call, and those with one of the other accepted values in its place."""
    yield call["arguments"]
    for key, values in call.get("accepted", {}).items():
        yield from ({**call["arguments"], key: value} for value in values)


def rejected_calls(rejected: str, context: str | None) -> list[Json] | None:
    """A rejected answer as calls, settled as the chosen one is; None where it is none."""
    calls = as_calls(rejected)
    return None if calls is None else settled_calls(calls, functions_in(context))


def has_absent(calls: Sequence[Json], functions: Sequence[Mapping[str, Any]]) -> bool:
    """Whether calls have null for what wasn't given, as `given` tells that."""
    if not _holds_null(calls):
        return False
    by_name = {one["name"]: parameters_of(one) for one in functions}
    return any(given(said, by_name.get(name, {})) != said for name, said in map(_parts_of, calls))


def given_calls(calls: Sequence[Json], functions: Sequence[Mapping[str, Any]]) -> list[Json]:
    """The calls without nulls for arguments that weren't given; nothing within an argument is looked at.

    It takes no longer than reading them: a request's earlier calls may be anything, and so may its functions.
    """
    if not _holds_null(calls):
        return [*calls]
    nullable = {one["name"]: nullable_in(parameters_of(one)) for one in functions}
    made: list[Json] = []
    for name, said in map(_parts_of, calls):
        may_be_null = nullable.get(name) or nullable_in({})
        kept = {key: value for key, value in said.items() if value is not None or may_be_null(key)}
        made.append({"name": name, "arguments": kept})
    return made


def _holds_null(calls: Sequence[Json]) -> bool:
    return any(None in part.values() for part in objects_in([*calls]))


def _parts_of(call: Json) -> tuple[str, dict[str, Json]]:
    assert isinstance(call, dict) and isinstance(call["arguments"], dict), "the call was read"
    return str(call["name"]), call["arguments"]


def settled_calls(calls: Sequence[Json], functions: Sequence[Mapping[str, Any]]) -> list[Json]:
    """The calls without arguments that a function may be called without and that have its default, or a null.

    So a default that is given and one that is left out are the same call, and so is one with null for what it
    can't be null for. Arguments stand in the order in which the function names them, and so do the keys in
    them.
    """
    by_name = {one["name"]: parameters_of(one) for one in functions}
    return [_settled(call, by_name) for call in calls]


def _settled(call: Json, by_name: Mapping[str, dict[str, Any]]) -> Json:
    assert isinstance(call, dict) and isinstance(call["arguments"], dict), "as_calls made it"
    parameters = by_name.get(str(call["name"]), {})
    said = given(call["arguments"], parameters)
    named = parameters.get("properties", {})
    needed = parameters.get("required", ())
    accepted, optional = call.get("accepted"), call.get("optional")
    others = {k: v for k, v in accepted.items() if isinstance(v, list)} if isinstance(accepted, dict) else {}
    # What has to be given is never left out: an answer couldn't do so.
    said |= {key: values[0] for key, values in others.items() if key in needed and key not in said}
    kept = {
        key: value for key, value in said.items() if key in needed or not _is_default(value, named.get(key))
    }
    left = list(optional) if isinstance(optional, list) else []
    # An answer that gives a default, or null where that is none, counts as one that leaves it out.
    left += [
        key
        for key, values in others.items()
        if key in kept
        and key not in {*needed, *map(str, left)}
        and any(_is_default(one, named.get(key)) or not given({key: one}, parameters) for one in values)
    ]
    settled: dict[str, Json] = {"name": call["name"], "arguments": in_order(kept, parameters)}
    if others:
        settled["accepted"] = accepted
    return {**settled, "optional": left} if left else settled


def _is_default(value: Json, part: Any) -> bool:
    if not isinstance(part, dict) or "default" not in part:
        return False
    try:
        return canonical(value) == canonical(part["default"])
    except (TypeError, ValueError):
        return False
