"""One tune from start to best adapter: rates and answer forms by successive halving, then on while dev rises.

Everything that depends on the clock is settled once and written to the journal, and every dev score is
too; a tune that is killed takes the same decisions again from the journal and goes on at the next step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rung.engines import lora
from rung.engines.base import EngineSpec
from rung.engines.torch import TorchEngine, load_model
from rung.errors import TrainingError
from rung.models.weights import dequantised
from rung.records import Example, Trial
from rung.rungs.base import Context
from rung.runs import append_jsonl, atomic_folder, digest_of, read_jsonl
from rung.scoring.measure import Timing, measurement
from rung.scoring.scorers import SCORERS
from rung.system import ANSWER_CONTEXT, Spec, ask, candidates, prompts_for
from rung.training.batches import Row
from rung.training.loop import Settings, Tick, Trainer, dev_loss

RATES = (5e-4, 1e-3, 2e-3)
MIDDLE_RATE = 1e-3
SEARCH_SHARE = 1 / 3
FEWEST_TRIAL_STEPS = 12
MOST_EPOCHS = 10
DECAY_SHARE = 0.25
EVALUATIONS = 8
PATIENCE = 2
PROBE_STEPS = 4
SEARCH_ROWS = 200
SHORT_ROWS = 192
"""Up to this many tokens plain attention is faster on a CPU than torch's fused kernel and its backward."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where a tune keeps its state, how many seconds it may take, and its seed."""

    folder: Path
    budget_s: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The best adapter (a PEFT folder), the answer form it was trained for, and what was tried."""

    form: str
    adapter: Path
    what: str
    trials: tuple[Trial, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One candidate of the search."""

    form: str
    rate: float

    @property
    def name(self) -> str:
        """As trials and folders call it."""
        return f"{self.form}, rate {self.rate:g}"


class Tune:
    """A tune in progress: the model, one trainer per arm, and the journal."""

    def __init__(self, context: Context, specs: dict[str, Spec], plan: Plan) -> None:
        self.context, self.specs, self.plan = context, specs, plan
        self.chat = context.pool.chat(context.model)
        self.journal = plan.folder / "journal.jsonl"
        self.records = read_jsonl(self.journal)
        self.rows = {form: training_rows(context, spec) for form, spec in specs.items()}
        self.dev_rows = {form: _rows(context, spec, context.dev) for form, spec in specs.items()}
        self.dropped = len(context.train) - min(len(rows) for rows in self.rows.values())
        lengths = sorted(row.tokens for row in next(iter(self.rows.values())))
        if not lengths:
            raise TrainingError(
                f"no training row fits the context of {ANSWER_CONTEXT} tokens; shorten the inputs"
            )
        attention = "eager" if lengths[int(0.95 * (len(lengths) - 1))] <= SHORT_ROWS else "sdpa"
        weights = dequantised(context.model)
        self.model = load_model(weights, attention=attention)
        lora.attach(self.model, rank=16, alpha=32.0, seed=plan.seed)
        spec = EngineSpec(
            engine="torch",
            weights=weights,
            context=min(context.model.context, ANSWER_CONTEXT),
            threads=context.pool.threads,
        )
        self.engine = TorchEngine(spec, model=self.model)
        self.batch = _batch_size(len(context.train))
        self.trainers: dict[str, Trainer] = {}
        self.bar = -1

    def trainer(self, arm: Arm) -> Trainer:
        """The arm's trainer, its state loaded into the model."""
        if arm.name not in self.trainers:
            settings = Settings(learning_rate=arm.rate, batch_size=self.batch, seed=self.plan.seed)
            rows = self.rows[arm.form]
            digest = digest_of([str(settings), [(r.prompt, r.answer) for r in rows]])[:16]
            folder = self.plan.folder / arm.name.replace(", rate ", "-")
            self.trainers[arm.name] = Trainer(self.model, rows, settings, folder, digest)
        trainer = self.trainers[arm.name]
        trainer.restart()
        return trainer

    def find(self, **wanted: object) -> dict | None:
        """The journal's record with these fields."""
        return next((r for r in self.records if all(r.get(k) == v for k, v in wanted.items())), None)

    def note(self, record: dict) -> dict:
        """Write a record to the journal."""
        append_jsonl(self.journal, [record])
        self.records.append(record)
        return record

    def run(self, arm: Arm, until: int, decay: tuple[int, int] | None = None) -> None:
        """Train an arm up to a step, with a progress bar."""
        trainer = self.trainer(arm)
        if trainer.step >= until:
            return
        bar = self.context.reporter.begin(f"sft: {arm.name}", until)
        smooth: float | None = None
        try:
            for tick in trainer.run(until, decay=decay):
                smooth = tick.loss if smooth is None else 0.95 * smooth + 0.05 * tick.loss
                self.context.reporter.advance(
                    bar, tick.step, f"loss {smooth:.3f} · {tick.rows_per_s:.0f} rows/s"
                )
        finally:
            self.context.reporter.end(bar)

    def score(self, arm: Arm, step: int, rows: Sequence[Example]) -> dict:
        """The arm's dev score and loss after `step` steps, from the journal when it is there."""
        known = self.find(kind="score", arm=arm.name, step=step, n=len(rows))
        if known is not None:
            return known
        self.trainer(arm)
        bar = self.context.reporter.begin(f"sft: {arm.name} on {len(rows)} dev rows", len(rows))
        spec = self.specs[arm.form]
        prompts = prompts_for(spec, self.chat, rows, [[] for _ in rows])
        answers = ask(
            spec, self.chat, self.engine, prompts, lambda done, _: self.context.reporter.advance(bar, done)
        )
        self.context.reporter.end(bar)
        found = measurement(
            system=arm.name,
            split="dev",
            metric=self.context.metric,
            examples=rows,
            answers=answers,
            timing=Timing(seconds_per_answer=0.0, p50_s=0.0, p95_s=0.0, memory_mb=0.0),
        )
        texts = [a.text for a in answers]
        commonest = max(texts.count(t) for t in set(texts)) / len(texts)
        return self.note(
            {
                "kind": "score",
                "arm": arm.name,
                "step": step,
                "n": len(rows),
                "score": found.score,
                "loss": dev_loss(self.model, self.dev_rows[arm.form][: len(rows)]),
                "commonest": commonest,
            }
        )


