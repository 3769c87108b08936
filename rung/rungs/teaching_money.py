"""What a hosted teacher is paid for its answers, and for how many inputs the money is enough."""

from collections.abc import Sequence
from itertools import accumulate

from pydantic import TypeAdapter

from rung.errors import EngineError
from rung.models.hosted import Hosted
from rung.records import Example, Measurement
from rung.rungs.api import foretold_usd, price_of
from rung.rungs.base import Context
from rung.rungs.bought import to_buy
from rung.rungs.called import TAUGHT_ROWS, open_ways
from rung.rungs.teacher import (
    DRAWS,
    FIRST_DRAWS,
    TEACHER,
    all_drawn,
    draws_of,
    enough,
    hosted_draw,
    hosted_teacher,
    is_system,
    teacher_prompting,
    unasked_teacher,
)
from rung.scoring.cost import tokens_usd
from rung.spec import Written
from rung.system import System

TEACHING_SHARE = 0.5
"""Of the rung's time, and of the money that is left, that the teacher may take."""
PROBED = 20
"""Inputs by which it's told how many need a third draw."""


def draw_usd(context: Context, scored: Measurement | None = None) -> float:
    """About what a draw costs, none of its prompt cached; 0 for a teacher of this machine.

    Where the teacher was `scored`, no less than an answer cost there, thoughts included.
    """
    model = hosted_teacher(context.task)
    if model is None:
        return 0.0
    price = price_of(context, model)
    foretold = foretold_usd(context, price, teacher_prompting(context))
    if scored is None:
        return foretold
    return max(foretold, tokens_usd(price, scored.prompt_tokens, scored.completion_tokens, 0))


def least_usd(context: Context, model: Hosted, first: Sequence[Example], scored: Sequence[Example]) -> float:
    """About what is to be paid yet for the `first` draws of inputs, and for the teacher's own score.

    In that of its ways of asking in which most is paid for, after a few answers in the others. Where that is
    all, those few were paid, too, or can't be had.
    """
    draws = [hosted_draw(number) for number in range(FIRST_DRAWS)]

    def to_pay(way: Written) -> tuple[int, int]:
        def teacher() -> System:
            return unasked_teacher(context, model, way)

        own = to_buy(context, teacher, scored)
        return sum(to_buy(context, teacher, first, draws)) + sum(own), sum(own[:TAUGHT_ROWS])

    ways = ("json",) if is_system(str(context.task.teacher)) else open_ways(context, TEACHER)
    left = [to_pay(way) for way in ways]
    if not all(whole for whole, _ in left):
        return 0.0
    count = min(whole - few for whole, few in left) + sum(few for _, few in left)
    return count * draw_usd(context)


def costs(
    context: Context, teacher: System, rows: Sequence[Example], usd: float, third: float
) -> list[float]:
    """About what each input's draws of `usd` cost yet, if that share of them needs a third one."""
    draws = [hosted_draw(number) for number in range(draws_of(teacher))]
    left = to_buy(context, lambda: teacher, rows, draws, lambda row, given: enough(context, row, given))
    # One draw is left of those alone whose first two are known, and don't agree.
    return [usd * (count - (1 - third) * (count > DRAWS - FIRST_DRAWS)) for count in left]


def affordable(
    context: Context, teacher: System, rows: Sequence[Example], before: int, scored: Measurement
) -> tuple[int, list[float]]:
    """How many inputs the teacher's share of the money is enough for, and what those cost yet.

    The first ones were asked `before`. What was paid for once, under whatever budget, costs nothing. Where
    three draws of all would be too dear, those of the next few tell how many need the third. Settled once
    under a cap.
    """
    till, usd, others = context.pool.till, draw_usd(context, scored), rows[before:]
    assert till is not None, "what is paid for has a till"
    asked = f"share of inputs with a third draw, ${till.cap_usd:g}"

    def count() -> int:
        spent = till.spent_usd
        left = TEACHING_SHARE * max(0.0, till.cap_usd - spent)
        at_most = costs(context, teacher, others, usd, 1.0)
        if sum(at_most) <= left:
            return len(rows)
        probe_s = draws_of(teacher) * len(others[:PROBED]) * scored.seconds_per_answer
        probed = sum(at_most[:PROBED]) <= left and probe_s <= TEACHING_SHARE * context.seconds_left
        context.settled(asked, lambda: _third(context, teacher, others[:PROBED]) if probed else 1.0)
        left -= till.spent_usd - spent
        to_pay = costs(context, teacher, others, usd, third())
        return before + sum(cost <= left for cost in accumulate(to_pay))

    def third() -> float:
        found = context.told(asked)
        return 1.0 if found is None else TypeAdapter(float).validate_python(found)

    fits = TypeAdapter(int).validate_python(
        context.settled(f"inputs to ask {teacher.digest}, ${till.cap_usd:g}", count)
    )
    return fits, costs(context, teacher, rows[before : max(before, fits)], usd, third())


def _third(context: Context, teacher: System, first: Sequence[Example]) -> float:
    """Which share of inputs needs a third draw, by those of a few, which are kept: rather too high a share.

    1 where the cap was reached by these.
    """
    try:
        found = all_drawn(context, teacher, first)
    except EngineError as error:
        if context.pool.till is None or context.pool.till.raised_by not in str(error):
            raise
        return 1.0
    return (1 + sum(len(answers) > FIRST_DRAWS for answers in found)) / (1 + len(first))
