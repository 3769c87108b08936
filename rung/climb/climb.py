"""The climb: build every rung, score it on dev, decide, open the sealed test once, and record it all."""

import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter

from rung import evaluate
from rung.climb.decide import decide
from rung.climb.machine import Watch, describe_machine, versions
from rung.climb.rows import Prepared, prepare
from rung.errors import DataError, RunError, RungError, TaskError
from rung.evaluate import Store
from rung.models.resolve import Model, resolve
from rung.records import Candidate, Climb, Decision, Disagreement, Measurement, RungResult
from rung.rungs import LADDER
from rung.rungs.base import Built, Context, Reporter, Rung
from rung.runs import append_jsonl, digest_of, open_run, read_jsonl, write_text
from rung.scoring.cost import usd_per_1000
from rung.scoring.scorers import SCORERS
from rung.system import Pool, System, copy

CLIMB_FILE = "climb.json"
TEST_FILE = "test_openings.jsonl"
RESULT_FILE = "result.json"
SHARES = {"head": 0.1, "prompt": 0.15, "few_shot": 0.25}
"""The share of the budget that a rung may take; one that isn't named may take all that is left."""
ANSWERS_SHOWN = 30


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line may set. `budget_s` bounds building and dev scores, not the final test."""

    test: Path | None = None
    out: Path | None = None
    budget_s: float = 1800.0
    models: tuple[str, ...] = ()
    dev_rows: int = 500
    test_all: bool = False
    rungs: tuple[str, ...] = ()
    seed: int | None = None
    format: str = "auto"


def climb(source: Path, options: Options, reporter: Reporter) -> tuple[Climb, Path]:
    """Climb the ladder for a task folder, a task.yaml or a bare data file.

    Returns the whole climb and its run folder. Raises RungError for everything a user can mend; the same
    command takes up an interrupted climb where it stopped.
    """
    chosen = _chosen_rungs(options)
    prepared = prepare(source, options)
    for line in prepared.inferred:
        reporter.say(line)
    for finding in prepared.findings:
        reporter.say(f"{finding.severity}: {finding.message}")
    _stop_on_block(prepared)
    bar = reporter.begin("fetching the model", None)
    model = resolve(prepared.task.models[0])
    reporter.end(bar)
    config = _config(prepared, model, options)
    run = options.out or Path("runs") / f"{prepared.task.name}-{digest_of(config)[:8]}"
    resumed = open_run(run, config)
    if resumed and (run / CLIMB_FILE).exists():
        reporter.say(f"{run} is complete: nothing was run again")
        return load_climb(run), run
    if resumed:
        reporter.say(f"going on with {run}")
    with Pool() as pool:
        done = _Climbing(prepared, model, options, run, pool, reporter).run(chosen)
    write_text(run / CLIMB_FILE, TypeAdapter(Climb).dump_json(done).decode("utf-8"))
    return done, run


def load_climb(run: Path) -> Climb:
    """Read a finished climb. Raises RunError where there is none."""
    path = run / CLIMB_FILE
    try:
        return TypeAdapter(Climb).validate_json(path.read_text(encoding="utf-8"))
    except OSError:
        raise RunError(
            f"{run} holds no finished climb; run `rung climb` again with the same arguments"
        ) from None
    except ValueError as error:
        raise RunError(
            f"{path} is damaged: {str(error).splitlines()[0]}; remove it and climb again"
        ) from None


class _Climbing:
    """One climb in progress."""

    def __init__(
        self, prepared: Prepared, model: Model, options: Options, run: Path, pool: Pool, reporter: Reporter
    ) -> None:
        self.prepared, self.model, self.options = prepared, model, options
        self.run_folder, self.pool, self.reporter = run, pool, reporter
        self.store = Store(run / "answers")
        self.start = time.monotonic()
        self.systems: dict[str, System] = {}

    def run(self, rungs: list[tuple[int, Rung]]) -> Climb:
        """Every rung in order, then the decisions."""
        results = [self.rung(order, rung) for order, rung in rungs]
        if not self.systems:
            raise RungError(
                "no rung could be built: " + "; ".join(r.failed or r.skipped or "" for r in results)
            )
        dev_decision = self.decide(results, "dev")
        results = self.open_test(results, dev_decision)
        decision = self.decide(results, "test")
        winner = self.ship(results, decision.chosen)
        return self.summary(results, dev_decision, decision, winner)

    def rung(self, order: int, rung: Rung) -> RungResult:
        """Build a rung and score it on dev, or take its result from the run folder."""
        folder = self.run_folder / "rungs" / rung.name
        kept = folder / RESULT_FILE
        if kept.exists():
            result = TypeAdapter(RungResult).validate_json(kept.read_text(encoding="utf-8"))
            if result.folder is not None:
                self.systems[rung.name] = System.load(self.run_folder / result.folder)
            return result
        context = self.context(rung, folder)
        reason = rung.skip(context)
        if reason is not None:
            return RungResult(rung=rung.name, order=order, skipped=reason)
        start = time.monotonic()
        watch = Watch()
        try:
            with watch:
                built = rung.build(context)
        except RungError as error:
            self.reporter.say(f"{rung.name} failed: {error}")
            return RungResult(
                rung=rung.name, order=order, failed=str(error), build_s=time.monotonic() - start
            )
        result = self.result(order, rung, folder, built, time.monotonic() - start, watch.peak_mb)
        write_text(kept, TypeAdapter(RungResult).dump_json(result).decode("utf-8"))
        return result

    def context(self, rung: Rung, folder: Path) -> Context:
        """What the rung may use, with its share of the budget."""
        end = self.start + self.options.budget_s
        if rung.name in SHARES:
            end = min(end, time.monotonic() + SHARES[rung.name] * self.options.budget_s)
        splits = self.prepared.splits
        return Context(
            task=self.prepared.task,
            train=splits.train,
            dev=splits.dev,
            model=self.model,
            folder=folder,
            pool=self.pool,
            store=self.store,
            reporter=self.reporter,
            deadline=end,
            seed=self.prepared.task.seed,
            earlier=dict(self.systems),
        )

    def result(
        self, order: int, rung: Rung, folder: Path, built: Built, seconds: float, peak_mb: float
    ) -> RungResult:
        """The rung's System in its place, scored on dev with times, memory and cost."""
        system = copy(built.system, folder / "system")
        self.systems[rung.name] = system
        dev = self.measured(system, "dev")
        dollars = usd_per_1000(dev.seconds_per_answer, self.prepared.task.machine_usd_per_hour)
        self.reporter.say(f"{rung.name}: {dev.score:.3f} on {dev.n} dev rows ({built.what})")
        return RungResult(
            rung=rung.name,
            order=order,
            system=system.digest,
            folder=str((folder / "system").relative_to(self.run_folder)),
            what=built.what,
            dev=dev,
            usd_per_1000=dollars,
            build_s=seconds,
            build_peak_mb=peak_mb,
            over_limits=self.over_limits(dev),
            trials=built.trials,
            parity=built.parity,
            notes=built.notes,
        )

    def measured(self, system: System, split: str) -> Measurement:
        """A System on the dev or the test rows."""
        rows = self.prepared.splits.dev if split == "dev" else self.prepared.splits.test
        bar = self.reporter.begin(f"{system.spec.rung} on {len(rows)} {split} rows", len(rows))
        try:
            return evaluate.measure(
                system,
                rows,
                split="dev" if split == "dev" else "test",
                metric=_metric(self.prepared),
                pool=self.pool,
                store=self.store,
                on_done=lambda done, _: self.reporter.advance(bar, done),
                timed=True,
            )
        finally:
            self.reporter.end(bar)

    def over_limits(self, dev: Measurement) -> tuple[str, ...]:
        """Which of the task's limits the System breaks, in words."""
        limits, found = self.prepared.task.limits, []
        if limits.p95_ms is not None and 1000 * dev.p95_s > limits.p95_ms:
            found.append(f"p95 {1000 * dev.p95_s:.0f} ms is over {limits.p95_ms:g} ms")
        if limits.memory_mb is not None and dev.memory_mb > limits.memory_mb:
            found.append(f"memory {dev.memory_mb:.0f} MB is over {limits.memory_mb:g} MB")
        return tuple(found)

    def decide(self, results: list[RungResult], split: str) -> Decision:
        """The decision on the rows of one split, over the rungs that were measured there."""
        measured = [(r, r.dev if split == "dev" else r.test) for r in results]
        candidates = [
            Candidate(
                rung=r.rung,
                system=r.system or "",
                order=r.order,
                measurement=m,
                usd_per_1000=r.usd_per_1000,
                build_s=r.build_s,
                over_limits=r.over_limits,
            )
            for r, m in measured
            if m is not None
        ]
        rows = self.prepared.splits.dev if split == "dev" else self.prepared.splits.test
        groups = {e.id: e.group for e in rows if e.group is not None}
        return decide(
            candidates,
            targets={e.id: e.output for e in rows},
            groups=groups or None,
            seed=self.prepared.task.seed,
            split=split,
        )

    def open_test(self, results: list[RungResult], on_dev: Decision) -> list[RungResult]:
        """Score on the sealed test: the chosen, the cheapest and the dev-best System, or all. Counted."""
        built = [r for r in results if r.dev is not None]
        wanted = {built[0].rung, on_dev.chosen, on_dev.best, self.best_on_dev(built)}
        if self.options.test_all:
            wanted = {r.rung for r in built}
        names = [r.rung for r in built if r.rung in wanted]
        path = self.run_folder / TEST_FILE
        known = {line["system"] for line in read_jsonl(path)}
        fresh = [self.systems[n].digest for n in names if self.systems[n].digest not in known]
        if fresh:
            opening = max((line["opening"] for line in read_jsonl(path)), default=0) + 1
            append_jsonl(
                path, [{"opening": opening, "system": digest, "at": time.time()} for digest in fresh]
            )
        return [
            replace(r, test=self.measured(self.systems[r.rung], "test")) if r.rung in names else r
            for r in results
        ]

    def best_on_dev(self, built: list[RungResult]) -> str:
        """The rung with the best dev score, whether or not dev has rows enough for a decision."""
        sign = 1 if SCORERS[_metric(self.prepared)].higher_is_better else -1
        return max(built, key=lambda r: sign * r.dev.score if r.dev else 0.0).rung

    def ship(self, results: list[RungResult], chosen: str | None) -> str | None:
        """Copy the chosen System to `winner`."""
        if chosen is None:
            return None
        copy(self.systems[chosen], self.run_folder / "winner")
        return "winner"

    def summary(
        self, results: list[RungResult], on_dev: Decision, decision: Decision, winner: str | None
    ) -> Climb:
        """Every number of the climb in one record."""
        prepared, task = self.prepared, self.prepared.task
        assert task.output.kind is not None, "the task was completed from its rows"
        openings = max((line["opening"] for line in read_jsonl(self.run_folder / TEST_FILE)), default=0)
        return Climb(
            task=task.name,
            about=task.about or None,
            kind=task.output.kind,
            metric=_metric(prepared),
            n_train=len(prepared.splits.train),
            n_dev=len(prepared.splits.dev),
            n_test=len(prepared.splits.test),
            test_given=prepared.splits.test_given,
            openings=openings,
            inferred=prepared.inferred,
            findings=prepared.findings,
            results=tuple(results),
            dev_decision=on_dev,
            decision=decision,
            winner=winner,
            seconds=time.monotonic() - self.start,
            machine=describe_machine(),
            usd_per_hour=task.machine_usd_per_hour,
            answers_per_month=task.answers_per_month,
            models=((self.model.name, self.model.digest, self.model.licence),),
            versions=versions(),
            digests=(
                ("data", prepared.splits.digest),
                ("run", digest_of(_config(prepared, self.model, self.options))),
            ),
            disagreements=tuple(self.disagreements(results)),
        )

    def disagreements(self, results: list[RungResult]) -> Iterator[Disagreement]:
        """Dev rows on which the rungs' answers differ in score; test rows stay unseen."""
        measured = [
            (r.rung, {p.example_id: p for p in r.dev.predictions}) for r in results if r.dev is not None
        ]
        shown = 0
        for example in self.prepared.splits.dev:
            found = [(name, table[example.id]) for name, table in measured if example.id in table]
            scores = {p.score for _, p in found}
            if len(scores) < 2 or shown >= ANSWERS_SHOWN:
                continue
            shown += 1
            yield Disagreement(
                where=example.where,
                input=example.input,
                target=example.output,
                answers=tuple((name, p.answer.text, p.score) for name, p in found),
            )


def _chosen_rungs(options: Options) -> list[tuple[int, Rung]]:
    names = [rung.name for rung in LADDER]
    for name in options.rungs:
        if name not in names:
            raise TaskError(f"no rung is called {name!r}; the ladder has {', '.join(names)}")
    return [(i, rung) for i, rung in enumerate(LADDER) if not options.rungs or rung.name in options.rungs]


def _stop_on_block(prepared: Prepared) -> None:
    blocks = [f.message for f in prepared.findings if f.severity == "block"]
    if blocks:
        raise DataError("the data can't be used: " + " · ".join(blocks))


def _config(prepared: Prepared, model: Model, options: Options) -> dict:
    """What decides the outcome of a climb; a run folder is taken up again only under the same."""
    return {
        "task": prepared.task.model_dump(mode="json", by_alias=True, exclude={"data"}),
        "data": prepared.splits.digest,
        "model": model.digest,
        "rungs": [rung.name for _, rung in _chosen_rungs(options)],
        "budget_s": options.budget_s,
        "test_all": options.test_all,
        "format": 1,
        "python": platform.python_version_tuple()[:2],
    }


def _metric(prepared: Prepared):
    assert prepared.task.metric is not None, "the task was completed from its rows"
    return prepared.task.metric
