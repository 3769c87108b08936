"""Which answers of a hosted model were paid for before, and so cost nothing more."""

from collections.abc import Callable, Sequence

from rung.engines.endpoint import GREEDY, Draw
from rung.records import Answer, Example
from rung.rungs.base import Context
from rung.system import System


def to_buy(
    context: Context,
    made: Callable[[], System],
    rows: Sequence[Example],
    draws: Sequence[Draw] = (GREEDY,),
    enough: Callable[[Example, Sequence[Answer]], bool] = lambda row, given: False,
) -> list[int]:
    """How many draws of the answer to each row are to be paid for yet, at most; nothing is asked.

    `made` gives the hosted System, where one has to be looked at. For whichever rung and under whatever
    budget: what counts is what was asked, and that it isn't to be bought anew as another model answered. The
    first draw of a row is paid for before the next ones, of which there are none where those that are known
    are `enough`.
    """
    counts = [len(draws)] * len(rows)
    till = context.pool.till
    if till is None or not till.answers:
        return counts
    system, left = made(), list(range(len(rows)))
    known: list[list[Answer]] = [[] for _ in rows]
    with till.asking_nothing():
        for draw in draws:
            if not left:
                break
            found = system.hosted_answers([rows[at] for at in left], context.pool, draw)
            # What was billed was answered, be it in vain; what is answered without being asked costs nothing.
            had = [
                (at, one)
                for at, one in zip(left, found, strict=True)
                if one.prompt_tokens or one.failure is None
            ]
            for at, one in had:
                known[at].append(one)
                counts[at] = 0 if enough(rows[at], known[at]) else counts[at] - 1
            left = [at for at, _ in had if counts[at]]
    return counts
