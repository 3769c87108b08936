"""From what the user named to a completed task and checked, split rows."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from rung.checks.base import on_one_side, rows_text
from rung.checks.judge import judge_notes
from rung.checks.progress import bar
from rung.data.documents import read_documents
from rung.data.held import held_by, is_most
from rung.data.judged import with_undesirable
from rung.data.near import rows_alike
from rung.data.passages import passages_of
from rung.data.sketches import Progress, no_progress
from rung.data.sources import Broken, Source, conform, nulls_note, of_kind, read_source
from rung.data.splits import split
from rung.data.unlabelled import apart_from, read_unlabelled
from rung.errors import DataError, TaskError
from rung.models.catalog import CATALOG, Entry, entry_named
from rung.models.family import family_of
from rung.models.hosted import hosted
from rung.models.offered import Offered, offered_named
from rung.records import Example, Finding, Json, OutputKind, Passage, Splits
from rung.rungs.base import Reporter
from rung.scoring.prices import listed_price
from rung.task import Task, infer, load_task, settle_kind
from rung.task.draws import named_draws
from rung.task.model import DataFormat, Prices
from rung.task.tables import with_tables

FEWEST_ROWS = 20
FEWEST_DEV_ROWS = 20
FEWEST_LEFT = 4
"""Dev rows without which no rung's pace can be taken; as few are a fifth of the fewest rows."""
SHOWN_NOTES = 3
"""Of documents that can't be read, in one line."""
USUAL_DEV_ROWS = 500
FEWEST_AFFORDED = 60
"""Dev rows however slow the answers: a verdict on dev needs 50 that were answered."""
DEV_SHARE = 0.35
SCORED_RUNGS = 4
"""Dev scores of so many rungs may take this share of the budget."""
CHARACTERS_A_TOKEN, READ_A_SECOND, WRITTEN_A_SECOND = 2.5, 400, 25
"""About what a 135M model does on two cores: guessed, so that the split doesn't hang on a clock."""


class RowOptions(Protocol):
    """The command-line choices that decide the rows."""

    @property
    def test(self) -> Path | None:
        """A test file for a bare data file."""
        ...

    @property
    def models(self) -> tuple[str, ...]:
        """Models in place of the task's."""
        ...

    @property
    def dev_rows(self) -> int | None:
        """The most dev rows to score; None for as many as the budget affords."""
        ...

    @property
    def budget_s(self) -> float:
        """Seconds for checking, building and choosing."""
        ...

    @property
    def seed(self) -> int | None:
        """A seed in place of the task's."""
        ...

    @property
    def format(self) -> str:
        """How rows are written, or `auto`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A task with nothing left open, its rows in three parts, and what was seen on the way.

    `broken` rows, of the file of training rows and then of the test's, are in none of the parts, nor are the
    `undesirable` ones of the file of training rows; None where no row of it has a judgement. `near` are
    the ids of rows that are nearly the same, by group; `near_test` are rows of that file, each with a row of
    the given test that is nearly the same (None without one); `notes` are on what the task names;
    `unlabelled` are inputs for a teacher, none of them like a row of the parts; `audited` are test rows with
    a second person's outputs. `passages` are those of the documents. `added` is a model that is climbed on
    beside the usual one, as nobody named any.
    """

    task: Task
    splits: Splits
    inferred: tuple[str, ...]
    broken: tuple[Broken, ...]
    near: tuple[tuple[str, ...], ...]
    notes: tuple[Finding, ...]
    near_test: tuple[tuple[Example, Example], ...] | None = None
    undesirable: tuple[Example, ...] | None = None
    unlabelled: tuple[Example, ...] = ()
    audited: tuple[tuple[Example, Json], ...] | None = None
    passages: tuple[Passage, ...] = ()
    added: str | None = None


