"""The losses, as pure functions of hidden states and targets, or of log-probabilities in nats.

A sequence's log-probability is the sum over the tokens of its answer, the prompt being given; the reference
is the policy before the first step. Preference and reinforcement have the formulas that TRL 1.16 computes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Literal

import torch
from torch.nn import functional

from rung.training.batches import Row

LOGITS_AT_ONCE = 2**24
"""64 MiB in fp32."""
SPREAD_FLOOR = 1e-4
"""Added to a group's standard deviation, which may be 0."""


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
    logprobs = token_logprobs(hidden, head, targets)
    return -logprobs.mean() if weights is None else -(logprobs * weights).sum()


def token_logprobs(
    hidden: torch.Tensor, head: torch.nn.Linear, targets: torch.Tensor, allowed: torch.Tensor | None = None
) -> torch.Tensor:
    """Log-probability [targets] of each target after the states [targets, width], the head being frozen.

    With `allowed`, bits of bytes [targets, vocabulary / 8] with the lowest first, that among these tokens:
    where one alone was allowed it's 0, and so is its gradient.
    """
    return _FrozenHeadLogprobs.apply(  # type: ignore[return-value]
        hidden, head.weight, head.bias, targets, allowed
    )


def dpo_loss(
    policy: torch.Tensor, reference: torch.Tensor, *, beta: float, lengths: torch.Tensor | None = None
) -> torch.Tensor:
    """Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290, eq. 7); the losses [pairs].

    −log σ(β (r₀ − r₁)), where r is the policy's log-probability less the reference's, of the chosen answers
    in row 0 and of the rejected in row 1 of `policy` and `reference` [2, pairs]: TRL's `sigmoid`. With
    `lengths` [2, pairs], in tokens, each r is divided by its own: TRL's `sigmoid_norm`, for which a longer
    answer is no better (Lambert et al. 2024, arXiv:2411.15124, § 5.1).
    """
    gained = policy - reference
    if lengths is not None:
        gained = gained / lengths
    return -functional.logsigmoid(beta * (gained[0] - gained[1]))


