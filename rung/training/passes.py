"""How fast a model learns, before it has learned anything."""

import time
from collections.abc import Sequence

import torch

from rung.engines.packed import packed
from rung.engines.rows import Network
from rung.training.activations import room_for, run_again
from rung.training.batches import Row
from rung.training.learned import Learned
from rung.training.loop import batch_loss, packed_loss

TIMED_TOKENS = 300
"""Of the rows that are passed; one row at least."""


def token_s(model: Network, learned: Learned, rows: Sequence[Row]) -> float:
    """Seconds that a token takes to and fro, by the first rows as they come; nothing changes."""
    made = None if learned.own else packed(model)
    some, tokens = [rows[0]], rows[0].tokens
    for row in rows[1:]:
        if (tokens := tokens + row.tokens) > TIMED_TOKENS:
            break
        some.append(row)
    parameters = [p for group, _ in learned.groups for p in group]
    room = room_for(model, parameters) if made is None else None
    seconds = 0.0
    for _ in range(2):  # the first pass meets everything for the first time
        start = time.perf_counter()
        with torch.enable_grad(), run_again(model, room):
            loss = batch_loss(model, some) if made is None else packed_loss(made, some)
            torch.autograd.grad(loss, parameters)
        seconds = time.perf_counter() - start
    return seconds / sum(row.tokens for row in some)