def prepare(source: Path, options: RowOptions, reporter: Reporter | None = None) -> Prepared:
    """Read, infer and split; rows that can't be read are put aside. The `reporter` is told how far that is.

    Raises RungError where too few rows are left, or they fit no task.
    """
    if options.dev_rows is not None and options.dev_rows < FEWEST_DEV_ROWS:
        raise DataError(
            f"--dev-rows {options.dev_rows} is too few to choose by; give at least {FEWEST_DEV_ROWS}"
        )
    task = _with_options(load_task(source, test=options.test, models=options.models), options)
    if (base := _base_beside(task)) is not None:
        task = task.model_copy(update={"models": (*task.models, base.name)})
    chosen = task.data.written(options.format)
    with bar(reporter, f"reading {task.data.train.name}", None) as advance:
        train = read_source(task.data.train, chosen, lenient=True, progress=advance)
    if len(train.examples) < FEWEST_ROWS:
        others = f"; {len(train.broken)} more can't be used: {train.broken[0].reason}" if train.broken else ""
        raise DataError(
            f"{task.data.train.name}: {len(train.examples)} rows; a climb needs at least {FEWEST_ROWS}, and "
            f"some hundreds for a verdict that means something{others}"
        )
    test = _test_rows(task.data.test, chosen) if task.data.test else None
    passages, documents = _documents(task, reporter)
    task, noted = settle_kind(task, train.examples)
    assert task.output.kind is not None, "just settled"
    train, test = of_kind(task, train), test and of_kind(task, test)
    noted += nulls_note(train, task.output.kind) + (nulls_note(test, task.output.kind) if test else ())
    examples = conform(train.examples, task.output.kind)
    with bar(reporter, "near-duplicates", len(examples)) as advance:
        near = near_duplicates(examples, progress=lambda done, _: advance(done))
    tested = conform(test.examples, task.output.kind) if test else None
    held = None
    if tested is not None:
        with bar(reporter, "rows that the test holds", len(examples)) as advance:
            held = held_by(tested, examples, progress=lambda done, _: advance(done))
    out = {row.id for row, _ in held.near} if held and not is_most(held, examples) else set[str]()
    local = sum(hosted(name) is None for name in task.models)
    with bar(reporter, "splitting", None), _naming_unused(train):
        parts = split(
            [row for row in examples if row.id not in out] if out else examples,
            test=tested,
            seed=task.seed,
            stratify=task.output.kind == "label",
            dev_rows=options.dev_rows
            or affordable(examples, task.output.kind, options.budget_s / max(1, local)),
            near=[group for group in near if on_one_side(len(group), len(examples))],
        )
    if len(parts.dev) < FEWEST_LEFT:
        carved_of_some = tested is None and any(row.synthetic for row in parts.train)
        made = "what a model made is in train, " if carved_of_some else ""
        raise DataError(
            f"{task.data.train.name}: of {len(examples):,} rows {len(parts.dev)} are left to choose by: rows "
            f"of one group, or that say nearly the same, stay on one side, {made}and what the test holds is "
            "out; give more rows, of more groups"
        )
    removed = (*parts.removed, *(row for row in examples if row.id in out))
    parts = replace(parts, dev=_in_asking_order(parts.dev, task.seed), removed=removed)
    judged: tuple[str, ...] = ()
    if train.undesirable:
        with bar(reporter, "undesirable answers", None):
            parts, judged = _with_judged(parts, train, task)
    task, inferred = infer(task, (*parts.train, *parts.dev))
    parts = _with_tables(parts, task)
    unlabelled: tuple[Example, ...] = ()
    notes = (*train.notes, *judged, *(test.notes if test else ()), *noted, *_said_of(task, base))
    if task.data.unlabelled is not None:
        with bar(reporter, f"reading {task.data.unlabelled.name}", None):
            unlabelled, said = fresh_inputs(task.data.unlabelled, parts, train.format)
        notes += (said,)
    return Prepared(
        task=task,
        splits=parts,
        inferred=(*notes, *inferred),
        broken=(*train.broken, *(test.broken if test else ())),
        near=near,
        near_test=held and held.near,
        notes=(*_rivals(task), *_base_model(task), *documents, *judge_notes(task)),
        undesirable=train.undesirable,
        unlabelled=unlabelled,
        passages=passages,
        added=None if base is None else base.name,
    )