def kto_loss(
    policy: torch.Tensor,
    reference: torch.Tensor,
    desirable: torch.Tensor,
    point: torch.Tensor,
    *,
    beta: float,
    weights: tuple[float, float] = (1.0, 1.0),
) -> torch.Tensor:
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306, eq. 7); the losses [answers].

    λ₀ (1 − σ(β (r − z))) of a desirable answer and λ₁ (1 − σ(β (z − r))) of another one, where r is the
    policy's log-probability less the reference's [answers], z the reference `point` and λ the `weights`.
    """
    gained = beta * (policy - reference - point)
    wanted = torch.where(desirable, gained, -gained)
    shares = torch.where(desirable, *wanted.new_tensor(weights))
    return shares * (1 - torch.sigmoid(wanted))


def kl_point(policy: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """KTO's reference point: how far the policy is from the reference, as one number without a gradient.

    max(0, mean of log-probabilities less the reference's) over answers [answers] that belong to other
    questions, an estimate of the KL divergence that is biased and cheap (arXiv:2402.01306, § 4.1).
    """
    return (policy - reference).mean().clamp(min=0).detach()


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """How `grpo_loss` bounds a step and weighs tokens; the defaults are TRL's; DAPO has a `high` of .28.

    A ratio of probabilities counts from 1 − `low` to 1 + `high`. `kind` "dapo" weighs all tokens of the batch
    alike; "dr_grpo" divides by `longest`, the tokens that an answer may have, whatever they have. `beta` is
    the weight of the KL divergence from the reference.
    """

    kind: Literal["dapo", "dr_grpo"] = "dapo"
    low: float = 0.2
    high: float = 0.2
    beta: float = 0.0
    longest: int = 512


def group_advantages(rewards: torch.Tensor, *, scaled: bool = True) -> torch.Tensor:
    """How much better an answer is than its group, for rewards [questions, answers]; the same shape.

    (R − mean) / (s + 10⁻⁴), s being the standard deviation of the group with n − 1 (Shao et al. 2024,
    arXiv:2402.03300, § 4.1); not divided where it isn't `scaled` (Liu et al. 2025, arXiv:2503.20783).
    A group of one gains 0.
    """
    centred = rewards - rewards.mean(1, keepdim=True)
    if not scaled or rewards.shape[1] == 1:
        return centred
    return centred / (rewards.std(1, keepdim=True) + SPREAD_FLOOR)


def grpo_loss(
    policy: torch.Tensor,
    before: torch.Tensor,
    mask: torch.Tensor,
    advantages: torch.Tensor,
    clip: Clip,
    reference: torch.Tensor | None = None,
) -> torch.Tensor:
    """Group-relative policy optimisation (Shao et al. 2024, arXiv:2402.03300, eq. 3); one number.

    Of each token that `mask` [answers, tokens] counts: −min(ρA, clamp(ρ, 1 − low, 1 + high) A) + β ρ d, where
    ρ = exp(`policy` − `before`), their log-probabilities [answers, tokens] now and when the answers were
    drawn; A is the answer's advantage [answers], and d = exp(q) − q − 1 with q = `reference` − `policy`
    (Schulman's k3; ρ makes its gradient that of the KL divergence, DeepSeek-AI 2025, arXiv:2512.02556). The
    sum is divided by the number of tokens (DAPO, Yu et al. 2025, arXiv:2503.14476) or by that of answers
    times `longest` (Dr. GRPO, Liu et al. 2025, arXiv:2503.20783).

    Raises ValueError where a `beta` lacks a reference.
    """
    ratio = (policy - before).exp()
    gain = advantages[:, None]
    losses = -torch.minimum(ratio * gain, ratio.clamp(1 - clip.low, 1 + clip.high) * gain)
    if clip.beta:
        if reference is None:
            raise ValueError(f"a KL weight of {clip.beta:g} needs the reference's log-probabilities")
        less = reference - policy
        losses = losses + clip.beta * ratio * (less.exp() - less - 1)
    counted = mask.sum().clamp(min=1) if clip.kind == "dapo" else len(mask) * clip.longest
    return (losses * mask).sum() / counted


def reverse_kl(
    hidden: torch.Tensor,
    head: torch.nn.Linear,
    other: torch.Tensor,
    other_head: torch.nn.Linear,
    allowed: torch.Tensor | None = None,
) -> torch.Tensor:
    """KL divergence [targets] of the next token's distribution from another model's, both heads being frozen.

    Σ p (log p − log q) in nats over the vocabulary, p after the states `hidden` [targets, width] and q after
    `other` [targets, other width]; the gradient is p's. TRL's generalised JSD with a β of 1 (Agarwal et al.
    2023, arXiv:2306.13649, eq. 2). With `allowed`, as `token_logprobs` has it, both are distributions among
    these tokens alone. Of vocabularies that were filled up to unlike sizes the tokens of both count.
    """
    return _FrozenHeadsKl.apply(hidden, head, other, other_head, allowed)  # type: ignore[return-value]


class _FrozenHeadsKl(torch.autograd.Function):
    """As `_FrozenHeadLogprobs`, of two heads: gradients are taken on the way forward, few rows at a time."""

    @staticmethod
    def forward(ctx, hidden, head, other, other_head, allowed):
        found, gradients = [], []
        size = _rows_at_once(head.weight)
        width = min(len(head.weight), len(other_head.weight))
        masks = repeat(None) if allowed is None else allowed.split(size)
        for (states, others), bits in zip(
            zip(hidden.split(size), other.split(size), strict=True), masks, strict=False
        ):
            ours = _log_softmax(states, head, width, bits)
            theirs = _log_softmax(others, other_head, width, bits)
            shares = ours.exp()
            # Where a token isn't allowed both are −∞, and 0 × (−∞ + ∞) is no number.
            apart = torch.where(shares > 0, ours - theirs, 0.0)
            sums = (shares * apart).sum(-1, keepdim=True)
            found.append(sums[:, 0])
            if ctx.needs_input_grad[0]:
                slopes = shares * (apart - sums)
                gradients.append(slopes.to(head.weight.dtype) @ head.weight[:width])
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(found)

    @staticmethod
    def backward(ctx, *grads):
        (gradient,) = ctx.saved_tensors
        return (gradient * grads[0][:, None]).to(gradient.dtype), *[None] * 4


def _log_softmax(
    states: torch.Tensor, head: torch.nn.Linear, width: int, bits: torch.Tensor | None
) -> torch.Tensor:
    """Log-probabilities [rows, width] of the first tokens, or of those among them that are allowed."""
    bias = None if head.bias is None else head.bias[:width]
    logits = functional.linear(states, head.weight[:width], bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if bits is not None:
        logits.masked_fill_(~_unpacked(bits, width), -torch.inf)
    return logits.log_softmax(-1)


class _FrozenHeadLogprobs(torch.autograd.Function):
    """The gradient of the states is taken on the way forward, a few rows at a time.

    So the logits of all rows never exist at once: with 262,144 tokens in the vocabulary, 800 supervised
    positions would take 2.5 GB for logits, probabilities and their gradients.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, allowed):
        found, gradients = [], []
        size = _rows_at_once(weight)
        parts = zip(hidden.split(size), targets.split(size), strict=True)
        masks = repeat(None) if allowed is None else allowed.split(size)
        for (states, wanted), bits in zip(parts, masks, strict=False):
            logits = functional.linear(states, weight, bias)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            if bits is not None:
                logits.masked_fill_(~_unpacked(bits, logits.shape[1]), -torch.inf)
            sums = logits.logsumexp(-1, keepdim=True)
            found.append((logits.gather(1, wanted[:, None]) - sums)[:, 0])
            if ctx.needs_input_grad[0]:
                slopes = logits.sub_(sums).exp_().neg_()
                slopes.scatter_add_(1, wanted[:, None], torch.ones_like(sums))
                gradients.append(slopes.to(weight.dtype) @ weight)
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(found)

    @staticmethod
    def backward(ctx, *grads):
        (gradient,) = ctx.saved_tensors
        # Weighed in the finer type of the two: a share of a batch isn't rounded to the states' own.
        return (gradient * grads[0][:, None]).to(gradient.dtype), None, None, None, None


def _unpacked(bits: torch.Tensor, width: int) -> torch.Tensor:
    """Truths [rows, width] of bytes [rows, width / 8], the lowest bit first."""
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return (bits[:, :, None] >> places & 1).flatten(1)[:, :width].bool()


def _rows_at_once(weight: torch.Tensor) -> int:
    return max(1, LOGITS_AT_ONCE // weight.shape[0])
