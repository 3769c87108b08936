"""Places in a text that hold what shouldn't be told: what they are, and how they're shown without telling."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from rung.records import Json

SHOWN = 2
"""Characters of a private value that a message may show."""
LONG_NUMBER = 10**8
"""Whole numbers from here on may be those of a card or an account."""
KEYED_NUMBER = 1000
"""Whole numbers from here on may be what the key says that they stand under, such as `passcode`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """What a private value is: `name` is that of its placeholder, `said` how a message calls it.

    A `grave` one does harm by itself: who reads it can pay with it, log in, or pass as someone else.
    """

    name: str
    said: str
    grave: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Spot:
    """Characters `start` to `end` of a text."""

    kind: Kind
    start: int
    end: int


def masked(value: str) -> str:
    """The first two characters and the length: enough to find it, too little to use it."""
    return f"{value[:SHOWN]}… ({len(value)} characters)"


def apart(spots: Iterable[Spot]) -> list[Spot]:
    """The spots in order, those that overlap joined into one: of the first grave kind, or of the first."""
    found: list[Spot] = []
    for spot in sorted(spots, key=lambda spot: (spot.start, -spot.end)):
        if found and spot.start < found[-1].end:
            kind = spot.kind if spot.kind.grave and not found[-1].kind.grave else found[-1].kind
            found[-1] = replace(found[-1], kind=kind, end=max(found[-1].end, spot.end))
        else:
            found.append(spot)
    return found


def texts_of(value: Json, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a JSON value with the key it stands under.

    Keys are texts too, and so are whole numbers that are long or stand under a key.
    """
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, list):
        for item in value:
            yield from texts_of(item, key)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield "", name
            yield from texts_of(item, name)
    elif (digits := written_out(value, key)) is not None:
        yield key, digits


def written_out(value: Any, key: str = "") -> str | None:
    """A whole number in digits where it may be private: it is as long as an account's, or a key may say so.

    Outputs of kind number are floats, and Parquet has decimals.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        return None
    if not abs(value) >= (KEYED_NUMBER if key else LONG_NUMBER):
        return None
    whole = isinstance(value, int) or (math.isfinite(value) and value == int(value))
    return str(int(value)) if whole else None
