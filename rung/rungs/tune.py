"""A tune in progress: the model with its adapter, one trainer per arm, and the journal of what was settled.

Every dev score, and everything that depends on the clock, is written to the journal; a tune that was
killed takes the same decisions again from there and goes on at the step after the last finished one.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from rung.asking import ask
from rung.calling import from_tags
from rung.engines import lora
from rung.engines.base import EngineSpec
from rung.engines.device import best_dtype, no_room, off_gpu, too_big
from rung.engines.room import weight_bytes
from rung.engines.torch import TorchEngine, load_model
from rung.errors import RunError, TrainingError
from rung.evaluate import counted_answers
from rung.memory import give_back
from rung.models.resolve import Model
from rung.models.weights import dequantised
from rung.records import Answer, Example
from rung.rungs.base import JOURNAL_FILE, Context, more_tokens, strict_score
from rung.rungs.batching import batch_size, fewer
from rung.rungs.closing import closing_rows
from rung.rungs.lesson import of_the_same_lesson
from rung.rungs.rendered import prompts_of, rendered, target_ids, target_text
from rung.runs import append_jsonl, atomic_folder, digest_of, read_jsonl
from rung.scoring.measure import measurement
from rung.scoring.scorers import SCORERS
from rung.spec import Spec
from rung.training.batches import Item, Row
from rung.training.blocked import blocks_for, in_blocks, load_in_blocks, said_of_blocks
from rung.training.learned import low_rank
from rung.training.loop import WARMUP, Settings, Tick, Trainer, dev_loss
from rung.training.methods import ALPHA, METHODS, begun
from rung.training.objectives import Objective
from rung.training.onpolicy import OnPolicy
from rung.training.passes import token_s

PLAIN_ROWS = 192
"""Up to this many tokens plain attention is faster on a CPU than torch's fused kernel and its backward, for
models that transformers alone can run."""
LOSS_TOKENS = 4096
"""Of the dev rows, for the loss that is shown beside a score and settles a tie."""
BEST_FOLDER = "best"
LONG_TIMES, LONG_MORE = 2, 64
"""On the way an answer that is right or wrong as a whole ends at so many times the tokens of its row's output
and so many more: calls that a young tune makes on and on took more than half of a score's seconds."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where a tune keeps its state, its seed, and the seconds it may take; `reserve_s` more come after.

    A `batch` is how many rows a step learns from, where that isn't settled by the tune itself.
    """

    folder: Path
    budget_s: float
    reserve_s: float
    seed: int
    batch: int | None = None


@dataclass(kw_only=True)
class Pace:
    """The steps so far, their seconds, and those of an answer; kept with every score in the journal.

    `answer_s` is that of the last rows asked, in a batch: what a tune writes at first, before it has learned
    where an answer ends, says little about its later ones. `whole_s` is about what it would have been without
    an end to answers that are too long to be right.
    """

    steps: int = 0
    training_s: float = 0.0
    answer_s: float = 0.0
    whole_s: float = 0.0

    @property
    def known(self) -> bool:
        """Whether there was anything to measure."""
        return self.steps > 0 and self.answer_s > 0

    @property
    def served_s(self) -> float:
        """Seconds of an answer as the System gives it, however long."""
        return max(self.answer_s, self.whole_s)

    @property
    def step_s(self) -> float:
        """Seconds per step."""
        return self.training_s / self.steps


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One candidate of the search."""

    form: str
    rate: float

    @property
    def name(self) -> str:
        """As trials and folders call it."""
        return f"{self.form}, rate {self.rate:g}"


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What a tune learns: items by answer form, so many in a step, after a warm-up of so many steps.

    `name` is what bars are called by, `left_out` how many rows were too long, and `start` the PEFT folder
    that is gone on from, if any; `start_digest` names that, and a teacher that is read beside it.
    """

    name: str
    items: Mapping[str, Sequence[Item]]
    left_out: int
    batch: int
    warmup: int
    start: Path | None = None
    start_digest: str = ""


class Tune(AbstractContextManager["Tune"]):
    """A tune in progress. Its trainers take turns with the one model.

    `objective` is set before the first trainer is asked for, where it isn't the completion loss. `warmup` is
    set before the first step where it takes so long to know how many there will be.
    """

    def __init__(
        self, context: Context, specs: dict[str, Spec], plan: Plan, lesson: Lesson | None = None
    ) -> None:
        """`specs` are the answer forms by name. The training rows' outputs are learned, or another `lesson`.

        Raises TrainingError when no training row fits, or memory doesn't hold the weights.
        """
        self.context, self.specs, self.plan = context, specs, plan
        self.tuning, self.method = context.task.tuning, METHODS[context.task.tuning.method]
        self.lesson = lesson or outputs_lesson(context, specs)
        self.chat = context.pool.chat(context.model)
        self.journal = plan.folder / JOURNAL_FILE
        self.records = read_jsonl(self.journal)
        self.rows = self.lesson.items
        self.dev_rows = {form: rows_of(context, spec, context.dev) for form, spec in specs.items()}
        self.left_out = self.lesson.left_out
        if not all(self.rows.values()):
            raise TrainingError(
                f"no training row fits {context.limit:,} tokens with its answer; shorten the rows"
                f"{more_tokens(context.model)}"
            )
        lengths = sorted(row.tokens for item in next(iter(self.rows.values())) for row in item.rows)
        attention = "eager" if lengths[int(0.95 * (len(lengths) - 1))] <= PLAIN_ROWS else "sdpa"
        device = self.method.loads_on if self.lesson.start is None else None
        blocks = blocks_for(context.model, self.tuning.method)
        weights = dequantised(context.model) if blocks else _loadable(context.model, device)
        if blocks is not None:
            self.model = load_in_blocks(weights, blocks, attention)
        else:
            self.model = load_model(weights, attention=attention, device=device)
        if device is None:
            context.pool.tell(off_gpu(self.model, self.lesson.name))
        self.base_said = said_of_blocks(self.model) or self.method.caveat
        self.start = None
        if self.lesson.start is None:
            self.learned = begun(self.model, self.tuning, plan.seed, lengths[-1])
        else:
            lora.load(self.model, self.lesson.start)
            self.start, self.learned = lora.state(self.model), low_rank(self.model)
        spec = EngineSpec(
            engine="torch", weights=weights, context=context.limit, threads=context.pool.threads
        )
        self.engine = TorchEngine(spec, model=self.model)
        settled = self.find(kind="batch")
        self.batch = plan.batch or (settled["rows"] if settled else self.lesson.batch)
        self.warmup = self.lesson.warmup
        self.objective: Objective | OnPolicy | None = None
        self._current: tuple[str, Trainer] | None = None
        paces = [record["pace"] for record in self.records if "pace" in record]
        self.pace = Pace(**paces[-1]) if paces else Pace()

    def settle_batch(self, form: str, training_s: float) -> None:
        """Before anything is learned: fewer rows a step where training has little time; settled once."""
        if self.plan.batch is not None or self.find(kind="batch") is not None:
            return
        if self.model.lm_head.weight.device.type != "cpu":
            return  # a GPU takes as long for a few rows as for many: the time goes into starting its kernels
        items = self.rows[form]
        tokens = sum(item.tokens for item in items) / len(items)
        row_s = tokens * token_s(self.model, self.learned, [row for item in items for row in item.rows])
        self.batch = fewer(self.lesson.batch, fitting=training_s / row_s, tokens=tokens)
        self.note({"kind": "batch", "rows": self.batch})

    @cached_property
    def closing_rows(self) -> int:
        """Answers beside those to all of dev that the tuned System and its rivals give in the end."""
        return closing_rows(self.context)

    def trainer(self, arm: Arm) -> Trainer:
        """The arm's trainer, its state loaded into the model."""
        if self._current is None or self._current[0] != arm.name:
            self._leave()
            settings = Settings(
                learning_rate=arm.rate,
                batch_size=self.batch,
                rank=self.tuning.rank,
                alpha=ALPHA,
                warmup=self.lesson.warmup,
                seed=self.plan.seed,
            )
            rows = self.rows[arm.form]
            taught = [[(row.prompt, row.answer) for row in item.rows] for item in rows]
            method = [] if self.tuning.method == "lora" else [self.tuning.method]
            blocks = ["blocks"] if in_blocks(self.model) else []
            digest = digest_of([str(settings), taught, self.lesson.start_digest, *method, *blocks])[:16]
            folder = self.plan.folder / arm.name.replace(", rate ", "-")
            learns = digest_of([taught, self.lesson.start_digest])[:16]
            how = [self.tuning.method, *blocks, self.engine.device.type, str(best_dtype())]
            with of_the_same_lesson(self.context, folder, learns, how):
                made = Trainer(
                    self.model, rows, settings, folder, digest, self.objective, self.start, self.learned
                )
            self._current = (arm.name, made)
        trainer = self._current[1]
        trainer.restart()
        return trainer

    def _leave(self) -> None:
        """Let go of the arm that was trained last: its state is on disk, and takes memory while it's open."""
        if self._current is not None:
            self._current[1].close()
            self._current = None

    def find(self, **wanted: object) -> dict | None:
        """The journal's record with these fields."""
        return next((r for r in self.records if all(r.get(k) == v for k, v in wanted.items())), None)

    def note(self, record: dict) -> dict:
        """Write a record to the journal."""
        append_jsonl(self.journal, [record])
        self.records.append(record)
        return record

    def run(self, arm: Arm, until: int, decay: tuple[int, int] | None = None) -> list[Tick]:
        """Train an arm up to a step, with a progress bar; the steps that were left to do."""
        trainer = self.trainer(arm)
        ticks: list[Tick] = []
        if trainer.step >= until:
            return ticks
        bar = self.context.reporter.begin(f"{self.lesson.name}: {arm.name}", until, trainer.step)
        smooth: float | None = None
        try:
            for tick in trainer.run(until, decay=decay, warmup=self.warmup):
                ticks.append(tick)
                self.pace.steps += 1
                self.pace.training_s += tick.seconds
                if tick.loss is not None:
                    smooth = tick.loss if smooth is None else 0.95 * smooth + 0.05 * tick.loss
                loss = "" if smooth is None else f"loss {smooth:.3f} · "
                pace = f"{tick.rows_per_s:.0f}" if tick.rows_per_s >= 10 else f"{tick.rows_per_s:.1f}"
                self.context.reporter.advance(bar, tick.step, tick.said or f"{loss}{pace} rows/s")
        finally:
            self.context.reporter.end(bar)
        return ticks

    def answers(
        self, arm: Arm, rows: Sequence[Example], *, cut: bool = False, bounded: bool = False
    ) -> list[Answer]:
        """What the arm as it is now answers, with a progress bar.

        `cut`: what is written ends where the row's output would, so the time is that of a tune which has
        learned to answer, and the answers are of no use. `bounded`: an answer that gets too long to be right
        ends there, and has no value.
        """
        self.trainer(arm)
        spec = self.specs[arm.form]
        prompts = prompts_of(self.context, spec, rows)
        ends = self._ends(spec, rows) if cut else self._bounds(spec, rows) if bounded else ()
        reporter = self.context.reporter
        bar = reporter.begin(f"{self.lesson.name}: {arm.name} on {len(rows)} dev rows", len(rows))
        start = time.perf_counter()
        try:
            found = ask(
                spec,
                self.chat,
                self.engine,
                prompts,
                lambda done, _: reporter.advance(bar, done),
                contexts=[e.context for e in rows],
                most=ends,
            )
        finally:
            reporter.end(bar)
        seconds, most = (time.perf_counter() - start) / len(rows), spec.answer.max_tokens
        long = [at for at, end in enumerate(ends) if bounded and found[at].cut and end < most]
        written = sum(one.completion_tokens for one in found)
        longer = sum(most - found[at].completion_tokens for at in long)
        self.pace.answer_s = seconds + self.context.bench.judging_s
        self.pace.whole_s = seconds * (1 + longer / max(1, written)) + self.context.bench.judging_s
        for at in long:
            found[at] = replace(found[at], value=None)
        return found

    def _bounds(self, spec: Spec, rows: Sequence[Example]) -> list[int]:
        """How many tokens an answer may have and still be right; none where a part of it may be."""
        if not SCORERS[self.context.bench.metric].binary or spec.answer.form in ("words", "codes"):
            return []
        return self._ends(spec, rows, LONG_TIMES, LONG_MORE)

    def _ends(self, spec: Spec, rows: Sequence[Example], times: int = 1, more: int = 0) -> list[int]:
        """How many tokens an answer may have that is as long as the row's output, the last one included.

        Or so many times as long, and so many more.
        """
        outputs = [target_ids(self.context, spec, e) for e in rows]
        return [min(spec.answer.max_tokens, times * len(output) + more) for output in outputs]

    def score(self, arm: Arm, step: int, rows: Sequence[Example]) -> dict:
        """The arm's dev score and loss after `step` steps, from the journal when it is there.

        `value` is the score with broken calls as unreadable answers, turned so that more is better;
        `commonest` the share of the commonest answer, and `verbatim` that of answers which are word for word
        the row's output, for a metric may read more kindly.
        """
        known = self.find(kind="score", arm=arm.name, step=step, n=len(rows))
        if known is not None:
            return known
        answers, _ = counted_answers(rows, self.answers(arm, rows, bounded=True), self.context.bench)
        found = measurement(
            system=arm.name,
            split="dev",
            metric=self.context.bench.metric,
            examples=rows,
            answers=answers,
        )
        start = time.perf_counter()
        first = _first(self.dev_rows[arm.form][: len(rows)], LOSS_TOKENS)
        loss = dev_loss(self.model, first, self.trainer(arm).packed)
        self.pace.answer_s += (time.perf_counter() - start) / len(rows)
        give_back()
        texts = [a.text for a in answers if a.failure is None]
        return self.note(
            {
                "kind": "score",
                "arm": arm.name,
                "step": step,
                "n": len(rows),
                "score": found.score,
                "value": self.context.sign * strict_score(found, rows),
                "loss": loss,
                "commonest": max(map(texts.count, set(texts))) / len(texts),
                "verbatim": self._verbatim(self.specs[arm.form], rows, answers) / len(rows),
                "pace": asdict(self.pace),
            }
        )

    def _verbatim(self, spec: Spec, rows: Sequence[Example], answers: Sequence[Answer]) -> int:
        texts = [target_text(self.context, spec, e) for e in rows]
        if spec.answer.written == "tagged":
            # An answer's text has its calls as JSON.
            texts = [from_tags(text, None)[0] for text in texts]
        pairs = zip(texts, answers, strict=True)
        return sum(a.failure is None and a.text.strip() == text for text, a in pairs)

    def keep(self, arm: Arm, step: int) -> None:
        """Put what the arm has learned, as it is after `step` steps, into the folder of the best one."""
        from safetensors import SafetensorError

        if self.find(kind="best", arm=arm.name, step=step) is not None:
            return
        self.trainer(arm)
        best = self.plan.folder / BEST_FOLDER
        try:
            with atomic_folder(best) as draft:
                self.learned.save(draft, self.context.model.name)
        except SafetensorError as error:
            raise RunError(f"can't write {str(best)!r}: {error}; free some space and go on") from None
        self.note({"kind": "best", "arm": arm.name, "step": step})

    def __exit__(self, *exc: object) -> None:
        self._leave()
        self.engine.close()


