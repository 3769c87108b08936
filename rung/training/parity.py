"""Whether the engine that serves says what the engine that trained says, adapter and all."""

from collections.abc import Sequence

from rung.engines.base import Engine
from rung.records import Parity

LOGPROB_ROWS = 20
LOWEST_AGREEMENT = 0.99
NOISE_NATS = 1.0
"""Twice the largest difference that the engines' rounding was seen to make in one log-probability (0.5)."""
LIKELY = -4.6
"""Log-probabilities under this one (1 %) decide nothing and aren't compared."""


def compare(
    reference: Engine,
    serving: Engine,
    prompts: Sequence[tuple[int, ...]],
    candidates: Sequence[tuple[int, ...]],
) -> Parity:
    """Next-token log-probabilities on 20 prompts, and the choice among `candidates` on all prompts.

    The compared tokens are the candidates' first ones. Differences are absolute, in nats, over the
    full-vocabulary log-probabilities that at least one engine gives more than 1 % probability.
    """
    first = sorted({c[0] for c in candidates})
    rows = prompts[:LOGPROB_ROWS]
    ours, theirs = reference.next_logprobs(rows, first), serving.next_logprobs(rows, first)
    differences = [
        abs(a - b)
        for mine, other in zip(ours, theirs, strict=True)
        for a, b in zip(mine, other, strict=True)
        if max(a, b) > LIKELY
    ]
    chosen = reference.choose(prompts, candidates)
    served = serving.choose(prompts, candidates)
    flips = [
        one.logprobs[one.index] - one.logprobs[other.index]
        for one, other in zip(chosen, served, strict=True)
        if one.index != other.index
    ]
    return Parity(
        rows=len(rows),
        max_difference=max(differences, default=0.0),
        mean_difference=sum(differences) / len(differences) if differences else 0.0,
        agreement=1 - len(flips) / len(prompts),
        agreement_rows=len(prompts),
        clear_disagreements=sum(margin > NOISE_NATS for margin in flips),
    )


def single_tokens(answers: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Every token that occurs in the answers, as candidates of one token each: a way to compare free text."""
    return [(token,) for token in sorted({t for answer in answers for t in answer})]


def positions(
    rows: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], per_row: int = 8
) -> list[tuple[int, ...]]:
    """Prompts that end inside the gold answers of (prompt, answer) rows, `per_row` evenly spread places each."""
    found = []
    for prompt, answer in rows:
        step = max(1, len(answer) // per_row)
        found += [(*prompt, *answer[:k]) for k in range(0, len(answer), step)][:per_row]
    return found
