"""The climb: build every rung, score it on dev, decide, open the sealed test once, and record it all."""

import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter

from rung import evaluate
from rung.checks.examine import rung_context
from rung.climb import below, budget, ordering, sealed
from rung.climb.again import keep_source
from rung.climb.beside import forget_copies, taken_up
from rung.climb.billed import Asked, against_cheaper, with_bill
from rung.climb.calibrating import Answered, calibrate
from rung.climb.clock import Clock
from rung.climb.curve import curves, drawable, to_come
from rung.climb.decide import decide
from rung.climb.disagree import disagreements
from rung.climb.ending import UNTESTED, is_complete, tried_again, winner_again, with_dev
from rung.climb.examining import examine
from rung.climb.failing import failed
from rung.climb.floor import floor, with_floor
from rung.climb.guarding import guarded, guarding
from rung.climb.hosted import answers_usd, at_lower_cap, models_of, till_for
from rung.climb.judging import bench_of, with_judge
from rung.climb.limits import over_limits
from rung.climb.machine import Watch, describe_machine, elsewhere, machine_and_engines, versions
from rung.climb.opening import open_folder
from rung.climb.options import Options, chosen_rungs, config_of, digests_beside
from rung.climb.reading import Reading, read
from rung.climb.rebudget import name_of
from rung.climb.rebuilding import came_to, forget_failed, forget_moved, or_anew, why_not
from rung.climb.steps import Base, Step, bases, bring_embedder, steps_of
from rung.climb.stored import (
    CLIMB_FILE,
    CURVE_FOLDER,
    FAILED_FILE,
    RESULT_FILE,
    RUNGS_FOLDER,
    WINNER_FOLDER,
    dump,
    kept_results,
    kept_system,
    load_climb,
)
from rung.errors import EngineError, RunError, RungError
from rung.memory import within_memory
from rung.records import (
    Climb,
    Decision,
    Example,
    Forecast,
    Json,
    LearningCurve,
    Measurement,
    RungResult,
    SplitName,
)
from rung.records.guarded import Constant
from rung.rungs.base import WORK_FOLDER, Built, Context, Foreseen, Priced, Reporter, Rung, no_start
from rung.rungs.rival import Rival
from rung.runs import RUN_FILE, digest_of, held, read_json
from rung.system import Pool, System, copy
from rung.task.draws import drawn_with


def climb(source: Path, options: Options, reporter: Reporter) -> tuple[Climb, Path]:
    """Climb the ladder for a task folder, a task.yaml or a bare data file.

    Returns the whole climb and its run folder. Raises RungError for everything a user can mend; the same
    command takes up an interrupted climb where it stopped.
    """
    chosen = chosen_rungs(options)
    reading = read(source, options, reporter)
    prepared = reading.prepared
    models = bases(prepared.task, reporter)
    beside = digests_beside(prepared, options, reporter)
    config = config_of(prepared, [base.model for base in models], options, beside)
    run = options.out or Path("runs") / f"{prepared.task.name}-{name_of(config)}"
    before = open_folder(run, config, prepared, reporter)
    with held(run):
        if before is not None:
            options = taken_up(run, before, config, options, prepared.task, reporter)
        keep_source(run, source, prepared, options)
        if before is not None and is_complete(run, options, prepared.task):
            reporter.say(f"{run} is complete: nothing was run again")
            done = load_climb(run)
            winner_again(run, done, reporter)
            return done, run
        if before is not None:
            reporter.say(f"going on with {run}{tried_again(run, prepared.task)}")
        bring_embedder([rung for _, rung in chosen], prepared.task, reporter)
        till = till_for(prepared.task, options, run)
        by_digest = {base.model.digest: base.model for base in models}
        with Pool(models=by_digest, till=till, say=reporter.say) as pool:
            climbing = _Climbing(reading, models, options, run, pool, reporter)
            done = with_judge(climbing.run(climbing.steps), climbing.bench, prepared)
        dump(run / CLIMB_FILE, Climb, done)
        forget_copies(run, prepared.task)
    return done, run


