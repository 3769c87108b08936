"""What a run makes small where it learns from answers that the model itself gives at each step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rung.training.batches import Row
from rung.training.losses import Clip, group_advantages, grpo_loss, reverse_kl, token_logprobs

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
        policy = _by_answer(token_logprobs(*states, _allowed(drawn, states[0].device)), drawn)
        mask = _by_answer(torch.cat([_weights(one) for one in drawn]).to(policy), drawn)
        gains = policy.new_tensor([one.advantage for one in drawn])
        # There is one step to each draw, so the policy that drew the answers is the one that learns: every
        # ratio is 1, and the gradient is the plain one of the policy. The engine's log-probabilities are of
        # the same weights and were rounded elsewhere; against them the clip would count noise.
        found = grpo_loss(policy, policy.detach(), mask, gains, CLIP)
        return found * (mask.sum() / max(1.0, self._weight))


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """An answer as it was drawn, and the teacher's states [tokens, width] before each of its tokens."""

    row: Row
    states: Tensor
    allowed: NDArray[np.uint8] | None = None


class Taught:
    """On-policy distillation: reverse KL to a teacher's next-token distributions in the model's own answers.

    The whole distribution is compared, as TRL 1.16's DistillationTrainer does, and not the drawn token's
    log-probabilities alone: its gradient has no noise from which token was drawn, and costs one more head.
    """

    def __init__(
        self,
        draw: Callable[[Sequence[int], int], tuple[Sequence[Shown], str]],
        head: torch.nn.Linear,
    ) -> None:
        """`draw` as for `Rewarded`; `head` is the teacher's."""
        self._draw, self._head = draw, head
        self._shown: Sequence[Shown] = ()
        self._weight = 0.0
        self.said = ""

    def draw(self, batch: Sequence[int], step: int) -> Sequence[Row]:
        """Draw the answers of a step, and let the teacher read them."""
        self._shown, self.said = self._draw(batch, step)
        self._weight = sum(float(_choices(one.row, one.allowed).sum()) for one in self._shown)
        return [one.row for one in self._shown]

    def loss(self, places: Sequence[int], states: States) -> Tensor:
        """The sum of divergences at these answers' tokens, by the number of the step's tokens.

        Where a schema allowed one token only the divergence is 0, and the token isn't counted.
        """
        shown = [self._shown[i] for i in places]
        others = torch.cat([one.states for one in shown]).to(states[0].device)
        apart = reverse_kl(states[0], states[1], others, self._head, _allowed(shown, states[0].device))
        return apart.sum() / max(1.0, self._weight)


def gains_of(rewards: Sequence[float]) -> list[float]:
    """How much better each answer is than its group, by their rewards (`group_advantages`)."""
    return group_advantages(torch.tensor([list(rewards)], dtype=torch.float64))[0].tolist()


def _weights(one: Drawn) -> Tensor:
    """What each token [tokens] counts: as often as it was drawn, and nothing where no other was allowed."""
    return one.count * _choices(one.row, one.allowed)


def _choices(row: Row, allowed: NDArray[np.uint8] | None) -> Tensor:
    """1 for each token [tokens] of an answer beside which others were allowed, else 0."""
    if allowed is None:
        return torch.ones(len(row.answer))
    return torch.from_numpy(np.bitwise_count(allowed).sum(1) > 1).float()


def _allowed(drawn: Sequence[Drawn] | Sequence[Shown], device: torch.device) -> Tensor | None:
    """The bits [targets, vocabulary / 8] of the tokens that each was drawn from; None where that was any."""
    masks = [one.allowed for one in drawn if one.allowed is not None]
    if not masks:
        return None
    assert len(masks) == len(drawn), "all answers of a task have a schema, or none has"
    return torch.from_numpy(np.concatenate(masks)).to(device)


def _by_answer(values: Tensor, drawn: Sequence[Drawn]) -> Tensor:
    """Values [targets] as [answers, tokens], with 0 where an answer has no more tokens."""
    parts = values.split([len(one.row.answer) for one in drawn])
    return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
