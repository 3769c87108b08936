"""A System on rows, through the engine that serves it: answers kept on disk, times measured apart."""

import base64
import binascii
import math
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from rung.content import Embed, content_kept
from rung.engines.machine import machine_key
from rung.errors import RunError
from rung.judging import ContentJudge, Judge, judged_answers
from rung.records import Answer, Example, Json, Measurement, MetricName, SplitName, Step
from rung.runs import append_jsonl, digest_of, read_each, read_json, read_jsonl, write_json, write_text
from rung.scoring.measure import Timing, measurement
from rung.scoring.scorers import SCORERS
from rung.system import Pool, System

CHUNK = 128
DIGEST = re.compile(r"[0-9A-Za-z_-]+")
ANSWERS_FOLDER, VECTORS_FOLDER = "answers", "vectors"
TIMING_ENDING = ".timing.json"
OTHER_CONTENT = "other_content"
"""Beside a style score: the share of answers that the vectors kept and the judge of content didn't."""
LOOK_ROWS = 32
"""After so many rows each time it is asked whether that is enough of them."""
PACED_ROWS, FEWEST_PACED = LOOK_ROWS, 4
"""All up to the first look, which are asked anyway: whether a variant is stopped there is known by then."""
JUDGED_ROWS = 8
"""For a judge's pace: these are among the rows that any screening has judged."""
WARM_ROWS = 2
TIMED_ROWS = 20
FEWEST_TIMED = 5
TIMED_S = 20.0
"""Requests are timed one by one until this is over, but never fewer than FEWEST_TIMED."""

Enough: TypeAlias = Callable[[Sequence[Example], Sequence[Answer]], bool]
"""Whether these first rows, with the answers to them, say all that there is to know."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """An answer, its share of the wall time of its batch in seconds, and how many rows that batch had."""

    answer: Answer
    share_s: float
    batch: int


@dataclass(frozen=True)
class Store:
    """Answers on disk, one append-only file per System. A second look at the same rows costs nothing.

    A line holds one batch, so a crash loses the batch in flight and no other. `tried` names what was
    asked by this process. Distributions lie apart from the answers, packed as base64 of fp32: written out
    they would make a file of 77 labels five times as long.
    """

    folder: Path
    tried: set[tuple[str, str]] = field(default_factory=set)

    def same(self, system: str, other: str) -> None:
        """Have a System's answers be those of another one, which is asked the same with the same files.

        An engine may answer the same request otherwise beside other requests: asked twice, one System would
        seem two.
        """
        write_text(self.folder / f"{system}.same", self.name(other))

    def name(self, system: str) -> str:
        """Under which System's name a System's answers are kept. Raises RunError where that is damaged."""
        path = self.folder / f"{system}.same"
        if not path.exists():
            return system
        found = path.read_text(encoding="utf-8")
        if not DIGEST.fullmatch(found):
            raise RunError(f"{str(path)!r} names no System; remove it and run the same command again")
        return found

    def load(self, system: str) -> "dict[str, Kept]":
        """Answers by row id. Raises RunError, which names the line, where one is damaged."""
        found: dict[str, Kept] = {}
        for batch in read_each(self.folder / f"{self.name(system)}.jsonl", _batch):
            found |= batch
        return found

    def append(self, system: str, rows: Sequence[tuple[Example, Answer]], wall_s: float) -> None:
        """Keep the answers of one batch that took `wall_s` seconds in all."""
        answers = {example.id: _bare(asdict(replace(answer, distribution=()))) for example, answer in rows}
        packed = {example.id: _packed(answer) for example, answer in rows if answer.distribution}
        line = {"wall_s": wall_s, "answers": answers} | ({"distributions": packed} if packed else {})
        name = self.name(system)
        append_jsonl(self.folder / f"{name}.jsonl", [line])
        self.tried.update((name, example.id) for example, _ in rows)

    def distributions(self, system: str) -> dict[str, np.ndarray]:
        """Probabilities [labels], in the System's order, by row id, of the rows where each is known.

        Raises RunError where they are damaged.
        """
        path = self.folder / f"{self.name(system)}.jsonl"
        found = {}
        try:
            for batch in read_jsonl(path):
                for row, text in batch.get("distributions", {}).items():
                    found[row] = np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(float)
        except (binascii.Error, ValueError, TypeError) as error:
            raise RunError(
                f"can't read {str(path)!r}: a distribution is damaged ({error}); remove it and run the same "
                "command again"
            ) from None
        return found

    def timing_path(self, system: str, rows: Sequence[Example]) -> Path:
        """Where the times of single requests for these rows are kept, of this machine and these programs."""
        asked = digest_of([e.id for e in rows])[:12]
        return self.folder / f"{self.name(system)}.{asked}.{machine_key()}{TIMING_ENDING}"

    def forget_times(self) -> None:
        """Have all times of single requests be taken anew."""
        for path in sorted(self.folder.glob(f"*{TIMING_ENDING}")):
            path.unlink(missing_ok=True)

    def race_path(self, system: str) -> Path:
        """Where it's kept which engine answers a System faster here, under the System's own name."""
        return self.folder / f"{system}.{machine_key()}.race.json"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where Systems are measured: engines, answers on disk, the metric, and the judge where one is asked.

    `judge` compares answers where the metric is one; `content_judge` looks, where it is style, whether they
    say what was wanted.
    """

    pool: Pool
    store: Store
    metric: MetricName
    judge: Judge | None = None
    content_judge: ContentJudge | None = None

    @property
    def is_judged(self) -> bool:
        """Whether a judge is asked of answers."""
        return self.judge is not None or self.content_judge is not None

    @property
    def judging_s(self) -> float:
        """Seconds that the judge took for an answer; 0 where there is none, or it wasn't asked yet."""
        asked = self.judge or self.content_judge
        return 0.0 if asked is None else asked.verdicts.each_s


