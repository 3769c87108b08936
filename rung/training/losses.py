"""The losses, as pure functions of hidden states and targets."""

from collections.abc import Sequence

import torch
from torch.nn import functional

from rung.training.batches import Row

LOGITS_AT_ONCE = 2**24
"""64 MiB in fp32."""


def completion_targets(batch: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where the supervised positions are and what follows there: (row, column, target id), each [targets].

    The state at the prompt's last token predicts the answer's first token, and so on; nothing of the
    prompt is supervised.
    """
    rows, columns, targets = [], [], []
    for number, row in enumerate(batch):
        first = len(row.prompt) - 1
        for offset, token in enumerate(row.answer):
            rows.append(number)
            columns.append(first + offset)
            targets.append(token)
    return torch.tensor(rows), torch.tensor(columns), torch.tensor(targets)


def completion_loss(
    hidden: torch.Tensor,
    head: torch.nn.Linear,
    targets: torch.Tensor,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean cross-entropy (nats per supervised token) of hidden [targets, width] through a frozen head.

    With `weights` [targets] their sum so weighted. The head is applied to supervised positions alone, and the
    softmax runs in fp32 or finer.
    """
    if weights is None:
        kind = torch.promote_types(hidden.dtype, torch.float32)
        weights = torch.full((len(targets),), 1 / len(targets), dtype=kind, device=hidden.device)
    return _FrozenHeadLoss.apply(hidden, head.weight, head.bias, targets, weights)  # type: ignore[return-value]


class _FrozenHeadLoss(torch.autograd.Function):
    """The gradient of the states is taken on the way forward, a few rows at a time.

    So the logits of all rows never exist at once: with 262,144 tokens in the vocabulary, 800 supervised
    positions would take 2.5 GB for logits, probabilities and their gradients.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, weights):
        total, gradients = 0.0, []
        parts = (t.split(_rows_at_once(weight)) for t in (hidden, targets, weights[:, None]))
        for states, wanted, shares in zip(*parts, strict=True):
            logits = functional.linear(states, weight, bias)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            sums = logits.logsumexp(-1, keepdim=True)
            total = total + ((sums - logits.gather(1, wanted[:, None])) * shares).sum()
            if ctx.needs_input_grad[0]:
                slopes = logits.sub_(sums).exp_()
                slopes.scatter_add_(1, wanted[:, None], -torch.ones_like(sums))
                gradients.append(slopes.mul_(shares).to(weight.dtype) @ weight)
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        return total

    @staticmethod
    def backward(ctx, *grads):
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].to(gradient.dtype), None, None, None, None


def _rows_at_once(weight: torch.Tensor) -> int:
    return max(1, LOGITS_AT_ONCE // weight.shape[0])
