"""The sealed test: which Systems are scored on it, and a count of how often it was opened."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rung.climb.decide import MIN_ROWS
from rung.errors import RunError
from rung.records import Decision, Example, RungResult
from rung.rungs.base import strict_score
from rung.runs import append_jsonl, digest_of, read_records
from rung.scoring.scorers import SCORERS

TEST_FILE = "test_openings.jsonl"


@dataclass(frozen=True, kw_only=True)
class _Look:
    """A line of the file: the test's rows, by their digest, were opened for a System, by its own."""

    opening: int
    system: str
    test: str | None = None


def to_open(
    results: Iterable[RungResult], on_dev: Decision, dev: tuple[Example, ...], *, everything: bool
) -> list[str]:
    """The rungs to score on the test: the cheapest in the running, the chosen and the best on dev; or all.

    All, too, where dev has too few rows for a verdict of its own, or every rung inside the limits answered
    too few of them: then the test alone can give one. Where dev has none for another reason, no rung being
    inside the limits, the test has none either: the best on dev.
    """
    built = [r for r in results if r.dev is not None]
    running = [r for r in built if not r.stopped] or built
    inside = [r for r in running if not r.over_limits]
    few = len(dev) < MIN_ROWS or all(r.dev is not None and r.dev.n < MIN_ROWS for r in inside)
    if everything or (inside and few):
        return [r.rung for r in built]
    if on_dev.chosen is None:
        return [_best(inside or running, dev)]
    # The walk up starts with the cheapest: one over the limits could be compared with nothing.
    cheapest = on_dev.comparisons[0].cheaper if on_dev.comparisons else on_dev.chosen
    wanted = {cheapest, on_dev.chosen, on_dev.best, _best(inside, dev)}
    return [r.rung for r in built if r.rung in wanted]


def rows_digest(rows: Iterable[Example]) -> str:
    """What names a set of test rows, wherever the file lies and whatever it is called."""
    return digest_of(sorted(digest_of([e.input, e.context, e.output]) for e in rows))


def count(run: Path, systems: Iterable[str], test: str) -> None:
    """Note that the test is opened for these Systems; one that it was opened for doesn't count again."""
    path = run / TEST_FILE
    looks = _looks(path)
    seen = {look.system for look in looks if look.test == test}
    fresh = [digest for digest in systems if digest not in seen]
    opening = max((look.opening for look in looks), default=0) + 1
    if fresh:
        now = time.time()
        append_jsonl(
            path, [{"opening": opening, "system": digest, "test": test, "at": now} for digest in fresh]
        )


def known(run: Path) -> frozenset[str]:
    """The digests of the test rows that were opened in a run: it names them wherever they lie now."""
    return frozenset(look.test for look in _looks(run / TEST_FILE) if look.test is not None)


def own_test(run: Path) -> str | None:
    """The digest of a run's own test: the first that was opened there; later ones may be another run's."""
    return next((look.test for look in _looks(run / TEST_FILE) if look.test is not None), None)


def openings(run: Path, test: str) -> int:
    """How often these test rows were opened in this run and in those in the folders beside it."""
    own = {look.opening for look in _looks(run / TEST_FILE) if look.test == test}
    return len(own) + sum(_opened(path, test) for path in _beside(run))


def _beside(run: Path) -> list[Path]:
    run = run.resolve()
    return [path for path in sorted(run.parent.glob(f"*/{TEST_FILE}")) if path.parent != run]


def _opened(path: Path, test: str) -> int:
    try:
        return len({look.opening for look in _looks(path) if look.test == test})
    except RunError:
        return 0  # another run's damaged file is for that run to tell of


def _looks(path: Path) -> list[_Look]:
    return read_records(path, _Look, lasting=True)


def _best(built: list[RungResult], dev: tuple[Example, ...]) -> str:
    """The rung with the best dev score, whether or not dev has rows enough for a decision."""

    def value(result: RungResult) -> float:
        assert result.dev is not None, "only measured rungs are compared"
        sign = 1 if SCORERS[result.dev.metric].higher_is_better else -1
        return sign * strict_score(result.dev, dev)

    return max(built, key=value).rung