def answers_of(
    system: System,
    examples: Sequence[Example],
    bench: Bench,
    on_done: Callable[[int, int], None] = lambda done, total: None,
    enough: Enough | None = None,
) -> tuple[list[Answer], float]:
    """Answers in order and the mean wall seconds per answer in the fuller batches.

    There are fewer answers than examples where `enough`, asked after every LOOK_ROWS of them, said so: on
    answers from the disk it is asked at the same places. A call that broke in an earlier process is made
    again, once. Raises EngineError when the engine can't start or dies.
    """
    known = bench.store.load(system.digest)
    total, step = len(examples), LOOK_ROWS if enough else max(1, len(examples))
    warm = any(asked == bench.store.name(system.digest) for asked, _ in bench.store.tried)
    for end in (*range(step, total, step), total):
        part = examples[(end - 1) // step * step : end]
        missing = [e for e in part if to_ask(system.digest, e, known, bench.store)]
        if missing and not warm:
            system.answer(missing[:1], bench.pool)
            warm = True
        for first in range(0, len(missing), CHUNK):
            before = end - len(missing) + first
            _ask(
                system,
                missing[first : first + CHUNK],
                bench,
                known,
                lambda done, b=before: on_done(b + done, len(examples)),
            )
        asked = examples[:end]
        if enough and end < total and enough(asked, [known[e.id].answer for e in asked]):
            total = end
            break
    on_done(total, total)
    found = [known[e.id] for e in examples[:total]]
    return [kept.answer for kept in found], mean_s(found)


def mean_s(found: Sequence[Kept]) -> float:
    """The mean wall seconds per answer in the fuller batches."""
    fullest = max(kept.batch for kept in found)
    return statistics.fmean(kept.share_s for kept in found if 2 * kept.batch > fullest)


def kept_answers(system: System, examples: Sequence[Example], bench: Bench) -> list[Answer]:
    """Answers in order, asked in one batch where they aren't kept yet; nothing is timed."""
    known = bench.store.load(system.digest)
    missing = [e for e in examples if to_ask(system.digest, e, known, bench.store)]
    if missing:
        _ask(system, missing, bench, known)
    return [known[e.id].answer for e in examples]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """Seconds of one answer alone and of each more in a batch, and of how many first rows answers are known.

    `row_s` has what a judge takes for an answer in it, `alone_s` hasn't. Batches of up to `batch` rows told
    it: an engine that answers many in the time of a few takes no longer for a row of a fuller one. The one
    that was asked alone may have been short: one as long as they are on average takes about `typical_s`.
    """

    alone_s: float
    row_s: float
    asked: int
    batch: int = FEWEST_PACED - 2
    typical_s: float = 0.0

    def seconds(self, rows: int, batch: int) -> float:
        """For so many rows in batches, each of which costs what its first row does when it's alone."""
        full, rest = divmod(max(0, rows), batch)
        return sum(self.alone_s + (size - 1) * self.row_s for size in [batch] * full + [rest] * (rest > 0))


def pace(
    system: System,
    examples: Sequence[Example],
    bench: Bench,
    most_s: float,
    in_any_case: Callable[[Pace], bool] = lambda found: False,
) -> Pace:
    """How fast a System answers the first examples: up to PACED_ROWS, four at least; their answers are kept.

    The first one waits for what the engine sets up and tells nothing, the second is asked alone. The others
    are asked together: as many as take `most_s` in all if one by one; then twice as many or more, as long as
    these fit by what the ones before took. Where `in_any_case` says of the pace so far that all up to
    PACED_ROWS are going to be asked, they are now. A judge whose pace isn't known is asked of the first few.
    Where the run has its pace from before, under another budget, nothing is asked.
    """
    if len(examples) < FEWEST_PACED:
        raise ValueError(f"a pace needs {FEWEST_PACED} rows, not {len(examples)}")
    first, known = examples[:PACED_ROWS], bench.store.load(system.digest)
    if not _is_paced(examples, known):
        _ask(system, first[:1], bench, known)
        alone_s = _ask(system, first[1:2], bench, known)
        left_s, asked = most_s - 2 * alone_s, 2
        size = max(FEWEST_PACED - 2, int(left_s / max(alone_s, 1e-6)))
        while size:
            rows = first[asked : asked + size]
            took_s = _ask(system, rows, bench, known)
            left_s, asked = left_s - took_s, asked + len(rows)
            more = len(first) - asked
            if not in_any_case(_told(examples, known, bench.judging_s)):
                more = min(more, int(left_s / max(took_s / len(rows), 1e-6)))
            size = more if more >= 2 * len(rows) else 0
    if bench.is_judged and not bench.judging_s:
        some = [e for e in examples[:JUDGED_ROWS] if e.id in known]
        counted_answers(some, [known[e.id].answer for e in some], bench)
    return _told(examples, known, bench.judging_s)


def _is_paced(examples: Sequence[Example], known: Mapping[str, Kept]) -> bool:
    """Whether kept answers tell a pace: two that were asked alone, and others that were asked together."""
    held = [known[e.id] for e in examples if e.id in known]
    if any(kept.answer.failure is not None for kept in held[:PACED_ROWS]):
        return False
    alone = [known[e.id].batch for e in examples[:2] if e.id in known]
    return alone == [1, 1] and max(kept.batch for kept in held) >= FEWEST_PACED - 2


def _told(examples: Sequence[Example], known: Mapping[str, Kept], judging_s: float) -> Pace:
    """The pace by the answer that was asked alone, and by the fuller batches of the others."""
    held = [known[e.id] for e in examples[2:] if e.id in known]
    fullest = max(kept.batch for kept in held)
    full = [kept for kept in held if 2 * kept.batch > fullest]
    alone_s, together_s = known[examples[1].id].share_s, sum(kept.share_s for kept in full)
    batches = sum(1 / kept.batch for kept in full)
    # The one that was asked alone may have had a short answer; few rows would then seem to take far too long.
    row_s = min(max(0.0, together_s - batches * alone_s) / (len(full) - batches), together_s / len(full))
    asked = next((at for at, e in enumerate(examples) if e.id not in known), len(examples))
    return Pace(
        alone_s=alone_s,
        row_s=row_s + judging_s,
        asked=asked,
        batch=fullest,
        typical_s=alone_s * _times_longer(examples, known),
    )


def _times_longer(examples: Sequence[Example], known: Mapping[str, Kept]) -> float:
    """How many times the tokens of the second answer the others have on average; 1 where they have fewer."""
    written = [known[e.id].answer.completion_tokens for e in examples if e.id in known]
    own = known[examples[1].id].answer.completion_tokens
    return max(1.0, sum(written) / len(written) / own) if own else 1.0


def _ask(
    system: System,
    rows: Sequence[Example],
    bench: Bench,
    known: dict[str, Kept],
    on_done: Callable[[int], None] = lambda done: None,
) -> float:
    """Ask one batch, keep the answers and add them to `known`; the seconds that it took."""
    start = time.perf_counter()
    given = system.answer(rows, bench.pool, progress=lambda done, _: on_done(done))
    seconds = time.perf_counter() - start
    bench.store.append(system.digest, list(zip(rows, given, strict=True)), seconds)
    for row, answer in zip(rows, given, strict=True):
        known[row.id] = Kept(
            answer=replace(answer, distribution=()), share_s=seconds / len(rows), batch=len(rows)
        )
    return seconds


def timed_s(alone_s: float) -> float:
    """About how long `single_request_times` takes where one answer takes so many seconds."""
    return alone_s * (WARM_ROWS + min(TIMED_ROWS, max(FEWEST_TIMED, TIMED_S / max(alone_s, 1e-6))))


def single_request_times(
    system: System, examples: Sequence[Example], bench: Bench
) -> tuple[float, float, float]:
    """p50 and p95 of requests sent one at a time (seconds), and the memory (MiB); kept on disk by rows.

    p50 is the median; p95 the smallest time that at least 95 % of the requests kept to (nearest rank),
    which is the slowest of fewer than 20. Up to 20 rows are asked, fewer where that would take over 20
    seconds. `examples` are rows whose calls hold: a refusal comes at once and says nothing about time.
    """
    first = examples[:TIMED_ROWS]
    path = bench.store.timing_path(system.digest, first)
    if path.exists():
        kept = read_json(path)
        return kept["p50_s"], kept["p95_s"], kept["memory_mb"]
    for row in examples[-WARM_ROWS:]:
        system.answer([row], bench.pool)
    seconds: list[float] = []
    for row in first:
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
    enough: Enough | None = None,
) -> Measurement:
    """Score a System on rows, or on the first of them where `enough` ended it early.

    Raises EngineError when every call broke.
    """

    def counts_enough(asked: Sequence[Example], given: Sequence[Answer]) -> bool:
        return enough is not None and enough(asked, counted_answers(asked, given, bench)[0])

    answers, seconds = answers_of(system, examples, bench, on_done, counts_enough if enough else None)
    rows = examples[: len(answers)]
    counted, beside = counted_answers(rows, answers, bench)
    found = measurement(
        system=system.digest,
        split=split,
        metric=bench.metric,
        examples=rows,
        answers=counted,
        timing=Timing(seconds_per_answer=seconds),
    )
    return replace(found, secondary=(*found.secondary, *beside))


