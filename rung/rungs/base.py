"""What a rung is, what it is given, and how it tries its variants on dev rows."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rung import evaluate
from rung.evaluate import Store
from rung.models.resolve import Model
from rung.records import Example, Measurement, MetricName, OutputKind, Parity, Trial
from rung.scoring.scorers import SCORERS
from rung.system import ModelRef, Pool, System, answer_text
from rung.task import Task

SCREEN_ROWS = 100


class Reporter(Protocol):
    """Where progress goes: a terminal, a log, or nowhere."""

    def say(self, text: str) -> None:
        """One line for the user."""
        ...

    def begin(self, what: str, total: int | None) -> int:
        """Start a progress bar; returns its handle."""
        ...

    def advance(self, handle: int, done: int, extra: str = "") -> None:
        """Set how much is done, with a few words on the state."""
        ...

    def end(self, handle: int) -> None:
        """Take the bar away."""
        ...


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a rung may use: the task, its training and dev rows, a base model, and time until `deadline`.

    The test rows aren't here: no rung can look at them. `earlier` holds the Systems of cheaper rungs.
    """

    task: Task
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    model: Model
    folder: Path
    pool: Pool
    store: Store
    reporter: Reporter
    deadline: float
    seed: int
    earlier: dict[str, System]

    @property
    def ref(self) -> ModelRef:
        """The base model as a System names it."""
        return ModelRef(name=self.model.name, digest=self.model.digest, licence=self.model.licence)

    @property
    def vectors_folder(self) -> Path:
        """Where sentence vectors of the training rows are kept: several rungs use them."""
        return self.store.folder.parent / "vectors"

    @property
    def kind(self) -> OutputKind:
        """What an answer is; inferred by now where the task file leaves it out."""
        assert self.task.output.kind is not None, "the task was completed from its rows"
        return self.task.output.kind

    @property
    def metric(self) -> MetricName:
        """How an answer is scored."""
        assert self.task.metric is not None, "the task was completed from its rows"
        return self.task.metric

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of a label task, else nothing."""
        return self.task.output.labels or ()

    def target(self, example: Example) -> str:
        """The row's output as the text that a model should write."""
        return answer_text(example.output, self.kind, self.task.output.json_schema)

    @property
    def seconds_left(self) -> float:
        """Time until the rung should be done; may be negative."""
        return self.deadline - time.monotonic()

    def measure(self, system: System, rows: Sequence[Example], what: str) -> Measurement:
        """Score a System on dev rows, with a progress bar."""
        bar = self.reporter.begin(what, len(rows))
        try:
            return evaluate.measure(
                system,
                rows,
                split="dev",
                metric=self.metric,
                pool=self.pool,
                store=self.store,
                on_done=lambda done, _: self.reporter.advance(bar, done),
            )
        finally:
            self.reporter.end(bar)


@dataclass(frozen=True, kw_only=True)
class Built:
    """What a rung made: its System, in a few words what it is, and what was tried on the way."""

    system: System
    what: str
    trials: tuple[Trial, ...] = ()
    notes: tuple[str, ...] = ()
    parity: Parity | None = None


class Rung(Protocol):
    """One step of the ladder."""

    name: str

    def skip(self, context: Context) -> str | None:
        """Why the rung doesn't apply to this task; None when it does."""
        ...

    def build(self, context: Context) -> Built:
        """Make the rung's best System by dev score."""
        ...


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way of doing a rung."""

    name: str
    system: System


def choose(
    context: Context, variants: Sequence[Variant]
) -> tuple[Variant, tuple[Trial, ...], tuple[str, ...]]:
    """The best variant on dev, with every trial and notes on what was left out.

    All are screened on the first dev rows; the better half goes on to all of them. A variant that
    couldn't finish within the rung's time is left out and named. Ties go to the earlier variant.
    """
    screen = context.dev[:SCREEN_ROWS]
    sign = 1 if SCORERS[context.metric].higher_is_better else -1
    scored: list[tuple[float, Variant, Measurement]] = []
    trials: list[Trial] = []
    notes: list[str] = []
    for number, variant in enumerate(variants):
        if number and context.seconds_left <= 0:
            notes.append(f"{variant.name} wasn't tried: the rung's share of the budget was used up")
            continue
        found = context.measure(variant.system, screen, variant.name)
        trials.append(_trial(variant, found, screen))
        scored.append((sign * found.score, variant, found))
    scored.sort(key=lambda item: -item[0])
    finalists = scored[: max(1, len(scored) // 2)] if len(context.dev) > len(screen) else scored[:1]
    best: tuple[float, Variant] | None = None
    for value, variant, found in finalists:
        predicted = found.seconds_per_answer * (len(context.dev) - len(screen))
        if best is not None and predicted > context.seconds_left:
            notes.append(f"{variant.name} would have taken {predicted:.0f} s on all dev rows; left out")
            continue
        if len(context.dev) > len(screen):
            whole = context.measure(variant.system, context.dev, f"{variant.name}, all dev rows")
            trials.append(_trial(variant, whole, context.dev))
            value = sign * whole.score
        if best is None or value > best[0]:
            best = (value, variant)
    assert best is not None, "a rung offers at least one variant"
    chosen = best[1]
    marked = tuple(
        Trial(name=t.name, score=t.score, n=t.n, seconds=t.seconds, chosen=t.name == chosen.name)
        for t in trials
    )
    return chosen, marked, tuple(notes)


def _trial(variant: Variant, found: Measurement, rows: Sequence[Example]) -> Trial:
    seconds = found.seconds_per_answer * len(rows)
    return Trial(name=variant.name, score=found.score, n=len(rows), seconds=seconds)
