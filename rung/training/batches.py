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
