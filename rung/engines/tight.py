"""The tight form of a JSON Schema: without what small models fill without end."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rung.records import Json
from rung.task.parts import BESIDE, LISTS, MAPS, copied, holding

OPEN_ENDED = ("additionalProperties", "patternProperties", "minProperties")
OF_OBJECTS = ("properties", "required", "maxProperties", *OPEN_ENDED)


def tight(schema: Json) -> Json:
    """`schema` with what small models fill without end taken away: free white space, unnamed properties.

    Every answer to the tight schema is one to `schema` too. White space is off altogether (compact
    JSON). An object that names properties admits no others unless the schema says so. Where several schemas
    hold for one object, by allOf or beside a $ref, anyOf or oneOf, it admits what any of them names.
    """
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        return schema
    closing = _Closing(copied(schema))
    return {**closing.closed(closing.root), "x-guidance": {"whitespace_flexible": False}}


def closed(schema: Json) -> Json:
    """The same in words that servers without llguidance know, which don't say that white space is off.

    Objects for which several schemas hold stay open: each server reads these in a way of its own.
    """
    closing = _Closing(copied(schema), together=False)
    return closing.closed(closing.root)


@dataclass
class _Closing:
    """What is closed in the schema `root`; objects for which several schemas hold only `together`.

    `named` are the properties of these by the id of the part that joins the schemas, None where they stay
    open. The others joined there are `kept` open: closed by itself, each would shut out what the rest names.
    """

    root: Json
    together: bool = True
    named: dict[int, tuple[str, ...] | None] = field(default_factory=dict)
    kept: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        for part in _parts(self.root):
            if _joins(part):
                held = holding(part, self.root)
                self.named[id(part)] = _names(held)
                self.kept |= {id(one) for one in held[1:]}
                self._keep_below(held)

    def _keep_below(self, held: Sequence[dict[str, Any]]) -> None:
        """Keep open what several schemas, which hold for one value, say of the same part of it."""
        left, seen = [held], set[frozenset[int]]()
        while left:
            for rules in _of_same(left.pop()):
                joined = {id(one): one for rule in rules for one in holding(rule, self.root)}
                if len(rules) > 1 and frozenset(joined) not in seen:
                    seen.add(frozenset(joined))
                    self.kept |= joined.keys()
                    left.append([*joined.values()])

    def closed(self, part: Any) -> Any:
        """A part, and every one in it, closed to unnamed properties."""
        if not isinstance(part, dict):
            return part
        made = {key: part[key] for key in BESIDE if key in part} | part
        for key in MAPS:
            if isinstance(named := part.get(key), dict):
                made[key] = {name: self.closed(one) for name, one in named.items()}
        for key in LISTS:
            if isinstance(listed := part.get(key), list):
                made[key] = [self.closed(one) for one in listed]
        for key in ("items", "additionalProperties"):
            if key in part:
                made[key] = self.closed(part[key])
        names = self._names_of(part)
        if names is not None:
            own = made.get("properties", {})
            made["properties"] = {**own, **{name: {} for name in names if name not in own}}
            made["additionalProperties"] = False
        return made

    def _names_of(self, part: dict[str, Any]) -> tuple[str, ...] | None:
        """The properties that a part is closed to; None where it isn't closed."""
        if id(part) in self.kept:
            return None
        if id(part) in self.named:
            return self.named[id(part)] if self.together else None
        return _names([part])


def _joins(part: dict[str, Any]) -> bool:
    """Whether several schemas hold for the value of a part."""
    found = [part[key] for key in BESIDE if key in part]
    beside = len(found) + sum(len(one) - 1 for one in [part.get("allOf")] if isinstance(one, list))
    return beside > 1 or (beside == 1 and any(key in part for key in OF_OBJECTS))


def _names(parts: Sequence[dict[str, Any]]) -> tuple[str, ...] | None:
    """The properties that schemas of one object name; None where none does, or it may need to have others."""
    if any(key in part for part in parts for key in OPEN_ENDED):
        return None
    named = [found for part in parts if isinstance(found := part.get("properties"), dict)]
    names = dict.fromkeys(name for found in named for name in found)
    needed = [part.get("required", []) for part in parts]
    if not named or not all(isinstance(some, list) and all(one in names for one in some) for some in needed):
        return None
    return tuple(names)


def _of_same(held: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """What schemas of one value may say of the same part of it, each schema once."""
    items: list[Any] = []
    rest: list[Any] = []
    named: dict[str, list[Any]] = {}
    for part in held:
        items += [part.get("items"), *_listed(part.get("prefixItems"))]
        rest += [part.get("additionalProperties"), *_listed(part.get("patternProperties"))]
        if isinstance(properties := part.get("properties"), dict):
            for name, rule in properties.items():
                named.setdefault(name, []).append(rule)
    groups = [items, *([*rules, *rest] for rules in named.values())]
    return [[*{id(one): one for one in group if isinstance(one, dict)}.values()] for group in groups]


def _listed(found: Any) -> list[Any]:
    return [*found.values()] if isinstance(found, dict) else found if isinstance(found, list) else []


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """The schema and every one in it that could be closed."""
    left = [schema]
    while left:
        part = left.pop()
        if not isinstance(part, dict):
            continue
        yield part
        for key in MAPS:
            left += named.values() if isinstance(named := part.get(key), dict) else ()
        for key in LISTS:
            left += listed if isinstance(listed := part.get(key), list) else ()
        left += [part.get("items"), part.get("additionalProperties")]
