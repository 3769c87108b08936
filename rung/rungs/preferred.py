"""What preference learns from: pairs of answers, or answers judged one by one, as items of token ids."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rung.records import Example
from rung.rungs.base import Context
from rung.rungs.rendered import rendered, rendered_rejected
from rung.scoring.calls import same_calls
from rung.spec import Spec
from rung.task.calls import rejected_calls
from rung.task.outputs import canonical
from rung.training.batches import Item, Row, Tied

MOST_DEV_PAIRS = 200
FEWEST_PAIRS = 50
FEWEST_JUDGED = 10
"""Of the answers that were judged to be bad."""
LEFT_OUT = "too long, equal on both sides, or with a rejected answer that can't be given"


@dataclass(frozen=True, kw_only=True)
class Material:
    """Items to learn from, and dev answers to look at on the way: `better` ones and `worse` ones.

    `desirable` says how each item was judged; it's empty where the items are pairs. `left_out` training rows
    were too long, or have a rejected answer that the System could never give or that is the chosen one.
    """

    items: Sequence[Item]
    desirable: Sequence[bool]
    better: Sequence[Row]
    worse: Sequence[Row]
    left_out: int


def pairs(examples: Sequence[Example]) -> int:
    """How many of the rows have a rejected answer."""
    return sum(example.rejected is not None for example in examples)


def material(context: Context, spec: Spec) -> Material:
    """Pairs where the rows have them, else judged answers.

    On dev a desirable answer is set beside an undesirable one in their order: what they say of the model is
    a rate over independent pairs, too.
    """
    if pairs(context.train):
        tied, left_out = _tied(context, spec, context.train)
        dev, _ = _tied(context, spec, context.dev)
        better, worse = ([pair.rows[side] for pair in dev[:MOST_DEV_PAIRS]] for side in (0, 1))
        return Material(items=tied, desirable=(), better=better, worse=worse, left_out=left_out)
    good, lost = _fitting(context, rendered(context, spec, context.train))
    bad, more = _fitting(context, _undesirable(context, spec, context.undesirable))
    better, _ = _fitting(context, rendered(context, spec, context.dev))
    worse, _ = _fitting(context, _undesirable(context, spec, context.dev_undesirable))
    return Material(
        items=[*good, *bad],
        desirable=[True] * len(good) + [False] * len(bad),
        better=better[:MOST_DEV_PAIRS],
        worse=worse[: min(len(better), MOST_DEV_PAIRS)],
        left_out=lost + more,
    )


def too_few(found: Material) -> str | None:
    """Why what can be learned from is too little to move a model; None where it isn't."""
    if found.desirable:
        return few_judged(sum(found.desirable), len(found.desirable) - sum(found.desirable))
    return few_pairs(len(found.items))


def few_pairs(count: int) -> str | None:
    """Why so many pairs are too few; None where they aren't."""
    if count >= FEWEST_PAIRS:
        return None
    return f"{count} training rows have a rejected answer; at least {FEWEST_PAIRS} are needed"


def few_judged(good: int, bad: int) -> str | None:
    """Why so many judged answers are too few; None where they aren't."""
    if good + bad >= FEWEST_PAIRS and bad >= FEWEST_JUDGED:
        return None
    return (
        f"{good} training answers are judged to be good and {bad} to be bad; at least {FEWEST_PAIRS} "
        f"are needed, {FEWEST_JUDGED} of them bad"
    )


def _tied(context: Context, spec: Spec, examples: Sequence[Example]) -> tuple[list[Tied], int]:
    """The pairs that can be learned from, and how many can't."""
    sides = (rendered(context, spec, examples), rendered_rejected(context, spec, examples))
    found = [
        Tied(rows=(chosen, rejected))
        for example, chosen, rejected in zip(examples, *sides, strict=True)
        if rejected is not None
        and chosen.answer != rejected.answer
        and not (spec.kind == "tool_call" and _as_good(example))
        and max(chosen.tokens, rejected.tokens) <= context.limit
    ]
    return found, len(examples) - len(found)


def _as_good(example: Example) -> bool:
    """Whether the rejected calls are among those that the row accepts: nothing is preferred there."""
    rejected = rejected_calls(example.rejected or "", example.context)
    return rejected is not None and bool(same_calls(rejected, example.output))


def _undesirable(context: Context, spec: Spec, examples: Sequence[Example]) -> list[Row | None]:
    spelled = [e.output if isinstance(e.output, str) else canonical(e.output) for e in examples]
    return rendered_rejected(
        context, spec, [replace(e, rejected=text) for e, text in zip(examples, spelled, strict=True)]
    )


def _fitting(context: Context, rows: Sequence[Row | None]) -> tuple[list[Row], int]:
    """The rows that the model can hold, and how many it can't."""
    found = [row for row in rows if row is not None and row.tokens <= context.limit]
    return found, len(rows) - len(found)
