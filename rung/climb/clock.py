"""The seconds of a climb: those of building and dev scores, which the budget bounds, and those after them."""

import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from rung.climb.stored import CLOCK_FILE
from rung.errors import RunError
from rung.runs import read_json, write_json


def begin_anew(run: Path, steps: Collection[str]) -> None:
    """Have no seconds of the clock in that folder be these steps': each has a whole share of what is left."""
    path = run / CLOCK_FILE
    if path.exists():
        found = read_json(path)
        kept = {name: took for name, took in found.get("building", {}).items() if name not in steps}
        write_json(path, {**found, "building": kept})


class Clock:
    """What a climb took so far, what it took before it was interrupted included.

    `building` are the seconds of each step. The test and the verdict come once the building `ended`: a rung
    that is tried again after them has the time that building left.
    """

    def __init__(self, run: Path, budget_s: float, begun: float) -> None:
        """The clock of the run in that folder, which goes on since `begun`, as `time.monotonic` has it."""
        self.path, self.budget_s = run / CLOCK_FILE, budget_s
        spent = read_json(self.path) if self.path.exists() else {}
        self.building: dict[str, float] = dict(spent.get("building", {}))
        self._begun = begun - float(spent.get("seconds", 0.0))
        self._after_s = float(spent.get("after", 0.0))
        self._ended: float | None = None

    @property
    def built_s(self) -> float:
        """Seconds of building and dev scores."""
        return (time.monotonic() if self._ended is None else self._ended) - self._begun

    @property
    def left_s(self) -> float:
        """What is left of the budget; may be negative."""
        return self.budget_s - self.built_s

    @property
    def seconds(self) -> float:
        """All of it, the test included."""
        return time.monotonic() - self._begun + self._after_s

    def ended(self) -> None:
        """What is done from now on isn't building."""
        self._ended = time.monotonic()
        self.write()

    def beat(self, step: str, start: float) -> None:
        """Write down that a step takes since `start`. A disk that refuses is found out elsewhere."""
        self.building[step] = time.monotonic() - start
        with suppress(RunError):
            self.write()

    def write(self) -> None:
        """Write it down: a climb that is taken up again has that much less. Raises RunError."""
        after = self.seconds - self.built_s
        write_json(self.path, {"seconds": self.built_s, "after": after, "building": self.building})
