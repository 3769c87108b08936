"""The steps of a climb: every rung once, or on each model if it rests on one, in the order of cost."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rung.climb.names import candidate_name
from rung.climb.options import base_model, brought
from rung.climb.rivals import named_rivals
from rung.errors import ModelError, TaskError, WeightsError
from rung.models.catalog import entry_named
from rung.models.chat import THOUGHT_CLOSED, opens_thought
from rung.models.embed import Embedder
from rung.models.hosted import hosted
from rung.models.offered import offered_named
from rung.models.resolve import Model, first_seen, limited
from rung.rungs.api import Api
from rung.rungs.base import ModelFree, Reporter, Rung, slug
from rung.task import Task


@dataclass(frozen=True, kw_only=True)
class Base:
    """A base model of a climb, as the task file or the command line names it (`given`), and in short."""

    model: Model
    given: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Step:
    """A rung on a base model; the candidate that it makes has its `name`. `order` is its place, from 0.

    A rung that asks no language model has `base` for form's sake. `rival` is the hosted model that one asks,
    as the task file or the command line names it.
    """

    name: str
    order: int
    rung: Rung
    base: Base
    rival: str | None = None

    @property
    def model(self) -> str | None:
        """The model that the candidate rests on; None where it rests on none."""
        return None if isinstance(self.rung, ModelFree) else self.base.label


@runtime_checkable
class Embedding(Protocol):
    """A rung that works with sentence vectors on some tasks, and can't be built there without their model."""

    def embeds(self, task: Task) -> bool:
        """Whether this is such a task."""
        ...


def bases(task: Task, reporter: Reporter) -> tuple[Base, ...]:
    """The models of a climb, the smallest first, brought where they aren't here yet.

    Raises RungError where one can't be had, or two are the same weights. Each one's licence is
    said, which binds whoever ships what is made of it, where there are several, and where one comes from a
    hub and wasn't tried here. That a template opens answers with a thought is said, too.
    """
    # A hosted model alone is no model to climb on, and is told so.
    local = [given for given in task.models if hosted(given) is None] or task.models
    found = [(given, limited(_brought(given, task, reporter), task.context_tokens)) for given in local]
    by_digest: dict[str, str] = {}
    for given, model in found:
        if model.digest in by_digest:
            raise TaskError(
                f"models: {by_digest[model.digest]!r} and {given!r} are the same weights; name one"
            )
        by_digest[model.digest] = given
    counts = Counter(_short(model) for _, model in found)
    made = [
        Base(
            model=model,
            given=given,
            label=_short(model) if counts[_short(model)] == 1 else f"{_short(model)}-{model.digest[:6]}",
        )
        for given, model in found
    ]
    made.sort(key=lambda one: (one.model.parameters, one.label))
    for one in made:
        if len(made) > 1 or offered_named(one.given) is not None:
            reporter.say(licence_line(one))
        if one.model.template is not None and opens_thought(one.model.template):
            reporter.say(f"{one.label}: {THOUGHT_CLOSED}")
    return tuple(made)


def _brought(given: str, task: Task, reporter: Reporter) -> Model:
    """One of the models, brought. Raises WeightsError where it can't be had, with the way to do without."""
    try:
        return base_model(given, reporter)
    except WeightsError as error:
        others = [name for name in task.models if name != given]
        if all(hosted(name) is not None for name in others):
            raise
        way = f"models: [{', '.join(others)}] in the task file, or --models {','.join(others)}"
        raise WeightsError(f"{error}. To climb without it: {way}") from None


def bring_embedder(rungs: Sequence[Rung], task: Task, reporter: Reporter) -> None:
    """Bring the model of the sentence vectors, where a rung or the metric works with them on this task.

    Raises ModelError where it can't be had: the verdict would be one without the rungs that need it.
    """
    names = [rung.name for rung in rungs if isinstance(rung, Embedding) and rung.embeds(task)]
    by_metric = task.metric == "style"
    if not names and not by_metric:
        return
    try:
        brought(Embedder().name, reporter)
    except ModelError as error:
        others = ",".join(rung.name for rung in rungs if rung.name not in names)
        who = "the metric style" if by_metric else ", ".join(names)
        way = f"; to climb without: --rungs {others}" if others and not by_metric else ""
        raise ModelError(f"{error}. It makes the sentence vectors of {who}{way}") from None


def licence_line(base: Base) -> str:
    """A model's size and licence, and what that asks of whoever uses it where the catalog knows."""
    offered = offered_named(base.given)
    entry = offered or entry_named(base.given)
    size = f"{base.label}: {base.model.parameters / 1e6:,.0f} M parameters"
    note = "" if entry is None else f" ({entry.licence_note})"
    seen = "" if offered is None else f"; {first_seen(offered)}"
    return f"{size}, licence {base.model.licence}{note}{seen}"


def steps_of(rungs: Sequence[tuple[int, Rung]], models: Sequence[Base], task: Task) -> tuple[Step, ...]:
    """Rung after rung as the ladder has them, each on the smallest model first; `api` once for each rival.

    With one model a step is called as its rung and its order is the rung's place on the ladder. Raises
    RungError where the task names half a hosted model, or one twice.
    """
    several = len(models) > 1
    rivals = named_rivals(task)
    made = []
    for place, rung in rungs:
        if rung.name == Api.name and rivals:
            # It's the ladder's last rung: the places after it are free.
            made += [
                Step(name=name, order=place * len(models) + at, rung=rung, base=models[0], rival=model.given)
                for at, (name, model) in enumerate(rivals.items())
            ]
            continue
        free = isinstance(rung, ModelFree)
        for size, base in enumerate(models[:1] if free else models):
            name = candidate_name(rung.name, base.label if several and not free else None)
            made.append(Step(name=name, order=place * len(models) + size, rung=rung, base=base))
    return tuple(made)


def _short(model: Model) -> str:
    """The model's name, fit for a folder."""
    return slug(model.name)
