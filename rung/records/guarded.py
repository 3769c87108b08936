"""What was looked at beside the scores: forgetting, overfitting, collapse, copies, seeds, and the floor."""

from dataclasses import dataclass
from typing import Literal

from rung.records.answers import Interval
from rung.records.kinds import SplitName

GateVerdict = Literal["pass", "warn", "block", "unknown"]


@dataclass(frozen=True, kw_only=True, slots=True)
class KindScore:
    """The general items of one kind: how many, and how many of them base and tune passed."""

    kind: str
    n: int
    base: int
    tuned: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Items:
    """Both models' share of the general items passed, on the same `n` of them.

    `won` and `lost` count those that the tune alone, and the base alone, passed. `gain_low` and `gain_high`
    are one-sided 95 % bounds of the gain (Bonett-Price). `broken` calls are in neither.
    """

    n: int
    base: float
    tuned: float
    won: int
    lost: int
    gain_low: float
    gain_high: float
    kinds: tuple[KindScore, ...]
    broken: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Divergence:
    """How far the tune's next-token distributions are from the base's: KL(base‖tuned), nats per token.

    It's the mean over `tokens` positions of texts that both read; `base_loss` and `tuned_loss` are the mean
    negative log-probabilities (nats) of what stands there.
    """

    tokens: int
    kl: float
    base_loss: float
    tuned_loss: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Forgetting:
    """What a tune took from its base model; `unknown` where nothing could be measured.

    `reasons` say what warns or blocks, `left_out` what wasn't done. `general` is on the base's own answers to
    general prompts, `prose` on plain text, `task` on the wanted answers of dev rows after the prompts that
    are served: that is what it was taught, and decides nothing.
    """

    verdict: GateVerdict
    reasons: tuple[str, ...]
    items: Items | None = None
    general: Divergence | None = None
    prose: Divergence | None = None
    task: Divergence | None = None
    left_out: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Overfit:
    """How much better a tune scores on `rows` of its training rows than on dev.

    `low` and `high` are a 95 % interval of the gap, in the metric's units. `clear`: it's above 0, and the gap
    more than a tenth of what a row can be worth.
    """

    rows: int
    train: float
    dev: float
    gap: float
    low: float
    high: float
    clear: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Collapse:
    """The share of `rows` dev answers that are the commonest one, with a 95 % interval.

    `wanted` is the share of the commonest target.
    """

    rows: int
    answer: str
    share: float
    low: float
    high: float
    wanted: float
    collapsed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Copied:
    """How many of `rows` answers are near-copies of training outputs, with a 95 % interval of their share."""

    rows: int
    count: int
    share: float
    low: float
    high: float
    memorised: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant:
    """What always giving one and the same `answer` scores: a rung that learned anything is above that.

    It's the best such answer of the rows to learn from. `score` is on the `split` that the verdict's rung
    was scored on, with its 95 % interval. `gain` is that of the rung to ship on the same rows, with its
    interval and the one-sided `p` of a paired test; `beaten` where that is at most .05. A climb has
    none where nothing ships or no such answer is known.
    """

    answer: str
    split: SplitName
    score: float
    interval: Interval
    gain: float
    gain_interval: Interval
    p: float
    beaten: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Guards:
    """What was looked at beside a rung's dev score: most of it for trained ones alone, `copied` for style.

    `warnings` are for whoever ships it.
    """

    forgetting: Forgetting | None = None
    overfit: Overfit | None = None
    collapse: Collapse | None = None
    copied: Copied | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedScores:
    """Dev scores of the same tune with several seeds, in their order; `chosen` is the place of the median."""

    scores: tuple[float, ...]
    mean: float
    spread: float
    chosen: int
