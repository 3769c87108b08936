"""Which of a task's limits a System breaks."""

from rung.records import Measurement
from rung.task import Limits


def over_limits(dev: Measurement, limits: Limits) -> tuple[str, ...]:
    """What the times and the memory of a dev score are over, in words."""
    found = []
    if limits.p95_ms is not None and 1000 * dev.p95_s > limits.p95_ms:
        found.append(f"p95 {1000 * dev.p95_s:.0f} ms is over {limits.p95_ms:g} ms")
    if limits.memory_mb is not None and dev.memory_mb > limits.memory_mb:
        found.append(f"memory {dev.memory_mb:.0f} MB is over {limits.memory_mb:g} MB")
    return tuple(found)
