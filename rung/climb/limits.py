"""Which of a task's limits a System breaks."""

from rung.records import Measurement
from rung.task import Limits

MOST_DECIMALS = 3


def over_limits(dev: Measurement, limits: Limits) -> tuple[str, ...]:
    """What the times and the memory of a dev score are over, in words."""
    found = []
    if limits.p95_ms is not None and 1000 * dev.p95_s > limits.p95_ms:
        found.append(f"p95 {_over(1000 * dev.p95_s, limits.p95_ms)} ms is over {limits.p95_ms:g} ms")
    if limits.memory_mb is not None and dev.memory_mb > limits.memory_mb:
        found.append(f"memory {_over(dev.memory_mb, limits.memory_mb)} MB is over {limits.memory_mb:g} MB")
    return tuple(found)


def _over(value: float, limit: float) -> str:
    """A value above a limit, with as many decimals as show that: whole where that will do."""
    told = (f"{value:.{decimals}f}" for decimals in range(MOST_DECIMALS + 1))
    return next((text for text in told if float(text) > limit), repr(value))
