"""The validator of a JSON Schema: that of its draft, without a network, and exact about multiples."""

from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator


def validator_of(schema: Any) -> "Validator":
    """The validator of a schema's draft, or of the newest. What a $ref names is never fetched."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing import Registry

    draft = validator_for(schema, default=Draft202012Validator)
    if isinstance(schema, dict):
        # jsonschema gives a part that names its draft, as "#" would, to its own class of that.
        schema = {key: value for key, value in schema.items() if key != "$schema"}
    return _exact(draft)(schema, registry=Registry())


@cache
def _exact(draft: type["Validator"]) -> type["Validator"]:
    from jsonschema.validators import extend

    return extend(draft, {"multipleOf": _multiple_of})


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
