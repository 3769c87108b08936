"""How far a tune has moved from its base: both models' next-token distributions on the same texts."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rung.engines import lora
from rung.engines.device import in_halves
from rung.engines.packed import Packed, packed
from rung.engines.parallel import portion
from rung.engines.prefix import prefix_of
from rung.engines.rows import Network, in_batches, pad_right
from rung.engines.torch import load_adapter, load_model
from rung.records.guarded import Divergence
from rung.training.batches import Row
from rung.training.loop import packed_states
from rung.training.losses import completion_targets

TOKENS_AT_ONCE = 2048
LOGITS_AT_ONCE = 2**24
"""64 MiB in fp32, for each of the two models."""


def open_pair(base: Path, adapter: Path | None, own: Path | None) -> tuple[Network, Network | None]:
    """A tuned model and its base: `own` weights beside the `base`'s, or that alone with its adapter on."""
    if own is not None:
        return load_model(own), load_model(base)
    model = load_model(base)
    assert adapter is not None, "the gate is for tuned Systems"
    load_adapter(model, adapter)
    return model, None


def divergence(model: Network, rows: Sequence[Row], base: Network | None = None) -> Divergence:
    """KL(base‖tuned) and both models' loss at the answer positions of rows, means over all of them.

    At each position the sum over the whole vocabulary of p (log p - log q), p being the base's next-token
    probability after the prompt and the answer's earlier tokens, and q the tune's (forward KL, Kullback &
    Leibler 1951). Logits are the engine's, the softmax runs in fp32. Without a `base` it is `model` with its
    adapter off. ValueError without positions.
    """
    tokens = sum(len(row.answer) for row in rows)
    if not tokens:
        raise ValueError("no positions to compare two models at")
    device = model.lm_head.weight.device
    made = packed(model) if prefix_of(model) is not None else None
    sums = torch.zeros(3, dtype=torch.float64)
    with torch.inference_mode():
        for part in in_batches([row.tokens for row in rows], 0, portion(TOKENS_AT_ONCE, device)):
            for found in in_halves(lambda some: [_sums(model, [rows[i] for i in some], base, made)], part):
                sums += found
    kl, before, tuned = (float(total) / tokens for total in sums)
    return Divergence(tokens=tokens, kl=max(kl, 0.0), base_loss=before, tuned_loss=tuned)


def _sums(model: Network, batch: Sequence[Row], other: Network | None, made: Packed | None) -> torch.Tensor:
    """The batch's sums of KL, of the base's loss and of the tune's [3].

    `made` is a model with a learned prefix over packs.
    """
    device = model.lm_head.weight.device
    ids = pad_right([(*row.prompt, *row.answer[:-1]) for row in batch]).to(device)
    rows, columns, targets = (part.to(device) for part in completion_targets(batch))
    if prefix_of(model) is not None:
        assert made is not None, "a prefix stands before no other model"
        tuned, *_ = packed_states(made, batch, 0)
        base = model.model(ids, use_cache=False).last_hidden_state[rows, columns]
        return _compared(model, base, tuned, targets)
    tuned = model.model(ids, use_cache=False).last_hidden_state[rows, columns]
    if other is None:
        with lora.switched_off(model):
            base = model.model(ids, use_cache=False).last_hidden_state[rows, columns]
    else:
        beside = ids.to(other.lm_head.weight.device)
        base = other.model(beside, use_cache=False).last_hidden_state.to(device)[rows, columns]
    return _compared(model, base, tuned, targets)


def _compared(model: Network, base: Tensor, tuned: Tensor, targets: Tensor) -> Tensor:
    """The sums [3] over both models' states [positions, width] before the targets [positions]."""
    sums = torch.zeros(3, dtype=torch.float64)
    size = max(1, LOGITS_AT_ONCE // model.lm_head.weight.shape[0])
    for states, others, wanted in zip(base.split(size), tuned.split(size), targets.split(size), strict=True):
        p, q = (model.lm_head(part).float().log_softmax(-1) for part in (states, others))
        losses = [-part.gather(1, wanted[:, None]).sum().double() for part in (p, q)]
        sums += torch.stack([(p.exp() * (p - q)).sum().double(), *losses]).cpu()
    return sums
