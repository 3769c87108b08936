"""Spans of time as people type them."""

import math
import re

from rung.errors import TaskError

_PARTS = re.compile(
    r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", re.ASCII
)
_UNITS_S = (86400, 3600, 60, 1)


def seconds(text: str, option: str, *, days: bool = False) -> float:
    """Read `90s`, `30m` or `1h30m` as seconds, and `30d` where `days` make sense.

    TaskError, naming the option, for anything else.
    """
    match = _PARTS.fullmatch(text.strip().lower())
    parts = match.groups() if match and (days or match[1] is None) else ()
    total = sum(unit * float(part or 0) for unit, part in zip(_UNITS_S, parts, strict=False))
    if not 0 < total < math.inf:
        forms = "12h, 30d or 1d12h" if days else "90s, 30m or 1h30m"
        raise TaskError(f"{option} {text!r} isn't a span of time above 0; write it like {forms}")
    return total
