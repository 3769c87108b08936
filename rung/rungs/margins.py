"""What better and worse answers to dev's questions say of a preference tune: who gained, and who fell."""

from collections.abc import Sequence
from dataclasses import dataclass

from rung.scoring import stats
from rung.scoring.notation import percent_text, percents_text

FALL_FLOOR = 0.05
"""Nats a token: answers that are all but certain may lose a fifth of next to nothing."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """Answers of one side: log-probabilities now and under the reference, and how many tokens; [answers]."""

    now: Sequence[float]
    reference: Sequence[float]
    tokens: Sequence[int]

    @property
    def gains(self) -> list[float]:
        """Nats a token that each answer gained over the reference."""
        each = zip(self.now, self.reference, self.tokens, strict=True)
        return [(now - before) / size for now, before, size in each]


@dataclass(frozen=True, kw_only=True)
class Margins:
    """How many `pairs` of a better and a worse answer are told `right`, and how far the better ones `fell`.

    A pair is told right where the better answer gained more log-probability per token over the reference than
    the worse one: the margin of the `sigmoid_norm` loss is above 0. `likelier` counts pairs whose better
    answer has the higher log-probability per token now, whatever the reference says. `fell` is likelihood
    displacement (Razin et al. 2024, arXiv:2410.08847) as a share: with L the log-probability per token of all
    better answers, a negative number, (L of the reference − L now) / max(|L of the reference|, 0.05). It's
    below 0 where they became likelier.
    """

    pairs: int
    right: int
    likelier: int
    fell: float


def margins(better: Side, worse: Side) -> Margins:
    """Sides in parallel are pairs; better answers beyond the worse ones count for `fell` alone.

    `fell` is 0 where there are no better answers.
    """
    gains = list(zip(better.gains, worse.gains, strict=False))
    levels = [[now / size for now, size in zip(s.now, s.tokens, strict=True)] for s in (better, worse)]
    total = max(1, sum(better.tokens))
    before, now = sum(better.reference) / total, sum(better.now) / total
    return Margins(
        pairs=len(gains),
        right=sum(one > other for one, other in gains),
        likelier=sum(one > other for one, other in zip(*levels, strict=False)),
        fell=(before - now) / max(abs(before), FALL_FLOOR),
    )


def rate_text(count: int, of: int) -> str:
    """A rate with its 95 % interval (Wilson): `61.2 % of 67 pairs (49.2 % to 72 %)`."""
    found = stats.wilson(count, of)
    return f"{percent_text(count / of)} of {of:,} pairs ({percents_text(found)})"
