"""Calls with several right answers: how a row says so, as it is read and checked.

A call of a row's output may hold, beside `name` and `arguments`, `accepted` (for an argument, values that are
as right as the one that is given) and `optional` (arguments that may be left out). One that `arguments` lack
may be left out by itself. The Berkeley Function-Calling Leaderboard writes the same as
`{name: {argument: [value, …]}}`, where "" stands for leaving the argument out.
"""

from collections.abc import Iterator, Mapping
from itertools import islice, product
from typing import Any, TypeGuard

from rung.records import Json

MOST_VALUES = 256
"""Accepted values of one argument: nested ones are written out."""
CALL_KEYS = frozenset({"name", "arguments"})
MORE_KEYS = ("accepted", "optional")
LEFT_OUT = ""


def bare_calls(calls: Json) -> Json:
    """The calls without what else they accept; anything else as it is."""
    if not isinstance(calls, list):
        return calls
    return [_bare(call) for call in calls]


def _bare(call: Json) -> Json:
    if not isinstance(call, dict) or not accepts_more(call):
        return call
    return {"name": call["name"], "arguments": call["arguments"]}


def accepts_more(call: Mapping[str, Json]) -> bool:
    """Whether it's a call, read, that says what else is right."""
    return CALL_KEYS < call.keys() <= CALL_KEYS | set(MORE_KEYS)


def more_of(call: Mapping[str, Any]) -> dict[str, Json]:
    """What a call, as written, says of further right answers. ValueError says what is wrong with that."""
    name, more = call.get("name"), dict[str, Json]()
    accepted, optional = call.get("accepted"), call.get("optional")
    if accepted is not None:
        if not isinstance(accepted, dict):
            raise ValueError(
                f"accepted of the call of {name!r} is {_short(accepted)}; write an object with a list of "
                'values for each argument, {"unit": ["C", "celsius"]}'
            )
        # A table has a null there for each argument of another row.
        accepted = {key: values for key, values in accepted.items() if values is not None}
        for key, values in accepted.items():
            _check_values(name, key, values)
        if accepted:
            more["accepted"] = accepted
    if optional is not None:
        if not isinstance(optional, list) or not all(isinstance(one, str) for one in optional):
            raise ValueError(
                f"optional of the call of {name!r} is {_short(optional)}; write a list of arguments' names"
            )
        if optional:
            more["optional"] = list(dict.fromkeys(optional))
    return more


def _check_values(name: object, key: str, values: Any) -> None:
    """ValueError where an argument's accepted values aren't some."""
    if not isinstance(values, list) or not values:
        raise ValueError(
            f"accepted values of the argument {key!r} of {name!r} are {_short(values)}; write a list of one "
            "at least"
        )
    if len(values) > MOST_VALUES:
        raise ValueError(
            f"the argument {key!r} of {name!r} has {len(values):,} accepted values, and {MOST_VALUES} at "
            "most can be; leave some out"
        )


def is_leaderboard_call(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a value is `{name: {argument: [value, …]}}`."""
    if not isinstance(value, dict) or len(value) != 1:
        return False
    (arguments,) = value.values()
    return isinstance(arguments, dict) and all(isinstance(values, list) for values in arguments.values())


def of_leaderboard(value: Mapping[str, Any]) -> dict[str, Json]:
    """A leaderboard's call as ours: each argument has its first value, and accepts the others.

    An argument whose first value is "" is left out. ValueError for one that accepts nothing.
    """
    ((name, listed),) = value.items()
    arguments: dict[str, Json] = {}
    accepted: dict[str, Json] = {}
    optional: list[Json] = []
    for key, values in listed.items():
        # A value beside "" says what is meant, and "" would seldom be of its type.
        meant = [value for value in values if value != LEFT_OUT] or values
        written = list(islice((one for value in meant for one in _written_out(value)), MOST_VALUES + 1))
        _check_values(name, key, written)
        if LEFT_OUT in values:
            optional.append(key)
        if values[0] == LEFT_OUT:
            accepted[key] = written
            continue
        arguments[key] = written[0]
        if others := written[1:]:
            accepted[key] = others
    return {
        "name": name,
        "arguments": arguments,
        **({"accepted": accepted} if accepted else {}),
        **({"optional": optional} if optional else {}),
    }


def _written_out(value: Any) -> Iterator[Json]:
    """The values that one stands for: where an object, or each in a list, has a list under each key."""
    if isinstance(value, list) and value and all(map(_lists_values, value)):
        for items in product(*(list(islice(_objects(one), MOST_VALUES + 1)) for one in value)):
            yield list(items)
    elif _lists_values(value):
        yield from _objects(value)
    else:
        yield value


def _lists_values(value: Any) -> TypeGuard[dict[str, list[Json]]]:
    return isinstance(value, dict) and bool(value) and all(isinstance(v, list) and v for v in value.values())


def _objects(value: dict[str, list[Json]]) -> Iterator[dict[str, Json]]:
    for values in product(*value.values()):
        yield {key: one for key, one in zip(value, values, strict=True) if one != LEFT_OUT}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
