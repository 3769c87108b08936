"""`rung compare`: two Systems asked the same rows, what the second gains, and the rows that changed."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rung import evaluate
from rung.climb import sealed
from rung.climb.options import base_model
from rung.compare.asked import Asked, Wanted, asked_rows
from rung.compare.judged import (
    Trust,
    content_judge_for,
    content_told,
    judge_for,
    place_of,
    till_of,
    trusted,
)
from rung.compare.outcome import Found, Outcome, outcome, row_change
from rung.compare.sides import Side, need_two, side
from rung.compare.specs import Difference, differences
from rung.errors import RunError, TaskError
from rung.evaluate import ANSWERS_FOLDER, Bench, Store
from rung.models.resolve import Model, limited
from rung.records import Example, Json, Measurement, MetricName, Prediction
from rung.rungs.base import Context, Reporter, slug
from rung.rungs.instructions import answer_spec, instructions, spec_for
from rung.runs import append_jsonl, held, need_lines_name
from rung.scoring.cost import billed_usd, usd_per_1000
from rung.system import Pool, System, save
from rung.task.model import Task

SYSTEMS_FOLDER = "systems"
OUT = Path("runs") / "compare"
"""Where answers are kept if neither comes from a run."""

Way = Literal["up", "down", "other"]


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """What the command line may set."""

    wanted: Wanted = Wanted()
    out: Path = OUT
    rows_out: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One side with its score: what was given, the System's digest, and US dollars for 1,000 answers."""

    given: str
    system: str
    rung: str
    licence: str | None
    measurement: Measurement
    usd_per_1000: float


@dataclass(frozen=True, kw_only=True)
class Change:
    """A row that the two answer differently: `up` where B scores higher, `down` where A does.

    `other` answers score alike. A call that broke has no score.
    """

    way: Way
    row: str
    where: str
    input: str
    context: str | None
    expected: Json
    first: str
    second: str
    first_score: float | None
    second_score: float | None


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Two Systems on the same rows. `openings` counts the looks at the sealed test, None if it's shut."""

    first: Scored
    second: Scored
    outcome: Outcome
    rows: int
    told: str
    differences: tuple[Difference, ...]
    changes: tuple[Change, ...]
    openings: int | None
    notes: tuple[str, ...]
    trust: Trust | None = None

    @property
    def found(self) -> Found:
        """What the comparison decides: nothing, on the word of a judge that people don't back."""
        if self.trust is None or self.trust.backed or self.outcome.found == "too_few":
            return self.outcome.found
        return "open"


def compare(first: str, second: str, options: CompareOptions, reporter: Reporter) -> Compared:
    """Compare what two texts name: runs, RUN:RUNG, Systems' folders, tags, base models.

    Answers that a run of theirs holds are used again; new ones are kept there, so that the same command goes
    on after an interruption. Raises RungError for everything a user can mend.
    """
    sides = (side(first), side(second))
    need_two(*sides)
    if options.rows_out is not None:
        need_lines_name(options.rows_out, "--rows-out")
    if options.rows_out is not None and options.rows_out.exists():
        raise TaskError(f"{str(options.rows_out)!r} is there already; choose another file with --rows-out")
    asked = asked_rows(*sides, options.wanted)
    home = next((one.run for one in sides if one.run is not None), options.out)
    folders = [one.run if one.run is not None else home for one in sides]
    for one in sides:
        _need_writable(one)
    with ExitStack() as stack:
        for folder in sorted({folder.resolve() for folder in folders}):
            stack.enter_context(held(folder))
        pool = stack.enter_context(Pool(till=till_of(sides, asked, home), say=reporter.say))
        systems = [_system(one, asked, home, pool, reporter) for one in sides]
        if systems[0].digest == systems[1].digest:
            raise TaskError(f"{first!r} and {second!r} are one System ({systems[0].digest}); name two others")
        judge = judge_for(sides, asked, home, pool, reporter)
        content = content_judge_for(sides, asked, home, pool, reporter)
        _count_looks(folders, systems, asked)
        benches = [
            replace(_bench(folder, asked, pool), judge=judge, content_judge=content) for folder in folders
        ]
        a, b = (
            _scored(one.given, system, bench, asked, reporter)
            for one, system, bench in zip(sides, systems, benches, strict=True)
        )
        trust = trusted(judge, asked, pool)
    found = outcome(
        a.measurement,
        b.measurement,
        targets={e.id: e.output for e in asked.examples},
        groups=asked.groups,
        seed=0 if asked.prepared is None else asked.prepared.task.seed,
    )
    changes = tuple(_changes(a.measurement, b.measurement, asked.examples))
    if options.rows_out is not None:
        append_jsonl(options.rows_out, [as_record(change) for change in changes])
    looks = [sealed.openings(folder, digest) for folder in folders for digest in asked.opened]
    return Compared(
        first=a,
        second=b,
        outcome=found,
        rows=len(asked.examples),
        told=asked.told,
        differences=differences(systems[0].spec, systems[1].spec),
        changes=changes,
        openings=max(looks, default=None),
        notes=(*asked.notes, *content_told(content, a.measurement, b.measurement)),
        trust=trust,
    )


