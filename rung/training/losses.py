"""The losses, as pure functions of hidden states and targets."""

from collections.abc import Sequence

import torch
from torch.nn import functional

from rung.training.batches import Row


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


def completion_loss(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy (nats per supervised token) of hidden [targets, width] through head [vocabulary, width].

    The head is applied to supervised positions alone, and the softmax runs in fp32.
    """
    return functional.cross_entropy((hidden @ head.t()).float(), targets)