def _test_rows(path: Path, format: str) -> Source:
    """The given test. Raises DataError where none of its rows can be used, with the reason of the first."""
    test = read_source(path, format, lenient=True, learned=False)
    if not test.examples and test.broken:
        raise DataError(
            f"{path.name}: no row of the test can be used ({rows_text(len(test.broken))}); the first: "
            f"{test.broken[0].reason}"
        )
    return test


@contextmanager
def _naming_unused(source: Source) -> Iterator[None]:
    """Say of rows that can't be parted which columns, that may tell them apart, aren't read."""
    try:
        yield
    except DataError as error:
        if not source.unused:
            raise
        raise DataError(f"{error} (columns not used: {', '.join(source.unused)[:200]})") from None


def _with_judged(parts: Splits, train: Source, task: Task) -> tuple[Splits, tuple[str, ...]]:
    """The parts with the undesirable answers beside them, and a note where the test keeps some out."""
    assert task.output.kind is not None, "it is settled before rows are split"
    bad = conform(train.undesirable or (), task.output.kind)
    parts = with_undesirable(parts, bad, task.seed)
    aside = len(bad) - len(parts.undesirable) - len(parts.dev_undesirable)
    if not aside:
        return parts, ()
    note = f"{aside:,} of {len(bad):,} undesirable rows left aside: the test holds their question or group"
    return parts, (f"{task.data.train.name}: {note}",)


def _with_tables(parts: Splits, task: Task) -> Splits:
    """The rows that are scored, their queries with the tables that they are run on."""
    metric, database = task.metric, task.data.database
    return replace(
        parts,
        train=with_tables(parts.train, metric, database),
        dev=with_tables(parts.dev, metric, database),
        test=with_tables(parts.test, metric, database),
    )


def fresh_inputs(path: Path, parts: Splits, form: DataFormat = "auto") -> tuple[tuple[Example, ...], str]:
    """Inputs for a teacher that are like no row of train, dev or test, and a sentence on the others.

    They are written as the rows are, in the format `form`, or as plain inputs. Raises DataError where the
    file can't be read.
    """
    read = read_unlabelled(path, form)
    rows = (*parts.train, *parts.dev, *parts.test, *parts.removed)
    # An input alone may be that of a row with a context, whose answer it would give away.
    kept = apart_from(read.examples, (*rows, *(replace(row, context=None) for row in rows if row.context)))
    said = f"{path.name}: {len(kept):,} inputs for a teacher to answer"
    if like := len(read.examples) - len(kept):
        said += f"; {like:,} more are like a row of train, dev or test, or like each other, and left out"
    if read.broken:
        said += f"; {len(read.broken):,} can't be used: {read.broken[0]}"
    return tuple(kept), said


def _documents(task: Task, reporter: Reporter | None) -> tuple[tuple[Passage, ...], list[Finding]]:
    """The passages of the task's documents, and a finding where some of them can't be read."""
    if task.data.documents is None:
        return (), []
    with bar(reporter, f"reading {task.data.documents.name}", None):
        found = read_documents(task.data.documents)
        passages = passages_of(found.documents)
    count = len(found.notes)
    if not count:
        return passages, []
    message = f"data.documents: left out: {'; '.join(found.notes[:SHOWN_NOTES])}"
    message += f"; and {count - SHOWN_NOTES} more" if count > SHOWN_NOTES else ""
    return passages, [
        Finding(check="documents", severity="warn", message=message, count=count, details=found.notes)
    ]


def near_duplicates(
    examples: Sequence[Example], progress: Progress = no_progress
) -> tuple[tuple[str, ...], ...]:
    """Ids of rows with nearly the same input and the same context, but for a date, by group."""
    groups = rows_alike(examples, progress=progress)
    return tuple(tuple(examples[place].id for place in group) for group in groups)


