"""Rows of token ids cut into batches of like length, so that almost nothing is padding."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

POOL = 32
"""Batches that are sorted by length together: more means less padding and less mixing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One training row: prompt ids, then the answer ids that are supervised, end-of-turn included."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """How many tokens go through the model: the last answer token is only ever a target."""
        return len(self.prompt) + len(self.answer) - 1


def epoch(rows: Sequence[Row], size: int, seed: int, number: int) -> list[list[int]]:
    """All row indices once, in batches of `size`, the same for the same seed and epoch number."""
    order = list(range(len(rows)))
    shuffle = random.Random(f"{seed}/{number}").shuffle
    shuffle(order)
    cut: list[list[int]] = []
    for start in range(0, len(order), size * POOL):
        pool = sorted(order[start : start + size * POOL], key=lambda i: rows[i].tokens)
        cut += [pool[k : k + size] for k in range(0, len(pool), size)]
    shuffle(cut)
    return cut


def batch_at(rows: Sequence[Row], size: int, seed: int, step: int) -> list[int]:
    """The batch of the given step (from 0), counted through as many epochs as it takes."""
    per_epoch = -(-len(rows) // size)
    return epoch(rows, size, seed, step // per_epoch)[step % per_epoch]


def padding_share(rows: Sequence[Row], cut: Sequence[Sequence[int]]) -> float:
    """The share of a pass over these batches that would be padding, between 0 and 1."""
    real = sum(rows[i].tokens for batch in cut for i in batch)
    padded = sum(len(batch) * max(rows[i].tokens for i in batch) for batch in cut)
    return 1 - real / padded
