"""Whether a teacher's answers to one input are good enough to be learned from. Nothing is asked here."""

import statistics
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rung.records import Answer, Json, MetricName, OutputKind
from rung.scoring.calls import form
from rung.scoring.leaves import leaves
from rung.scoring.scorers import SCORERS

AGREED = 0.5
"""The share of draws that must give the same answer; of a text, their mean ROUGE-L with the kept one."""
FEWEST_AGREEING = 2
"""Where several draws were made: a call that broke says nothing for the others."""
NEAR_GOLD = 0.5
"""ROUGE-L of a teacher's wording with a training row's own text: it says that in other words."""

Reason: TypeAlias = Literal["the call broke", "unreadable", "the draws disagree", "unsure", "wrong"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """What is learned of an input's draws: a `value`, or the `reason` why there is none."""

    value: Json = None
    reason: Reason | None = None


def verified(draws: Sequence[Answer], kind: OutputKind) -> Kept:
    """The answer on which the draws agree; one that was chosen among labels needs a probability of .5.

    Of several draws two have to agree at least, however many calls broke. An answer that can't be read, by
    schema or labels, agrees with none. ValueError without draws.
    """
    if not draws:
        raise ValueError("no draws to verify")
    held = [a for a in draws if a.failure is None]
    if not held:
        return Kept(reason="the call broke")
    values = [a.value for a in held if a.value is not None]
    if not values:
        return Kept(reason="unreadable")
    if (sure := held[0].probability) is not None:
        return Kept(value=values[0]) if sure >= AGREED else Kept(reason="unsure")
    if len(held) < min(FEWEST_AGREEING, len(draws)):
        return Kept(reason="the call broke")
    if kind == "text":
        return _medoid([str(value) for value in values], len(held))
    said = [_meant(value, kind) for value in values]
    commonest, count = Counter(said).most_common(1)[0]
    if count < max(AGREED * len(held), min(FEWEST_AGREEING, len(draws))):
        return Kept(reason="the draws disagree")
    return Kept(value=values[said.index(commonest)])


def decided(draws: Sequence[Answer], kind: OutputKind) -> bool:
    """Whether a draw more than these two can't change what `verified` keeps, whatever it says.

    They agree, or neither can be read: a third alone agrees with none. Of texts the third may be more like
    either than these are like each other, unless both say the same words.
    """
    values = [a.value for a in draws if a.failure is None and a.value is not None]
    if len(values) < FEWEST_AGREEING:
        return not values
    first, second = values
    if kind == "text":
        return SCORERS["rouge_l"].row(first, second) == 1.0
    return _meant(first, kind) == _meant(second, kind)


def verified_by_gold(draws: Sequence[Answer], gold: Json, metric: MetricName) -> Kept:
    """The draw that scores best against the row's own output, if it's right or says nearly the same."""
    held = [a for a in draws if a.failure is None]
    if not held:
        return Kept(reason="the call broke")
    values = [a.value for a in held if a.value is not None]
    if not values:
        return Kept(reason="unreadable")
    # Of judged answers only the wording can be checked here: nothing is asked.
    metric = "rouge_l" if metric == "judge" else metric
    scorer = SCORERS[metric]
    sign = 1 if scorer.higher_is_better else -1
    scores = [sign * scorer.row(value, gold) for value in values]
    best = max(range(len(values)), key=scores.__getitem__)
    needed = NEAR_GOLD if metric == "rouge_l" else float(scorer.higher_is_better)
    return Kept(value=values[best]) if scores[best] >= needed else Kept(reason="wrong")


def _meant(value: Json, kind: OutputKind) -> Hashable:
    """Equal for answers that the metrics take for the same: 12 and 12.0, the same calls in any order."""
    return form(value) if kind == "tool_call" else frozenset(leaves(value))


def _medoid(texts: Sequence[str], draws: int) -> Kept:
    """The text that is most like the others. An unreadable draw is like none."""
    if draws == 1:
        return Kept(value=texts[0])
    alike = SCORERS["rouge_l"].row

    def shared(place: int) -> float:
        others = [alike(texts[place], text) for at, text in enumerate(texts) if at != place]
        return statistics.fmean([*others, *[0.0] * (draws - 1 - len(others))])

    means = [shared(place) for place in range(len(texts))]
    best = max(range(len(texts)), key=means.__getitem__)
    return Kept(value=texts[best]) if means[best] >= AGREED else Kept(reason="the draws disagree")
