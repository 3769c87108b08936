"""What a climb pays to hosted models: who they are, what they cost, and how much that may be in all."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from rung.climb.options import Options
from rung.climb.rivals import hosted_models
from rung.engines.key_hosts import origin_of
from rung.engines.till import Till
from rung.errors import TaskError
from rung.models.hosted import Hosted, hosted
from rung.models.resolve import Model
from rung.records import Climb, Measurement, RungResult, TokenPrice
from rung.rungs.api import prices
from rung.scoring.cost import billed_usd, usd_per_1000
from rung.system import System
from rung.task import Task

PAID_FILE = "paid.jsonl"
CAP_OPTION = "--api-usd"


def named_models(task: Task) -> tuple[Hosted, ...]:
    """Those that a task names itself, not by a System. Raises RungError for half a name."""
    names = (*task.models, task.teacher, task.judge and task.judge.model)
    return tuple(model for name in names if name and (model := hosted(name)) is not None)


def named_hosts(task: Task) -> frozenset[str]:
    """Origins of their hosts. Raises RungError for half a name."""
    return frozenset(origin_of(model.url) for model in named_models(task))


def cap_usd(task: Task, options: Options) -> float:
    """What may be paid, in US dollars. Raises TaskError for less than nothing."""
    if options.api_usd is None:
        return task.limits.api_usd
    if options.api_usd < 0:
        raise TaskError(f"{CAP_OPTION} {options.api_usd:g}: give the most that may be paid, in US dollars")
    return options.api_usd


def till_for(task: Task, options: Options, run: Path) -> Till | None:
    """The till of a climb, with what it paid before; None where no hosted model is named."""
    models = hosted_models(task)
    if not models:
        return None
    return Till(run / PAID_FILE, cap_usd(task, options), prices(task, models), named=named_hosts(task))


def answers_usd(dev: Measurement, price: TokenPrice | None, task: Task) -> float:
    """What 1,000 calls cost as the dev rows did: a hosted model's tokens, else this machine's time."""
    if price is None:
        return usd_per_1000(dev.seconds_per_answer, task.machine_usd_per_hour)
    return 1000 * billed_usd(price, dev)


def models_of(bases: Sequence[Model], systems: Iterable[System]) -> tuple[tuple[str, str, str], ...]:
    """Name, digest and licence of each base model and of each hosted one."""
    refs = dict.fromkeys(system.ref for system in systems if system.is_hosted)
    found = [(ref.name, ref.digest, ref.licence) for ref in refs]
    return (*((base.name, base.digest, base.licence) for base in bases), *found)


def at_lower_cap(result: RungResult, till: Till | None) -> bool:
    """Whether a rung was built up to another cap than there is now, with money left under this one."""
    if till is None or till.spent_usd >= till.cap_usd:
        return False
    return any(CAP_OPTION in note and f"of ${till.cap_usd:g}" not in note for note in result.notes)


def capped(found: Climb) -> bool:
    """Whether a rung of a finished climb ended at the cap."""
    said = [text for r in found.results for text in (r.skipped, r.failed, *r.notes) if text]
    return any(CAP_OPTION in text for text in said)
