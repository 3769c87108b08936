"""What a run makes small where it learns from answers that the model itself gives at each step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rung.training.batches import Row
from rung.training.losses import Clip, group_advantages, grpo_loss, token_logprobs

States: TypeAlias = tuple[Tensor, torch.nn.Linear, Tensor]
"""The states [targets, width] before supervised tokens, the head, and those tokens [targets]."""
CLIP = Clip(high=0.28)
"""DAPO's (Yu et al. 2025, arXiv:2503.14476)."""


@runtime_checkable
class OnPolicy(Protocol):
    """A loss of answers that are drawn at each step, with the model as it is then."""

    @property
    def said(self) -> str:
        """What the last step's answers were like, in a few words for a progress bar."""
        ...

    def draw(self, batch: Sequence[int], step: int) -> Sequence[Row]:
        """The rows that a step learns from in place of its own, by number; none where they teach nothing.

        `step` counts those before it. Raises TrainingError where it's no use to go on.
        """
        ...

    def loss(self, places: Sequence[int], states: States) -> Tensor:
        """What these of the drawn rows, with the states of their answers in this order, add to the loss."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """An answer as it was drawn, `count` times over, and by how much it was better than its group.

    `allowed` are the bits [tokens, vocabulary / 8] of the tokens that its schema let through; None without
    one.
    """

    row: Row
    count: int
    advantage: float
    allowed: NDArray[np.uint8] | None = None


class Rewarded:
    """GRPO of answers that `draw` gives for a step's items, by number."""

    def __init__(self, draw: Callable[[Sequence[int], int], tuple[Sequence[Drawn], str]]) -> None:
        """`draw` is given the items and the number of steps before; it says in a few words what it drew."""
        self._draw = draw
        self._drawn: Sequence[Drawn] = ()
        self._weight = 0.0
        self.said = ""

    def draw(self, batch: Sequence[int], step: int) -> Sequence[Row]:
        """Draw the answers of a step."""
        self._drawn, self.said = self._draw(batch, step)
        self._weight = sum(float(_weights(one).sum()) for one in self._drawn)
        return [one.row for one in self._drawn]

    def loss(self, places: Sequence[int], states: States) -> Tensor:
        """The GRPO loss of these answers, by their part of the step's tokens."""
        drawn = [self._drawn[i] for i in places]
        policy = _by_answer(_logprobs(drawn, states), drawn)
        mask = _by_answer(torch.cat([_weights(one) for one in drawn]).to(policy), drawn)
        gains = policy.new_tensor([one.advantage for one in drawn])
        # There is one step to each draw, so the policy that drew the answers is the one that learns: every
        # ratio is 1, and the gradient is the plain one of the policy. The engine's log-probabilities are of
        # the same weights and were rounded elsewhere; against them the clip would count noise.
        found = grpo_loss(policy, policy.detach(), mask, gains, CLIP)
        return found * (mask.sum() / max(1.0, self._weight))


def gains_of(rewards: Sequence[float]) -> list[float]:
    """How much better each answer is than its group, by their rewards (`group_advantages`)."""
    return group_advantages(torch.tensor([list(rewards)], dtype=torch.float64))[0].tolist()


def _weights(one: Drawn) -> Tensor:
    """What each token [tokens] counts: as often as it was drawn, and nothing where no other was allowed."""
    counts = torch.full((len(one.row.answer),), float(one.count))
    if one.allowed is not None:
        counts[torch.from_numpy(np.bitwise_count(one.allowed).sum(1) < 2)] = 0.0
    return counts


def _logprobs(drawn: Sequence[Drawn], states: States) -> Tensor:
    """Of the answers' tokens [targets], each among those that it was drawn from."""
    masks = [one.allowed for one in drawn if one.allowed is not None]
    if not masks:
        return token_logprobs(*states)
    assert len(masks) == len(drawn), "all answers of a task have a schema, or none has"
    allowed = torch.from_numpy(np.concatenate(masks)).to(states[0].device)
    return token_logprobs(*states, allowed)


def _by_answer(values: Tensor, drawn: Sequence[Drawn]) -> Tensor:
    """Values [targets] as [answers, tokens], with 0 where an answer has no more tokens."""
    parts = values.split([len(one.row.answer) for one in drawn])
    return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
