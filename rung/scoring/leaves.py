"""JSON values taken apart into leaves, by which they are compared."""

import unicodedata
from typing import TypeAlias

from rung.records import Json

Path: TypeAlias = tuple[str | int, ...]
Leaf: TypeAlias = tuple[str, str | float]


def leaves(value: Json, *, ordered: bool) -> list[tuple[Path, Leaf]]:
    """Flatten a JSON value into (path, leaf); an empty object or list is a leaf too.

    A leaf names its type, so that 1 and true differ. Items of a list share one path unless `ordered`.
    """
    found: list[tuple[Path, Leaf]] = []
    stack: list[tuple[Path, Json]] = [((), value)]
    while stack:
        path, item = stack.pop()
        if isinstance(item, dict) and item:
            stack.extend(((*path, key), child) for key, child in item.items())
        elif isinstance(item, list) and item:
            stack.extend(((*path, at if ordered else 0), child) for at, child in enumerate(item))
        elif isinstance(item, str):
            found.append((path, ("text", unicodedata.normalize("NFC", item))))
        elif isinstance(item, (int, float)) and not isinstance(item, bool):
            found.append((path, ("number", item)))
        else:
            found.append((path, (type(item).__name__, str(item))))
    return found


def same_value(one: Json, other: Json) -> bool:
    """Whether two JSON values are equal: 1 is 1.0 but not true, text is in NFC, keys in any order."""
    return dict(leaves(one, ordered=True)) == dict(leaves(other, ordered=True))
