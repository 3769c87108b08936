"""Spans of time as people type them."""

import math
import re

from rung.errors import TaskError

_PARTS = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", re.ASCII)


def seconds(text: str, option: str) -> float:
    """Read `90s`, `30m` or `1h30m` as seconds; TaskError, naming the option, for anything else."""
    match = _PARTS.fullmatch(text.strip().lower())
    hours, minutes, rest = (float(part or 0) for part in match.groups()) if match else (0.0, 0.0, 0.0)
    total = 3600 * hours + 60 * minutes + rest
    if not 0 < total < math.inf:
        raise TaskError(f"{option} {text!r} isn't a span of time above 0; write it like 90s, 30m or 1h30m")
    return total
