"""The validator of a JSON Schema: that of its draft, without a network, and exact about multiples."""

from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, Any

from rung.task.patterns import matches

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator


def validator_of(schema: Any, *, linear: bool = False) -> "Validator":
    """The validator of a schema's draft, or of the newest. What a $ref names is never fetched.

    `linear`: patterns are matched as grammars do it, in linear time, for a schema that a stranger may have
    written.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing import Registry

    draft = validator_for(schema, default=Draft202012Validator)
    if isinstance(schema, dict):
        # jsonschema gives a part that names its draft, as "#" would, to its own class of that.
        schema = {key: value for key, value in schema.items() if key != "$schema"}
    return _exact(draft, linear)(schema, registry=Registry())


@cache
def _exact(draft: type["Validator"], linear: bool) -> type["Validator"]:
    from jsonschema.validators import extend

    return extend(draft, {"multipleOf": _multiple_of, **(_LINEAR if linear else {})})


def _pattern(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator["ValidationError"]:
    from jsonschema.exceptions import ValidationError

    if validator.is_type(value, "string") and not matches(pattern, value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: Any, value: Any, schema: Any
) -> Iterator["ValidationError"]:
    for name, part in value.items() if validator.is_type(value, "object") else ():
        for pattern, rule in patterns.items():
            if matches(pattern, name):
                yield from validator.descend(part, rule, path=name, schema_path=pattern)


def _additional_properties(validator: Any, rule: Any, value: Any, schema: Any) -> Iterator["ValidationError"]:
    from jsonschema.exceptions import ValidationError

    named, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name, part in value.items() if validator.is_type(value, "object") else ():
        if name in named or any(matches(pattern, name) for pattern in patterns):
            continue
        if rule is False:
            yield ValidationError(f"{name!r} was unexpected")
        else:
            yield from validator.descend(part, rule, path=name)


_LINEAR = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
}
"""The keywords that hold patterns."""


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
