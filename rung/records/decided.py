"""What the verdict is made of."""

from dataclasses import dataclass

from rung.records.answers import Interval, Measurement, Stopped
from rung.records.judged import Decisive
from rung.records.kinds import VerdictKind


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

    `rows_needed` estimates how many more labelled test rows would settle an undecided verdict; none would
    where the gain, were it what it seems, is `between` the margin and the least that wins.
    """

    kind: VerdictKind
    chosen: str | None
    best: str | None
    comparisons: tuple[Comparison, ...]
    margin: float
    sentence: str
    rows_needed: int | None = None
    between: bool = False
