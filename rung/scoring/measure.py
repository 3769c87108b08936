"""One System's answers to one split, made into a Measurement."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from rung.errors import EngineError
from rung.records import Answer, Example, Interval, Json, Measurement, MetricName, Prediction, SplitName
from rung.scoring import stats
from rung.scoring.scorers import SCORERS, Scorer, secondary, worst_error
from rung.task.draws import drawn_with

if TYPE_CHECKING:
    import numpy as np

    Indices: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

# An interval is a function of the answers alone: measuring twice gives the same bytes.
_SEED = 0
# Of a mean: what differs by less differs by rounding.
_ALIKE = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """What the clock and the process table said: seconds and MiB, as `Measurement` explains them."""

    seconds_per_answer: float = 0.0
    p50_s: float = 0.0
    p95_s: float = 0.0
    memory_mb: float = 0.0


def measurement(
    *,
    system: str,
    split: SplitName,
    metric: MetricName,
    examples: Sequence[Example],
    answers: Sequence[Answer],
    timing: Timing | None = None,
) -> Measurement:
    """Score `answers` against `examples`, in order.

    Broken calls get no score and are counted beside it; an unreadable answer gets the metric's worst
    score. `n` is the number of scored rows; token counts are means over all calls, as seconds per answer are:
    a hosted model bills those that bring nothing, too. EngineError when every call broke; ValueError without
    examples.
    """
    if not examples:
        raise ValueError(f"{system}: no rows in {split}")
    scorer = SCORERS[metric]
    targets = [example.output for example in examples]
    pairs = list(zip(examples, answers, strict=True))
    values = [None if answer.failure is not None else answer.value for answer in answers]
    rows = scorer.rows(values, targets)
    kept = [at for at, answer in enumerate(answers) if answer.failure is None]
    if not kept:
        raise EngineError(
            f"{system}: all {len(answers):,} calls on {split} broke; the first, "
            f"{examples[0].where or examples[0].id}: {answers[0].failure!r}. Mend that and run again"
        )
    scored = _Scored(
        scorer=scorer,
        rows=[rows[at] for at in kept],
        answers=[values[at] for at in kept],
        targets=[targets[at] for at in kept],
        groups=stats.cluster_codes([examples[at].id for at in kept], drawn_with(examples)),
    )
    everything = _Scored(scorer=scorer, rows=rows, answers=values, targets=targets, groups=None)
    timing = timing or Timing()
    return Measurement(
        system=system,
        split=split,
        metric=metric,
        score=_score(scored),
        interval=_interval(scored),
        n=len(kept),
        failures=len(answers) - len(kept),
        predictions=tuple(
            Prediction(
                example_id=example.id, answer=answer, score=None if answer.failure is not None else row
            )
            for (example, answer), row in zip(pairs, rows, strict=True)
        ),
        strict_score=_score(everything) if len(kept) < len(answers) else None,
        secondary=secondary(metric, scored.answers, scored.targets),
        seconds_per_answer=timing.seconds_per_answer,
        p50_s=timing.p50_s,
        p95_s=timing.p95_s,
        memory_mb=timing.memory_mb,
        prompt_tokens=sum(answer.prompt_tokens for answer in answers) / len(answers),
        completion_tokens=sum(answer.completion_tokens for answer in answers) / len(answers),
        cached_tokens=sum(answer.cached_tokens for answer in answers) / len(answers),
        written_tokens=sum(answer.written_tokens for answer in answers) / len(answers),
    )


def rescored(found: Measurement, examples: Sequence[Example]) -> Measurement:
    """A kept Measurement of some of these rows, to stand beside one that is made now.

    Its interval is worked out anew, for an earlier version may have taken rows that ask the same thing for
    draws of their own, and its answers stand in the order of the rows, which were asked in another one then.
    Answers by style are scored anew, as the mean of so many draws of folds as there are now. Other scores,
    what the answers cost, and what stands beside the score, stay.
    """
    by_id = {example.id: example for example in examples}
    place = {example.id: at for at, example in enumerate(examples)}
    found = replace(
        found, predictions=tuple(sorted(found.predictions, key=lambda one: place[one.example_id]))
    )
    asked = [by_id[one.example_id] for one in found.predictions]
    if found.metric != "style":
        return replace(found, interval=_interval(_kept(found, asked)))
    now = measurement(
        system=found.system,
        split=found.split,
        metric=found.metric,
        examples=asked,
        answers=[one.answer for one in found.predictions],
    )
    return replace(
        found,
        score=now.score,
        interval=now.interval,
        strict_score=now.strict_score,
        predictions=now.predictions,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scored:
    """Rows with their answers, in parallel."""

    scorer: Scorer
    rows: Sequence[float]
    answers: Sequence[Json]
    targets: Sequence[Json]
    groups: "Indices | None"


def _kept(found: Measurement, examples: Sequence[Example]) -> _Scored:
    """The rows of a Measurement that have a score, with it; `examples` are those that were asked."""
    held = [
        (example, one.answer.value, one.score)
        for example, one in zip(examples, found.predictions, strict=True)
        if one.score is not None
    ]
    return _Scored(
        scorer=SCORERS[found.metric],
        rows=[score for _, _, score in held],
        answers=[answer for _, answer, _ in held],
        targets=[example.output for example, _, _ in held],
        groups=stats.cluster_codes([example.id for example, _, _ in held], drawn_with(examples)),
    )


def _score(scored: _Scored) -> float:
    """The metric over these rows."""
    if scored.scorer.mean_of_rows:
        return math.fsum(scored.rows) / len(scored.rows)
    return scored.scorer.summary(scored.answers, scored.targets)


def _interval(scored: _Scored) -> Interval:
    """Wilson for a rate, BCa or t for graded rows, the bootstrap for set metrics; `_of_groups` for groups.

    A group is what is drawn at once: rows of one group of the data, or that ask the same thing. Rows that are
    all of one are one draw, as one row is.
    """
    import numpy as np

    rows = np.array(scored.rows)
    score = _score(scored)
    units = len(rows) if scored.groups is None else int(scored.groups.max()) + 1
    alike = len(set(scored.rows)) == 1 and (scored.scorer.mean_of_rows or score in (0.0, 1.0))
    if scored.scorer.shares and alike:
        # Rows that are all alike leave a bootstrap nothing to vary.
        return stats.wilson(score * units, units)
    if units < 2:
        return _of_one_draw(scored, score)
    if scored.groups is not None:
        return _of_groups(scored, score, scored.groups)
    if scored.scorer.of_set is not None:
        return stats.bootstrap_interval(_of_rows(scored), len(rows), _SEED)
    if scored.scorer.shares and set(scored.rows) <= {0.0, 1.0}:
        return stats.wilson(int(rows.sum()), len(rows))
    found = stats.bca_mean(scored.rows, _SEED)
    if scored.scorer.shares:
        return Interval(low=max(found.low, 0.0), high=min(found.high, 1.0))
    return _of_errors(scored, score, found, units)


def _of_groups(scored: _Scored, score: float, groups: "Indices") -> Interval:
    """Wilson's interval by the effective number of rows; for errors Student's, from 0 on.

    A correlation is taken as the share that it is of the way from -1 to 1.
    """
    variance, count = stats.variance_of_groups(_of_rows(scored), groups), int(groups.max()) + 1
    if not scored.scorer.shares:
        return _of_errors(scored, score, stats.student(score, variance, count), count)
    if scored.scorer.name != "spearman":
        return stats.wilson_of_groups(score, variance, count)
    found = stats.wilson_of_groups((score + 1) / 2, variance / 4, count)
    return Interval(low=2 * found.low - 1, high=2 * found.high - 1)


def _of_errors(scored: _Scored, score: float, seen: Interval, units: int) -> Interval:
    """The interval of a mean error as it was seen, from 0 on.

    Errors that are all alike, but for rounding, leave nothing in doubt that was seen: then it's as wide as if
    two more rows differed, one by the worst error.
    """
    if seen.high - seen.low <= _ALIKE * seen.high:
        seen = stats.with_two_more(seen, score, units, _worst(scored))
    return Interval(low=max(seen.low, 0.0), high=seen.high)


def _worst(scored: _Scored) -> float:
    """The worst error that there is to be expected: the targets' range, or more where an answer was worse."""
    return max(worst_error(scored.targets), *scored.rows)


def _of_rows(scored: _Scored) -> "Callable[[Indices], float]":
    """The metric over some of these rows, by their indices."""
    import numpy as np

    if scored.scorer.of_set is None:
        rows = np.array(scored.rows)
        return lambda at: float(rows[at].mean())
    of_codes = scored.scorer.of_set.of_codes
    answers, targets = scored.scorer.of_set.encode(scored.answers, scored.targets)
    return lambda at: of_codes(answers[at], targets[at])


def _of_one_draw(scored: _Scored, score: float) -> Interval:
    """What one row or group tells of a score: Wilson's interval for a mean share, else the whole scale."""
    if not scored.scorer.shares:
        return Interval(low=0.0, high=_worst(scored))
    if scored.scorer.mean_of_rows:
        return stats.wilson(score, 1)
    return Interval(low=-1.0 if scored.scorer.name == "spearman" else 0.0, high=1.0)
