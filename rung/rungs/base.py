"""What a rung is and what it is given."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from pydantic import TypeAdapter

from rung import evaluate
from rung.asking import context_of
from rung.evaluate import VECTORS_FOLDER, Bench
from rung.models.resolve import Model
from rung.records import (
    Candidate,
    Example,
    Gap,
    Json,
    Measurement,
    OutputKind,
    Parity,
    Passage,
    SplitName,
    TokenPrice,
    Trial,
)
from rung.records.guarded import SeedScores
from rung.rungs.rival import Rival
from rung.runs import append_jsonl, read_each, writing
from rung.scoring.scorers import SCORERS
from rung.spec import ModelRef
from rung.system import Pool, System, ref_to
from rung.task import Task
from rung.wording import answer_text, embedded_text

SETTLED_FILE = "settled.jsonl"
JOURNAL_FILE = "journal.jsonl"
"""Of a tune: where it has begun there is one, below the folder of work."""
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

    Of several models a rung is given one, and a task that names that one alone, beside a hosted one. The test
    rows aren't here: no rung can look at them. `undesirable` answers were judged to be bad, and lie beside
    train or dev. `too_long` are the ids of rows that no prompt of the model can hold. `passages` are those of
    the task's documents. `folder` is the rung's own and outlives it; what lies in `work` is thrown away once
    the rung is done. `rival` is the rung to beat on the way, `best` the best one so far on all dev rows,
    whatever the metric (None with too few for a verdict), `built` are the Systems of the rungs below on the
    same model, by rung name (for a rung that asks no local model those on all models, by candidate), and
    `retrieval` the one whose passages a tune may read: where it was better on dev than all rungs before it,
    or the model lacks what the documents hold. `no_gain` is why looking up gained nothing on dev, in words;
    None where it did, or there are no documents.
    `unlabelled` are inputs without outputs, none of them like a dev or a test row.
    """

    task: Task
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    undesirable: tuple[Example, ...] = ()
    dev_undesirable: tuple[Example, ...] = ()
    too_long: frozenset[str] = frozenset()
    passages: tuple[Passage, ...] = ()
    model: Model
    folder: Path
    bench: Bench
    reporter: Reporter
    deadline: float
    seed: int
    rival: Rival | None = None
    best: Candidate | None = None
    built: Mapping[str, System] = field(default_factory=dict)
    unlabelled: tuple[Example, ...] = ()
    retrieval: System | None = None
    no_gain: str | None = None

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
        if (line := self._settled(question)) is not None:
            return line[1]
        found = answer()
        append_jsonl(self.folder / SETTLED_FILE, [{"question": question, "answer": found}])
        return found

    def settled_s(self, question: str, start: float) -> float:
        """The seconds from `start` to when this was asked for the first time.

        A climb that is killed later neither adds to them nor takes any.
        """
        return TypeAdapter(float).validate_python(self.settled(question, lambda: time.monotonic() - start))

    def told(self, question: str) -> Json:
        """What `settled` was answered to a question before; None where it wasn't asked."""
        line = self._settled(question)
        return None if line is None else line[1]

    def _settled(self, question: str) -> tuple[str, Json] | None:
        lines = read_each(self.folder / SETTLED_FILE, lambda line: (line["question"], line["answer"]))
        return next((line for line in lines if line[0] == question), None)

    def in_time(self, step: str, seconds: float = 0.0) -> bool:
        """Whether `step`, which takes about so many seconds, could still be begun when it was due."""
        return bool(self.settled(f"in time: {step}", lambda: self.seconds_left > seconds))

    def paying(self) -> AbstractContextManager[None]:
        """What hosted models are paid meanwhile is paid for this rung, by the name of its folder."""
        till = self.pool.till
        return nullcontext() if till is None else till.paying(self.folder.name)

    @property
    def paid_usd(self) -> float:
        """What hosted models were ever paid for this rung in this run, under another budget or cap too."""
        till = self.pool.till
        return 0.0 if till is None else till.spent_for.get(self.folder.name, 0.0)

    @property
    def vectors_ref(self) -> ModelRef:
        """The model of the sentence vectors, for a Spec that needs them."""
        found = self.pool.embedder.model
        return ref_to(found, found.name)

    def vectors(self, rows: Sequence[Example]) -> np.ndarray:
        """Sentence vectors [rows, width], kept in the run's folder: several rungs use the training rows'."""
        return vectors(self.pool, rows, self.bench.store.folder.parent, self.reporter)

    def text_vectors(self, texts: Sequence[str], what: str) -> np.ndarray:
        """Sentence vectors [texts, width] of texts that are no rows, kept there too."""
        return text_vectors(self.pool, texts, self.bench.store.folder.parent, self.reporter, what)

    def measure_all(
        self, system: System, rows: Sequence[Example], what: str, split: SplitName = "dev"
    ) -> Measurement:
        """Score a System on all of the rows, whatever the rival did. Raises EngineError as `measure`."""
        return replace(self, rival=None).measure(system, rows, what, split)

    def measure(
        self, system: System, rows: Sequence[Example], what: str, split: SplitName = "dev"
    ) -> Measurement:
        """Score a System on dev rows, with a progress bar. Raises EngineError when every call broke.

        The Measurement has fewer rows where the first of them show that the System can't beat the rival.
        """
        bar = self.reporter.begin(what, len(rows))
        try:
            return evaluate.measure(
                system,
                rows,
                self.bench,
                split=split,
                on_done=lambda done, _: self.reporter.advance(bar, done),
                enough=self.rival and self.rival.beyond,
            )
        finally:
            self.reporter.end(bar)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way of doing a rung. One that isn't `shippable` is scored for comparison alone."""

    name: str
    system: System
    shippable: bool = True


