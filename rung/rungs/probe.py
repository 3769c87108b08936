"""Which engine answers a System's requests faster on this machine: a short race on real rows."""

import time
from collections.abc import Sequence
from pathlib import Path

from rung.records import Example
from rung.rungs.base import Context
from rung.system import Spec, System, save

RACE_ROWS = 6
CLEARLY_FASTER = 1.25
"""llama.cpp serves from less memory, so torch has to be faster by this factor to take its place."""


def settle_engine(
    context: Context, place: Path, spec: Spec, files: dict[str, Path | str], rows: Sequence[Example]
) -> tuple[System, str]:
    """Save the System under the faster of its two engines; returns it and a sentence with both times."""
    seconds = {}
    for engine in ("llama", "torch"):
        system = save(place, spec.model_copy(update={"engine": engine}), files)
        system.answer(rows[:1], context.pool)
        start = time.perf_counter()
        system.answer(rows[1 : 1 + RACE_ROWS], context.pool)
        seconds[engine] = (time.perf_counter() - start) / max(1, len(rows[1 : 1 + RACE_ROWS]))
    fastest = "torch" if seconds["torch"] * CLEARLY_FASTER < seconds["llama"] else "llama"
    system = save(place, spec.model_copy(update={"engine": fastest}), files)
    note = (
        f"engine {fastest}: llama {1000 * seconds['llama']:.0f} ms and torch {1000 * seconds['torch']:.0f} ms "
        f"per answer on {len(rows[1 : 1 + RACE_ROWS])} rows"
    )
    return system, note
