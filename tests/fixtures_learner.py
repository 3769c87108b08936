"""A learner whose curve is known: no model, no clock."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rung.errors import TrainingError
from rung.rungs.below import BARE
from rung.rungs.tune import Pace, Plan
from rung.rungs.tuning import PROBE_STEPS, _tune
from rung.task import Tuning
from rung.training.loop import Tick
from rung.training.methods import METHODS, RATES, Method

BATCH = 10
SURE_RATE = RATES[1]
BARE_FORM = f"schema {BARE}"
DEV = [SimpleNamespace(output=label) for label in ("yes", "no") * 100]


@dataclass
class Learner:
    """Stands where `Tune` does. `curves` give an arm's score after a number of steps (default: 0.5)."""

    curves: dict[str, Any] = field(default_factory=dict)
    forms: tuple[str, ...] = ("codes", "words")
    budget_s: float = 1000.0
    row_s: float = 0.1
    n_rows: int = 1000
    breaks: dict[str, int] = field(default_factory=dict)
    commonest: float = 0.5
    cold: float = 1.0
    answer_s: float = 0.0
    too_long: float = 1.0
    learns_to_end: int = 0
    method: Method = field(default_factory=lambda: replace(METHODS["lora"], scaled=False))

    def __post_init__(self):
        bench = SimpleNamespace(metric="accuracy")
        self.context = SimpleNamespace(
            sign=1, dev=DEV, kind="label", bench=bench, limit=512, seconds_left=self.budget_s + 60
        )
        self.pace, self.tuning = Pace(), Tuning()
        self.base_said = None
        self.specs = dict.fromkeys(self.forms)
        self.rows = {form: range(self.n_rows) for form in self.forms}
        self.batch, self.left_out = BATCH, 0
        self.closing_rows = 40
        self.plan = Plan(folder=Path("nowhere"), budget_s=self.budget_s, reserve_s=60.0, seed=0)
        self.records: list[dict] = []
        self.steps: dict[str, int] = {}
        self.decays: list[tuple[int, int]] = []

    def settle_batch(self, form, training_s):
        """As it is."""

    def trainer(self, arm):
        return SimpleNamespace(step=self.steps.get(arm.name, 0), steps_per_epoch=-(-self.n_rows // BATCH))

    def run(self, arm, until, decay=None):
        begun = self.steps.get(arm.name, 0)
        if until > self.breaks.get(arm.name, until):
            raise TrainingError(f"{arm.name} broke")
        self.steps[arm.name] = max(begun, until)
        if decay:
            self.decays.append(decay)
        seconds = self.row_s * (self.cold if begun == 0 and until <= PROBE_STEPS else 1.0)
        whole = Tick(
            step=0,
            loss=1.0,
            grad_norm=1.0,
            seconds=BATCH * seconds,
            rows_per_s=1 / seconds,
            tokens_per_s=9 / seconds,
        )
        ticks = [replace(whole, step=k) for k in range(begun, until)]
        self.pace.steps += len(ticks)
        self.pace.training_s += sum(tick.seconds for tick in ticks)
        self.context.seconds_left -= sum(tick.seconds for tick in ticks)
        return ticks

    def answers(self, arm, rows, *, cut=False):
        long = 1.0 if cut or self.steps.get(arm.name, 0) >= self.learns_to_end else self.too_long
        self.pace.answer_s = max(1e-9, long * self.answer_s)
        self.context.seconds_left -= len(rows) * long * self.answer_s
        return []

    def find(self, **wanted):
        return next((r for r in self.records if all(r.get(k) == v for k, v in wanted.items())), None)

    def note(self, record):
        self.records.append(record)
        return record

    def score(self, arm, step, rows):
        if known := self.find(kind="score", arm=arm.name, step=step, n=len(rows)):
            return known
        assert self.steps[arm.name] == step, "a score is that of the step it is booked under"
        self.answers(arm, rows)
        value = self.curves.get(arm.name, lambda steps: 0.5)(self.steps[arm.name])
        found = {"kind": "score", "arm": arm.name, "step": step, "n": len(rows), "score": value}
        return self.note({**found, "value": value, "loss": 1.0 - value, "commonest": self.commonest})

    def keep(self, arm, step):
        if self.find(kind="best", arm=arm.name, step=step) is None:
            self.note({"kind": "best", "arm": arm.name, "step": step})

    @property
    def spent_s(self):
        return sum(self.steps.values()) * BATCH * self.row_s

    @property
    def kept(self):
        return [r for r in self.records if r["kind"] == "best"][-1]


def rising(speed):
    return lambda steps: 0.55 + 0.4 * (1 - 0.5 ** (speed * steps / 100))


def tuned(learner):
    return _tune(learner)  # type: ignore[arg-type]
