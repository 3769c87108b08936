"""A System on rows, through the engine that serves it: answers kept on disk, times measured apart."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rung.records import Answer, Example, Measurement, MetricName, SplitName
from rung.runs import append_jsonl, read_json, read_jsonl, write_json
from rung.scoring.measure import Timing, measurement
from rung.system import Pool, System

CHUNK = 128
WARM_ROWS = 2
TIMED_ROWS = 20
FEWEST_TIMED = 5
TIMED_S = 20.0
"""Requests are timed one by one until this is over, but never fewer than FEWEST_TIMED."""


@dataclass(frozen=True)
class Store:
    """Answers on disk, one append-only file per System. A second look at the same rows costs nothing.

    A line holds one batch, so a crash loses the batch in flight and no other. `tried` names what was
    asked by this process.
    """

    folder: Path
    tried: set[tuple[str, str]] = field(default_factory=set)

    def load(self, system: str) -> dict[str, tuple[Answer, float]]:
        """Answers by row id, each with its share of the wall time of its batch in seconds."""
        found = {}
        for batch in read_jsonl(self.folder / f"{system}.jsonl"):
            share = batch["wall_s"] / len(batch["answers"])
            for row, fields in batch["answers"].items():
                fields["options"] = tuple((name, value) for name, value in fields["options"])
                found[row] = (Answer(**fields), share)
        return found

    def append(self, system: str, rows: Sequence[tuple[Example, Answer]], wall_s: float) -> None:
        """Keep the answers of one batch that took `wall_s` seconds in all."""
        answers = {example.id: asdict(answer) for example, answer in rows}
        append_jsonl(self.folder / f"{system}.jsonl", [{"wall_s": wall_s, "answers": answers}])
        self.tried.update((system, example.id) for example, _ in rows)

    def timing_path(self, system: str) -> Path:
        """Where the times of single requests are kept."""
        return self.folder / f"{system}.timing.json"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where Systems are measured: the engines, the answers on disk, and the metric."""

    pool: Pool
    store: Store
    metric: MetricName


def answers_of(
    system: System,
    examples: Sequence[Example],
    bench: Bench,
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Answer], float]:
    """Answers in order and the mean wall seconds per answer in a full batch.

    A call that broke in an earlier process is made again, once. Raises EngineError when the engine
    can't start or dies.
    """
    known = bench.store.load(system.digest)
    missing = [e for e in examples if _to_ask(system.digest, e, known, bench.store)]
    if missing:
        system.answer(missing[:1], bench.pool)
    total = len(examples)
    for first in range(0, len(missing), CHUNK):
        rows = missing[first : first + CHUNK]
        before = total - len(missing) + first
        start = time.perf_counter()
        given = system.answer(rows, bench.pool, progress=lambda done, _, b=before: on_done(b + done, total))
        seconds = time.perf_counter() - start
        bench.store.append(system.digest, list(zip(rows, given, strict=True)), seconds)
        known |= {e.id: (a, seconds / len(rows)) for e, a in zip(rows, given, strict=True)}
    on_done(total, total)
    found = [known[e.id] for e in examples]
    return [answer for answer, _ in found], statistics.fmean(wall for _, wall in found)


def single_request_times(
    system: System, examples: Sequence[Example], bench: Bench
) -> tuple[float, float, float]:
    """p50 and p95 of requests sent one at a time (seconds), and the memory (MiB); kept on disk.

    p50 is the median; p95 the smallest time that at least 95 % of the requests kept to (nearest rank),
    which is the slowest of fewer than 20. Up to 20 rows are asked, fewer where that would take over 20
    seconds. `examples` are rows whose calls hold: a refusal comes at once and says nothing about time.
    """
    path = bench.store.timing_path(system.digest)
    if path.exists():
        kept = read_json(path)
        return kept["p50_s"], kept["p95_s"], kept["memory_mb"]
    for row in examples[-WARM_ROWS:]:
        system.answer([row], bench.pool)
    seconds: list[float] = []
    for row in examples[:TIMED_ROWS]:
        if len(seconds) >= FEWEST_TIMED and sum(seconds) >= TIMED_S:
            break
        start = time.perf_counter()
        system.answer([row], bench.pool)
        seconds.append(time.perf_counter() - start)
    p50, p95 = statistics.median(seconds), nearest_rank(seconds, 0.95)
    memory = system.memory_mb(bench.pool)
    write_json(path, {"p50_s": p50, "p95_s": p95, "memory_mb": memory, "requests": len(seconds)})
    return p50, p95, memory


def nearest_rank(values: Sequence[float], share: float) -> float:
    """The smallest of the values that at least `share` of them don't exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def measure(
    system: System,
    examples: Sequence[Example],
    bench: Bench,
    *,
    split: SplitName,
    on_done: Callable[[int, int], None] = lambda done, total: None,
    timed: bool = False,
) -> Measurement:
    """Score a System on rows. `timed` adds latencies of single requests and memory.

    Raises EngineError when every call broke.
    """
    answers, seconds = answers_of(system, examples, bench, on_done)
    held = [e for e, answer in zip(examples, answers, strict=True) if answer.failure is None]
    p50, p95, memory = single_request_times(system, held, bench) if timed and held else (0.0, 0.0, 0.0)
    return measurement(
        system=system.digest,
        split=split,
        metric=bench.metric,
        examples=examples,
        answers=answers,
        timing=Timing(seconds_per_answer=seconds, p50_s=p50, p95_s=p95, memory_mb=memory),
    )


def _to_ask(system: str, example: Example, known: dict[str, tuple[Answer, float]], store: Store) -> bool:
    """Whether a row has no answer yet, or only a broken one from an earlier process."""
    if example.id not in known:
        return True
    return known[example.id][0].failure is not None and (system, example.id) not in store.tried
