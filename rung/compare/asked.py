"""The rows on which two Systems are compared, and what either of them may know of these rows already."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rung.checks.rows import Prepared, prepare
from rung.climb import sealed
from rung.climb.again import need_database, read_as_climbed, rows_again
from rung.climb.names import rung_of
from rung.climb.options import Options
from rung.climb.ordering import stack
from rung.climb.sentence import are_few, told_draws
from rung.climb.stored import climbs_in, load_climb
from rung.compare.sides import Side
from rung.data.sources import conform
from rung.errors import DataError, RungError, TaskError
from rung.records import Example, MetricName, OutputKind, SplitName
from rung.scoring.fields import spaced
from rung.task.complete import METRICS
from rung.task.draws import count_draws, drawn_with, question
from rung.task.outputs import as_calls
from rung.task.tables import Query, with_tables

PLACES = ("A", "B")
CHOSEN_BY = (
    "Systems of the climb were chosen by these very rows, which flatters them; --test asks rows that none of "
    "them has seen, and counts that"
)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The rows that are asked for: those of a task, of a file, or by default the dev rows of the run.

    `format` says how those of a task or a file are written. `test` opens the sealed test; so does a file that
    holds rows of it.
    """

    task: Path | None = None
    rows: Path | None = None
    format: str = "auto"
    test: bool = False
    metric: str | None = None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The rows to ask, how answers are scored, and in words where they come from.

    `prepared` is the task that they belong to, for a base model to be told of; None where there is none.
    `is_named`: the command names that task.
    `opened` are the digests of the sealed tests of which these rows are part.
    """

    examples: tuple[Example, ...]
    split: SplitName
    metric: MetricName
    told: str
    prepared: Prepared | None
    is_named: bool = False
    opened: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def groups(self) -> dict[str, str]:
        """What each row that is drawn with others is drawn with."""
        return drawn_with(self.examples)


@dataclass(frozen=True)
class _Runs:
    """The rows of the runs that the sides come from, each made again once, and why not where it can't be."""

    made: dict[Path, Prepared | RungError] = field(default_factory=dict)

    def of(self, one: Side) -> Prepared | RungError | None:
        """None for a side of which no climb is known."""
        if one.origin is None:
            return None
        run = one.origin.folder
        if run not in self.made:
            try:
                self.made[run] = rows_again(run)
            except RungError as error:
                self.made[run] = error
        return self.made[run]

    def sure(self, one: Side) -> Prepared:
        """Raises what hinders it."""
        found = self.of(one)
        assert found is not None, "only sides with a run are asked"
        if isinstance(found, RungError):
            raise found
        return found


def asked_rows(first: Side, second: Side, wanted: Wanted) -> Asked:
    """The rows for both. Raises RungError where there are none that both can be asked fairly."""
    if wanted.task is not None and wanted.rows is not None:
        raise TaskError("--task and --rows both name rows; give one of them")
    if wanted.task is None and wanted.rows is None and wanted.format != "auto":
        raise TaskError(
            f"--format {wanted.format!r} says how the rows of --task or --rows are written; without these "
            "the run's own are asked, read as its climb read them: leave it out"
        )
    runs, sides = _Runs(), (first, second)
    if wanted.rows is not None:
        found = _of_file(wanted.rows, wanted, sides, runs)
    elif wanted.task is not None:
        prepared = prepare(wanted.task, Options(format=wanted.format))
        found = _of_task(prepared, wanted, sides, f"of {wanted.task}")
        found = _looked_through(found, wanted, sides, runs)
    else:
        found = _of_task(_common(sides, runs), wanted, sides, "of the climb")
        if not wanted.test:
            found = replace(found, notes=(CHOSEN_BY,))
    found = replace(found, notes=(*found.notes, *_need_kind(sides, found)))
    rows, draws = len(found.examples), count_draws(found.examples)
    if 1 < draws and are_few(draws, rows):
        return replace(found, notes=(*found.notes, told_draws(draws, f"{rows:,} rows")))
    return found


def _of_task(prepared: Prepared, wanted: Wanted, sides: Sequence[Side], told: str) -> Asked:
    """The dev rows of a task, or its test rows where the test is opened."""
    splits, kind = prepared.splits, prepared.task.output.kind
    assert kind is not None, "the task was completed from its rows"
    metric = _metric(wanted, kind, sides, prepared.task.metric)
    return Asked(
        examples=scored_rows(splits.test if wanted.test else splits.dev, metric, prepared),
        split="test" if wanted.test else "dev",
        metric=metric,
        told=f"{'test' if wanted.test else 'dev'} rows {told}",
        prepared=prepared,
        is_named=wanted.task is not None,
        opened=(sealed.rows_digest(splits.test),) if wanted.test else (),
    )


