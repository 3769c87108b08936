"""The parts of a JSON Schema: where schemas stand in one, and which of them a reference names."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urldefrag, urljoin

from rung.errors import TaskError
from rung.records import Json

MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords under which schemas stand by names; then those of lists of schemas, and of single ones."""
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
SINGLE = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
OTHERS = ("additionalItems", "unevaluatedItems", "unevaluatedProperties", "contentSchema")
"""The same of schemas that no grammar is made of."""
BESIDE = ("$ref", "allOf", "oneOf", "anyOf")
"""Keywords whose schemas hold for the very value; what they name is written first, in this order."""
NAMES = ("$id", "$anchor", "$dynamicAnchor")
"""What a part may be called by, beside the place where it stands."""
REFERENCES = ("$ref", "$dynamicRef")
DEEPEST = 64
"""Schemas in schemas that are looked through for names: a reference holds all the steps to one."""


def over_parts(schema: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """The schema with `change` made of each schema directly in it; what isn't one, by its place, stays."""
    made = {**schema}
    for key in MAPS:
        if isinstance(named := schema.get(key), dict):
            made[key] = {name: change(part) for name, part in named.items()}
    for key in LISTS:
        if isinstance(listed := schema.get(key), list):
            made[key] = [change(part) for part in listed]
    return made | {key: change(schema[key]) for key in SINGLE if key in schema}


def objects_in(value: object) -> Iterator[dict[str, Any]]:
    """Every object in JSON, be it a schema or not."""
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, list):
            left += part
        elif isinstance(part, dict):
            yield part
            left += part.values()


def copied(value: Any) -> Any:
    """JSON of which no part stands in two places."""
    if isinstance(value, dict):
        return {key: copied(part) for key, part in value.items()}
    return [copied(part) for part in value] if isinstance(value, list) else value


def local_part(reference: str, root: Json) -> Json:
    """The part of the schema `root` that a local JSON pointer such as `#/$defs/line` names.

    Where it names none, that of the names in it which are there: `root`, if none is.
    """
    part = root
    for name in _pointed(reference):
        found = _below(part, name)
        part = part if found is None else found
    return part


def named_part(reference: str, root: Json) -> Json:
    """What a local JSON pointer names in the schema `root`; None where that is nothing."""
    if reference != "#" and not reference.startswith("#/"):
        return None
    part = root
    for name in _pointed(reference):
        part = _below(part, name)
    return part


def holding(part: dict[str, Any], root: Json) -> list[dict[str, Any]]:
    """The schemas that hold, or may, for the value of a part of the schema `root`: first that part.

    What a reference leads to that isn't followed here counts as open to anything.
    """
    found: dict[int, dict[str, Any]] = {}
    left: list[Any] = [part]
    for one in left:  # grows on the way
        if not isinstance(one, dict) or id(one) in found:
            continue
        found[id(one)] = one
        for key in BESIDE:
            below = one.get(key)
            if isinstance(below, str):
                target = named_part(below, root)
                left.append({"additionalProperties": True} if target is None else target)
            left += below if isinstance(below, list) else ()
    return [*found.values()]


def by_pointers(schema: dict[str, Any], where: str) -> dict[str, Any]:
    """The schema with each reference as a JSON pointer from its root, and without names that nothing needs.

    One that has no others is given as it is. A `$dynamicRef` is a `$ref` where there is but one part that it
    can lead to. Raises TaskError for a reference that leads out of the schema, to a name that isn't there, or
    to another part by each way.
    """
    if not _has_names(schema):
        return schema
    made = copied(schema)
    found = _names_in(made, where)
    for part, key, base in found.references:
        try:
            place = found.place_of(part[key], base, dynamic=key == "$dynamicRef")
        except ValueError as error:
            raise TaskError(f"{where}: {key} {part[key][:80]!r} {error}") from None
        _refer(part, key, f"#{place}")
    for part in found.named:
        for key in NAMES:
            part.pop(key, None)
    return made


def pointing(schema: Json) -> Json:
    """The same; as it is where a reference can't be followed."""
    try:
        return by_pointers(schema, "") if isinstance(schema, dict) else schema
    except TaskError:
        return schema


