"""The validator of a JSON Schema: that of its draft, without a network, and exact about multiples."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeAlias

from rung.task.patterns import is_found, matches
from rung.task.signature import REFERENCES

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator


MOST_FOLLOWED = 20_000
"""References that are followed in a stranger's schema: each may lead to several more, for the same value."""
Fits: TypeAlias = Callable[[str, str], bool]
"""Whether a pattern is found in a text."""


def validator_of(schema: Any, *, linear: bool = False, lenient: bool = False) -> "Validator":
    """The validator of a schema's draft, or of the newest. What a $ref names is never fetched.

    Patterns are looked for as Python's re does; validation raises TaskError where that takes too long.
    `linear`: they are matched as grammars do it, in linear time, for a schema that a stranger may have
    written, and only so many references are followed in all. A pattern that no grammar can hold fits nothing
    then; where the validator is `lenient`, everything.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing import Registry

    draft = validator_for(schema, default=Draft202012Validator)
    if isinstance(schema, dict):
        # jsonschema gives a part that names its draft, as "#" would, to its own class of that.
        schema = {key: value for key, value in schema.items() if key != "$schema"}
    followed: Any = _Followed() if linear else None
    return _exact(draft, linear, lenient)(schema, registry=Registry(), format_checker=followed)


@cache
def _exact(draft: type["Validator"], linear: bool, lenient: bool) -> type["Validator"]:
    from jsonschema.validators import extend

    known = draft.VALIDATORS
    fits = partial(matches, unread=lenient) if linear else is_found
    made: dict[str, Any] = {
        "multipleOf": _multiple_of,
        "pattern": partial(_pattern, fits),
        "patternProperties": partial(_pattern_properties, matches if linear else is_found),
        "additionalProperties": partial(_additional_properties, known["additionalProperties"], fits),
    }
    if linear:
        made |= {key: partial(_reference, known[key]) for key in REFERENCES if key in known}
        # jsonschema goes through patterns of its own accord for it.
        made["unevaluatedProperties"] = _unchecked
    return extend(draft, made)


class _Followed:
    """References that a validator may still follow. It stands where all its parts share one object."""

    def __init__(self) -> None:
        self.left = MOST_FOLLOWED

    def check(self, value: object, format: str) -> None:
        """Formats only describe."""


def _reference(
    follow: Any, validator: Any, reference: str, value: Any, schema: Any
) -> Iterator["ValidationError"]:
    from jsonschema.exceptions import ValidationError

    validator.format_checker.left -= 1
    if validator.format_checker.left < 0:
        yield ValidationError(f"its schema leads through more than {MOST_FOLLOWED:,} references")
    else:
        yield from follow(validator, reference, value, schema)


def _pattern(
    fits: Fits, validator: Any, pattern: str, value: Any, schema: Any
) -> Iterator["ValidationError"]:
    from jsonschema.exceptions import ValidationError

    if validator.is_type(value, "string") and not fits(pattern, value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def _pattern_properties(
    fits: Fits, validator: Any, patterns: Any, value: Any, schema: Any
) -> Iterator["ValidationError"]:
    for name, part in value.items() if validator.is_type(value, "object") else ():
        for pattern, rule in patterns.items():
            if fits(pattern, name):
                yield from validator.descend(part, rule, path=name, schema_path=pattern)


def _additional_properties(
    usual: Any, fits: Fits, validator: Any, rule: Any, value: Any, schema: Any
) -> Iterator["ValidationError"]:
    from jsonschema.exceptions import ValidationError

    named, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    if not patterns:
        yield from usual(validator, rule, value, schema)
        return
    for name, part in value.items() if validator.is_type(value, "object") else ():
        if name in named or any(fits(pattern, name) for pattern in patterns):
            continue
        if rule is False:
            yield ValidationError(f"{name!r} was unexpected")
        else:
            yield from validator.descend(part, rule, path=name)


def _unchecked(validator: Any, rule: Any, value: Any, schema: Any) -> Iterator["ValidationError"]:
    """Nothing is wrong by a keyword that a stranger's schema isn't held to."""
    return iter(())


def _multiple_of(validator: Any, step: Any, value: Any, schema: Any) -> Iterator["ValidationError"]:
    """The keyword by the decimals that are written: 0.29 is a multiple of 0.01, and 0.29 / 0.01 isn't 29."""
    from jsonschema.exceptions import ValidationError

    if validator.is_type(value, "number") and not _is_multiple(value, step):
        yield ValidationError(f"{value!r} is not a multiple of {step}")


def _is_multiple(value: float, step: float) -> bool:
    try:
        return (_written(value) / _written(step)).denominator == 1
    except (ValueError, ZeroDivisionError):
        return False  # infinite, or no step at all


def _written(number: float) -> Fraction:
    """A number as its shortest decimals have it. A float's exponent keeps that small."""
    return Fraction(number) if isinstance(number, int) else Fraction(repr(number))
