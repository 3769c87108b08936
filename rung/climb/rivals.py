"""The hosted models of a climb: what each is called as a candidate, and where a run's settings have them."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from rung.climb.names import BETWEEN, candidate_name
from rung.models.hosted import PROVIDERS, Hosted, hosted
from rung.rungs.api import Api, own_price, rivals_of
from rung.rungs.base import slug
from rung.runs import digest_of
from rung.task import Task
from rung.task.model import Prices

RIVALS: Final = "rivals"
"""The setting that has the rivals but the first: a run folder may be taken up again when they are others."""
LONGEST_LABEL: Final = 60
"""Of a folder's name; a longer one is cut, and told apart by a digest."""


def named_rivals(task: Task) -> dict[str, Hosted]:
    """The hosted models to compare with, by the names of their candidates; one alone is `api`.

    Raises RungError for half a name, or one model twice.
    """
    found = rivals_of(task)
    if len(found) < 2:
        return {Api.name: found[0]} if found else {}
    counts = Counter(map(_short, found))
    return {
        candidate_name(Api.name, _short(model) if counts[_short(model)] == 1 else _apart(model)): model
        for model in found
    }


def known_as(model: Hosted) -> tuple[str, ...]:
    """Every name that its candidate may have, beside whichever other models."""
    return Api.name, *(candidate_name(Api.name, label) for label in (_short(model), _apart(model)))


def settings(task: Task) -> tuple[Task, dict]:
    """The task as if the first hosted model were the only one to compare with, and what is left out of it.

    Prices by name stay with who else is paid; where that is one model, its price stands alone, as it may in a
    task file.
    """
    rivals = rivals_of(task)
    names = [model.given for model in rivals[1:]]
    changes: dict[str, object] = {"models": tuple(name for name in task.models if name not in names)}
    if isinstance(task.prices, dict):
        judge = hosted(task.judge.model) if task.judge is not None else None
        teacher = None if task.teacher is None else hosted(task.teacher)
        paid = [model for model in (*rivals[:1], teacher, judge) if model is not None]
        alone = len({(model.url, model.model) for model in paid}) == 1
        taught = task.teacher is not None and teacher is None and task.teacher in task.prices
        kept = {name: one for name, one in task.prices.items() if name not in _only(names, task)}
        changes["prices"] = _price(task, paid) if alone and not taught else kept or None
    left_out = {"models": names, "prices": task.model_dump(mode="json")["prices"]}
    return task.model_copy(update=changes), {RIVALS: left_out} if names else {}


def with_rivals(config: Mapping, rivals: object) -> dict:
    """The settings of a run with these rivals in place of those that it has; none where None is given."""
    return {key: value for key, value in config.items() if key != RIVALS} | (
        {} if rivals is None else {RIVALS: rivals}
    )


def _only(names: list[str], task: Task) -> list[str]:
    """Those of the names by which nobody else of the task is paid."""
    return [name for name in names if name not in (task.teacher, task.judge and task.judge.model)]


def _price(task: Task, paid: list[Hosted]) -> Prices | None:
    """The price of a model that the task may name in several ways."""
    return next((price for model in paid if (price := own_price(task, model)) is not None), None)


def _short(model: Hosted) -> str:
    """The model's name, fit for a folder, and where it is asked if that is no provider's own place."""
    at = "" if any(model.url == url for url, _ in PROVIDERS.values()) else f"{BETWEEN}{slug(model.host)}"
    label = f"{slug(model.model)}{at}"
    return label if slug(model.model) and len(label) <= LONGEST_LABEL else _apart(model)


def _apart(model: Hosted) -> str:
    """The same with a digest of all that tells it from others."""
    start = slug(model.model)[: LONGEST_LABEL - 7].strip("-.")
    return f"{start or 'model'}-{digest_of([model.url, model.model])[:6]}"
