"""Rows of a batch in flight over packs: a shared beginning kept once, room for more tokens kept ready.

It is `Rows` for models that `packed` knows. A step runs the new tokens of all rows in one line, and attention
reads the keys and values of the tokens before them where they lie: a step copies none of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rung.engines import attention, fused
from rung.engines.layout import ROUND, up
from rung.engines.packed import Block, Memory, Packed, size_of, through
from rung.engines.prefix import memory_of
from rung.engines.rows import GAP, Network, Rows, sizes_of

ROOM = 32
"""Slots that are added, at least, when a row's own are used up; all are copied then, a layer at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    """New tokens of rows. For attention they are laid out as [rows, longest] slots: `tokens` says which token
    is in each slot, `slots` in which slot each token is; filling stands in the first one. `places` [rows,
    longest] are the positions, GAP where no token is; `seen` is what is added to the scores [rows, longest,
    all keys] by size of window.
    """

    ids: Tensor
    positions: Tensor
    tokens: Tensor
    slots: Tensor
    places: Tensor
    ends: Tensor
    seen: dict[int | None, Tensor]


class HeldRows:
    """`size` rows, all of which continue the tokens that `shared` holds, if any."""

    def __init__(self, packed: Packed, size: int, shared: Memory | None = None) -> None:
        self.packed, self.shared, self.size = packed, shared, size
        self.ahead = size_of(shared)
        self.device = packed.device
        self.own: Memory = []
        self.positions = torch.empty(size, 0, dtype=torch.long, device=self.device)
        self.lengths = torch.full((size,), self.ahead, dtype=torch.long, device=self.device)
        self.last = torch.empty(0)

    def feed(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Append tokens to the rows; the hidden states [rows, width] after each row's last token."""
        if not any(tokens):
            return self.last
        if not self.positions.shape[1] and all(tokens):
            self.last, self.own = self.packed.read(tokens, self.shared)
            new = self._places(tokens)
        else:
            step = self._laid(tokens)
            self.last = self._run(tokens, step, keep=True)
            new = step.places
        self.positions = torch.cat([self.positions, new], 1)
        self.lengths = self.lengths + sizes_of(tokens, self.device)
        return self.last

    def peek(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """The hidden states that `feed` would give; the rows stay as they are."""
        return self._run(tokens, self._laid(tokens), keep=False) if any(tokens) else self.last

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, in this order."""
        chosen = torch.tensor(list(rows), dtype=torch.long, device=self.device)
        for number, (keys, values) in enumerate(self.own):
            self.own[number] = keys[chosen], values[chosen]
        self.positions, self.lengths = self.positions[chosen], self.lengths[chosen]
        self.last, self.size = self.last[chosen], len(chosen)

    def spread(self, size: int) -> "HeldRows":
        """`size` new rows that all begin with this object's only row, which no neighbour's gaps are in."""
        assert self.size == 1 and self.own and bool((self.positions != GAP).all())
        grown = HeldRows(self.packed, size, self.memory())
        grown.last = self.last.expand(size, -1)
        return grown

    def memory(self) -> Memory:
        """Keys and values [key heads, tokens, size] of the first row, by layer."""
        used = self.positions.shape[1]
        own = [(keys[0, :, :used], values[0, :, :used]) for keys, values in self.own]
        if self.shared is None:
            return own
        pairs = zip(self.shared, own, strict=True)
        return [(torch.cat([k, own_k], 1), torch.cat([v, own_v], 1)) for (k, v), (own_k, own_v) in pairs]

    def _places(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Positions [rows, longest] of new tokens."""
        columns = torch.arange(max(map(len, tokens)), device=self.device)
        held = columns < sizes_of(tokens, self.device)[:, None]
        return torch.where(held, self.lengths[:, None] + columns, GAP)

    def _laid(self, tokens: Sequence[Sequence[int]]) -> _Step:
        longest = max(map(len, tokens))
        ids, slots, in_slot = [], [], []
        for number, row in enumerate(tokens):
            first = len(ids)
            ids += row
            slots += range(number * longest, number * longest + len(row))
            in_slot += [*range(first, first + len(row)), *[first % max(1, len(ids))] * (longest - len(row))]
        ends = torch.tensor([len(row) for row in tokens]).cumsum(0) - 1
        filling = _filled(len(ids)) - len(ids)
        slots += slots[:1] * filling
        ids += ids[:1] * filling
        places = self._places(tokens)
        at = torch.tensor(slots, device=self.device)
        return _Step(
            ids=torch.tensor(ids, device=self.device),
            positions=places.flatten()[at],
            tokens=torch.tensor(in_slot, device=self.device),
            slots=at,
            places=places,
            ends=ends.clamp_(min=0).to(self.device),
            seen={window: self._seen(places, window) for window in self.packed.windows},
        )

    def _seen(self, places: Tensor, window: int | None) -> Tensor:
        """0 where a token may look, -inf elsewhere. A gap sees itself, or softmax would divide by 0."""
        before = torch.arange(self.ahead, device=self.device).expand(self.size, -1)
        keys = torch.cat([before, self.positions, places], 1)[:, None, :]
        back = places[:, :, None] - keys
        seen = (keys != GAP) & (back >= 0)
        if window is not None:
            seen &= back < window
        columns = torch.arange(keys.shape[2], device=self.device)
        seen |= columns == columns[-places.shape[1] :, None]
        dtype = self.packed.model.lm_head.weight.dtype
        return torch.zeros(seen.shape, dtype=dtype, device=self.device).masked_fill_(~seen, float("-inf"))

    def _run(self, tokens: Sequence[Sequence[int]], step: _Step, *, keep: bool) -> Tensor:
        """States after each row's last token; to `keep` the tokens, keys and values go into their slots."""
        packed = self.packed
        total: Tensor = packed.model.model.embed_tokens(step.ids)
        angles = packed.angles(total, step.positions)
        delta: Tensor | None = None
        for number, block in enumerate(packed.blocks):

            def mix(turned: Tensor, values: Tensor, at: int = number, of: Block = block) -> Tensor:
                mixed, new = self._mixed(of, at, turned, values, step)
                if keep:
                    self._put(at, *new)
                return mixed

            places = step.ends if number == len(packed.blocks) - 1 else None
            total, delta = through(block, total, delta, angles[block.kind], mix, places)
        hidden = fused.add_norm(total, delta, packed.norm)[1]
        if self.last.numel():
            idle = sizes_of(tokens, self.device) == 0
            hidden = torch.where(idle[:, None], self.last, hidden)
        return hidden

    def _mixed(
        self, block: Block, number: int, turned: Tensor, values: Tensor, step: _Step
    ) -> tuple[Tensor, attention.Pair]:
        """Attention of flat tokens: to what all rows share, to their own slots, and to the new tokens.

        With the new ones' keys and values [rows, key heads, longest, size].
        """
        rows, longest = step.places.shape
        turned, values = (
            x.index_select(0, step.tokens).unflatten(0, (rows, longest)).transpose(1, 2)
            for x in (turned, values)
        )
        queries, keys = turned.split([block.heads, block.key_heads], 1)
        q = queries.reshape(rows * block.key_heads, -1, queries.shape[-1])
        used = self.positions.shape[1]
        pairs = [(k[:, :, :used].flatten(0, 1), v[:, :, :used].flatten(0, 1)) for k, v in self._held(number)]
        pairs.append((keys.flatten(0, 1), values.flatten(0, 1)))
        before = self.shared[number] if self.shared is not None else None
        seen = step.seen[block.window][:, None]
        mixed = attention.attend_to_all(q, before, pairs, seen, block.scale)
        mixed = mixed.view(rows, block.heads, longest, -1).transpose(1, 2)
        return mixed.reshape(rows * longest, -1).index_select(0, step.slots), (keys, values)

    def _held(self, number: int) -> Memory:
        return self.own[number : number + 1] if self.positions.shape[1] else []

    def _put(self, number: int, keys: Tensor, values: Tensor) -> None:
        """A layer's keys and values of new tokens behind the rows' own, with more room where that is used up.

        They count once `positions` has them.
        """
        used, more = self.positions.shape[1], keys.shape[2]
        if number == len(self.own):
            self.own.append((keys[:, :, :0], values[:, :, :0]))
        if used + more > self.own[number][0].shape[2]:
            k, v = self.own[number]
            self.own[number] = _with_room(k, used, more), _with_room(v, used, more)
        for all_slots, some in zip(self.own[number], (keys, values), strict=True):
            all_slots[:, :, used : used + more] = some


def _filled(tokens: int) -> int:
    """To how many tokens a step is filled up: few shapes, and not 16 where one row writes."""
    return 1 << (tokens - 1).bit_length() if tokens < ROUND else up(tokens, ROUND)


def most_slots(tokens: int) -> int:
    """How many slots so many tokens of a row may have, with the room behind them."""
    return tokens + max(ROOM, tokens // 4)


def _with_room(held: Tensor, used: int, more: int) -> Tensor:
    """The first `used` slots of `held`, with room for `more` and some beyond."""
    rows, heads, _, size = held.shape
    grown = held.new_zeros(rows, heads, most_slots(used) + more, size)
    grown[:, :, :used] = held[:, :, :used]
    return grown


def empty_rows(model: Network, packed: Packed | None, size: int) -> Rows | HeldRows:
    """Rows that start empty, or with a prefix that was learned: over packs where the model is known there."""
    return Rows(model, size) if packed is None else HeldRows(packed, size, memory_of(model))