def _in_asking_order(dev: Sequence[Example], seed: int) -> tuple[Example, ...]:
    """Dev rows at random, the same way each time, those that are drawn together in one place.

    A rung is stopped by the first of them: they have to be a fair draw.
    """
    units = named_draws(dev)

    def place(example: Example) -> tuple[str, str]:
        return hashlib.sha256(f"{seed}:{units[example.id]}".encode()).hexdigest(), example.id

    return tuple(sorted(dev, key=place))


def affordable(examples: Sequence[Example], kind: OutputKind, budget_s: float) -> int:
    """How many dev rows the rungs can be scored on: 500, fewer for long answers and a short budget."""
    if kind == "label":
        return USUAL_DEV_ROWS
    read = sum(len(example.input) + len(example.context or "") for example in examples) / len(examples)
    written = sum(len(json.dumps(example.output, ensure_ascii=False)) for example in examples) / len(examples)
    seconds = (read / READ_A_SECOND + written / WRITTEN_A_SECOND) / CHARACTERS_A_TOKEN
    rows = int(DEV_SHARE * budget_s / SCORED_RUNGS / seconds)
    return min(USUAL_DEV_ROWS, max(FEWEST_AFFORDED, rows))


def _with_options(task: Task, options: RowOptions) -> Task:
    changes: dict[str, object] = {}
    if options.models:
        changes["models"] = options.models
    if options.seed is not None:
        if not 0 <= options.seed < 2**32:
            raise TaskError(f"--seed {options.seed}: give a whole number from 0 to {2**32 - 1}")
        changes["seed"] = options.seed
    return task.model_copy(update=changes)


def _base_beside(task: Task) -> Entry | None:
    """A base model to climb on as well where texts are to sound like an author and nobody named a model."""
    if task.metric != "style" or "models" in task.model_fields_set:
        return None
    return next(iter(_bases(task)), None)


def _bases(task: Task) -> list[Entry]:
    """The models of the catalog that write and weren't tuned to chat; none of the judge's own family."""
    judging = family_of(task.judge.model) if task.judge is not None else None
    found = (entry for entry in CATALOG if entry.kind == "generate" and entry.family == "plain")
    return [entry for entry in found if family_of(entry.name) != judging]


def _said_of(task: Task, base: Entry | None) -> tuple[str, ...]:
    """A sentence on the models where a base model was put beside the usual one."""
    if base is None:
        return ()
    why = "under style a base model is tried, too: it often takes on an author's voice better"
    return (f"models = {', '.join(task.models)} (not given; {why}; {base.name}'s licence: {base.licence})",)


def _base_model(task: Task) -> list[Finding]:
    """Advice to name a base model where texts are to sound like an author and every model was tuned to chat.

    Only what a name alone tells is known here: no model is fetched for it.
    """
    if task.metric != "style":
        return []
    known = [entry_named(name) or offered_named(name) for name in task.models if hosted(name) is None]
    if not known or not all(isinstance(one, Offered) or (one and one.family == "chatml") for one in known):
        return []
    if not (bases := [entry.name for entry in _bases(task)]):
        return []
    message = (
        "models: all of them were tuned to chat, and a base model often takes on an author's style better; "
        f"name one beside them, such as {' or '.join(bases)}"
    )
    return [Finding(check="models", severity="info", message=message)]


def _rivals(task: Task) -> list[Finding]:
    """What several hosted models ask for, and where one price is that of more than one of them."""
    rivals = [model for name in task.models if (model := hosted(name)) is not None]
    if len(rivals) < 2:
        return []
    message = (
        f"models: {len(rivals)} hosted models are compared with, {', '.join(m.given for m in rivals)}: each "
        "is paid for on the dev rows, and is one more comparison that the verdict is corrected for"
    )
    found = [Finding(check="models", severity="info", message=message)]
    unlisted = [model.given for model in rivals if listed_price(model.model, model.url) is None]
    if isinstance(task.prices, Prices) and len(unlisted) > 1:
        message = (
            f"prices: one price is that of {' and '.join(unlisted)}, which no list knows; where they differ "
            "give each its own, by name: prices: {NAME: {input_usd_per_m: …, output_usd_per_m: …}}"
        )
        found.append(Finding(check="models", severity="warn", message=message))
    return found
