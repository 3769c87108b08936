"""Bounds of numbers in a JSON Schema: all of those that hold for one value, and what lies next to them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import product
from typing import TypeAlias, TypeGuard

from rung.records import Json
from rung.task.parts import named_part

LOWER, UPPER = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
MOST_WAYS = 1_000
"""Ways through the options of one part, of which each has bounds of its own."""
LARGEST = 2**32 - 1
"""The numbers that llguidance counts multiples with go no further, and begin anew without a word."""
MOST_REMAINDERS = 10_000
"""It takes a step for each remainder, but for noughts at the end: 100,003 kept it busy for two seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What a number has to keep to: `limits` by their keywords, and the `steps` that it is a multiple of.

    `whole`: it is an integer. `parts`: how many schemas say so.
    """

    limits: tuple[tuple[str, int | float], ...] = ()
    steps: tuple[int | float, ...] = ()
    whole: bool = False
    parts: int = 0

    def schema(self) -> Json:
        """A JSON Schema of nothing else."""
        made: dict[str, Json] = {"type": "integer" if self.whole else "number", **dict(self.limits)}
        return {"allOf": [made, *({"multipleOf": step} for step in self.steps)]}

    def near(self) -> Iterator[str]:
        """Numbers on both sides of each limit, and itself, as they may be written."""
        for value in dict.fromkeys(value for _, value in self.limits):
            beside = [float(value), math.nextafter(value, -math.inf), math.nextafter(value, math.inf)]
            if float(value).is_integer():
                beside += [int(value) - 1, int(value), int(value) + 1, int(float(value))]
            for number in dict.fromkeys(map(decimal, beside)):
                text = f"{number:f}"
                text = text.rstrip("0").rstrip(".") if "." in text else text
                yield from (text,) if "." in text else (text, f"{text}.0")
                if number == 0:
                    yield from ("-0", "-0.0")

    def broken(self, text: str) -> str | None:
        """Which of the limits a number isn't within, with its keyword; None where there is none."""
        number = Decimal(text)
        for key, value in self.limits:
            limit = decimal(value)
            outside = number < limit if key in LOWER else number > limit
            if outside or (number == limit and key.startswith("exclusive")):
                return f"{key} {value}"
        return None

    def uncounted(self) -> str | None:
        """Which steps are too long for llguidance to count, with their keyword; None where it can."""
        size, scale = 1, 0
        for place, step in enumerate(self.steps):
            other, fraction = _whole_steps(step)
            one, two = size * 10 ** max(0, fraction - scale), other * 10 ** max(0, scale - fraction)
            if place and one * two > LARGEST:
                return "multipleOf " + " and ".join(map(str, self.steps))
            size, scale = math.lcm(one, two), max(scale, fraction)
            odd = int(str(size).rstrip("0"))
            if odd > MOST_REMAINDERS or (size > 1 and 10 * size + 9 * 10**scale > LARGEST):
                return "multipleOf " + " and ".join(map(str, self.steps[: place + 1]))
        return None


Known: TypeAlias = dict[int, tuple[Bounds, ...]]
"""Bounds by the id of the part that they hold for."""


def ways(part: Json, root: Json, known: Known) -> tuple[Bounds, ...]:
    """The bounds that hold for a number under a part of the schema `root`, for each way through its options.

    What it refers to, and allOf, hold beside it. `known` are those of parts that were looked at before.
    Raises ValueError where there are more than MOST_WAYS.
    """
    if not isinstance(part, dict):
        return (Bounds(),)
    if id(part) not in known:
        known[id(part)] = (Bounds(),)  # what leads back to itself says nothing more
        known[id(part)] = _ways(part, root, known)
    return known[id(part)]


def _ways(part: dict[str, Json], root: Json, known: Known) -> tuple[Bounds, ...]:
    found = (own(part),)
    reference, beside = part.get("$ref"), part.get("allOf")
    if isinstance(reference, str):
        found = _all_of(found, ways(named_part(reference, root), root, known))
    for one in beside if isinstance(beside, list) else ():
        found = _all_of(found, ways(one, root, known))
    for key in ("anyOf", "oneOf"):
        if isinstance(options := part.get(key), list):
            each = (way for one in options for way in ways(one, root, known))
            found = _all_of(found, tuple(dict.fromkeys(each)))
    return found


def own(part: dict[str, Json]) -> Bounds:
    """The bounds in a part itself."""
    limits = {key: value for key in (*LOWER, *UPPER) if _is_number(value := part.get(key))}
    for bound, exclusive in (LOWER, UPPER):
        # As drafts up to 4 write it.
        if part.get(exclusive) is True and bound in limits:
            limits[exclusive] = limits[bound]
    step = part.get("multipleOf")
    steps = (abs(step),) if _is_number(step) and step else ()
    kind = part.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    whole = "integer" in kinds and "number" not in kinds
    parts = int(bool(limits or steps or whole))
    return Bounds(limits=tuple(limits.items()), steps=steps, whole=whole, parts=parts)


def decimal(number: int | float) -> Decimal:
    """A number as it is written, exactly."""
    return Decimal(number) if isinstance(number, int) else Decimal(repr(number))


def _all_of(some: tuple[Bounds, ...], more: tuple[Bounds, ...]) -> tuple[Bounds, ...]:
    """Both for each pair of them."""
    if len(some) * len(more) > MOST_WAYS:
        raise ValueError(f"its options give numbers bounds in more than {MOST_WAYS:,} ways")
    return tuple(dict.fromkeys(_both(one, other) for one, other in product(some, more)))


def _both(one: Bounds, other: Bounds) -> Bounds:
    if not other.parts:
        return one
    limits = dict(one.limits)
    for key, value in other.limits:
        limits[key] = (max if key in LOWER else min)(limits.get(key, value), value)
    return Bounds(
        limits=tuple(limits.items()),
        steps=tuple(dict.fromkeys((*one.steps, *other.steps))),
        whole=one.whole or other.whole,
        parts=one.parts + other.parts,
    )


def _whole_steps(step: int | float) -> tuple[int, int]:
    """(size, digits): a step as so many of the unit with that many digits behind the point."""
    written = decimal(step).normalize().as_tuple()
    digits = int("".join(map(str, written.digits)))
    power = int(written.exponent)
    return digits * 10 ** max(0, power), max(0, -power)


def _is_number(value: Json) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
