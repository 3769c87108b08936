"""The hosted models of a climb: what each is called as a candidate, and where a run's settings have them."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from rung.climb.names import BETWEEN, candidate_name
from rung.models.hosted import PROVIDERS, Hosted, hosted
from rung.records import TokenPrice
from rung.rungs.api import Api, prices, rivals_of
from rung.rungs.base import slug
from rung.rungs.teacher import hosted_teacher
from rung.runs import digest_of
from rung.scoring.prices import listed_price
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


def hosted_models(task: Task) -> tuple[Hosted, ...]:
    """The hosted models that a task names. Raises RungError for half a name, or one rival twice."""
    judge = hosted(task.judge.model) if task.judge is not None else None
    return tuple(model for model in (*rivals_of(task), hosted_teacher(task), judge) if model is not None)


def settings(task: Task) -> tuple[Task, dict]:
    """The task as if the first hosted model were the only one to compare with, and what is left out of it.

    Its prices are those of that one, of the teacher and of the judge, in one form whichever the task has.
    """
    names = [model.given for model in rivals_of(task)[1:]]
    alone = task.model_copy(update={"models": tuple(name for name in task.models if name not in names)})
    if names or isinstance(task.prices, dict):
        alone = alone.model_copy(update={"prices": _prices(task, alone)})
    left_out = {"models": names, "prices": task.model_dump(mode="json")["prices"]}
    return alone, {RIVALS: left_out} if names else {}


def with_rivals(config: Mapping, rivals: object) -> dict:
    """The settings of a run with these rivals in place of those that it has; none where None is given."""
    return {key: value for key, value in config.items() if key != RIVALS} | (
        {} if rivals is None else {RIVALS: rivals}
    )


def _prices(task: Task, alone: Task) -> Prices | dict[str, Prices] | None:
    """The form of the prices in which all whom `alone` names cost what they do in the task.

    None where that is what lists say; one price where that is enough, as a task file may have it; else each
    that isn't a list's, by its name.
    """
    paid = hosted_models(alone)
    costs = prices(task, hosted_models(task))
    wanted = {(m.url, m.model): costs[m.url, m.model] for m in paid if (m.url, m.model) in costs}
    by_name: dict[str, Prices] = {}
    if isinstance(task.prices, dict):
        given = task.prices
        own = [m for m in paid if wanted.get((m.url, m.model)) not in (None, listed_price(m.model, m.url))]
        by_name = {m.named: _of(wanted[m.url, m.model], given) for m in own}
        # One that says what a list does, too: alone it may be written so.
        forms = [*(given[m.named] for m in paid if m.named in given), None]
    else:
        forms = [None, task.prices]
    return next(
        (one for one in forms if prices(alone.model_copy(update={"prices": one}), paid) == wanted), by_name
    )


def _of(price: TokenPrice, given: Mapping[str, Prices]) -> Prices:
    """The price as the task has it."""
    return next(one for one in given.values() if one.per_token == price)


def _short(model: Hosted) -> str:
    """The model's name, fit for a folder, and where it is asked if that is no provider's own place."""
    at = "" if any(model.url == url for url, _ in PROVIDERS.values()) else f"{BETWEEN}{slug(model.host)}"
    label = f"{slug(model.model)}{at}"
    return label if slug(model.model) and len(label) <= LONGEST_LABEL else _apart(model)


def _apart(model: Hosted) -> str:
    """The same with a digest of all that tells it from others."""
    start = slug(model.model)[: LONGEST_LABEL - 7].strip("-.")
    return f"{start or 'model'}-{digest_of([model.url, model.model])[:6]}"