def _loadable(model: Model, device: str | None) -> Path:
    """The folder of a model's weights, where they can be loaded whole; else TrainingError.

    `device` as in `load_model`. They aren't made for a machine that can never hold them.
    """
    if (why := too_big(model.parameters, device)) is None:
        folder = dequantised(model)
        why = no_room(weight_bytes(folder, best_dtype()), device)
        if why is None:
            return folder
    less = "; so does `tuning: {method: qlora}`" if blocks_for(model, "qlora") else ""
    raise TrainingError(f"{model.name} can't be loaded to be tuned: {why}{less}")


def outputs_lesson(context: Context, specs: Mapping[str, Spec]) -> Lesson:
    """The outputs of the training rows, in each form."""
    items = {form: rows_of(context, spec, context.train) for form, spec in specs.items()}
    return Lesson(
        name=next(iter(specs.values())).rung,
        items=items,
        left_out=len(context.train) - min(map(len, items.values())),
        batch=batch_size(len(context.train)),
        warmup=WARMUP,
    )


def rows_of(context: Context, spec: Spec, examples: Sequence[Example]) -> list[Row]:
    """Rows in token ids; those that don't fit the context with their answer are left out."""
    return [row for row in rendered(context, spec, examples) if row.tokens <= context.limit]


def _first(rows: Sequence[Row], tokens: int) -> Sequence[Row]:
    """The first rows that have so many tokens together; one at least."""
    total = 0
    for count, row in enumerate(rows):
        total += row.tokens
        if total > tokens:
            return rows[: max(1, count)]
    return rows
