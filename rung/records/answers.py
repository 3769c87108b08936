"""What Systems answered, and how it was scored."""

from dataclasses import dataclass, field
from typing import NamedTuple

from rung.records.kinds import Json, MetricName, SplitName


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenPrice:
    """What a hosted model bills, in US dollars per million tokens; cached ones of prompts apart.

    `cache_write_usd_per_m` is for those that are put into its cache; None where they cost as others do.
    """

    input_usd_per_m: float
    output_usd_per_m: float
    cached_input_usd_per_m: float
    cache_write_usd_per_m: float | None = None


class Step(NamedTuple):
    """A call of several that one answer took, or a fault that was found between them.

    `what` it was and the `text` that came of it; of a call its tokens and seconds, too.
    """

    what: str
    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a System said to one input.

    `value` is the text read as the task's output kind, None where it can't be read. `probability` is
    that of `value` among the labels, and `options` are the likeliest of them. `distribution` has the
    probability of every label, in the System's order; it's empty where some weren't worked out. Where these
    are calibrated, `raw_probability` is what the System itself gave `value`, else it's None. `cached_tokens`
    are those of the prompt that a hosted model had cached and bills for less, `written_tokens` those that it
    put into its cache, for which it may bill more. `failure` names a call that broke: it is never scored.
    `steps` are the calls that it took, and the faults found, where there were several; tokens and seconds are
    those of all. `passages` are the ids of those that the prompt held, the best first; `source` is the first
    of them that holds the words of `value`, part by part, None where none does and for labels. `cut`: the
    most tokens that it may have ended it.
    """

    text: str
    value: Json = None
    probability: float | None = None
    options: tuple[tuple[str, float], ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_s: float = 0.0
    failure: str | None = None
    distribution: tuple[float, ...] = ()
    raw_probability: float | None = None
    cached_tokens: int = 0
    written_tokens: int = 0
    steps: tuple[Step, ...] = ()
    passages: tuple[str, ...] = ()
    source: str | None = None
    cut: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """An answer beside its row. `score` is None exactly when the call broke."""

    example_id: str
    answer: Answer
    score: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A two-sided interval at `level`."""

    low: float
    high: float
    level: float = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One System's score on one split, with what it cost to get it.

    `score` is the metric over the scored rows; failures are counted beside it. `strict_score` is that over
    all rows, broken calls as unreadable answers; None where none broke. Times are seconds, memory is MiB.
    `seconds_per_answer` is wall time over rows in a full batch, tokens are means over all
    calls, broken ones included; p50/p95 are of single requests, sent one at a time.
    """

    system: str
    split: SplitName
    metric: MetricName
    score: float
    interval: Interval
    n: int
    failures: int
    predictions: tuple[Prediction, ...] = field(repr=False)
    strict_score: float | None = None
    secondary: tuple[tuple[str, float], ...] = ()
    seconds_per_answer: float = 0.0
    p50_s: float = 0.0
    p95_s: float = 0.0
    memory_mb: float = 0.0
    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    cached_tokens: float = 0.0
    written_tokens: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopped:
    """A rung that was asked the first `rows` of `of` dev rows only: it can't beat `rival`, a cheaper one.

    `worse` where it was shown to gain nothing at all, else it was shown to gain too little.
    """

    rows: int
    of: int
    rival: str
    worse: bool