@dataclass
class _Names:
    """What the parts of a schema are called: the places, JSON pointers without `#`, of resources by their URI
    and of anchors by (URI, name).

    `references` are parts with the keyword of their reference and the URI which that is relative to; `named`
    are parts with a name of their own.
    """

    resources: dict[str, str] = field(default_factory=dict)
    anchors: dict[tuple[str, str], str] = field(default_factory=dict)
    dynamic: set[tuple[str, str]] = field(default_factory=set)
    references: list[tuple[dict[str, Any], str, str]] = field(default_factory=list)
    named: list[dict[str, Any]] = field(default_factory=list)

    def place_of(self, reference: str, base: str, *, dynamic: bool) -> str:
        """The place that a reference names. Raises ValueError where there is none, or more than one."""
        if reference.startswith("#"):
            uri, name = base, reference[1:]
        else:
            uri, name = urldefrag(urljoin(base, reference))
        if uri not in self.resources:
            raise ValueError("points outside the schema; copy that part under $defs and write '#/$defs/NAME'")
        if not name or name.startswith("/"):
            return self.resources[uri] + name
        name = unquote(name)
        if (uri, name) not in self.anchors:
            raise ValueError("leads nowhere; correct it")
        ways = sum(other == name for _, other in self.dynamic)
        if dynamic and (uri, name) in self.dynamic and ways > 1:
            raise ValueError("leads to another part by each way to it; write a $ref to the one that is meant")
        return self.anchors[uri, name]


def _names_in(schema: dict[str, Any], where: str) -> _Names:
    """What the parts of a schema are called, and their references."""
    found = _Names(resources={"": ""})
    # Drafts up to 7 pass over what stands beside a $ref, and write an anchor as an id.
    old = "/draft-0" in str(schema.get("$schema"))
    left: list[tuple[Any, str, str, int]] = [(schema, "", "", 0)]
    while left:
        part, base, place, depth = left.pop()
        if not isinstance(part, dict):
            continue
        named = {key: part[key] for key in NAMES if isinstance(part.get(key), str)}
        if named:
            found.named.append(part)
        if not (old and "$ref" in part):
            base = _named(found, named, base, place)
        found.references += [(part, key, base) for key in REFERENCES if isinstance(part.get(key), str)]
        if depth == DEEPEST:
            raise TaskError(f"{where}: the schema is nested deeper than {DEEPEST} levels; write it flatter")
        left += [(below, base, f"{place}/{step}", depth + 1) for step, below in _below_parts(part)]
    return found


def _named(found: _Names, named: dict[str, str], base: str, place: str) -> str:
    """Note what the part at a place is called; the URI that what is in it is relative to."""
    own = named.get("$id", "")
    if own.startswith("#"):
        found.anchors[base, own[1:]] = place
    elif own:
        with suppress(ValueError):  # no URI, so nothing can be relative to it
            base = urldefrag(urljoin(base, own)).url
            found.resources[base] = place
    for key in ("$anchor", "$dynamicAnchor"):
        if key in named:
            found.anchors[base, named[key]] = place
    if "$dynamicAnchor" in named:
        found.dynamic.add((base, named["$dynamicAnchor"]))
    return base


def _refer(part: dict[str, Any], key: str, target: str) -> None:
    """Let a part refer to another one by a `$ref`, where the keyword `key` was."""
    if key != "$ref" and "$ref" in part:
        del part[key]
        part["allOf"] = [*part.get("allOf", ()), {"$ref": target}]
        return
    entries = [("$ref", target) if name == key else (name, value) for name, value in part.items()]
    part.clear()
    part.update(entries)


def _has_names(schema: dict[str, Any]) -> bool:
    """Whether a part is called by anything but its place, or a reference names one otherwise."""
    return any(
        isinstance(part.get("$anchor"), str)
        or isinstance(part.get("$dynamicAnchor"), str)
        or isinstance(part.get("$dynamicRef"), str)
        or (part is not schema and isinstance(part.get("$id"), str))
        or (isinstance(named := part.get("$ref"), str) and named != "#" and not named.startswith("#/"))
        for part in objects_in(schema)
    )


def _below_parts(part: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What stands where a schema does directly in a part, with the steps of a JSON pointer to it."""
    for key in MAPS:
        if isinstance(named := part.get(key), dict):
            yield from ((f"{key}/{_escaped(name)}", below) for name, below in named.items())
    for key in (*LISTS, *SINGLE, *OTHERS):
        below = part.get(key)
        if isinstance(below, list):
            yield from ((f"{key}/{at}", one) for at, one in enumerate(below))
        elif below is not None:
            yield key, below


def _escaped(name: object) -> str:
    """A name as a step of a JSON pointer in a URI."""
    return quote(str(name).replace("~", "~0").replace("/", "~1"), safe="~!$&'()*+,;=:@")


def _pointed(reference: str) -> list[str]:
    """The names in a local JSON pointer (RFC 6901), as they are in the schema."""
    names = unquote(reference.removeprefix("#")).strip("/").split("/")
    return [name.replace("~1", "/").replace("~0", "~") for name in names if name]


def _below(part: Json, name: str) -> Json:
    if isinstance(part, list) and name.isdecimal() and int(name) < len(part):
        return part[int(name)]
    return part.get(name) if isinstance(part, dict) else None
