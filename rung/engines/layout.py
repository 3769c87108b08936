"""Rows of a batch as one line of tokens, and how attention lays them out in slots.

Linear layers, norms and gates see the line. Attention sees rows side by side, in groups of like length, each
row as wide as its group's longest: one long row among short ones doesn't make all of them as wide as itself.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

ROUND = 16
"""Tokens are filled up to a multiple of this: each new shape costs the matrix library a new kernel."""
ROUND_ROWS = 4
"""A row's slots are a multiple of this."""
SLOT_TOKENS, SLOT_PLACE_TOKENS = 0.1, 0.0005
"""What a slot costs, and what it costs more for each slot of its row, as tokens through linear layers."""
GROUP_TOKENS = 16
"""What a group costs beyond its slots, as tokens: a thousand small operations, some of them in new shapes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
    """Where the tokens of a batch stand.

    ids [tokens]: the shared prefix, then the rows one after the other; rows of filling come last. positions
    [tokens]: places in their own rows. For attention the rows are laid out in `groups`, one after the other,
    each of them [rows, longest] slots: `tokens` says which token, counted after the prefix, is in each slot,
    and `slots` in which slot each token is. `ahead` tokens stand before each row: the prefix, or what a
    memory holds. `starts` and `sizes` are those of the rows without the filling.
    """

    ids: Tensor
    positions: Tensor
    prefix: int
    ahead: int
    groups: tuple[tuple[int, int], ...]
    tokens: Tensor
    slots: Tensor
    starts: tuple[int, ...]
    sizes: tuple[int, ...]
    _masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict)

    def places(self, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
        """Flat places of tokens, given by their rows and by their columns among the row's own tokens."""
        flat = [self.starts[row] + column for row, column in zip(rows, columns, strict=True)]
        return torch.tensor(flat, device=self.ids.device)

    def ends(self) -> Tensor:
        """Flat places of each row's last token, filling left out."""
        return self.places(range(len(self.sizes)), [size - 1 for size in self.sizes])

    def seen(self, ahead: int, size: int, window: int | None, dtype: torch.dtype) -> Tensor:
        """What is added to the scores of a row's tokens [size, ahead + size].

        0 where a token may look: at itself and at what is before it, `window` tokens at most; else -inf.
        """
        key = (ahead, size, window)
        if key not in self._masks:
            device = self.ids.device
            back = torch.arange(size, device=device)[:, None] + ahead
            back = back - torch.arange(ahead + size, device=device)
            seen = (back >= 0) if window is None else (back >= 0) & (back < window)
            added = torch.zeros(seen.shape, dtype=dtype, device=device)
            self._masks[key] = added.masked_fill_(~seen, float("-inf"))
        return self._masks[key]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What a pack is filled up to: tokens in all, and rows and slots of each row in its only group."""

    tokens: int
    rows: int
    longest: int


def pack(
    rows: Sequence[Sequence[int]],
    device: torch.device,
    *,
    prefix: Sequence[int] = (),
    known: int = 0,
    together: bool = False,
    shape: Shape | None = None,
) -> Pack:
    """Rows of token ids, all of which continue `prefix`, or `known` tokens that a memory holds.

    They are the first group where they stay `together`, as they must for a memory of theirs to be kept, and
    the only one where a `shape` is given, which must have room for them and for rows of filling as long as
    itself. Raises ValueError for an empty row.
    """
    if not all(rows):
        raise ValueError("a row of a pack has no token of its own")
    ahead = known + len(prefix)
    own = [list(row) for row in rows]
    longest = shape.longest if shape else up(max(map(len, own)), ROUND_ROWS)
    total = len(prefix) + sum(map(len, own))
    filling = (shape.tokens if shape else up(total, ROUND)) - total
    own += [own[0][:1] * min(longest, filling - done) for done in range(0, filling, longest)]
    ids, positions, starts = list(prefix), list(range(known, ahead)), []
    for row in own:
        starts.append(len(ids))
        ids += row
        positions += range(ahead, ahead + len(row))
    sizes = [len(row) for row in own]
    if shape:
        found = [(list(range(len(own))), longest)]
    elif together:
        found = _with_filling_apart(sizes, len(rows), device)
    else:
        found = grouped(sizes, device)
    tokens: list[int] = []
    slots = [0] * sum(sizes)
    for members, width in found:
        for row in members:
            first = starts[row] - len(prefix)
            slots[first : first + sizes[row]] = range(len(tokens), len(tokens) + sizes[row])
            tokens += [*range(first, first + sizes[row]), *[first] * (width - sizes[row])]
    if shape is not None:
        # Rows of no token: what stands in their slots is read by nobody.
        tokens += [0] * (longest * (shape.rows - len(own)))
    return Pack(
        ids=torch.tensor(ids, device=device),
        positions=torch.tensor(positions, device=device),
        prefix=len(prefix),
        ahead=ahead,
        groups=((shape.rows, longest),)
        if shape
        else tuple((len(members), width) for members, width in found),
        tokens=torch.tensor(tokens, device=device),
        slots=torch.tensor(slots, device=device),
        starts=tuple(starts[: len(rows)]),
        sizes=tuple(map(len, rows)),
    )


def grouped(sizes: Sequence[int], device: torch.device) -> list[tuple[list[int], int]]:
    """Indices of rows of these sizes in the groups that attention takes soonest, each with its slots a row.

    One group on a GPU, where starting the operations of one more costs more than slots do.
    """
    widths = [up(size, ROUND_ROWS) for size in sizes]
    if device.type == "cuda":
        return [(list(range(len(sizes))), max(widths))]
    low, found = 0, []
    for high in _cheapest(widths)[0]:
        found.append(([i for i, width in enumerate(widths) if low < width <= high], high))
        low = high
    return found


def _with_filling_apart(
    sizes: Sequence[int], given: int, device: torch.device
) -> list[tuple[list[int], int]]:
    """The first `given` rows as the first group; those of filling in one of their own where that pays."""
    whole, widths = list(range(len(sizes))), [up(size, ROUND_ROWS) for size in sizes]
    longest, filled = max(widths), widths[given:]
    apart = _group_tokens(given, longest) + _group_tokens(len(filled), max(filled, default=0))
    if not filled or device.type == "cuda" or _group_tokens(len(sizes), longest) <= apart:
        return [(whole, longest)]
    return [(whole[:given], longest), (whole[given:], max(filled))]


def slot_tokens(sizes: Sequence[int], device: torch.device) -> float:
    """What attention to rows of these sizes costs in their groups, as tokens through the linear layers."""
    widths = [up(size, ROUND_ROWS) for size in sizes]
    return _group_tokens(len(widths), max(widths)) if device.type == "cuda" else _cheapest(widths)[1]


def _cheapest(widths: Sequence[int]) -> tuple[list[int], float]:
    """The widths of the groups that rows of some widths cost least in, rising, and that cost as tokens."""
    counts = sorted(Counter(widths).items())
    best: list[tuple[float, list[int]]] = [(0.0, [])]
    for last, (width, _) in enumerate(counts):
        rows, ways = 0, []
        for first in range(last, -1, -1):
            rows += counts[first][1]
            before, cuts = best[first]
            ways.append((before + _group_tokens(rows, width), [*cuts, width]))
        best.append(min(ways))
    cost, cuts = best[-1]
    return cuts, cost


def _group_tokens(rows: int, width: int) -> float:
    return GROUP_TOKENS + rows * width * (SLOT_TOKENS + SLOT_PLACE_TOKENS * width)


def up(number: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-number // step) * step
