"""Where a hosted model stands in the order of cost: by what it costs a month at the task's volume.

The rungs of this machine keep the ladder's order. A hosted one comes after the last of them that costs no
more a month, building included as a twelfth of it: at a small volume that may be before a tune. Of several
hosted ones the cheaper comes first.
"""

from collections.abc import Sequence

from rung.records import Candidate, RungResult, SplitName
from rung.scoring.cost import monthly_usd
from rung.task import Task


def stack(result: RungResult, results: Sequence[RungResult]) -> list[RungResult]:
    """A rung, the one that it rests on, the one that this rests on, and so on down."""
    known, found = {one.rung: one for one in results}, [result]
    while (below := known.get(found[-1].upon or "")) is not None:
        found.append(below)
    return found


def build_usd(result: RungResult, results: Sequence[RungResult], usd_per_hour: float) -> float:
    """What it took to have a rung: this machine's time, and what a hosted model was paid for that.

    Nobody has it without the rungs that it rests on, so theirs is a part of it. A hosted model that answers
    has no other part: the time in which it was asked the dev rows built nothing.
    """
    built = [one for one in stack(result, results) if one.price is None]
    return sum(one.build_s / 3600 * usd_per_hour + one.spent_usd for one in built)


def month_usd(result: RungResult, results: Sequence[RungResult], task: Task) -> float:
    """What a rung's answers cost a month at the task's volume, and a month's share of building it."""
    built = build_usd(result, results, task.machine_usd_per_hour)
    return monthly_usd(task.answers_per_month, result.usd_per_1000, built)


def before(
    results: Sequence[RungResult], usd_per_1000: float, task: Task, upon: str | None = None
) -> list[RungResult]:
    """The measured local rungs that a hosted model of this price comes after, in the ladder's order.

    `upon` is the rung whose prompt it's asked with.
    """
    local = sorted((r for r in results if r.dev and r.price is None), key=lambda r: r.order)
    built = sum(build_usd(one, results, task.machine_usd_per_hour) for one in results if one.rung == upon)
    month = monthly_usd(task.answers_per_month, usd_per_1000, built)
    places = [place for place, one in enumerate(local, start=1) if month_usd(one, results, task) <= month]
    return local[: max(places, default=0)]


def in_cost_order(results: Sequence[RungResult], task: Task) -> list[RungResult]:
    """The results in the order in which the decision walks up: the cheapest first."""
    found = sorted((r for r in results if r.price is None), key=lambda r: r.order)
    # Each is put before the hosted ones that stand at its place already: they cost more.
    hosted = [r for r in results if r.price is not None]
    for one in sorted(hosted, key=lambda r: (month_usd(r, results, task), r.order), reverse=True):
        cheaper = before(found, one.usd_per_1000, task, one.upon)
        last = max((found.index(r) for r in cheaper), default=-1) if one.dev else len(found) - 1
        found.insert(last + 1, one)
    return found


def candidates(results: Sequence[RungResult], split: SplitName, task: Task) -> list[Candidate]:
    """The rungs that were measured on one split, as the decision sees them: the cheapest first."""
    measured = [(r, r.dev if split == "dev" else r.test) for r in in_cost_order(results, task)]
    return [
        Candidate(
            rung=r.rung,
            system=r.system or "",
            order=place,
            measurement=m,
            usd_per_1000=r.usd_per_1000,
            build_s=r.build_s,
            over_limits=r.over_limits,
            stopped=r.stopped,
            warnings=r.guards.warnings if r.guards is not None else (),
        )
        for place, (r, m) in enumerate(measured)
        if m is not None
    ]
