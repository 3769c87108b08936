"""JSON Schemas made at random of all that an answer can be held to: nested, by reference, recursive."""

import random
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]

NAMES = ("a", "name", "total", "päivä", "line items", 'q"t', "x/y", "kind")
LETTERS = 'abcxyz 09-_.:/é中"\\\n'
FORMATS = ("date", "time", "date-time", "duration", "uuid", "email", "hostname", "ipv4", "ipv6", "uri")
PATTERNS = (
    r"^[A-Z]{3}-\d{4}$",
    r"ing",
    r"^(foo|bar).*baz$",
    r"^\w+@\w+\.com$",
    r"^[a-f0-9]{8}$",
    r"^\+?[0-9 ]{5,}$",
    r"^(red|green|blue)$",
    r"^[^aeiou]{4,}x$",
)


def made_schema(dice: random.Random) -> Schema:
    """A schema of up to four levels; a third of them name a part by reference, a third contain themselves."""
    kind = dice.choice(("plain", "reference", "recursive"))
    part = _part(dice, 3 if kind == "plain" else 2)
    if kind == "reference":
        other = _part(dice, 2)
        both = {"one": {"$ref": "#/$defs/part"}, "own": other}
        return {"$defs": {"part": part}, "type": "object", "properties": both, "required": [*both]}
    if kind == "recursive":
        node = {
            "type": "object",
            "properties": {
                "value": part,
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                "below": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["value", "next"],
            "additionalProperties": False,
        }
        return {"$defs": {"node": node}, "$ref": "#/$defs/node"}
    return part


def _part(dice: random.Random, depth: int) -> Schema:
    inner: list[Callable[[random.Random, int], Schema]] = [_object, _object, _array, _union]
    if depth > 0 and dice.random() < 0.75:
        return dice.choice(inner)(dice, depth - 1)
    return dice.choice((_integer, _number, _string, _string, _enum, _const, _types))(dice)


def _object(dice: random.Random, depth: int) -> Schema:
    names = dice.sample(NAMES, dice.randrange(5))
    made: Schema = {
        "type": "object",
        "properties": {name: _part(dice, depth) for name in names},
        "required": [name for name in names if dice.random() < 0.6],
    }
    more = dice.choice((None, False, {"type": "integer"}, {"type": "string", "minLength": 2}))
    return made if more is None else {**made, "additionalProperties": more}


def _array(dice: random.Random, depth: int) -> Schema:
    least = dice.randrange(4)
    made: Schema = {"type": "array", "items": _part(dice, depth), "minItems": least}
    return {**made, "maxItems": least + dice.randrange(3)} if dice.random() < 0.5 else made


def _union(dice: random.Random, depth: int) -> Schema:
    return {"anyOf": [_part(dice, depth) for _ in range(dice.randrange(1, 4))]}


def _integer(dice: random.Random) -> Schema:
    made: Schema = {"type": "integer"}
    least = dice.randrange(-2000, 2000)
    if dice.random() < 0.6:
        made[dice.choice(("minimum", "exclusiveMinimum"))] = least
    if dice.random() < 0.5:
        made["maximum"] = least + dice.randrange(2, 5000)
    if dice.random() < 0.2 and "maximum" not in made:
        made["multipleOf"] = dice.choice((2, 5, 7))
    return made


def _number(dice: random.Random) -> Schema:
    made: Schema = {"type": "number"}
    least = dice.choice((-12.5, -1, 0, 0.25, 3, 99.9))
    if dice.random() < 0.6:
        made["minimum"] = least
    if dice.random() < 0.5:
        made["maximum"] = least + dice.choice((0.5, 1, 7.25, 1000))
    return made


def _string(dice: random.Random) -> Schema:
    least = dice.randrange(13)
    wanted: Schema = dice.choice(
        (
            {},
            {"minLength": least, "maxLength": least + dice.randrange(6)},
            {"pattern": dice.choice(PATTERNS)},
            {"format": dice.choice(FORMATS)},
        )
    )
    return {"type": "string", **wanted}


def _enum(dice: random.Random) -> Schema:
    return {"enum": [_value(dice) for _ in range(dice.randrange(1, 7))]}


def _const(dice: random.Random) -> Schema:
    return {"const": _value(dice)}


def _types(dice: random.Random) -> Schema:
    return {"type": dice.choice(("boolean", "null", ["string", "null"], ["integer", "boolean"]))}


def _value(dice: random.Random) -> Any:
    word = "".join(dice.choice(LETTERS) for _ in range(dice.randrange(12)))
    return dice.choice((None, True, False, dice.randrange(-99, 99), word, word, [dice.randrange(10)]))
