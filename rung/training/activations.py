"""Activations: what transformers' own passes keep for the way back, and how much of it memory holds.

Packs count theirs by a block's parts. Of a model without a packed form no parts are known, so autograd is
asked: very short rows are passed, and what it keeps of them is counted. Where one row alone is too much, each
block keeps its input and runs again on the way back (Chen et al. 2016, arXiv:1604.06174).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from rung.engines.block_weight import BlockWeight
from rung.engines.packed import KEPT_SHARE
from rung.engines.parallel import workers
from rung.engines.room import free_bytes
from rung.engines.rows import Network
from rung.memory import give_back

COUNTED = 8
"""Tokens of the shortest of three rows that are passed to count. The others have twice and three times as
many, which tells apart what is kept of a pass, of a token and of a pair of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """Bytes that are kept for the way back: of a pass, of each token, and of each pair of a row's tokens.

    `state` are those of a token between two of the `blocks`, which are as many as can run again.
    """

    call: float
    token: float
    pair: float
    state: int
    blocks: int

    def whole(self, tokens: int) -> float:
        """Of a row of so many tokens."""
        return self.call + tokens * (self.token + self.pair * tokens)

    def again(self, tokens: int) -> float:
        """Of a row whose blocks keep their inputs, and all else of one block at a time when it runs again."""
        if not self.blocks:
            return self.whole(tokens)
        return self.blocks * self.state * tokens + self.whole(tokens) / self.blocks


@dataclass(kw_only=True, slots=True)
class Room:
    """Memory for one pass: `free` bytes, and `most` tokens at most, where it was found to hold no more."""

    kept: Kept
    free: float
    most: int | None = None

    def tokens(self, longest: int) -> int:
        """How many tokens of rows of `longest` each are passed with all kept for the way back; 1 at least."""
        each = self.kept.token + self.kept.pair * longest
        fits = max(1, int((self.free - self.kept.call) / max(1.0, each)))
        return fits if self.most is None else min(fits, self.most)


def room_for(model: Network, parameters: Sequence[Tensor]) -> Room:
    """What the memory that is free now holds of each pass, of those that run side by side.

    A pass has the gradients of all `parameters` at its end.
    """
    device = parameters[0].device
    give_back()  # or what an earlier run let go of would seem to be in use
    slopes = sum(p.numel() * p.element_size() for p in parameters)
    return Room(kept=counted(model), free=KEPT_SHARE * (free_bytes(device) / workers(device) - slopes))


def counted(model: Network) -> Kept:
    """What passes of a model keep, whose parameters require gradients as they will; nothing changes."""
    first, second, third = (kept_by(model, 1, COUNTED * times) for times in (1, 2, 3))
    pair = max(0.0, (third - 2 * second + first) / (2 * COUNTED**2))
    token = max(0.0, (third - first) / (2 * COUNTED) - 4 * COUNTED * pair)
    return Kept(
        call=max(0.0, first - COUNTED * (token + COUNTED * pair)),
        token=token,
        pair=pair,
        state=model.lm_head.weight.shape[1] * model.lm_head.weight.element_size(),
        blocks=len(_blocks(model)),
    )


def kept_by(model: Network, rows: int, tokens: int) -> int:
    """Bytes that a pass of rows of so many tokens keeps for the way back, the model's weights left out."""
    device = model.lm_head.weight.device
    own = {_address(tensor) for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def noted(tensor: Tensor) -> Tensor:
        if (address := _address(tensor)) is not None and address not in own:
            kept[address] = tensor.untyped_storage().nbytes()
        return tensor

    ids = torch.arange(tokens, device=device).expand(rows, tokens)
    # A model with dropout draws numbers, which are the training's.
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.enable_grad(),
        saved_tensors_hooks(noted, lambda tensor: tensor),
    ):
        states = model.model(ids, use_cache=False).last_hidden_state
    del states  # until here the graph held all of it, so that no address stands for two
    return sum(kept.values())


def _address(tensor: Tensor) -> int | None:
    """Where a tensor's memory begins; None where it's held as blocks."""
    return None if isinstance(tensor, BlockWeight) else tensor.untyped_storage().data_ptr()


def within(part: Sequence[int], tokens: Callable[[Sequence[int]], int], most: int) -> list[list[int]]:
    """A part's items, in halves until each has `most` tokens at most, by `tokens`, or is an item alone."""
    if len(part) < 2 or tokens(part) <= most:
        return [list(part)]
    half = len(part) // 2
    return [*within(part[:half], tokens, most), *within(part[half:], tokens, most)]


@contextmanager
def run_again(model: Network, room: Room | None) -> Iterator[None]:
    """In passes of more tokens than there is `room` for, a model's blocks run again on the way back.

    The gradients are the same. Of None all passes stay as they are.
    """

    def passed(block: Callable[..., Any], states: Tensor, *more: Any) -> Any:
        rows, longest = states.shape[:2]
        if room is None or rows * longest <= room.tokens(longest):
            return block(states, *more)
        # Re-entrant ones would need an input with a gradient, which frozen embeddings haven't.
        return checkpoint(block, states, *more, use_reentrant=False)

    held = [] if room is None else _blocks(model)
    were = [(block.gradient_checkpointing, block.training) for block in held]
    try:
        for block in held:
            block._gradient_checkpointing_func = passed
            block.gradient_checkpointing = block.training = True  # both are asked for
        yield
    finally:
        for block, (checkpointing, training) in zip(held, were, strict=True):
            block.gradient_checkpointing, block.training = checkpointing, training


def _blocks(model: Network) -> list[Any]:
    """The decoder blocks that transformers can run again."""
    return [block for block in model.model.layers if isinstance(block, GradientCheckpointingLayer)]
