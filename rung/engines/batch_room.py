"""What a batch takes of a GPU's memory beside the weights, by the model's sizes, and what is there for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rung.engines.held import most_slots
from rung.engines.room import free_bytes
from rung.engines.rows import Network

if TYPE_CHECKING:
    import torch

SHARE = 0.8
"""Of a GPU's free memory, for what is counted; the rest is for what isn't, and for gaps between tensors."""
RANKED, DRAWN = 3, 6
"""How often a row's logits are there at once, in fp32: where the likeliest token is wanted, as they come from
the model, exact, and as exponentials; where one is drawn, exact, as weights, and in fp64, those and sums."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRoom:
    """Bytes for a batch, and what it takes of them: `row` for each row, and for each token of its own `read`
    while it's read and `kept` for its keys and values.
    """

    free: int
    row: int
    read: int
    kept: int

    def holds(self, rows: int, tokens: int) -> bool:
        """Whether there is room for so many rows with so many tokens of their own each."""
        return rows * (self.row + tokens * self.read + most_slots(tokens) * self.kept) <= self.free


def batch_room(
    model: Network,
    device: "torch.device",
    *,
    packed: bool,
    shared: int = 0,
    kept: bool = True,
    logits: int = 0,
) -> BatchRoom | None:
    """The room on a GPU for rows that begin with `shared` tokens; None on a processor, where none is counted.

    Those are held once where the model is `packed`, else for each row. Keys and values are counted to the
    byte unless they aren't `kept`, what comes and goes while tokens are read about as it is. `logits` says
    how often a row's are there at once.
    """
    if device.type == "cpu":
        return None
    config = model.config.get_text_config()
    width, heads = config.hidden_size, config.num_attention_heads
    size = _most(config, "head_dim", width // heads)
    key_heads = _most(config, "num_key_value_heads", heads)
    itemsize, vocabulary = model.lm_head.weight.element_size(), model.lm_head.weight.shape[0]
    layer = 2 * key_heads * size * itemsize
    token = layer * config.num_hidden_layers
    projected = (heads + 2 * key_heads) * size
    read = (6 * width + 4 * projected + 3 * _most(config, "intermediate_size", 4 * width)) * itemsize
    # A layer's keys and values of what is shared stand before each row's for a while, for each query head.
    before = shared * (layer + 2 * heads * size * itemsize) + (0 if packed else shared * token)
    return BatchRoom(
        free=int(SHARE * free_bytes(device)),
        row=before + logits * vocabulary * max(4, itemsize),
        read=read,
        kept=token if kept else 0,
    )


def _most(config: Any, name: str, usual: int) -> int:
    """A size by its name in a model's config, where there may be one for each layer, or none."""
    found = getattr(config, name, None)
    return max(found) if isinstance(found, Sequence) else found or usual
