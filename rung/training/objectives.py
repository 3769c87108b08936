"""What a run can make small beside the completion loss: the losses of pairs, and of judged answers."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from rung.training import losses
from rung.training.batches import Item, Row

LogProbs: TypeAlias = Callable[[Sequence[Row]], Tensor]
"""The log-probabilities [rows] of answers under the model as it is, without a gradient."""


class Objective(Protocol):
    """A loss of items that are looked at one by one, whatever parts a batch is cut into."""

    def begin(self, batch: Sequence[int], logprobs: LogProbs) -> None:
        """Called with a step's items, by number, before any of their losses is asked for."""
        ...

    def losses(self, items: Sequence[int], logprobs: Tensor) -> Tensor:
        """The losses [items] where the answers of their rows, in order, have these log-probabilities."""
        ...


class Pairs:
    """DPO of items of two rows: a chosen answer, then a rejected one. `reference` is of all rows in order."""

    def __init__(self, items: Sequence[Item], reference: Sequence[float], *, beta: float) -> None:
        self.reference = torch.tensor(reference, dtype=torch.float64).view(-1, 2)
        self.beta = beta
        self.lengths = torch.tensor([[len(row.answer) for row in item.rows] for item in items])

    def begin(self, batch: Sequence[int], logprobs: LogProbs) -> None:
        """Pairs need nothing of each other."""

    def losses(self, items: Sequence[int], logprobs: Tensor) -> Tensor:
        """By `sigmoid_norm`: a longer answer isn't a better one."""
        at = torch.tensor(items)
        policy = logprobs.view(-1, 2).t()
        reference, lengths = (t[at].t().to(policy) for t in (self.reference, self.lengths))
        return losses.dpo_loss(policy, reference, beta=self.beta, lengths=lengths)


class Judged:
    """KTO of items of one row each, some `desirable` and some not.

    `others` are as many rows, the item's prompt before the answer of another item, with the reference's
    log-probabilities `other_reference`: by those of a batch the reference point is drawn.
    """

    def __init__(
        self,
        desirable: Sequence[bool],
        reference: Sequence[float],
        others: Sequence[Row],
        other_reference: Sequence[float],
        *,
        beta: float,
    ) -> None:
        self.desirable = torch.tensor(desirable)
        self.reference = torch.tensor(reference, dtype=torch.float64)
        self.others, self.other_reference = others, torch.tensor(other_reference, dtype=torch.float64)
        self.beta, self.weights = beta, balanced(desirable)
        self._point = torch.zeros(())

    def begin(self, batch: Sequence[int], logprobs: LogProbs) -> None:
        """Take the reference point of a batch."""
        now = logprobs([self.others[i] for i in batch])
        self._point = losses.kl_point(now, self.other_reference[torch.tensor(batch)])

    def losses(self, items: Sequence[int], logprobs: Tensor) -> Tensor:
        """Both judgements weigh as much, in all."""
        at = torch.tensor(items)
        desirable = self.desirable[at].to(logprobs.device)
        reference, point = self.reference[at].to(logprobs), self._point.to(logprobs)
        return losses.kto_loss(logprobs, reference, desirable, point, beta=self.beta, weights=self.weights)


def balanced(desirable: Sequence[bool]) -> tuple[float, float]:
    """Weights of desirable and of other answers, the rarer ones' being over 1, so that both weigh as much.

    1 and 1 where the desirable are up to a third more, which Ethayarajh et al. 2024 (arXiv:2402.01306, eq. 8)
    call balanced. Raises ValueError where one of the judgements is missing.
    """
    good = sum(desirable)
    bad = len(desirable) - good
    if not good or not bad:
        raise ValueError("answers of both judgements are needed to weigh one against the other")
    if bad <= good <= 4 / 3 * bad:
        return 1.0, 1.0
    return max(1.0, bad / good), max(1.0, good / bad)


def mismatched(rows: Sequence[Row], batches: Sequence[Sequence[int]]) -> list[Row]:
    """Each row's prompt with the answer of the row before it in its batch; of the last one, for the first."""
    found = list(rows)
    for batch in batches:
        for place, number in enumerate(batch):
            found[number] = Row(prompt=rows[number].prompt, answer=rows[batch[place - 1]].answer)
    return found
