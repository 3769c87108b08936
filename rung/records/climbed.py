"""A whole climb: what became of each rung, and every number that a report may show."""

from dataclasses import dataclass

from rung.records.answers import Interval, Measurement, Stopped, TokenPrice
from rung.records.calibrated import Calibration
from rung.records.decided import Decision
from rung.records.guarded import Constant, Guards, SeedScores
from rung.records.judged import ContentJudged, Judged
from rung.records.kinds import Gap, Json, MetricName, OutputKind
from rung.records.rows import CheckRun, Finding


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One variant that a rung tried on dev rows before it chose: what it was, how it scored, on how many.

    One that was `stopped` couldn't beat the rung to beat, so that no more rows were asked.
    """

    name: str
    score: float
    n: int
    seconds: float
    chosen: bool = False
    stopped: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """How long a rung was said to take, its dev score included, before it began; in seconds.

    `seconds` is None where that couldn't be told yet; it may take `most_s` by the budget. `range_s` are the
    ends between which it would lie four times in five, where they are far apart: the rows decide when a rung
    is stopped. Where something else decides, `by` says what, and the ends are those of what was foreseen.
    `after_s` had gone into measuring all that.
    """

    seconds: float | None
    range_s: tuple[float, float] | None
    most_s: float
    after_s: float
    by: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parity:
    """How far llama.cpp with the GGUF adapter strays from torch with the PEFT one.

    Differences are of next-token log-probabilities (nats) after `rows` prompts; `agreement` is the share of
    `agreement_rows` prompts after which both choose the same label or next token (a row's prompt is cut at
    several places of its answer where that isn't a label). Of the others,
    `clear_disagreements` are no near-ties: torch prefers its choice by more than the engines' noise.
    """

    rows: int
    max_difference: float
    mean_difference: float
    agreement: float
    agreement_rows: int
    clear_disagreements: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RungResult:
    """What became of one rung. Exactly one of `skipped` (why not tried), `failed` and `dev` is set.

    In a climb on several models `rung` names one of them too, as in `sft@gemma-3-270m`. `model` is the model
    in short, None for a rung that asks none.
    `passes` say how often a tune went through its training rows; None for what doesn't learn so.
    `cut_short`: its time ended before dev was seen to stop rising.
    `found` is what was found out of the task or the answers on the way, for whoever reads the verdict, and
    `gap` what passages showed of it; `notes` are on how the rung was made.
    `weights_missing`: it failed since a model's weights couldn't be had or kept; once they can, it may not.
    `price` is that of a hosted model's tokens; None where this machine answers. `spent_usd` was paid to a
    hosted model for building the rung. `upon` is the rung that it goes on from or whose prompt it took, and
    can't be had without; None where there is none.
    `took_s` are the seconds from the forecast to the end of the dev score, `build_s` those from the first
    look at the rung to its System. `build_peak_mb` is the most memory that all processes of the climb held
    together meanwhile, dev score included. `machine` is where that was and by which engines, in a line; empty
    where an earlier version didn't say.
    """

    rung: str
    order: int
    model: str | None = None
    skipped: str | None = None
    failed: str | None = None
    weights_missing: bool = False
    system: str | None = None
    folder: str | None = None
    what: str = ""
    passes: float | None = None
    cut_short: bool = False
    dev: Measurement | None = None
    test: Measurement | None = None
    usd_per_1000: float = 0.0
    build_s: float = 0.0
    build_peak_mb: float = 0.0
    machine: str = ""
    forecast: Forecast | None = None
    took_s: float = 0.0
    over_limits: tuple[str, ...] = ()
    stopped: Stopped | None = None
    trials: tuple[Trial, ...] = ()
    parity: Parity | None = None
    found: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    gap: Gap | None = None
    calibration: Calibration | None = None
    price: TokenPrice | None = None
    spent_usd: float = 0.0
    upon: str | None = None
    guards: Guards | None = None
    seeds: SeedScores | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Disagreement:
    """A row on which the measured Systems don't all give the same of `answers`: (rung, text, score)."""

    where: str
    input: str
    target: Json
    answers: tuple[tuple[str, str, float | None], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """A rung's score on `n` dev rows when it learned from so many training rows, in so many seconds.

    `passes` say how often a tune went through them; None for what doesn't learn so. `peak_mb` is the most
    memory held meanwhile; 0 where it's the rung itself, on all rows, which tells its own.
    """

    rows: int
    score: float
    interval: Interval
    n: int
    seconds: float
    passes: float | None = None
    peak_mb: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class LearningCurve:
    """A rung's dev score by its training rows, the fewest first; the last point has all of them.

    `gain` is that of all rows over half of them on the same dev rows, in the metric's units, with its
    interval and one-sided p; None where half wasn't scored. `left_out` says which points are missing and why.
    """

    rung: str
    points: tuple[CurvePoint, ...]
    sentence: str
    gain: float | None = None
    interval: Interval | None = None
    p: float | None = None
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Climb:
    """A whole climb: every number that a report may show, and none of its formatting.

    `openings` counts how often the sealed test was opened. `test_peak_mb` is the most memory held then,
    `reading_peak_mb` while the rows were read and checked. Money is in US dollars, times in seconds.
    `paid_usd` of at most `paid_cap_usd` went to hosted models.
    """

    task: str
    about: str | None
    kind: OutputKind
    metric: MetricName
    n_train: int
    n_dev: int
    n_test: int
    test_given: bool
    openings: int
    inferred: tuple[str, ...]
    findings: tuple[Finding, ...]
    checks: tuple[CheckRun, ...]
    results: tuple[RungResult, ...]
    dev_decision: Decision
    decision: Decision
    winner: str | None
    seconds: float
    machine: str
    usd_per_hour: float
    answers_per_month: float | None
    models: tuple[tuple[str, str, str], ...]
    versions: tuple[tuple[str, str], ...]
    digests: tuple[tuple[str, str], ...]
    disagreements: tuple[Disagreement, ...] = ()
    reading_peak_mb: float = 0.0
    test_peak_mb: float = 0.0
    curves: tuple[LearningCurve, ...] = ()
    paid_usd: float = 0.0
    paid_cap_usd: float = 0.0
    judged: Judged | None = None
    content_judged: ContentJudged | None = None
    constant: Constant | None = None
