"""The frozen records that cross area borders. They hold values; they do nothing."""

from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

from rung.guarded import Constant, Guards, SeedScores
from rung.judgement import Decisive, Judged

Json = JsonValue
"""Any value that JSON can hold."""

OutputKind = Literal["label", "json", "text", "number", "tool_call"]
MetricName = Literal[
    "accuracy",
    "macro_f1",
    "field_f1",
    "exact",
    "tool_call",
    "execution",
    "rouge_l",
    "style",
    "mae",
    "spearman",
    "judge",
]
Severity = Literal["block", "warn", "info"]
SplitName = Literal["train", "dev", "test"]
VerdictKind = Literal["clear_winner", "tie", "undecided", "no_verdict"]
CalibrationMethod = Literal["none", "temperature", "platt", "isotonic"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One labelled row. `id` is a digest of input, context and their occurrence; `where` is file:line.

    `rejected` is a worse answer than the output, `images` are paths and URLs as written, `faults` say what is
    odd about a row that can be read. A `synthetic` row was made by a model.
    """

    id: str
    input: str
    output: Json
    context: str | None = None
    group: str | None = None
    where: str = ""
    rejected: str | None = None
    images: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    synthetic: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """A stretch of a document that is looked up as a whole; `id` is the document's with a number, `a.md#3`.

    `title` is what the document, or the part of it that the stretch is from, is called.
    """

    id: str
    title: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What a data check found: which check, how grave, which rows, and what to do.

    `rows` are the places of the first of `count` rows, `details` a line on each thing worth a look.
    `accepted`: it would block, but the user goes on all the same.
    """

    check: str
    severity: Severity
    message: str
    rows: tuple[str, ...] = ()
    count: int = 0
    details: tuple[str, ...] = ()
    accepted: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckRun:
    """What became of a data check: how many findings it gave, or why it was left out.

    `looked_at` is how many rows it looked at, drawn at random, where that weren't all.
    """

    number: int
    name: str
    what: str
    findings: int
    left_out: str | None = None
    looked_at: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Splits:
    """The three disjoint parts of the rows. `test_given`: the test rows came as a file of their own.

    `removed`: rows taken out of train and dev because a given test holds their input, exactly or nearly.
    `undesirable` and `dev_undesirable`: answers judged to be bad, to questions that no other part has.
    """

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]
    test_given: bool
    digest: str
    removed: tuple[Example, ...] = ()
    undesirable: tuple[Example, ...] = ()
    dev_undesirable: tuple[Example, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenPrice:
    """What a hosted model bills, in US dollars per million tokens; cached ones of prompts apart."""

    input_usd_per_m: float
    output_usd_per_m: float
    cached_input_usd_per_m: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a System said to one input.

    `value` is the text read as the task's output kind, None where it can't be read. `probability` is
    that of `value` among the labels, and `options` are the likeliest of them. `distribution` has the
    probability of every label, in the System's order; it's empty where some weren't worked out. Where these
    are calibrated, `raw_probability` is what the System itself gave `value`, else it's None. `cached_tokens`
    are those of the prompt that a hosted model had cached and bills for less. `failure` names a call that
    broke: it is never scored. `steps` are (what, text) of each call that it took, and of each fault found,
    where there were several; tokens and seconds are those of all. `passages` are the ids of those that the
    prompt held, the best first; `source` is the first of them that holds the answer's words, None where none
    does.
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
    steps: tuple[tuple[str, str], ...] = ()
    passages: tuple[str, ...] = ()
    source: str | None = None


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

    `score` is the metric over the scored rows; failures are counted beside it. Times are seconds,
    memory is MiB. `seconds_per_answer` is wall time over rows in a full batch; p50/p95 are of single
    requests, sent one at a time.
    """

    system: str
    split: SplitName
    metric: MetricName
    score: float
    interval: Interval
    n: int
    failures: int
    predictions: tuple[Prediction, ...] = field(repr=False)
    secondary: tuple[tuple[str, float], ...] = ()
    seconds_per_answer: float = 0.0
    p50_s: float = 0.0
    p95_s: float = 0.0
    memory_mb: float = 0.0
    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    cached_tokens: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopped:
    """A rung that was asked the first `rows` of `of` dev rows only: it can't beat `rival`, a cheaper one.

    `worse` where it was shown to gain nothing at all, else it was shown to gain too little.
    """

    rows: int
    of: int
    rival: str
    worse: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A rung's System as the decision sees it. `order` is its place by cost, from 0.

    One that was `stopped` can't win; its dev score is of fewer rows than the others'. `warnings` go with the
    verdict where it's the one to ship.
    """

    rung: str
    system: str
    order: int
    measurement: Measurement
    usd_per_1000: float
    build_s: float = 0.0
    over_limits: tuple[str, ...] = ()
    stopped: Stopped | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A paired test of `dearer` against `cheaper` on the same rows. Gains are in the metric's units."""

    cheaper: str
    dearer: str
    n: int
    gain: float
    interval: Interval
    discordant: float
    p: float
    p_holm: float
    smallest_detectable_gain: float
    wins: bool
    decisive: Decisive | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The verdict on one split. `chosen` and `best` name rungs; `sentence` says it in words.

    `rows_needed` estimates how many more labelled test rows would settle an undecided verdict.
    """

    kind: VerdictKind
    chosen: str | None
    best: str | None
    comparisons: tuple[Comparison, ...]
    margin: float
    sentence: str
    rows_needed: int | None = None


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
    is stopped. `after_s` had gone into measuring all that.
    """

    seconds: float | None
    range_s: tuple[float, float] | None
    most_s: float
    after_s: float


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
class CalibrationMap:
    """What turns a System's probabilities into calibrated ones; the answer and the labels' order stay.

    `temperature` divides the log-probabilities of all labels. The others give the answer's own probability p
    anew: `platt` by the logistic function of slope · logit(p) + intercept, `isotonic` by straight lines
    between `knots` (p, share right); the other labels follow by the temperature at which that comes out.
    """

    method: CalibrationMethod = "none"
    temperature: float = 1.0
    slope: float = 1.0
    intercept: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ReliabilityBin:
    """Rows of like confidence: how many, their mean confidence, the share answered right, its interval."""

    rows: int
    confidence: float
    accuracy: float
    interval: Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationScore:
    """How far probabilities are from how often they are right, over `n` rows.

    `ece` is the expected calibration error with as many bins as the rows bear, `ece_15` that with 15, and
    `ece_15_by_chance` what faultless probabilities would show there with so many rows. `brier` (0 is best)
    and `log_loss` (nats) are over all labels where each one's probability is known, else over whether the
    answer was right.
    """

    n: int
    ece: float
    ece_15: float
    ece_15_by_chance: float
    brier: float
    log_loss: float
    reliability: tuple[ReliabilityBin, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """A System's map, fitted on `rows` dev rows that `rows_digest` names, and the scores before and after.

    On dev each row's score comes from a map that was fitted without it. `test` is None where the sealed test
    wasn't opened for the System. `every_label`: the map was fitted on the probabilities of all labels, else
    on the answers' alone. `note` says why this map.
    """

    map: CalibrationMap
    rows: int
    rows_digest: str
    every_label: bool
    note: str
    dev: tuple[CalibrationScore, CalibrationScore] | None = None
    test: tuple[CalibrationScore, CalibrationScore] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RungResult:
    """What became of one rung. Exactly one of `skipped` (why not tried), `failed` and `dev` is set.

    In a climb on several models `rung` names one of them too, as in `sft@gemma-3-270m`. `model` is the model
    in short, None for a rung that asks none.
    `passes` say how often a tune went through its training rows; None for what doesn't learn so.
    `cut_short`: its time ended before dev was seen to stop rising.
    `price` is that of a hosted model's tokens; None where this machine answers. `spent_usd` was paid to a
    hosted model for building the rung.
    `took_s` are the seconds from the forecast to the end of the dev score, `build_s` those from the first
    look at the rung to its System. `build_peak_mb` is the most memory that all processes of the climb held
    together meanwhile, dev score included.
    """

    rung: str
    order: int
    model: str | None = None
    skipped: str | None = None
    failed: str | None = None
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
    forecast: Forecast | None = None
    took_s: float = 0.0
    over_limits: tuple[str, ...] = ()
    stopped: Stopped | None = None
    trials: tuple[Trial, ...] = ()
    parity: Parity | None = None
    notes: tuple[str, ...] = ()
    calibration: Calibration | None = None
    price: TokenPrice | None = None
    spent_usd: float = 0.0
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

    `passes` say how often a tune went through them; None for what doesn't learn so.
    """

    rows: int
    score: float
    interval: Interval
    n: int
    seconds: float
    passes: float | None = None


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

    `openings` counts how often the sealed test was opened, `test_peak_mb` is the most memory held then. Money
    is in US dollars, times in seconds. `paid_usd` of at most `paid_cap_usd` went to hosted models.
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
    test_peak_mb: float = 0.0
    curves: tuple[LearningCurve, ...] = ()
    paid_usd: float = 0.0
    paid_cap_usd: float = 0.0
    judged: Judged | None = None
    constant: Constant | None = None