def _need_writable(one: Side) -> None:
    """Raises RunError where nothing can be kept in the side's run, which --out wouldn't mend."""
    if one.run is not None and not os.access(one.run, os.W_OK):
        raise RunError(
            f"{str(one.run)!r} can't be written to, and a comparison keeps answers there and counts looks at "
            "the test: copy the run to a place of your own, and name it there"
        )


def as_record(change: Change) -> dict[str, Json]:
    """A changed row as a line of --rows-out."""
    return {
        "change": change.way,
        "id": change.row,
        "where": change.where,
        "input": change.input,
        **({} if change.context is None else {"context": change.context}),
        "expected": change.expected,
        "a": change.first,
        "b": change.second,
        "a_score": change.first_score,
        "b_score": change.second_score,
    }


def _system(one: Side, asked: Asked, home: Path, pool: Pool, reporter: Reporter) -> System:
    """The side's System; of a base model, that of the rung `prompt` under its first instruction."""
    if one.system is not None:
        return one.system
    assert one.model is not None, "a side is a System or a model"
    if asked.prepared is None:
        raise TaskError(f"{one.given!r} is a base model and has to be told what is asked; give --task TASK")
    model = limited(base_model(one.model, reporter), asked.prepared.task.context_tokens)
    pool.models[model.digest] = model
    context = _context(one.model, model, asked, home, pool, reporter)
    spec = spec_for(
        context,
        "prompt",
        instruction=instructions(context)["plain"],
        answer=answer_spec(context, constrained=True),
    )
    engine = "llama" if model.gguf is not None else "torch"
    return save(home / SYSTEMS_FOLDER / slug(model.name), spec.model_copy(update={"engine": engine}), {})


def _context(given: str, model: Model, asked: Asked, home: Path, pool: Pool, reporter: Reporter) -> Context:
    """What the rung `prompt` would be given."""
    assert asked.prepared is not None, "a base model is told of a task"
    task, splits = asked.prepared.task, asked.prepared.splits
    return Context(
        task=task.model_copy(update={"models": (given,)}),
        train=splits.train,
        dev=splits.dev,
        model=model,
        folder=home,
        bench=_bench(home, asked, pool),
        reporter=reporter,
        deadline=math.inf,
        seed=task.seed,
    )


def _count_looks(folders: Sequence[Path], systems: Sequence[System], asked: Asked) -> None:
    """Note the look at each sealed test before an answer is asked; one that was scored there adds none."""
    for folder in dict.fromkeys(folders):
        digests = [s.digest for s, at in zip(systems, folders, strict=True) if at == folder]
        for test in asked.opened:
            sealed.count(folder, digests, test)


def _bench(folder: Path, asked: Asked, pool: Pool) -> Bench:
    return Bench(pool=pool, store=Store(folder / ANSWERS_FOLDER), metric=asked.metric)


def _scored(given: str, system: System, bench: Bench, asked: Asked, reporter: Reporter) -> Scored:
    """The System's answers, scored and timed."""
    rows, till = asked.examples, bench.pool.till
    bar = reporter.begin(f"{given} on {len(rows):,} rows", len(rows))
    try:
        found = evaluate.measure(
            system, rows, bench, split=asked.split, on_done=lambda done, _: reporter.advance(bar, done)
        )
        found = evaluate.timed(found, system, rows, bench)
    finally:
        reporter.end(bar)
    spec = system.spec
    task = None if asked.prepared is None else asked.prepared.task
    by_hour = Task.model_fields["machine_usd_per_hour"].default if task is None else task.machine_usd_per_hour
    price = till.price(*place_of(system)) if till is not None and system.is_hosted else None
    paid = None if price is None else 1000 * billed_usd(price, found)
    return Scored(
        given=given,
        system=system.digest,
        rung=spec.rung,
        licence=None if spec.model is None else spec.model.licence,
        measurement=found,
        usd_per_1000=usd_per_1000(found.seconds_per_answer, by_hour) if paid is None else paid,
    )


def _said(one: Prediction, metric: MetricName) -> tuple[Json, float | None]:
    """The answer with its score; where a verdict stands in its place, its text."""
    return one.answer.text.strip() if metric == "judge" else one.answer.value, one.score


def _changes(first: Measurement, second: Measurement, rows: Sequence[Example]) -> Iterator[Change]:
    """The rows that are answered differently, in the rows' order."""
    there = {p.example_id: p for p in first.predictions}
    here = {p.example_id: p for p in second.predictions}
    for row in rows:
        a, b = there[row.id], here[row.id]
        change = row_change(a.score, b.score, first.metric)
        if change == "none" and _said(a, first.metric) == _said(b, first.metric):
            continue
        yield Change(
            way="other" if change == "none" else change,
            row=row.id,
            where=row.where,
            input=row.input,
            context=row.context,
            expected=row.output,
            first=a.answer.failure or a.answer.text,
            second=b.answer.failure or b.answer.text,
            first_score=a.score,
            second_score=b.score,
        )
