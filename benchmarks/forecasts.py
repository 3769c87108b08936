"""How long the rungs of finished climbs were said to take, beside what they took.

    python benchmarks/forecasts.py runs/demo runs/sets/*

A folder is that of a climb. A rung counts where a time was foretold and it has a dev score.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from common import print_machine, table

from rung.climb.climb import load_climb
from rung.errors import RungError
from rung.records import RungResult

NEAR = 0.3
"""Of the time that a rung took: a forecast within that much of it is a good one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One rung of one climb: seconds foretold, the ends of a range if one was told, and seconds taken."""

    climb: str
    rung: str
    told_s: float
    range_s: tuple[float, float] | None
    took_s: float

    @property
    def near(self) -> bool:
        """Whether it took what was said, give or take `NEAR`."""
        return abs(self.told_s - self.took_s) <= NEAR * self.took_s

    @property
    def within(self) -> bool:
        """The same, or a time in the range that was said."""
        low, high = self.range_s or (self.told_s, self.told_s)
        return self.near or low <= self.took_s <= high


def main() -> None:
    """Read the climbs and print a line for each rung, and how many were foretold well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    given = parser.parse_args()
    print_machine()
    found: list[Pair] = []
    for run in given.runs:
        try:
            climb = load_climb(run)
        except RungError as error:
            parser.error(str(error))
        found += (pair for result in climb.results if (pair := pair_of(run, result)) is not None)
    if not found:
        parser.error("no rung of these climbs was foretold and built")
    table(
        ("climb", "rung", "predicted s", "range s", "took s", "to what it took", "within 30 %"),
        [
            [
                pair.climb,
                pair.rung,
                f"{pair.told_s:.0f}",
                "–" if pair.range_s is None else f"{pair.range_s[0]:.0f}–{pair.range_s[1]:.0f}",
                f"{pair.took_s:.0f}",
                f"{pair.told_s / pair.took_s:.2f}",
                "yes" if pair.near else "in its range" if pair.within else "no",
            ]
            for pair in found
        ],
    )
    near, within = sum(pair.near for pair in found), sum(pair.within for pair in found)
    print(f"\n{near} of {len(found)} within 30 %, {within} with the ranges that were told")


def pair_of(run: Path, result: RungResult) -> Pair | None:
    """What was said of a rung and what it took; None where one of them is lacking."""
    told = result.forecast
    if told is None or told.seconds is None or result.dev is None or not result.took_s:
        return None
    return Pair(
        climb="/".join(run.parts[-2:]),
        rung=result.rung,
        told_s=told.seconds,
        range_s=told.range_s,
        took_s=result.took_s,
    )


if __name__ == "__main__":
    main()
