"""What the guards found, in words and figures: the same on screen, on the page and in a model card."""

import math
from dataclasses import dataclass

from rung.guards import limits
from rung.records import MetricName, RungResult
from rung.records.guarded import Divergence, Forgetting, Guards, Items, SeedScores
from rung.scoring.notation import NOTHING, gain_text, percent_text, score_text, signed

VERDICTS = {
    "pass": "passes the forgetting gate",
    "warn": "passes the forgetting gate with a warning",
    "block": "fails the forgetting gate",
    "unknown": "was put to a part of the forgetting gate at most",
}
KINDS = {
    "instruction": "following instructions",
    "knowledge": "general knowledge",
    "figures": "figures and finding facts",
    "safety": "declining harm, and only that",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """One line of the guards' table, every cell as text."""

    name: str
    base: str = ""
    tuned: str = ""
    difference: str = ""
    sure: str = ""
    limit: str = ""
    part: bool = False


def headline(result: RungResult) -> str:
    """The gate's verdict and its reasons; what was seen of the fit where the gate was left out on purpose."""
    found = result.guards
    if found is None or found.overfit is None and found.collapse is None and found.forgetting is None:
        return ""
    gate = found.forgetting
    if gate is None:
        return f"{result.rung} wasn't put to the forgetting gate: it was left out"
    reasons = f": it {'; it '.join(gate.reasons)}" if gate.reasons else ""
    return f"{result.rung} {VERDICTS[gate.verdict]}{reasons}"


def lines(result: RungResult, metric: MetricName) -> list[str]:
    """The guards' findings on a rung, the verdict first; nothing where none looked at it."""
    found = result.guards
    if found is None:
        return [seeds_text(result.seeds, metric)] if result.seeds else []
    said = [said for said in (headline(result),) if said]
    if (gate := found.forgetting) is not None:
        said += [_in_line(one) for one in _measures(gate) if not one.part]
        said += [f"left out: {why}" for why in gate.left_out]
    said += fit_lines(found, metric)
    return [*said, *([seeds_text(result.seeds, metric)] if result.seeds else [])]


def measures(found: Guards) -> list[Measure]:
    """The forgetting gate's table; empty where it was left out."""
    return _measures(found.forgetting) if found.forgetting is not None else []


def fit_lines(found: Guards, metric: MetricName) -> list[str]:
    """How much better it is on what it learned from, and whether it says one thing only."""
    said = []
    if (fit := found.overfit) is not None:
        low, high = gain_text(fit.low, metric), gain_text(fit.high, metric)
        warned = ": it learned its rows by heart" if fit.clear else ""
        said.append(
            f"{score_text(fit.train, metric)} on {fit.rows:,} training rows and "
            f"{score_text(fit.dev, metric)} on dev, {gain_text(fit.gap, metric)} ({low} to {high}){warned}"
        )
    if (same := found.collapse) is not None:
        warned = ": it gives one answer to nearly everything" if same.collapsed else ""
        said.append(
            f"{percent_text(same.share)} of {same.rows:,} dev answers are the commonest one, of the targets "
            f"{percent_text(same.wanted)}{warned}"
        )
    if (again := found.copied) is not None:
        warned = ": it says its rows again" if again.memorised else ""
        said.append(
            f"{percent_text(again.share)} of {again.rows:,} dev answers are near-copies of training outputs"
            f"{warned}"
        )
    return said


def seeds_text(found: SeedScores, metric: MetricName) -> str:
    """The dev scores of the seeds, and which of them ships."""
    scores = ", ".join(score_text(score, metric) for score in found.scores)
    return (
        f"{len(found.scores)} seeds score {scores} on dev (mean {score_text(found.mean, metric)}, standard "
        f"deviation {score_text(found.spread, metric)}); the median one, seed {found.chosen}, was taken"
    )


def _measures(gate: Forgetting) -> list[Measure]:
    found: list[Measure] = []
    if gate.items is not None:
        found += _items(gate.items)
    if gate.prose is not None:
        found.append(_perplexity(gate.prose))
    kl_limit = f"warns over {limits.WARN_KL}, blocks over {limits.BLOCK_KL}"
    for name, one, limit in (
        ("general prompts", gate.general, kl_limit),
        ("general text", gate.prose, ""),
        ("the task's own answers, which it was taught", gate.task, ""),
    ):
        if one is not None:
            name = f"KL from the base on {name}, nats per token ({one.tokens:,} tokens)"
            found.append(Measure(name=name, difference=f"{one.kl:.3f}", limit=limit))
    return found


def _items(items: Items) -> list[Measure]:
    points = _points(items.tuned - items.base)
    whole = Measure(
        name=f"general items passed ({items.n:,})",
        base=percent_text(items.base),
        tuned=percent_text(items.tuned),
        difference=f"{points} points",
        sure=f"95 % sure: no worse than {_points(items.gain_low)}",
        limit=f"must be sure to be better than {_points(-limits.MARGIN)} points",
    )
    parts = [
        Measure(
            name=f"{KINDS.get(one.kind, one.kind)} ({one.n})",
            base=percent_text(one.base / one.n),
            tuned=percent_text(one.tuned / one.n),
            part=True,
        )
        for one in items.kinds
    ]
    return [whole, *parts]


def _perplexity(text: Divergence) -> Measure:
    return Measure(
        name=f"perplexity of general text ({text.tokens:,} tokens)",
        base=_exp(text.base_loss),
        tuned=_exp(text.tuned_loss),
        difference=f"× {limits.perplexity_ratio(text):.3f}",
        limit=f"warns over × {limits.WARN_PERPLEXITY:.2f}, blocks over × {limits.BLOCK_PERPLEXITY:.2f}",
    )


def _exp(loss: float) -> str:
    return f"{math.exp(loss):,.4g}" if loss < 700 else NOTHING


def _points(share: float) -> str:
    written = signed(share, f"{abs(100 * share):.1f}")
    return written if share < 0 else f"+{written}"


def _in_line(one: Measure) -> str:
    pair = f"{one.base} → {one.tuned}, " if one.base else ""
    return f"{one.name}: {pair}{one.difference}" + (f" ({one.sure})" if one.sure else "")