def counted_answers(
    rows: Sequence[Example], answers: Sequence[Answer], bench: Bench
) -> tuple[Sequence[Answer], tuple[tuple[str, float], ...]]:
    """The answers that a metric counts, and what it shows beside its score.

    For `style` those that don't keep their row's content are as good as unreadable: by the sentence vectors
    and, where one is asked, by the judge of content, too. For `judge` the verdict on an answer stands as its
    value.
    """
    if bench.metric == "judge":
        return judged_answers(rows, answers, bench.judge, bench.pool)
    if bench.metric != "style":
        return answers, ()
    kept, cosine = content_kept(rows, answers, embed_in(bench.store.folder.parent, bench.pool))
    if bench.content_judge is None:
        return kept, (("content", cosine),)
    kept, lost = bench.content_judge.kept(rows, kept, bench.pool)
    return kept, (("content", cosine), (OTHER_CONTENT, lost))


def embed_in(run: Path, pool: Pool) -> Embed:
    """What makes sentence vectors of texts, once for each list of them: they are kept in the run's folder."""
    return lambda texts: pool.embedder.cached_embeddings(texts, run / VECTORS_FOLDER)


def score_of(rows: Sequence[Example], answers: Sequence[Answer], bench: Bench) -> float:
    """The score of kept answers as a Measurement has it, with broken calls as unreadable answers."""
    counted, _ = counted_answers(rows, answers, bench)
    values = [a.value if a.failure is None else None for a in counted]
    return SCORERS[bench.metric].summary(values, [e.output for e in rows])