def tune(context: Context, specs: dict[str, Spec], plan: Plan) -> Outcome:
    """Search, train, keep the best; once more at a third of the rate where the tune collapsed.

    Raises TrainingError where it collapses again.
    """
    state = Tune(context, specs, plan)
    arms = [Arm(form=form, rate=rate) for form in specs for rate in RATES]
    arms = [a for a in arms if a.form == next(iter(specs)) or a.rate == MIDDLE_RATE]
    total = _settle_length(state, Arm(form=arms[0].form, rate=MIDDLE_RATE))
    winner, searched = _search(state, arms, total)
    best = _train(state, winner, searched, total)
    notes = [
        f"{total} steps of {state.batch} rows planned ({total * state.batch / len(context.train):.1f} epochs)"
    ]
    if state.dropped:
        notes.append(f"{state.dropped} rows longer than {ANSWER_CONTEXT} tokens were left out of training")
    if _collapsed(context, best):
        notes.append(
            f"{winner.name} collapsed (score {best['score']:.3f}); trained again at a third of the rate"
        )
        winner = Arm(form=winner.form, rate=winner.rate / 3)
        best = _train(state, winner, 0, total)
        if _collapsed(context, best):
            raise TrainingError(
                f"the tune collapsed twice: {best['commonest']:.0%} of its answers are the same and it scores "
                f"{best['score']:.3f}; check the rows, or give it more with --budget"
            )
    trials = tuple(
        Trial(
            name=f"{r['arm']}, {r['step']} steps (loss {r['loss']:.3f})",
            score=r["score"],
            n=r["n"],
            seconds=0.0,
            chosen=r is best,
        )
        for r in state.records
        if r["kind"] == "score"
    )
    for trainer in state.trainers.values():
        trainer.close()
    what = f"LoRA r = 16, {winner.name}, {best['step']} steps of {state.batch}, answers as {winner.form}"
    return Outcome(
        form=winner.form, adapter=plan.folder / "best", what=what, trials=trials, notes=tuple(notes)
    )


def training_rows(context: Context, spec: Spec) -> list[Row]:
    """The training rows in token ids, those left out that are longer than the context."""
    limit = min(context.model.context, ANSWER_CONTEXT)
    return [row for row in _rows(context, spec, context.train) if row.tokens < limit]