class _Climbing:
    """One climb in progress."""

    def __init__(
        self,
        reading: Reading,
        models: Sequence[Base],
        options: Options,
        run: Path,
        pool: Pool,
        reporter: Reporter,
    ) -> None:
        """What `reading` took counts; bringing the models doesn't."""
        begun, prepared = time.monotonic() - reading.seconds, reading.prepared
        self.prepared, self.models, self.options = prepared, models, options
        self.run_folder, self.reporter = run, reporter
        self.bench = bench_of(prepared, run, pool, reporter)
        with Watch(lambda: None) as watch:
            contexts = [rung_context(prepared, base.model, run, self.bench, reporter) for base in models]
            self.checked = examine(prepared, reading.found, options.accept, contexts[0])
        self.too_long = {context.model.digest: context.too_long for context in contexts}
        self.reading_peak_mb = max(reading.peak_mb, watch.peak_mb)
        self.steps = steps_of(chosen_rungs(options), models, prepared.task)
        self.systems: dict[str, System] = {}
        self.test_peak_mb = 0.0
        self.clock = Clock(run, options.budget_s, begun)
        self.had: dict[str, RungResult] = {}

    def run(self, steps: Sequence[Step]) -> Climb:
        """Every step in order, then the decisions."""
        try:
            self.had = kept_results(self.run_folder, {one.name: one.order for one in steps}, self.rows("dev"))
            for finding in elsewhere(self.had.values()):
                self.reporter.say(finding.message)
            results: list[RungResult] = []
            for place, step in enumerate(steps, start=1):
                later = [one for one in steps[place:] if not self.out(one)]
                results.append(self.step(step, results, later))
            if not self.systems:
                reasons = "; ".join(f"{r.rung}: {r.failed or r.skipped}" for r in results)
                raise RungError(f"no rung could be built: {reasons}")
            dev_decision = self.decide(results, "dev")
            curves = self.curves(steps, results)
            self.clock.ended()
            results = self.open_test(results, dev_decision)
            answered = Answered(dev=self.rows("dev"), test=self.rows("test"), store=self.bench.store)
            results = calibrate(results, self.systems, answered)
            margin = dev_decision.margin if dev_decision.chosen is not None else None
            decision = with_dev(self.decide(results, "test", margin), dev_decision, results)
            self.ship(decision.chosen)
            constant = self.floor(results, decision)
            decision = with_floor(decision, constant, self.bench.metric)
            done = self.summary(results, dev_decision, decision)
            return replace(done, curves=curves, constant=constant)
        finally:
            with suppress(RunError):
                self.clock.write()

    def curves(self, steps: Sequence[Step], results: Sequence[RungResult]) -> tuple[LearningCurve, ...]:
        """The learning curves, where they are asked for, in the time that the steps left."""
        if not self.options.curve:
            return ()

        def context_of(step: Step) -> Context:
            context = self.context(step, self.run_folder / CURVE_FOLDER, results, ())
            return replace(context, rival=None, best=None, deadline=time.monotonic() + self.clock.left_s)

        return curves(steps, results, context_of, self.clock)

    def is_kept(self, step: Step) -> bool:
        """Whether a step has its result already: it needs no time, if no more may be paid than before."""
        had = self.had.get(step.name)
        return had is not None and not at_lower_cap(had, self.bench.pool.till)

    def step(self, step: Step, before: Sequence[RungResult], later: Sequence[Step]) -> RungResult:
        """Build a rung and score it on dev, or take its result from the run folder; `later` ones follow."""
        folder, had = self.run_folder / RUNGS_FOLDER / step.name, self.had.get(step.name)
        if had is not None and self.is_kept(step):
            result = had
        else:
            if had is None and (self.run_folder / CLIMB_FILE).exists() and forget_failed(folder):
                self.clock.building.pop(step.name, None)

            def made() -> RungResult:
                context, rest = self.context(step, folder, before, later), self.to_build(later)
                if had is None:
                    return self.tried(step, context, before, rest)
                return self.further(had, step, context, before, rest)

            result = or_anew(made, folder, step.name, self.clock, self.reporter)
            if result.dev is not None:
                if result is not had:
                    result = replace(result, machine=machine_and_engines())
                dump(folder / RESULT_FILE, RungResult, result)
            self.clock.write()
        if result is had:
            self.systems[step.name] = kept_system(self.run_folder, result)
        if result.dev is not None or result.skipped is not None:
            shutil.rmtree(folder / WORK_FOLDER, ignore_errors=True)
        return result

    def to_build(self, later: Sequence[Step]) -> list[str]:
        """The rungs of the later steps that have no result yet."""
        return [one.rung.name for one in later if not self.is_kept(one)]

    def further(
        self,
        had: RungResult,
        step: Step,
        context: Context,
        before: Sequence[RungResult],
        later: Sequence[str],
    ) -> RungResult:
        """A rung that was built up to a lower cap, built on; as it was where no better one comes of that."""
        why = why_not(context)
        if why is None:
            result = self.tried(step, context, before, later)
            if (why := came_to(context, had, result)) is None:
                # Until the new result is written there is none: no score may stand beside another System.
                (context.folder / RESULT_FILE).unlink()
                self.systems[step.name] = copy(self.systems[step.name], self.run_folder / str(result.folder))
                return result
        self.reporter.say(f"{step.name} stays as it was: {why}")
        return had

    def tried(
        self, step: Step, context: Context, before: Sequence[RungResult], later: Sequence[str]
    ) -> RungResult:
        """Build a rung and score it on dev. What breaks in it fails it alone; a full disk ends the climb."""
        rung, name = step.rung, step.name
        start = time.monotonic() - self.clock.building.get(name, 0.0)
        (context.folder / FAILED_FILE).unlink(missing_ok=True)
        try:
            if reason := rung.skip(context) or no_start(rung, context):
                return RungResult(rung=name, order=step.order, model=step.model, skipped=reason)
            if isinstance(rung, Priced):
                cheaper = ordering.before(before, rung.usd_per_1000(context), context.task)
                context = replace(context, rival=self.rival(cheaper))
            with Watch(partial(self.clock.beat, name, start)) as watch, context.paying(), within_memory():
                told, reason = self.foretold(rung, context, later, start)
                if reason is not None:
                    self.reporter.say(f"{name} skipped: {reason}")
                    skipped = RungResult(rung=name, order=step.order, model=step.model, skipped=reason)
                    return replace(skipped, forecast=told)
                self.reporter.say(budget.said(name, told, context.rival and context.rival.rung))
                made = rung.build(context)
                build_s = context.settled_s("seconds to build", start)
                result = self.result(step, context, made, before)
                asked_s = context.settled_s("seconds to score", start)
                by = guarding(rung.name, later, self.clock.left_s, self.options, self.prepared.task)
                result = guarded(result, self.systems[name], context, by, before)
            return replace(
                result,
                build_s=build_s,
                build_peak_mb=watch.peak_mb,
                forecast=told,
                took_s=asked_s - told.after_s,
            )
        except RunError:
            raise
        except RungError as error:
            self.systems.pop(name, None)
            return failed(step, context, error, time.monotonic() - start)

    def context(
        self, step: Step, folder: Path, before: Sequence[RungResult], later: Sequence[Step]
    ) -> Context:
        """What the rung may use, with its share of the time that was left when it began."""
        rung, model = step.rung, step.base.model
        # What a first building took, of which there is a result, is no part of the second one's share.
        spent = 0.0 if step.name in self.had else self.clock.building.get(step.name, 0.0)
        now = time.monotonic()
        splits = self.prepared.splits
        drawn = [rung.name, *(one.rung.name for one in later)]
        if not (self.run_folder / CURVE_FOLDER).exists():  # else those of the rungs before were begun
            drawn = [*drawable(before), *drawn]
        beside = to_come(drawn) if self.options.curve else 0.0
        share = budget.share_s(rung.name, self.to_build(later), self.clock.left_s + spent, beside)
        best = below.best_before(before, self.prepared.task, splits.dev)
        return Context(
            task=below.task_of(self.prepared.task, step),
            train=splits.train,
            dev=splits.dev,
            undesirable=splits.undesirable,
            dev_undesirable=splits.dev_undesirable,
            too_long=self.too_long[model.digest] & {e.id for e in (*splits.train, *splits.dev)},
            passages=self.prepared.passages,
            model=model,
            folder=folder,
            bench=self.bench,
            reporter=self.reporter,
            deadline=now - spent + share - budget.guard_s(rung.name, share),
            seed=self.prepared.task.seed,
            rival=self.rival(before),
            best=best and best[0],
            built=below.systems_below(step, before, self.systems),
            unlabelled=self.prepared.unlabelled,
            retrieval=below.looked_up(step, before, self.systems, self.bench.metric),
            no_gain=below.no_gain(self.prepared.task, step, before, self.bench.metric),
        )

    def out(self, step: Step) -> bool:
        """Whether a step to come is skipped for sure, and so needs no time to be kept for it."""
        folder = self.run_folder / RUNGS_FOLDER / step.name
        chosen = {rung.name for _, rung in chosen_rungs(self.options)}
        return below.is_out(step.rung, self.prepared.task, chosen, lambda: self.context(step, folder, (), ()))

    def rival(self, before: Sequence[RungResult]) -> Rival | None:
        """The best rung so far. None where there is none, or dev has too few rows for a verdict."""
        return below.rival_before(before, self.prepared.task, self.rows("dev"), len(self.steps))

    def foretold(
        self, rung: Rung, context: Context, later: Sequence[str], start: float
    ) -> tuple[Forecast, str | None]:
        """How long the rung is going to take, and why that is too long where it is; settled once."""

        def told() -> Json:
            outlook = rung.outlook(context) if isinstance(rung, Foreseen) else None
            now = time.monotonic()
            share_s, left_s = context.seconds_left, self.clock.left_s
            reason = budget.too_slow(outlook, share_s=share_s, left_s=left_s, last=not later)
            said = budget.forecast(outlook, most_s=context.seconds_left, after_s=now - start)
            return [asdict(said), reason]

        return TypeAdapter(tuple[Forecast, str | None]).validate_python(context.settled("forecast", told))

    def result(self, step: Step, context: Context, built: Built, before: Sequence[RungResult]) -> RungResult:
        """The rung's System in its place, scored on dev with times, memory and cost.

        One that is built on is scored where it was made: the one that is there may be better.
        """
        name, folder = step.name, context.folder / "system"
        system = built.system if name in self.had else copy(built.system, folder)
        upon = below.candidate_below(built.upon, step, before)
        model = Asked(price=built.price, task=self.prepared.task, rows=self.rows("dev"), upon=upon)
        ask = partial(self.measured, name, system, "dev")
        dev, stopped = against_cheaper(model, before, context.rival, ask, self.rival)
        built = with_bill(built, dev, stopped)
        self.systems[name] = system
        more = stopped and f" of {stopped.of} dev rows, stopped there: it can't beat {stopped.rival} any more"
        asked = f"{dev.n}{more or ' dev rows'}"
        self.reporter.say(f"{name}: {dev.score:.3f} on {asked} ({built.what})")
        return RungResult(
            rung=name,
            order=step.order,
            model=step.model,
            system=system.digest,
            folder=str(folder.relative_to(self.run_folder)),
            what=built.what,
            passes=built.passes,
            cut_short=built.cut_short,
            dev=dev,
            usd_per_1000=answers_usd(dev, built.price, self.prepared.task),
            over_limits=over_limits(dev, self.prepared.task.limits),
            stopped=stopped,
            trials=built.trials,
            parity=built.parity,
            found=built.found,
            notes=built.notes,
            gap=built.gap,
            price=built.price,
            spent_usd=built.spent_usd,
            upon=upon,
            seeds=built.seeds,
        )

    def rows(self, split: SplitName) -> tuple[Example, ...]:
        """The dev or the test rows."""
        return self.prepared.splits.dev if split == "dev" else self.prepared.splits.test

    def measured(
        self,
        name: str,
        system: System,
        split: SplitName,
        to_beat: Rival | None = None,
        dev: Measurement | None = None,
    ) -> Measurement:
        """A System on rows of a split, the first if it can't beat the rival; with `dev`'s times, if given."""
        rows = self.rows(split)
        bar = self.reporter.begin(f"{name} on {len(rows)} {split} rows", len(rows))
        try:
            found = evaluate.measure(
                system,
                rows,
                self.bench,
                split=split,
                on_done=lambda done, _: self.reporter.advance(bar, done),
                enough=to_beat and to_beat.beyond,
            )
            whole = len(found.predictions) == len(rows)
            # On the test, too, a System has the times that its limits were held to.
            return evaluate.timed(found, system, self.rows("dev"), self.bench, dev) if whole else found
        finally:
            self.reporter.end(bar)

    def decide(self, results: list[RungResult], split: SplitName, margin: float | None = None) -> Decision:
        """The decision on the rows of one split, over the rungs that were measured there."""
        return decide(
            ordering.candidates(results, split, self.prepared.task),
            targets={e.id: e.output for e in self.rows(split)},
            groups=drawn_with(self.rows(split)),
            seed=self.prepared.task.seed,
            split=split,
            margin=margin,
            test_given=self.prepared.splits.test_given,
        )

    def open_test(self, results: list[RungResult], on_dev: Decision) -> list[RungResult]:
        """Score on the sealed test: the chosen, the cheapest and the dev-best System, or all. Counted.

        A System whose calls all break there has no test score and a note. EngineError when that is so of all.
        """
        names = sealed.to_open(results, on_dev, self.rows("dev"), everything=self.options.test_all)
        test = sealed.rows_digest(self.rows("test"))
        sealed.count(self.run_folder, [self.systems[name].digest for name in names], test)
        with Watch(lambda: None) as watch:
            opened = [self.tested(r) if r.rung in names else r for r in results]
        self.test_peak_mb = watch.peak_mb
        if all(r.test is None for r in opened):
            why = "; ".join(f"{r.rung}: {r.notes[-1]}" for r in opened if r.rung in names)
            raise EngineError(f"no rung could be scored on the test: {why}")
        return opened

    def tested(self, result: RungResult) -> RungResult:
        """The result with its test score, or with a note of why there is none."""
        try:
            with within_memory():
                system = self.systems[result.rung]
                return replace(result, test=self.measured(result.rung, system, "test", dev=result.dev))
        except RunError:
            raise
        except RungError as error:
            self.reporter.say(f"{result.rung} has no test score: {error}")
            if self.systems[result.rung].is_hosted:
                forget_moved(self.run_folder, result, str(error))
            return replace(result, notes=(*result.notes, f"{UNTESTED}{error}"))

    def floor(self, results: Sequence[RungResult], decision: Decision) -> Constant | None:
        """What one and the same answer to every row scores, beside the rung to ship."""
        splits = self.prepared.splits
        shipped = next((r for r in results if r.rung == decision.chosen), None)
        return floor(shipped, splits.train, {"dev": splits.dev, "test": splits.test}, self.prepared.task.seed)

    def ship(self, chosen: str | None) -> None:
        """Copy the chosen System to `winner`; without one there is no such folder."""
        if chosen is None:
            shutil.rmtree(self.run_folder / WINNER_FOLDER, ignore_errors=True)
        else:
            copy(self.systems[chosen], self.run_folder / WINNER_FOLDER)

    def summary(self, results: list[RungResult], on_dev: Decision, decision: Decision) -> Climb:
        """Every number of the climb in one record."""
        prepared, task = self.prepared, self.prepared.task
        assert task.output.kind is not None, "the task was completed from its rows"
        return Climb(
            task=task.name,
            about=task.about or None,
            kind=task.output.kind,
            metric=self.bench.metric,
            n_train=len(prepared.splits.train),
            n_dev=len(prepared.splits.dev),
            n_test=len(prepared.splits.test),
            test_given=prepared.splits.test_given,
            openings=sealed.openings(self.run_folder, sealed.rows_digest(prepared.splits.test)),
            inferred=prepared.inferred,
            findings=(*self.checked.findings, *prepared.notes, *elsewhere(results)),
            checks=self.checked.runs,
            results=tuple(results),
            dev_decision=on_dev,
            decision=decision,
            winner=WINNER_FOLDER if decision.chosen is not None else None,
            seconds=self.clock.seconds,
            machine=describe_machine(),
            usd_per_hour=task.machine_usd_per_hour,
            answers_per_month=task.answers_per_month,
            models=models_of([base.model for base in self.models], self.systems.values()),
            versions=versions(),
            digests=(
                ("data", prepared.splits.digest),
                ("run", digest_of(read_json(self.run_folder / RUN_FILE))),
            ),
            disagreements=tuple(disagreements(results, prepared.splits.dev)),
            reading_peak_mb=self.reading_peak_mb,
            test_peak_mb=self.test_peak_mb,
            paid_usd=till.spent_usd if (till := self.bench.pool.till) else 0.0,
            paid_cap_usd=till.cap_usd if till else 0.0,
        )
