"""Which answers of a hosted model were paid for before, and so cost nothing more."""

from collections.abc import Callable, Sequence

from rung.engines.endpoint import GREEDY, Draw
from rung.records import Example
from rung.rungs.base import Context
from rung.system import System


def to_buy(
    context: Context,
    made: Callable[[], System],
    rows: Sequence[Example],
    draws: Sequence[Draw] = (GREEDY,),
) -> list[int]:
    """How many draws of the answer to each row are to be paid for yet; nothing is asked.

    `made` gives the hosted System, where one has to be looked at. By whatever name the server called itself,
    for whichever rung and under whatever budget: what counts is what was asked. The first draw of a row is
    paid for before the next ones.
    """
    counts = [len(draws)] * len(rows)
    till = context.pool.till
    if till is None or not till.answers:
        return counts
    system, left = made(), list(range(len(rows)))
    with till.asking_nothing():
        for draw in draws:
            if not left:
                break
            asked = [rows[at] for at in left]
            looked_up = system.find(asked, context.pool)
            found = system.hosted_completions(asked, looked_up, context.pool, draw)
            # What was billed was answered, be it in vain or under another name of the model.
            left = [at for at, one in zip(left, found, strict=True) if one.prompt_tokens]
            for at in left:
                counts[at] -= 1
    return counts
