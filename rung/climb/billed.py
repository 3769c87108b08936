"""A hosted model against the rungs that cost less by what it billed: not all may have been foretold to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rung.climb.hosted import answers_usd
from rung.climb.ordering import before
from rung.records import Example, Measurement, RungResult, Stopped, TokenPrice
from rung.rungs.base import Built
from rung.rungs.rival import Rival
from rung.scoring.cost import billed_usd
from rung.task import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is asked the dev `rows`; `price` is None where this machine answers.

    `upon` is the rung whose prompt it's asked with, as the results name it.
    """

    price: TokenPrice | None
    task: Task
    rows: Sequence[Example]
    upon: str | None = None


def against_cheaper(
    asked: Asked,
    cheaper: Sequence[RungResult],
    rival: Rival | None,
    measure: Callable[[Rival | None], Measurement],
    choose: Callable[[Sequence[RungResult]], Rival | None],
) -> tuple[Measurement, Stopped | None]:
    """The dev score, and by which rung it was stopped: one that the decision places before it, too.

    The decision orders by what was billed. A model that bills less than was foretold may come before the rung
    that stopped it: stopped ones can't win, but the cheaper of two needn't gain anything. So it's asked on,
    against the best of those that do cost less. Of these there are fewer each time.
    """
    while True:
        found = measure(rival)
        first = asked.rows[: len(found.predictions)]
        if rival is None or len(first) == len(asked.rows):
            return found, None
        billed = cheaper
        if asked.price is not None:
            usd = answers_usd(found, asked.price, asked.task)
            billed = before(cheaper, usd, asked.task, asked.upon)
        if any(one.rung == rival.rung for one in billed):
            return found, rival.stopped(first, [p.answer for p in found.predictions], len(asked.rows))
        cheaper, rival = billed, choose(billed)


def with_bill(built: Built, dev: Measurement, stopped: Stopped | None) -> Built:
    """What was built on a hosted model, told with the bill of the dev rows that it was asked in the end.

    It was chosen by its score up to where it was stopped; one that was asked on has that of all these rows.
    """
    if (price := built.price) is None:
        return built
    rows = len(dev.predictions)
    spent, about = rows * billed_usd(price, dev), rows * built.foretold_usd
    bill = (
        f"a million tokens of prompts cost ${price.input_usd_per_m:g} (${price.cached_input_usd_per_m:g} "
        f"cached), of answers ${price.output_usd_per_m:g}; the {rows:,} dev rows that it was asked cost "
        f"${spent:.4f}, foretold ${about:.4f}"
    )
    whole = {"score": dev.score, "n": rows, "seconds": rows * dev.seconds_per_answer}
    trials = tuple(
        replace(one, **whole, stopped=stopped is not None)
        if one.chosen and one.stopped and one.n < rows
        else one
        for one in built.trials
    )
    return replace(built, trials=trials, notes=(*built.notes, bill))