def timed(
    found: Measurement,
    system: System,
    examples: Sequence[Example],
    bench: Bench,
    before: Measurement | None = None,
) -> Measurement:
    """A Measurement of a System, with the latencies of single requests for these rows and its memory.

    Both are those of the Measurement `before` it, where that has them. Of a hosted model the latencies are
    those of the answers that were asked for and scored: no more are paid for. It takes memory here where
    examples are looked up for it.
    """
    if system.is_hosted:
        held = [p.answer for p in found.predictions if p.answer.failure is None]
        # What was known without asking took no time; where nothing is counted nobody knows.
        seconds = [one.latency_s for one in held if one.prompt_tokens] or [one.latency_s for one in held]
        p50, p95 = statistics.median(seconds), nearest_rank(seconds, 0.95)
        return replace(found, p50_s=p50, p95_s=p95, memory_mb=system.memory_mb(bench.pool))
    if before is not None and before.p95_s:
        return replace(found, p50_s=before.p50_s, p95_s=before.p95_s, memory_mb=before.memory_mb)
    known = bench.store.load(system.digest)
    held = [e for e in examples if e.id not in known or known[e.id].answer.failure is None]
    p50, p95, memory = single_request_times(system, held, bench)
    return replace(found, p50_s=p50, p95_s=p95, memory_mb=memory)


