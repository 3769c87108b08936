"""Rows of token ids cut into batches: of unlike rows, so that they learn well, with little padding."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

POOL = 32
"""Batches that are cut from the same rows: more means less padding and less mixing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One training row: prompt ids, then the answer ids that are supervised, end-of-turn included."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """How many tokens go through the model: the last answer token is only ever a target."""
        return len(self.prompt) + len(self.answer) - 1

    @property
    def rows(self) -> tuple["Row", ...]:
        """Itself: it is learned from alone."""
        return (self,)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tied:
    """Rows that are learned from together, such as a chosen answer and a rejected one."""

    rows: tuple[Row, ...]

    @property
    def tokens(self) -> int:
        """How many tokens go through the model."""
        return sum(row.tokens for row in self.rows)


Item: TypeAlias = Row | Tied
"""What a batch is made of."""


def epoch(rows: Sequence[Item], size: int, seed: int, number: int) -> list[list[int]]:
    """All row indices once, in batches of `size`, the same for the same seed and epoch number.

    Half of a batch's tokens are of long rows and half of short ones, each half of like length. Batches of
    one length alone lead astray where length tells the answer: on sms_spam, whose spam is long, 40 steps of
    16 ended at .870 (every row "ham"), and at .985 in batches of all lengths.
    """
    lengths = [row.tokens for row in rows]
    order = list(range(len(rows)))
    shuffle = random.Random(f"{seed}/{number}").shuffle
    shuffle(order)
    cut: list[list[int]] = []
    for start in range(0, len(order), size * POOL):
        pool = sorted(order[start : start + size * POOL], key=lengths.__getitem__)
        low, high = 0, len(pool)
        while low < high:
            first = pool[low : min(low + size, high)]
            longer = _longer([lengths[i] for i in first], lengths[pool[high - 1]])
            shorter = len(first) - longer
            cut.append(first[:shorter] + pool[high - longer : high])
            low, high = low + shorter, high - longer
    shuffle(cut)
    return cut


def _longer(shortest: Sequence[int], longest: int) -> int:
    """How many rows to take from the long end instead, so that both ends' share has as many tokens."""
    count = len(shortest)
    return min(range(count + 1), key=lambda k: abs(k * longest - (count - k) * shortest[count - k - 1]))
