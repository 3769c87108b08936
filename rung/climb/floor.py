"""Whether the rung to ship is above the floor: one and the same answer to every row."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rung.climb.decide import ALPHA
from rung.climb.sentence import odds_text
from rung.records import Answer, Decision, Example, MetricName, RungResult, SplitName
from rung.records.guarded import Constant
from rung.scoring import paired
from rung.scoring.constant import constant_answer
from rung.scoring.measure import measurement
from rung.scoring.notation import score_text
from rung.task.draws import drawn_with
from rung.task.outputs import canonical


def floor(
    shipped: RungResult | None,
    train: Sequence[Example],
    rows: Mapping[SplitName, Sequence[Example]],
    seed: int,
) -> Constant | None:
    """What the best constant answer of the training rows scores where the rung to ship was scored.

    `rows` are those of each split. None where nothing ships, or where no such answer is known.
    """
    found = shipped and (shipped.test or shipped.dev)
    if not found:
        return None
    answer = constant_answer([e.output for e in train], found.metric)
    if answer is None:
        return None
    text = answer if isinstance(answer, str) else canonical(answer)
    asked = rows[found.split]
    constant = measurement(
        system="constant",
        split=found.split,
        metric=found.metric,
        examples=asked,
        answers=[Answer(text=text, value=answer)] * len(asked),
    )
    pair = paired.pair_up(constant, found, targets={e.id: e.output for e in asked}, groups=drawn_with(asked))
    p = paired.p_value(pair, seed)
    return Constant(
        answer=text,
        split=found.split,
        score=constant.score,
        interval=constant.interval,
        gain=paired.gain(pair),
        gain_interval=paired.gain_interval(pair, seed),
        p=p,
        beaten=p <= ALPHA,
    )


def with_floor(decision: Decision, constant: Constant | None, metric: MetricName) -> Decision:
    """The decision, which says so where its rung isn't shown to be above the floor."""
    if constant is None or constant.beaten:
        return decision
    odds = odds_text(metric, constant.gain, constant.gain_interval, constant.p)
    said = (
        f"One and the same answer to every row scores {score_text(constant.score, metric)} on "
        f"{constant.split}, and {decision.chosen} "
    )
    said += "does worse" if constant.gain_interval.high < 0 else "isn't shown to do better"
    return replace(decision, sentence=f"{decision.sentence} {said} ({odds}).")