def _batch(line: dict) -> dict[str, Kept]:
    """The answers of a batch by row id, as a line of the store has them."""
    found: dict[str, Kept] = {}
    size = len(line["answers"])
    for row, fields in line["answers"].items():
        fields["options"] = tuple((name, share) for name, share in fields.get("options", ()))
        fields["steps"] = tuple(Step(*step) for step in fields.get("steps", ()))
        fields["passages"] = tuple(fields.get("passages", ()))
        found[row] = Kept(answer=Answer(**fields), share_s=line["wall_s"] / size, batch=size)
    return found


def _bare(fields: dict[str, Json]) -> dict[str, Json]:
    """An answer's fields without those that no stored answer has, and those that few have."""
    few = ("cached_tokens", "written_tokens", "steps", "passages", "source", "cut")
    absent = ("distribution", "raw_probability", *(key for key in few if not fields[key]))
    return {key: value for key, value in fields.items() if key not in absent}


def _packed(answer: Answer) -> str:
    return base64.b64encode(np.array(answer.distribution, "<f4").tobytes()).decode("ascii")


def to_ask(system: str, example: Example, known: dict[str, Kept], store: Store) -> bool:
    """Whether a row has no answer yet, or only a broken one from an earlier process."""
    if example.id not in known:
        return True
    return (
        known[example.id].answer.failure is not None and (store.name(system), example.id) not in store.tried
    )
