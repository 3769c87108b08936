"""Where the forgetting gate warns and where it blocks: the figures, and what follows from measures."""

import math

from rung.records.guarded import Divergence, GateVerdict, Items

MARGIN = 0.05
"""Of the general items: a tune is sound where it's shown to have lost less."""
WARN_KL, BLOCK_KL = 0.1, 0.5
"""Nats per token on general prompts. Rules of thumb, as are the next."""
WARN_PERPLEXITY, BLOCK_PERPLEXITY = 1.05, 1.20
"""The tune's perplexity on prose over the base's."""
BROKEN = "gives probabilities that are no numbers"


def judged(
    items: Items | None, general: Divergence | None, text: Divergence | None
) -> tuple[GateVerdict, tuple[str, ...]]:
    """The verdict and what it rests on. What wasn't measured doesn't pass: without harm it's `unknown`.

    Items block where the tune clearly passes fewer of them and isn't shown to have lost under MARGIN, and
    warn where neither is shown. Losses that are no numbers block.
    """
    warns, blocks = [], []
    if items is not None and items.gain_low <= -MARGIN:
        said = (
            f"passes {items.tuned:.1%} of {items.n} general items where its base passes {items.base:.1%} "
            f"(95 % sure: at most {-100 * items.gain_low:.1f} points lost)"
        )
        (blocks if items.gain_high < 0 else warns).append(said)
    if general is not None and not general.kl <= WARN_KL:
        said = f"strays from its base by {general.kl:.2f} nats per token on general prompts"
        (warns if general.kl <= BLOCK_KL else blocks).append(BROKEN if math.isnan(general.kl) else said)
    if text is not None and not (ratio := perplexity_ratio(text)) <= WARN_PERPLEXITY:
        said = f"finds general text {ratio:.2f} times as perplexing as its base does"
        (warns if ratio <= BLOCK_PERPLEXITY else blocks).append(BROKEN if math.isnan(ratio) else said)
    if not blocks and (items is None or general is None or text is None):
        return "unknown", tuple(warns)
    verdict: GateVerdict = "block" if blocks else "warn" if warns else "pass"
    return verdict, (*dict.fromkeys(blocks), *warns)


def perplexity_ratio(found: Divergence) -> float:
    """The tune's perplexity over the base's: exp of the difference of their mean losses."""
    return math.exp(min(found.tuned_loss - found.base_loss, 700.0))
