"""What a climb is asked for, and what follows: its rungs, its model, and what decides its outcome."""

import difflib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from types import MappingProxyType

from rung import __version__
from rung.checks.rows import Prepared
from rung.climb.rivals import settings
from rung.errors import ModelError, TaskError
from rung.models.hosted import hosted
from rung.models.resolve import Model, resolve
from rung.registry import names_model, resolve_system
from rung.rungs import LADDER
from rung.rungs.base import Reporter, Rung
from rung.rungs.reflect import no_reflection
from rung.rungs.taught import REWORDED
from rung.runs import digest_of, file_digest
from rung.system import System
from rung.task import Tuning


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line may set. `budget_s` bounds building and dev scores, not the final test."""

    test: Path | None = None
    out: Path | None = None
    budget_s: float = 1800.0
    models: tuple[str, ...] = ()
    dev_rows: int | None = None
    test_all: bool = False
    rungs: tuple[str, ...] = ()
    seed: int | None = None
    format: str = "auto"
    accept: tuple[str, ...] = ()
    curve: bool = False
    api_usd: float | None = None
    forgetting: bool = True


def chosen_rungs(options: Options) -> list[tuple[int, Rung]]:
    """The rungs to climb with their places on the ladder. Raises TaskError for a name that is none."""
    names = [rung.name for rung in LADDER]
    for name in options.rungs:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            meant = f"did you mean {near[0]!r}? " if near else ""
            raise TaskError(f"no rung is called {name!r}; {meant}The ladder has {', '.join(names)}")
    return [(i, rung) for i, rung in enumerate(LADDER) if not options.rungs or rung.name in options.rungs]


def brought(name: str, reporter: Reporter) -> Model:
    """The model's files, brought with a progress bar in megabytes where they aren't here yet."""
    bar = reporter.begin(f"fetching {name}, MB", None)
    try:
        return resolve(name, progress=lambda done, _: reporter.advance(bar, done // 10**6))
    finally:
        reporter.end(bar)


def base_model(name: str, reporter: Reporter) -> Model:
    """The files of a model that writes answers, brought where they aren't here yet."""
    model = brought(name, reporter)
    if model.kind != "generate":
        raise ModelError(
            f"{name!r} makes sentence vectors and can't write answers; name another with --models"
        )
    return model


def digests_beside(prepared: Prepared, options: Options, reporter: Reporter) -> dict[str, str]:
    """What teaches and what judges, by digest, where that is a System or a model of this machine.

    A tag can be pointed elsewhere and a file be replaced under the name that the task has. A model that isn't
    here yet is brought. Raises RungError where one can't be had.
    """
    task, found = prepared.task, {}
    # Without inputs for a teacher, `distill` is skipped: then none is brought for it.
    asked = bool(prepared.unlabelled) or task.metric in REWORDED
    rungs = [rung.name for _, rung in chosen_rungs(options)]
    reflects = "optimise" in rungs and task.metric != "style" and no_reflection(task) is None
    taught = reflects or (asked and not {"distill", "distill_head"}.isdisjoint(rungs))
    if task.teacher is not None and hosted(task.teacher) is None and taught:
        if names_model(task.teacher):
            found["teacher"] = brought(task.teacher, reporter).digest
        else:
            found["teacher"] = System.load(resolve_system(task.teacher)).digest
    if task.judge is not None and hosted(task.judge.model) is None:
        found["judge"] = brought(task.judge.model, reporter).digest
    return found


def config_of(
    prepared: Prepared,
    models: Sequence[Model],
    options: Options,
    beside: Mapping[str, str] = MappingProxyType({}),
) -> dict:
    """What decides the outcome of a climb; a run folder is taken up again only under the same.

    `beside` are the digests of a teacher and a judge on this machine. What may be paid isn't part of it: a
    climb that ended at the cap goes on under a higher one. Hosted models but the first stand apart: a run
    goes on beside others.
    """
    digests = [model.digest for model in models]
    usual = {"tuning": True} if prepared.task.tuning == Tuning() else {}
    sometimes: dict = {} if options.forgetting else {"forgetting": False}
    if prepared.unlabelled:
        sometimes["unlabelled"] = digest_of([e.id for e in prepared.unlabelled])
    if prepared.passages:
        sometimes["documents"] = digest_of([astuple(one) for one in prepared.passages])
    if (judge := prepared.task.judge) is not None:
        # What people said of it isn't part of that: a finished climb is decided anew by it.
        compares = prepared.task.metric == "judge"
        sometimes["judge"] = {"model": judge.model, **({"rubric": judge.rubric} if compares else {})}
        if "judge" in beside:
            sometimes["judge"]["digest"] = beside["judge"]
    if "teacher" in beside:
        sometimes["teacher"] = beside["teacher"]
    if (schema := prepared.task.output.json_schema) is not None:
        # Prompts and answers keep to the order of its keys, which a digest of the schema itself passes over.
        sometimes["schema_order"] = digest_of(json.dumps(schema))
    if prepared.task.data.database is not None and prepared.task.metric == "execution":
        sometimes["database"] = file_digest(prepared.task.data.database)
    task, rivals = settings(prepared.task)
    return {
        "task": task.model_dump(
            mode="json",
            by_alias=True,
            exclude={"data": True, "judge": True, "limits": {"api_usd"}, **usual},
        ),
        "data": prepared.splits.digest,
        "dev_rows": len(prepared.splits.dev),
        **({"model": digests[0]} if len(digests) == 1 else {"models": digests}),
        "rungs": [rung.name for _, rung in chosen_rungs(options)],
        "budget_s": options.budget_s,
        "rung": __version__,
        "python": platform.python_version_tuple()[:2],
    } | {**sometimes, **rivals}