@dataclass(frozen=True, kw_only=True)
class Built:
    """What a rung made: its System, in a few words what it is, and what was tried on the way.

    `passes` say how often a tune went through its training rows; None where that is no matter of time.
    `cut_short`: its time ended before dev was seen to stop rising.
    `found` and `gap` are what was found out of the task on the way, `notes` how the System was made.
    `price` is that of a hosted model which answers, `foretold_usd` about what each answer was to cost;
    `spent_usd` was paid to one for building. `upon` is the rung that it goes on from or whose prompt it took,
    as the context's `built` names it.
    """

    system: System
    what: str
    passes: float | None = None
    cut_short: bool = False
    trials: tuple[Trial, ...] = ()
    found: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    gap: Gap | None = None
    parity: Parity | None = None
    price: TokenPrice | None = None
    foretold_usd: float = 0.0
    spent_usd: float = 0.0
    upon: str | None = None
    seeds: SeedScores | None = None


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """Seconds that a rung will take from now on, with its dev score and the timing of single requests.

    `seconds` are those to expect; where they hang on when the rung is stopped, four times in five they are
    from `low_s` to `high_s`. Where they hang on something else, `by` says on what, and those are the ends of
    what is foreseen. `least_s` with its quickest variant alone. `refusal` says why it isn't worth building,
    where that was found out on the way: the rung is skipped then.
    """

    seconds: float
    low_s: float
    high_s: float
    least_s: float
    refusal: str | None = None
    by: str = ""


class Rung(Protocol):
    """One step of the ladder."""

    @property
    def name(self) -> str:
        """What the ladder, reports and task files call it."""
        ...

    def skip(self, context: Context) -> str | None:
        """Why the rung doesn't apply to this task; None when it does."""
        ...

    def build(self, context: Context) -> Built:
        """Make the rung's best System by dev score."""
        ...


@runtime_checkable
class Following(Protocol):
    """A rung that goes on from the System of an earlier one. It's skipped where there is none."""

    after: str


@runtime_checkable
class Foreseen(Protocol):
    """A rung that can tell how long it will take before it is built."""

    def outlook(self, context: Context) -> Outlook | None:
        """What it will take by what is measured now; None where that can't be told. What is asked is kept.

        Raises RungError where it can't be built.
        """
        ...


@runtime_checkable
class Priced(Protocol):
    """A rung whose answers are paid by the token, and that can tell beforehand what they will cost."""

    def usd_per_1000(self, context: Context) -> float:
        """About what 1,000 answers will cost; nothing is asked for that."""
        ...


@runtime_checkable
class ModelFree(Protocol):
    """A rung whose answers come from no base model: with several of them it's climbed once."""

    model_free: Literal[True]


def vectors(pool: Pool, rows: Sequence[Example], run: Path, reporter: Reporter) -> np.ndarray:
    """Sentence vectors [rows, width] with a progress bar, kept in a run's folder."""
    return text_vectors(pool, [embedded_text(e) for e in rows], run, reporter, "sentence vectors")


def text_vectors(pool: Pool, texts: Sequence[str], run: Path, reporter: Reporter, what: str) -> np.ndarray:
    """The same of any texts [texts, width]; `what` names the bar."""
    folder = run / VECTORS_FOLDER
    bar = reporter.begin(what, len(texts))
    try:
        with writing(folder):
            return pool.embedder.cached_embeddings(
                texts, folder, progress=lambda done, _: reporter.advance(bar, done)
            )
    finally:
        reporter.end(bar)


def no_room(context: Context, *, learns: bool) -> str | None:
    """Why a language model can't answer any dev row, or learn from any training row where it `learns`."""
    for rows, name in ((context.train if learns else (), "training"), (context.dev, "dev")):
        if rows and all(e.id in context.too_long for e in rows):
            return (
                f"none of the {len(rows):,} {name} rows fits {context.limit:,} tokens with its prompt and "
                f"answer; shorten the inputs{more_tokens(context.model)}"
            )
    return None


def more_tokens(model: Model) -> str:
    """What else helps where rows are too long for a prompt."""
    if context_of(model) < model.context:
        return f", or give them more with context_tokens in task.yaml: {model.name} holds {model.context:,}"
    return ", or take a model with a longer context"


def no_start(rung: Rung, context: Context) -> str | None:
    """Why a rung can't go on from another one; None where it can, or doesn't."""
    if not isinstance(rung, Following) or rung.after in context.built:
        return None
    return (
        f"it goes on from the System of {rung.after}, and this run has none; climb with --rungs "
        f"{rung.after},{rung.name} or more"
    )


def strict_score(found: Measurement, rows: Sequence[Example]) -> float:
    """The score with broken calls counted as unreadable answers.

    Variants are compared by it: by the plain score one that broke on every hard row would be ahead.
    """
    return first_score(found, rows) if found.failures else found.score


def first_score(found: Measurement, rows: Sequence[Example]) -> float:
    """The same on these rows, which were answered, whatever the order of the answers."""
    values = {p.example_id: p.answer.value if p.answer.failure is None else None for p in found.predictions}
    return SCORERS[found.metric].summary([values[e.id] for e in rows], [e.output for e in rows])


def slug(name: str) -> str:
    """A variant's name as that of a folder."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