def _of_file(file: Path, wanted: Wanted, sides: Sequence[Side], runs: _Runs) -> Asked:
    """All rows of a file. They are a test's where a run of one of the sides has sealed them."""
    known: OutputKind | None = next((one.system.spec.kind for one in sides if one.system is not None), None)
    if known is None:
        raise TaskError("two base models answer nothing in particular; name what with --task TASK")
    read = read_as_climbed(next((one.run for one in sides if one.run is not None), None), file, wanted.format)
    rows = conform(read.examples, known)
    with_rows = [found for one in sides if isinstance(found := runs.of(one), Prepared)]
    metric, prepared = _metric(wanted, known, sides, None), next(iter(with_rows), None)
    asked = Asked(
        examples=scored_rows(rows, metric, prepared),
        split="dev",
        metric=metric,
        told=f"rows of {file.name}",
        prepared=prepared,
        notes=tuple(note for note in read.notes if "undesirable" in note) if read.undesirable else (),
    )
    return _looked_through(asked, wanted, sides, runs)


def scored_rows(
    rows: Sequence[Example], metric: MetricName, prepared: Prepared | None
) -> tuple[Example, ...]:
    """The rows as the metric scores them. TaskError where queries have nothing to be run on."""
    found = with_tables(rows, metric, prepared.task.data.database if prepared is not None else None)
    if metric == "execution" and not any(isinstance(row.output, Query) for row in found):
        raise TaskError(
            "metric 'execution' needs tables to run queries on, and no row has any; name an SQLite file as "
            "data.database of a task, or choose another with --metric"
        )
    return found


def _looked_through(asked: Asked, wanted: Wanted, sides: Sequence[Side], runs: _Runs) -> Asked:
    """The rows with what the sides' climbs know of them. Raises TaskError at a seal that is to stay."""
    notes, opened = list(asked.notes), list(asked.opened)
    here = {question(row) for row in asked.examples}
    for place, one in zip(PLACES, sides, strict=True):
        if one.system is None:
            continue
        found = runs.of(one)
        held, test = _of_its_test(asked, one, found)
        if held and not wanted.test:
            raise TaskError(
                f"{held:,} of these rows are of the sealed test of {str(one.run)!r}: --test opens it, and "
                "the look is counted"
            )
        opened += [test] if held else []
        if not isinstance(found, Prepared):
            why = f"it {one.unknown}" if found is None else str(found)
            notes.append(f"whether {place} learned from these rows can't be told: {why}")
            continue
        if learned := here & {question(row) for row in found.splits.train}:
            notes.append(f"{place} learned from {len(learned):,} of these rows: its score is too good")
        if chosen := here & {question(row) for row in found.splits.dev}:
            notes.append(f"{place} was chosen by {len(chosen):,} of these rows: its score flatters it")
        notes += _otherwise(here - learned - chosen, place, one, found)
    return replace(asked, opened=tuple(dict.fromkeys(opened)), notes=tuple(notes))


def _otherwise(here: set[tuple[str, str]], place: str, one: Side, found: Prepared) -> Iterator[str]:
    """What a side may have learned of questions from a teacher's answers to them, or from bad ones.

    A teacher may have been asked the input alone of a row with a context.
    """
    assert one.origin is not None, "its rows are known"
    rungs = {rung_of(below.rung) for below in stack(one.origin.result, one.origin.climb.results)}
    inputs = {question(row) for row in found.unlabelled}
    taught = {said for said in here if said in inputs or (said[0], "") in inputs}
    judged = {question(row) for row in (*found.splits.undesirable, *found.splits.dev_undesirable)}
    ways = (
        ("distill_head", "a teacher's answers to", taught),
        ("distill", "a teacher's answers to", taught),
        ("preference", "from bad answers to", here & judged),
    )
    for rung, what, rows in ways:
        if rung in rungs and rows:
            yield f"{place} may have learned {what} {len(rows):,} of these rows: its score may be too good"


