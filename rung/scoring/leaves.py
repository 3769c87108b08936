"""JSON values taken apart into leaves, by which they are compared."""

import unicodedata
from typing import TypeAlias

from rung.records import Json

Path: TypeAlias = tuple[str | int, ...]
Leaf: TypeAlias = tuple[str, str | float]


def leaves(value: Json) -> list[tuple[Path, Leaf]]:
    """Flatten a JSON value into (path, leaf); an empty object or list is a leaf too."""
    found: list[tuple[Path, Leaf]] = []
    stack: list[tuple[Path, Json]] = [((), value)]
    while stack:
        path, item = stack.pop()
        if isinstance(item, dict) and item:
            stack.extend(((*path, key), child) for key, child in item.items())
        elif isinstance(item, list) and item:
            stack.extend(((*path, at), child) for at, child in enumerate(item))
        else:
            found.append((path, leaf(item)))
    return found


def leaf(value: Json) -> Leaf:
    """What has no parts, with its type, so that 1 and true differ; text in NFC."""
    if isinstance(value, str):
        return "text", unicodedata.normalize("NFC", value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "number", value
    return type(value).__name__, str(value)


def same_value(one: Json, other: Json) -> bool:
    """Whether two JSON values are equal: 1 is 1.0 but not true, text is in NFC, keys in any order."""
    return dict(leaves(one)) == dict(leaves(other))