def _rows(context: Context, spec: Spec, examples: Sequence[Example]) -> list[Row]:
    chat = context.pool.chat(context.model)
    prompts = prompts_for(spec, chat, examples, [[] for _ in examples])
    if spec.answer.form == "codes":
        by_label = dict(zip(spec.labels, candidates(spec, chat), strict=True))
        answers = [by_label[str(e.output)] for e in examples]
    else:
        answers = [chat.answer_ids(context.target(e), spec.style) for e in examples]
    return [Row(prompt=p, answer=a) for p, a in zip(prompts, answers, strict=True)]


def _batch_size(rows: int) -> int:
    return 4 if rows < 200 else 16 if rows > 5000 else 8


def _settle_length(state: Tune, arm: Arm) -> int:
    """How many steps fit the budget, from the speed of a few; settled once."""
    known = state.find(kind="plan")
    if known is not None:
        return known["steps"]
    ticks: list[Tick] = list(state.trainer(arm).run(PROBE_STEPS))
    seconds = sum(state.batch / t.rows_per_s for t in ticks[1:]) / max(1, len(ticks) - 1)
    affordable = int(0.85 * state.plan.budget_s / seconds)
    wanted = MOST_EPOCHS * state.trainer(arm).steps_per_epoch
    return state.note({"kind": "plan", "steps": max(PROBE_STEPS, min(affordable, wanted))})["steps"]


def _search(state: Tune, arms: list[Arm], total: int) -> tuple[Arm, int]:
    """Successive halving: all arms for a while, the better two for longer, on a third of the steps at most.

    Returns the winner and the steps that it has behind it.
    """
    first = int(total * SEARCH_SHARE / 2 / len(arms))
    if first < FEWEST_TRIAL_STEPS:
        return Arm(form=arms[0].form, rate=MIDDLE_RATE), 0
    rows = state.context.dev[:SEARCH_ROWS]
    ranked = _ranked(state, arms, first, rows)[:2]
    second = first + int(total * SEARCH_SHARE / 4)
    return _ranked(state, ranked, second, rows)[0], second


def _ranked(state: Tune, arms: list[Arm], steps: int, rows: Sequence[Example]) -> list[Arm]:
    sign = _sign(state.context)
    keys = []
    for place, arm in enumerate(arms):
        try:
            state.run(arm, steps)
            found = state.score(arm, steps, rows)
            keys.append((-sign * found["score"], found["loss"], place))
        except TrainingError as error:
            state.context.reporter.say(f"sft: {arm.name} left out: {error}")
            keys.append((math.inf, math.inf, place))
    return [arms[place] for *_, place in sorted(keys)]


def _train(state: Tune, arm: Arm, step: int, total: int) -> dict:
    """On from `step` at a constant rate until dev stops rising or three quarters are done, then decay to the end."""
    sign = _sign(state.context)
    dev = state.context.dev
    every = max(1, total // EVALUATIONS)
    plateau = int(total * (1 - DECAY_SHARE))
    best: dict | None = None
    waited = 0
    while step < plateau and waited < PATIENCE:
        step = min(plateau, (step // every + 1) * every)
        state.run(arm, step)
        found = _keep_best(state, arm, step, best, sign)
        waited = 0 if found is not best else waited + 1
        best = found
    end = min(total, step + max(1, int(step * DECAY_SHARE / (1 - DECAY_SHARE))))
    for stop in (step + (end - step) // 2, end):
        if stop > step:
            state.run(arm, stop, decay=(step, end))
            best = _keep_best(state, arm, stop, best, sign)
    assert best is not None and dev, "every run is scored at least once"
    return best


def _keep_best(state: Tune, arm: Arm, step: int, best: dict | None, sign: int) -> dict:
    """The better of `best` and the arm's score now; the better one's adapter is what lies in `best/`."""
    found = state.score(arm, step, state.context.dev)
    if best is not None and sign * found["score"] <= sign * best["score"]:
        return best
    if state.find(kind="best", arm=arm.name, step=step) is None:
        state.trainer(arm)
        with atomic_folder(state.plan.folder / "best") as draft:
            lora.save(state.model, draft, base=state.context.model.name)
        state.note({"kind": "best", "arm": arm.name, "step": step})
    return found


def _collapsed(context: Context, best: dict) -> bool:
    """One answer to everything though the targets differ, or a label score no better than the commonest label."""
    targets = [str(e.output) for e in context.dev]
    majority = max(targets.count(t) for t in set(targets)) / len(targets)
    if best["commonest"] > 0.95 and majority <= 0.95:
        return True
    return context.kind == "label" and context.metric == "accuracy" and best["score"] < majority


def _sign(context: Context) -> int:
    return 1 if SCORERS[context.metric].higher_is_better else -1
