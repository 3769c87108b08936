"""A System on rows, through the engine that serves it: answers cached by System and row, times measured apart."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rung.records import Answer, Example, Measurement, MetricName, SplitName
from rung.runs import append_jsonl, read_json, read_jsonl, write_json
from rung.scoring.measure import Timing, measurement
from rung.system import Pool, System

CHUNK = 128
TIMED_ROWS = 12
WARM_ROWS = 2


@dataclass(frozen=True)
class Store:
    """Answers on disk, one append-only file per System. A second look at the same rows costs nothing."""

    folder: Path

    def load(self, system: str) -> dict[str, tuple[Answer, float]]:
        """Answers by row id, each with its share of the wall time of its batch in seconds."""
        found = {}
        for line in read_jsonl(self.folder / f"{system}.jsonl"):
            fields = line["answer"]
            fields["options"] = tuple((name, value) for name, value in fields["options"])
            found[line["id"]] = (Answer(**fields), line["wall_s"])
        return found

    def append(self, system: str, rows: Sequence[tuple[Example, Answer]], wall_s: float) -> None:
        """Keep the answers of one batch that took `wall_s` seconds in all."""
        share = wall_s / len(rows)
        lines = [{"id": e.id, "wall_s": share, "answer": asdict(a)} for e, a in rows]
        append_jsonl(self.folder / f"{system}.jsonl", lines)

    def timing_path(self, system: str) -> Path:
        """Where the times of single requests are kept."""
        return self.folder / f"{system}.timing.json"


def answers_of(
    system: System,
    examples: Sequence[Example],
    pool: Pool,
    store: Store,
    on_done: Callable[[int, int], None],
) -> tuple[list[Answer], float]:
    """Answers in order and the mean wall seconds per answer in a full batch. Broken calls are asked again."""
    known = store.load(system.digest)
    known = {key: value for key, value in known.items() if value[0].failure is None}
    missing = [e for e in examples if e.id not in known]
    if missing:
        system.answer(missing[:1], pool)
    total = len(examples)
    for first in range(0, len(missing), CHUNK):
        rows = missing[first : first + CHUNK]
        before = total - len(missing) + first
        start = time.perf_counter()
        given = system.answer(rows, pool, progress=lambda done, _, b=before: on_done(b + done, total))
        seconds = time.perf_counter() - start
        store.append(system.digest, list(zip(rows, given, strict=True)), seconds)
        known |= {e.id: (a, seconds / len(rows)) for e, a in zip(rows, given, strict=True)}
    on_done(total, total)
    found = [known[e.id] for e in examples]
    return [answer for answer, _ in found], statistics.fmean(wall for _, wall in found)


def single_request_times(
    system: System, examples: Sequence[Example], pool: Pool, store: Store
) -> tuple[float, float, float]:
    """p50 and p95 of requests sent one at a time (seconds), and the engine's memory (MiB); kept on disk."""
    path = store.timing_path(system.digest)
    if path.exists():
        kept = read_json(path)
        return kept["p50_s"], kept["p95_s"], kept["memory_mb"]
    rows = [examples[i % len(examples)] for i in range(WARM_ROWS + TIMED_ROWS)]
    seconds = []
    for row in rows:
        start = time.perf_counter()
        system.answer([row], pool)
        seconds.append(time.perf_counter() - start)
    ordered = sorted(seconds[WARM_ROWS:])
    p50 = statistics.median(ordered)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    memory = system.memory_mb(pool)
    write_json(path, {"p50_s": p50, "p95_s": p95, "memory_mb": memory})
    return p50, p95, memory


def measure(
    system: System,
    examples: Sequence[Example],
    *,
    split: SplitName,
    metric: MetricName,
    pool: Pool,
    store: Store,
    on_done: Callable[[int, int], None] = lambda done, total: None,
    timed: bool = False,
) -> Measurement:
    """Score a System on rows. `timed` adds latencies of single requests and memory."""
    answers, seconds = answers_of(system, examples, pool, store, on_done)
    p50, p95, memory = single_request_times(system, examples, pool, store) if timed else (0.0, 0.0, 0.0)
    return measurement(
        system=system.digest,
        split=split,
        metric=metric,
        examples=examples,
        answers=answers,
        timing=Timing(seconds_per_answer=seconds, p50_s=p50, p95_s=p95, memory_mb=memory),
    )
