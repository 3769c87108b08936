"""Rows of a batch in flight: the keys and values they have so far, and which of them a token may see.

A cache column is a slot. Rows of unlike length leave gaps, so what a token sees is decided by the
tokens' positions in their own rows: gaps are never seen, and sliding windows stay exact across them.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from transformers import DynamicCache

from rung.errors import EngineError

Network: TypeAlias = Any
"""A causal language model of transformers, whose stubs call every submodule `Tensor | Module`."""

STORED_TOKENS = 32768
"""Tokens of a batch, a shared prefix counted for each row. Their keys and values in 16 bits take 0.75 GB with
SmolLM2 135M, 6.4 with SmolLM2 1.7B."""

SHORTEST_SHARED_PREFIX = 8

GAP = -1
"""The position of a slot that holds padding."""


class Rows:
    """`size` rows that start empty. The model's own cache classes for sliding layers aren't used: they
    drop what lies outside the window by slot, and can't be shortened again.
    """

    def __init__(self, model: Network, size: int) -> None:
        self.model = model
        self.device: torch.device = model.lm_head.weight.device
        self.windows = attention_windows(model.config)
        self.cache: Any = DynamicCache()
        self.positions = torch.empty(size, 0, dtype=torch.long, device=self.device)
        self.lengths = torch.zeros(size, dtype=torch.long, device=self.device)
        self.dense = True
        self.last = torch.empty(0)

    def feed(self, tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Append tokens to the rows; the hidden states [rows, width] after each row's last token."""
        hidden, positions = self._run(tokens)
        self.positions = positions
        self.lengths = self.lengths + sizes_of(tokens, self.device)
        self.dense = self.dense and len(set(map(len, tokens))) == 1
        self.last = hidden
        return hidden

    def peek(self, tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """The hidden states that `feed` would give; the rows stay as they are."""
        if not any(tokens):
            return self.last
        hidden, positions = self._run(tokens)
        self.cache.crop(self.positions.shape[1] - positions.shape[1])
        return hidden

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, in this order."""
        chosen = torch.tensor(list(rows), dtype=torch.long, device=self.device)
        self.cache.batch_select_indices(chosen)
        self.positions, self.lengths = self.positions[chosen], self.lengths[chosen]
        self.last = self.last[chosen]

    def spread(self, size: int) -> "Rows":
        """`size` new rows that all begin with this object's only row."""
        grown = Rows(self.model, size)
        for index, layer in enumerate(self.cache.layers):
            keys, values = (t.expand(size, -1, -1, -1) for t in (layer.keys, layer.values))
            grown.cache.update(keys, values, index)
        grown.positions = self.positions.expand(size, -1)
        grown.lengths, grown.dense = self.lengths.expand(size), self.dense
        grown.last = self.last.expand(size, -1)
        return grown

    def _run(self, tokens: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states after each row's last token, and the positions of all slots, the new ones too."""
        ids, sizes = pad_right(tokens).to(self.device), sizes_of(tokens, self.device)
        places = torch.arange(ids.shape[1], device=self.device)
        new = torch.where(places < sizes[:, None], self.lengths[:, None] + places, GAP)
        positions = torch.cat([self.positions, new], dim=1)
        hidden = self.model.model(
            ids,
            attention_mask=None if self.dense else self._masks(new, positions),
            position_ids=new.clamp(min=0),
            cache=self.cache,
            use_cache=True,
        ).last_hidden_state
        after = hidden[torch.arange(len(tokens), device=self.device), (sizes - 1).clamp(min=0)]
        if self.last.numel():
            after = torch.where((sizes == 0)[:, None], self.last, after)
        return after, positions

    def _masks(self, new: torch.Tensor, positions: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        """[rows, 1, new slots, slots] by kind of layer. A gap sees itself, or softmax would divide by 0."""
        queries, keys = new[:, None, :, None], positions[:, None, None, :]
        slots = torch.arange(positions.shape[1], device=self.device)
        itself = slots == slots[-new.shape[1] :, None]
        causal = (keys != GAP) & (keys <= queries)
        masks = {
            kind: self._as_mask(itself | (causal if size is None else causal & (queries - keys < size)))
            for kind, size in self.windows.items()
        }
        return masks.get("", masks)

    def _as_mask(self, seen: torch.Tensor) -> torch.Tensor:
        if self.model.config._attn_implementation == "sdpa":
            return seen
        dtype = self.model.lm_head.weight.dtype
        return torch.zeros(seen.shape, dtype=dtype, device=self.device).masked_fill(
            ~seen, torch.finfo(dtype).min
        )


def attention_windows(config: Any) -> dict[str, int | None]:
    """How far back each kind of layer looks, in tokens; None for all the way. One kind alone is called "".

    Raises EngineError for layers that are neither full nor sliding attention.
    """
    config = config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    known: dict[str, int | None] = {"full_attention": None, "sliding_attention": window}
    other = sorted(set(kinds or ()) - known.keys())
    if other or getattr(config, "attention_chunk_size", None) is not None:
        raise EngineError(
            f"the torch engine can't batch the layers of {config.model_type!r} "
            f"({', '.join(other) or 'chunked attention'}), so it can't be tuned; a GGUF file of "
            "this model can be asked by the llama engine"
        )
    return {kind: known[kind] for kind in sorted(set(kinds))} if kinds else {"": window}


def shared_prefix(prompts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The longest prefix that all prompts share and none consists of; empty where it wouldn't pay."""
    if len(prompts) < 2:
        return ()
    low, high = min(prompts), max(prompts)
    most = min(map(len, prompts)) - 1
    size = next((k for k in range(most) if low[k] != high[k]), most)
    return low[:size] if size >= SHORTEST_SHARED_PREFIX else ()


def pad_right(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Token ids [rows, longest], zeros behind the shorter ones."""
    longest = max(max(map(len, rows)), 1)
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], dtype=torch.long)


def sizes_of(tokens: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
    """How many tokens each row has."""
    return torch.tensor([len(row) for row in tokens], dtype=torch.long, device=device)


def in_batches(
    lengths: Sequence[int | None],
    shared: int,
    budget: int,
    most: int = STORED_TOKENS,
    holds: Callable[[int, int], bool] | None = None,
) -> list[list[int]]:
    """Indices of the rows by length, those with None left out, in batches of about `budget` new tokens.

    `lengths` counts all tokens of a row, of which it doesn't run the first `shared` itself. A batch has
    `most` rows at most, and no more than memory `holds` where they have so many tokens of their own each.
    """
    sized = sorted((length, index) for index, length in enumerate(lengths) if length is not None)
    cut: list[list[int]] = []
    for length, index in sized:
        rows, own = len(cut[-1]) + 1 if cut else 1, length - shared
        fits = rows <= most and own * rows <= budget and length * rows <= STORED_TOKENS
        if not cut or not fits or (holds is not None and not holds(rows, own)):
            cut.append([])
        cut[-1].append(index)
    return cut
