"""One answer from several: the commonest, field by field for objects, or the one most like the others."""

import json
from collections.abc import Callable, Hashable, Sequence

from rung.records import Json, OutputKind
from rung.scoring import calls, fields
from rung.scoring.scorers import SCORERS


def vote(values: Sequence[Json], kind: OutputKind, fits: Callable[[Json], bool] = lambda value: True) -> Json:
    """What the readable ones (not None) of several answers say together; None where none is readable.

    Labels, numbers and other values: the commonest, of equally common ones that which came first; 1 is 1.0,
    and white space doesn't count. In JSON neither do the order of a list and the case of a text, as for
    `field_f1`, nor in calls their order. Objects: each field by itself, but where `fits` turns down the
    object so made, the given one that is most like the others (`field_f1`). Text: what more than half say,
    else the one most like the others (`rouge_l`).
    """
    cast = [value for value in values if value is not None]
    if not cast:
        return None
    if kind == "text":
        common = commonest(cast)
        if 2 * sum(_key(value) == _key(common) for value in cast) > len(cast):
            return common
        return medoid(cast, SCORERS["rouge_l"].row)
    if kind != "json":
        return commonest(cast, calls.form if kind == "tool_call" else None)
    objects = [value for value in cast if isinstance(value, dict)]
    if len(objects) < len(cast):
        return commonest(cast, _fields)
    whole = _by_fields(objects)
    return whole if fits(whole) else medoid(cast, SCORERS["field_f1"].row)


def commonest(values: Sequence[Json], same: Callable[[Json], Hashable] | None = None) -> Json:
    """The commonest of the values, of equally common ones that which came first.

    Where `same` gives several one form these vote together, and the commonest of them is given.
    """
    forms = [(same or _key)(value) for value in values]
    keys = [_key(value) for value in values]

    def votes(place: int) -> tuple[int, int, int]:
        first = forms.index(forms[place])
        return forms.count(forms[place]), -first, keys.count(keys[place])

    return values[max(range(len(values)), key=votes)]


def medoid(values: Sequence[Json], similar: Callable[[Json, Json], float]) -> Json:
    """The value with the largest sum of `similar(other, value)` over the others, the first of equal ones."""
    sums = [
        sum(similar(other, one) for place, other in enumerate(values) if place != own)
        for own, one in enumerate(values)
    ]
    return values[max(range(len(values)), key=lambda place: (sums[place], -place))]


def _by_fields(objects: Sequence[dict[str, Json]]) -> dict[str, Json]:
    """Each field's commonest value; a field that most of the objects lack is left out.

    A tie of having it and lacking it goes with the first object. Objects in objects are voted on likewise.
    """
    found: dict[str, Json] = {}
    for name in dict.fromkeys(name for one in objects for name in one):
        given = [one[name] for one in objects if name in one]
        if 2 * len(given) < len(objects) or (2 * len(given) == len(objects) and name not in objects[0]):
            continue
        inner = [value for value in given if isinstance(value, dict)]
        found[name] = _by_fields(inner) if len(inner) == len(given) else commonest(given, _fields)
    return found


def _fields(value: Json) -> Hashable:
    """The same for values that share all their fields."""
    return fields.form(fields.parts(value))


def _key(value: Json) -> str:
    """The same text for values that count as the same answer."""
    return json.dumps(_plain(value), sort_keys=True, ensure_ascii=False)


def _plain(value: Json) -> Json:
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value