def _of_its_test(asked: Asked, one: Side, found: Prepared | RungError | None) -> tuple[int, str]:
    """How many of the rows are of the sealed test of the side's climb, and what names that test.

    Where the climb's rows lie elsewhere now, its log still knows the whole test, and its results the rows.
    """
    if one.run is None:
        return 0, ""
    if isinstance(found, Prepared):
        here = {question(row) for row in asked.examples}
        test = found.splits.test
        return len(here & {question(row) for row in test}), sealed.rows_digest(test)
    digest = sealed.rows_digest(asked.examples)
    if digest in sealed.known(one.run):
        return len(asked.examples), digest
    results = [result for folder in climbs_in(one.run) for result in load_climb(folder).results]
    tested = {p.example_id for result in results if result.test for p in result.test.predictions}
    return sum(row.id in tested for row in asked.examples), sealed.own_test(one.run) or digest


def _common(sides: Sequence[Side], runs: _Runs) -> Prepared:
    """The rows of the one climb, or of two climbs of the same rows. TaskError where there aren't any.

    RunError where they can't be scored as they were there.
    """
    for place, one in zip(PLACES, sides, strict=True):
        if one.system is not None and one.origin is None:
            raise TaskError(
                f"{place}, {one.given!r}, {one.unknown}, so there are no rows for both; "
                "give some with --rows FILE or --task TASK"
            )
    with_rows = [one for one in sides if one.origin is not None]
    if not with_rows:
        raise TaskError("two base models have no rows in common; give some with --task TASK")
    data = {dict(one.origin.climb.digests).get("data") for one in with_rows if one.origin is not None}
    if len(data) > 1:
        raise TaskError(
            "the two climbs had different rows or split them differently; give rows that neither learned "
            "from with --rows FILE or --task TASK"
        )
    found = runs.sure(with_rows[0])
    for one in with_rows:
        if one.origin is not None:
            need_database(one.origin.folder, found.task)
    return found


def _metric(
    wanted: Wanted, kind: OutputKind, sides: Sequence[Side], of_task: MetricName | None
) -> MetricName:
    """The one asked for, else the task's, else the climbs', else the usual one. TaskError for none."""
    fitting = METRICS[kind]
    if wanted.metric is not None:
        given: MetricName | None = next((name for name in fitting if name == wanted.metric), None)
        if given is None:
            raise TaskError(
                f"--metric {wanted.metric!r} does not fit answers of kind {kind!r}; choose from "
                f"{', '.join(fitting)}"
            )
        return given
    if of_task is not None and of_task in fitting:
        return of_task
    named = list(dict.fromkeys(one.origin.climb.metric for one in sides if one.origin is not None))
    if len(named) > 1:
        raise TaskError(f"the two climbs were scored by {' and '.join(named)}; choose one with --metric")
    return named[0] if named and named[0] in fitting else fitting[0]


def _need_kind(sides: Sequence[Side], asked: Asked) -> tuple[str, ...]:
    """What is to be said of labels that the Systems don't know.

    Raises RungError where the rows aren't answered by what the Systems answer.
    """
    spec = next((one.system.spec for one in sides if one.system is not None), None)
    task = asked.prepared.task if asked.prepared is not None else None
    if spec is None:
        return ()
    if task is not None and task.output.kind != spec.kind:
        raise TaskError(
            f"the rows are answered with {task.output.kind} and the Systems answer with {spec.kind}; give "
            "the rows of their own task"
        )
    check = _CHECKS.get(spec.kind)
    odd = [row for row in asked.examples if check is not None and not check(row)]
    if odd:
        raise DataError(f"{odd[0].where}: output {odd[0].output!r:.80} is no {spec.kind}; correct it")
    known = {spaced(label) for label in spec.labels}
    unknown = [row for row in asked.examples if spec.kind == "label" and spaced(str(row.output)) not in known]
    if not unknown:
        return ()
    if len(unknown) == len(asked.examples):
        raise TaskError(
            f"no row has a label that the Systems know, such as {spec.labels[0]!r}: the first has "
            f"{asked.examples[0].output!r:.80}; give the rows of their own task"
        )
    return (
        f"{len(unknown):,} of {len(asked.examples):,} rows have a label that the Systems don't know, such as "
        f"{unknown[0].where} {unknown[0].output!r:.80}: no answer of theirs is right there",
    )


_CHECKS: dict[OutputKind, Callable[[Example], bool]] = {
    "json": lambda row: isinstance(row.output, (dict, list)),
    "tool_call": lambda row: isinstance(row.output, list) and as_calls(row.output) is not None,
    "number": lambda row: isinstance(row.output, (int, float)),
    "label": lambda row: isinstance(row.output, str),
    "text": lambda row: isinstance(row.output, str),
}
