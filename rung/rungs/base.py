"""What a rung is, what it is given, and how it tries its variants on dev rows."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from rung import evaluate
from rung.errors import EngineError
from rung.evaluate import Bench
from rung.models.resolve import Model
from rung.records import Example, Json, Measurement, OutputKind, Parity, Trial
from rung.runs import append_jsonl, read_jsonl, writing
from rung.scoring.scorers import SCORERS
from rung.system import ModelRef, Pool, System, context_of, ref_to
from rung.task import Task
from rung.wording import answer_text, embedded_text

SCREEN_ROWS = 100
FEWEST_SCREENED = 20
PILOT_ROWS = 8
SETTLED_FILE = "settled.jsonl"
WORK_FOLDER = "work"


class Reporter(Protocol):
    """Where progress goes: a terminal, a log, or nowhere."""

    def say(self, text: str) -> None:
        """One line for the user."""
        ...

    def begin(self, what: str, total: int | None, done: int = 0) -> int:
        """Start a progress bar of which so much was `done` before; returns its handle."""
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

    The test rows aren't here: no rung can look at them. `too_long` are the ids of rows that no prompt
    of the model can hold. `folder` is the rung's own and outlives it; what lies in `work` is thrown
    away once the rung is done.
    """

    task: Task
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    too_long: frozenset[str] = frozenset()
    model: Model
    folder: Path
    bench: Bench
    reporter: Reporter
    deadline: float
    seed: int

    @property
    def pool(self) -> Pool:
        """The engines that are open."""
        return self.bench.pool

    @property
    def work(self) -> Path:
        """Where drafts, trials and training state go."""
        return self.folder / WORK_FOLDER

    @property
    def ref(self) -> ModelRef:
        """The base model as a System names it."""
        return ref_to(self.model, self.task.models[0])

    @property
    def kind(self) -> OutputKind:
        """What an answer is; inferred by now where the task file leaves it out."""
        assert self.task.output.kind is not None, "the task was completed from its rows"
        return self.task.output.kind

    @property
    def sign(self) -> int:
        """1 where a higher score is better, -1 where a lower one is."""
        return 1 if SCORERS[self.bench.metric].higher_is_better else -1

    @property
    def limit(self) -> int:
        """How many tokens a prompt and its answer may have together."""
        return context_of(self.model)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of a label task, else nothing."""
        return self.task.output.labels or ()

    def target(self, example: Example) -> str:
        """The row's output as the text that a model should write."""
        return answer_text(example.output, self.kind, labels=self.labels, schema=self.task.output.json_schema)

    @property
    def seconds_left(self) -> float:
        """Time until the rung should be done; may be negative."""
        return self.deadline - time.monotonic()

    def settled(self, question: str, answer: Callable[[], Json]) -> Json:
        """What `answer` said to `question` the first time, kept in the rung's folder.

        Everything that depends on a clock goes through here, so that a climb that was interrupted takes
        the same choices as one that wasn't.
        """
        path = self.folder / SETTLED_FILE
        for line in read_jsonl(path):
            if line["question"] == question:
                return line["answer"]
        found = answer()
        append_jsonl(path, [{"question": question, "answer": found}])
        return found

    def in_time(self, step: str, seconds: float = 0.0) -> bool:
        """Whether `step`, which takes about so many seconds, could still be begun when it was due."""
        return bool(self.settled(f"in time: {step}", lambda: self.seconds_left > seconds))

    @property
    def vectors_ref(self) -> ModelRef:
        """The model of the sentence vectors, for a Spec that needs them."""
        found = self.pool.embedder.model
        return ref_to(found, found.name)

    def vectors(self, rows: Sequence[Example]) -> np.ndarray:
        """Sentence vectors [rows, width], kept in the run's folder: several rungs use the training rows'."""
        folder = self.bench.store.folder.parent / "vectors"
        bar = self.reporter.begin("sentence vectors", len(rows))
        try:
            with writing(folder):
                return self.pool.embedder.cached_embeddings(
                    [embedded_text(e) for e in rows],
                    folder,
                    progress=lambda done, _: self.reporter.advance(bar, done),
                )
        finally:
            self.reporter.end(bar)

    def measure(self, system: System, rows: Sequence[Example], what: str) -> Measurement:
        """Score a System on dev rows, with a progress bar. Raises EngineError when every call broke."""
        bar = self.reporter.begin(what, len(rows))
        try:
            return evaluate.measure(
                system,
                rows,
                self.bench,
                split="dev",
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
    """One way of doing a rung. One that isn't `shippable` is scored for comparison alone."""

    name: str
    system: System
    shippable: bool = True


def no_room(context: Context, *, learns: bool) -> str | None:
    """Why a language model can't answer any dev row, or learn from any training row where it `learns`."""
    for rows, name in ((context.train if learns else (), "training"), (context.dev, "dev")):
        if rows and all(e.id in context.too_long for e in rows):
            return (
                f"none of the {len(rows):,} {name} rows fits the model's {context.limit:,} tokens; shorten "
                "the inputs"
            )
    return None


@dataclass(frozen=True, kw_only=True)
class _Tried:
    """A variant with its score on some rows; `value` is the score turned so that more is better."""

    variant: Variant
    value: float
    found: Measurement

    @property
    def trial(self) -> Trial:
        n = len(self.found.predictions)
        return Trial(
            name=self.variant.name,
            score=self.found.score,
            n=n,
            seconds=self.found.seconds_per_answer * n,
        )


def choose(
    context: Context, variants: Sequence[Variant], screen: int = SCREEN_ROWS
) -> tuple[Variant, tuple[Trial, ...], tuple[str, ...]]:
    """The best variant on dev, with every trial and notes on what was left out.

    All are screened on the first `screen` dev rows, or as many as half the rung's time allows. Where there
    are more, the better half is scored on all of them and the best there is chosen. A tie goes to the one
    that did better in the screening, or to the earlier one. What couldn't be finished in the rung's time, or
    whose engine broke, is left out and named; EngineError when that is true of all.
    """
    few, notes = context.dev[: _affordable(context, variants, screen)], []
    screened: list[_Tried] = []
    for variant in variants:
        if screened and not context.in_time(variant.name, _to_come(context, screened, len(few))):
            notes.append(f"{variant.name}: not tried, the rung's share of the budget was used up")
            continue
        try:
            screened.append(_try(context, variant, few, variant.name))
        except EngineError as error:
            notes.append(f"{variant.name}: left out, {error}")
    if not any(one.variant.shippable for one in screened):
        raise EngineError("; ".join(notes))
    screened.sort(key=lambda one: -one.value)
    whole: list[_Tried] = []
    if len(context.dev) > len(few):
        fit = [one for one in screened if one.variant.shippable]
        for one in fit[: max(1, len(screened) // 2)]:
            seconds = one.found.seconds_per_answer * (len(context.dev) - len(few))
            if whole and not context.in_time(f"{one.variant.name}, all dev rows", seconds):
                notes.append(f"{one.variant.name}: all dev rows would have taken {seconds:.0f} s; left out")
                continue
            try:
                whole.append(_try(context, one.variant, context.dev, f"{one.variant.name}, all dev rows"))
            except EngineError as error:
                notes.append(f"{one.variant.name}: left out on all dev rows, {error}")
    best = max((one for one in whole or screened if one.variant.shippable), key=lambda one: one.value)
    trials = [
        replace(one.trial, chosen=one.variant is best.variant and (one in whole or not whole))
        for one in (*screened, *whole)
    ]
    return best.variant, tuple(trials), tuple(notes)


def _affordable(context: Context, variants: Sequence[Variant], screen: int) -> int:
    """How many rows to screen on: what half the time allows at the first variant's pace, 20 at least."""

    def rows() -> int:
        try:
            pilot = _try(context, variants[0], context.dev[:PILOT_ROWS], f"{variants[0].name}, pilot")
        except EngineError:
            return screen
        pace = max(pilot.found.seconds_per_answer, 1e-6) * len(variants)
        return int(min(screen, max(FEWEST_SCREENED, context.seconds_left / 2 / pace)))

    found = context.settled("rows to screen on", rows)
    assert isinstance(found, int), "written by this function"
    return found


def _to_come(context: Context, screened: Sequence[_Tried], rows: int) -> float:
    """Seconds for one more variant, at least as slow as the last, and for the best on the other dev rows."""
    best = max(screened, key=lambda one: one.value)
    rest = best.found.seconds_per_answer * (len(context.dev) - rows)
    return screened[-1].found.seconds_per_answer * rows + rest


def _try(context: Context, variant: Variant, rows: Sequence[Example], what: str) -> _Tried:
    found = context.measure(variant.system, rows, what)
    return _Tried(variant=variant, value=context.sign * strict_score(found, rows), found=found)


def strict_score(found: Measurement, rows: Sequence[Example]) -> float:
    """The score with broken calls counted as unreadable answers.

    Variants are compared by it: by the plain score one that broke on every hard row would be ahead.
    """
    if not found.failures:
        return found.score
    answers = [p.answer.value if p.answer.failure is None else None for p in found.predictions]
    return SCORERS[found.metric].summary(answers, [e.output for e in rows])


def slug(name: str) -> str:
    """A variant's name as that of a folder."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
