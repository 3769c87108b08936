"""The sealed test: which Systems are scored on it, and a count of how often it was opened."""

import time
from collections.abc import Iterable
from pathlib import Path

from rung.climb.decide import MIN_ROWS
from rung.errors import RunError
from rung.records import Decision, Example, RungResult
from rung.rungs.base import strict_score
from rung.runs import append_jsonl, digest_of, read_jsonl
from rung.scoring.scorers import SCORERS

TEST_FILE = "test_openings.jsonl"


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
    lines = read_jsonl(path, lasting=True)
    seen = {line["system"] for line in lines if line.get("test") == test}
    fresh = [digest for digest in systems if digest not in seen]
    opening = _last(lines) + 1
    if fresh:
        now = time.time()
        append_jsonl(
            path, [{"opening": opening, "system": digest, "test": test, "at": now} for digest in fresh]
        )


def known(run: Path) -> frozenset[str]:
    """The digests of the test rows that were opened in a run: it names them wherever they lie now."""
    lines = read_jsonl(run / TEST_FILE, lasting=True)
    return frozenset(str(line["test"]) for line in lines if "test" in line)


def own_test(run: Path) -> str | None:
    """The digest of a run's own test: the first that was opened there; later ones may be another run's."""
    lines = read_jsonl(run / TEST_FILE, lasting=True)
    return next((str(line["test"]) for line in lines if "test" in line), None)


def openings(run: Path, test: str) -> int:
    """How often these test rows were opened in this run and in those in the folders beside it."""
    own = {line["opening"] for line in read_jsonl(run / TEST_FILE, lasting=True) if line.get("test") == test}
    return len(own) + sum(_opened(path, test) for path in _beside(run))


def _beside(run: Path) -> list[Path]:
    run = run.resolve()
    return [path for path in sorted(run.parent.glob(f"*/{TEST_FILE}")) if path.parent != run]


def _opened(path: Path, test: str) -> int:
    try:
        return len({line["opening"] for line in read_jsonl(path) if line.get("test") == test})
    except (RunError, KeyError, TypeError):
        return 0  # another run's damaged file is for that run to tell of


def _last(lines: list[dict]) -> int:
    return max((line["opening"] for line in lines), default=0)


def _best(built: list[RungResult], dev: tuple[Example, ...]) -> str:
    """The rung with the best dev score, whether or not dev has rows enough for a decision."""

    def value(result: RungResult) -> float:
        assert result.dev is not None, "only measured rungs are compared"
        sign = 1 if SCORERS[result.dev.metric].higher_is_better else -1
        return sign * strict_score(result.dev, dev)

    return max(built, key=value).rung
