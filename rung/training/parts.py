"""A step's batch cut into parts that go through the model at once, and what is read once for several rows."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from rung.training.batches import Item

PART_TOKENS = 120
"""What a part costs beyond its tokens, as tokens: all weights are read and thousands of small operations
started, for however few rows. On one core 0.2 to 0.3 s, and 2.1 ms a token (SmolLM2-135M)."""

Slots: TypeAlias = Callable[[Sequence[int]], float]
"""What attention to rows of some sizes costs, as tokens through the linear layers."""


def families(items: Sequence[Item], batch: Sequence[int], shared: int) -> tuple[list[list[int]], list[int]]:
    """The items of a batch that have one prompt, together where reading that once pays, and all others.

    Answers that were drawn to one prompt, or a chosen and a rejected one, have it before all of them.
    `shared` tokens of it are read once anyway. A part of its own must save more tokens than it costs.
    """
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for i in batch:
        first, *others = items[i].rows
        if all(row.prompt == first.prompt for row in others):
            by_prompt.setdefault(first.prompt, []).append(i)
    found = [
        members
        for prompt, members in by_prompt.items()
        if (sum(len(items[i].rows) for i in members) - 1) * (len(prompt) - 1 - shared) > PART_TOKENS
    ]
    taken = {i for members in found for i in members}
    return found, [i for i in batch if i not in taken]


def length(item: Item, shared: int) -> int:
    """Tokens of an item, `shared` ones that all its rows begin with counted once."""
    return item.tokens - (len(item.rows) - 1) * shared


def parts(
    lengths: Sequence[int], count: int, *, shared: int, slots: Slots | None, most: int
) -> list[list[int]]:
    """Indices of a batch's rows in parts that `count` workers finish soonest, as it seems; longest first.

    A part has about `most / count` tokens at most, a shared prefix of `shared` tokens counted once
    for each part, but as many of its own as that prefix at least; a longer row is one alone. `slots` is None
    where rows are padded, in the linear layers, too.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    own = [length - shared for length in lengths]
    room = max(most // count - shared, shared, max(own))
    fewest = min(len(own), count * -(-sum(own) // (room * count)))
    cuts = [
        found
        for number in range(fewest, min(len(own), fewest + count) + 1)
        for found in (_contiguous(order, own, number), _evened(order, own, number))
    ]

    def cost(part: list[int]) -> float:
        sizes = [own[i] for i in part]
        tokens = len(sizes) * max(sizes) if slots is None else sum(sizes) + slots(sizes)
        return shared + tokens + PART_TOKENS

    best = min(cuts, key=lambda cut: (_finished([cost(part) for part in cut], count), len(cut)))
    return sorted(best, key=cost, reverse=True)


def _contiguous(order: Sequence[int], sizes: Sequence[int], number: int) -> list[list[int]]:
    """`order` cut where a `number`th of the tokens is full: rows of like length stay together."""
    cut: list[list[int]] = [[] for _ in range(number)]
    total, before = sum(sizes), 0
    for i in order:
        cut[min(number - 1, (2 * before + sizes[i]) * number // (2 * total))].append(i)
        before += sizes[i]
    return [part for part in cut if part]


def _evened(order: Sequence[int], sizes: Sequence[int], number: int) -> list[list[int]]:
    """Each row in turn into the part that has the fewest tokens so far."""
    cut: list[list[int]] = [[] for _ in range(number)]
    loads = [0] * number
    for i in order:
        place = loads.index(min(loads))
        cut[place].append(i)
        loads[place] += sizes[i]
    return [part for part in cut if part]


def _finished(costs: Sequence[float], count: int) -> float:
    """When `count` workers are done that take the dearest first."""
    loads = [0.0] * count
    for cost in sorted(costs, reverse=True):
        loads[loads.index(min(loads))] += cost
    return max(loads)
