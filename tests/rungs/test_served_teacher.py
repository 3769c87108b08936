"""A bigger model that was tuned here and is served here: the teacher and the rival of a smaller one.

Nothing is scripted: `rung serve` answers as it would anybody, over the protocol, and bills what it counts.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rung import evaluate
from rung.checks.rows import prepare
from rung.climb.climb import Options, climb
from rung.climb.hosted import PAID_FILE, answers_usd, hosted_models
from rung.engines.till import Till
from rung.evaluate import Bench, Store
from rung.records import Example, Json
from rung.rungs import coursing, length, tuning, whitebox
from rung.rungs.api import prices
from rung.rungs.base import Context
from rung.rungs.distill import Distill
from rung.rungs.instructions import instructions
from rung.rungs.prompt import Prompt
from rung.rungs.sft import Sft
from rung.rungs.taught import inputs, teach
from rung.rungs.teacher import teacher_system
from rung.system import Pool, System
from rung.task import load_task
from tests.fixtures_climb import WIDTH, Log, label_rows, make_tiny_gguf, opened, write_rows
from tests.fixtures_hosted import KEY, PRICES, topic
from tests.fixtures_serve import Server


@dataclass(frozen=True)
class Mentor:
    """The System, its server, and the instruction that rung asks with."""

    system: System
    server: Server
    told: str

    @property
    def name(self) -> str:
        return f"openai:mentor@{self.server.address}/v1"

    def tokens(self, part: str) -> float:
        """What the server says that it read or wrote so far, for whoever watches it."""
        counter = rf'^rung_tokens_total{{part="{part}",system="mentor"}} (\S+)$'
        found = re.search(counter, self.server.metrics(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    @property
    def usd(self) -> float:
        """The price of all that."""
        read, written = self.tokens("prompt"), self.tokens("answer")
        return (read * PRICES.input_usd_per_m + written * PRICES.output_usd_per_m) / 1e6


def task_of(folder: Path, rows: list[dict], **keys) -> Path:
    """A task of texts: what a row's words are about is to be said in a word."""
    write_rows(folder / "rows.jsonl", rows)
    task = {"data": {"train": "rows.jsonl"}, "output": {"kind": "text"}, "metric": "exact", **keys}
    (folder / "task.yaml").write_text(json.dumps(task), encoding="utf-8")
    return folder


def free(count: int, seed: int, context: str | None = None) -> tuple[Example, ...]:
    """Inputs without outputs."""
    rows = enumerate(label_rows(count, seed))
    return tuple(Example(id=f"free{n}", input=row["input"], output=None, context=context) for n, row in rows)


def right(rows: Sequence[Example], said: Sequence[Json]) -> float:
    """The share of right answers, by the words of the inputs."""
    return sum(one == topic(row.input) for row, one in zip(rows, said, strict=True)) / len(rows)


def said(system: System, rows: Sequence[Example], pool: Pool) -> list[Json]:
    """What a System answers."""
    return [answer.value for answer in system.answer(rows, pool)]


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    return make_tiny_gguf(tmp_path_factory.mktemp("student") / "student.gguf")


@pytest.fixture(scope="module")
def mentor(student, tmp_path_factory):
    """Twice as wide, and tuned on rows with the instruction that it's asked with here and on rows without."""
    folder = tmp_path_factory.mktemp("mentor")
    wide = make_tiny_gguf(folder / "wide.gguf", width=2 * WIDTH)
    with opened(student, task_of(folder / "asked", label_rows(60, 1)), folder / "asking") as context:
        told = instructions(context)["plain"]
    rows = label_rows(400, 2)
    rows[::2] = [{**row, "context": told} for row in rows[::2]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "MOST_EPOCHS", 6)
        patch.setattr(length, "MOST_EVALUATIONS", 2)
        with opened(wide, task_of(folder / "task", rows), folder / "tune") as context:
            system = Sft().build(context).system
    with Server(f"mentor={system.folder}", home=folder) as server:
        yield Mentor(system=system, server=server, told=told)


@pytest.fixture(scope="module")
def untuned(student, tmp_path_factory) -> System:
    """What the student is without a teacher: its best prompt."""
    folder = tmp_path_factory.mktemp("untuned")
    with opened(student, task_of(folder / "task", label_rows(100, 3)), folder) as context:
        return Prompt().build(context).system


@pytest.fixture
def context(student, tmp_path, monkeypatch):
    """A student of few labelled rows, and inputs for its teacher."""
    monkeypatch.setenv("RUNG_API_KEY", KEY)
    monkeypatch.setattr(tuning, "MOST_EPOCHS", 4)
    monkeypatch.setattr(length, "MOST_EVALUATIONS", 2)
    monkeypatch.setattr(coursing, "LOOKS", 2)
    with opened(student, task_of(tmp_path / "task", label_rows(100, 3)), tmp_path) as found:
        yield replace(found, unlabelled=free(100, 4))


def taught_by(context: Context, teacher: str) -> Context:
    """The context of a task with that teacher, and with a till where it's hosted."""
    task = context.task.model_copy(update={"teacher": teacher, "prices": PRICES})
    if hosted_models(task):
        context.pool.till = Till(context.folder / PAID_FILE, 1.0, prices(task, hosted_models(task)))
    return replace(context, task=task)


def test_the_bigger_model_knows_what_the_student_does_not_asked_either_way(mentor, untuned, context):
    for told in (None, mentor.told):
        rows = free(90, 5, told)
        assert right(rows, said(mentor.system, rows, context.pool)) > 0.75
    assert right(rows, said(untuned, rows, context.pool)) < 0.5


def test_a_served_model_teaches_over_the_protocol_and_bills_what_it_counts(mentor, untuned, context):
    context = taught_by(context, mentor.name)
    before_usd = mentor.usd
    before = context.measure(untuned, context.dev, "before").score
    with context.paying():
        made = Distill().build(context)
    paid = [json.loads(line) for line in (context.folder / PAID_FILE).read_text().splitlines()]
    spent = mentor.usd - before_usd
    assert spent > 0 and sum(line["usd"] for line in paid) == pytest.approx(spent)
    assert made.spent_usd == pytest.approx(spent)
    read = sum(line["answer"]["prompt_tokens"] for line in paid)
    written = sum(line["answer"]["completion_tokens"] for line in paid)
    assert read > 10 * written > 0
    kept = teach(context, teacher_system(context, mentor.name), inputs(context)).rows
    assert len(kept) > 0.6 * len(context.unlabelled)
    own = right(context.unlabelled, said(untuned, context.unlabelled, context.pool))
    assert right(kept, [row.output for row in kept]) > 0.75 > own
    assert context.measure(made.system, context.dev, "after").score > before
    assert any("the teacher was paid $" in note for note in made.notes)


def test_the_same_model_teaches_as_a_system_of_this_machine_with_its_probabilities(
    mentor, untuned, context, monkeypatch
):
    monkeypatch.setattr(whitebox, "MOST_PASSES", 1)
    context = taught_by(context, str(mentor.system.folder))
    before_usd = mentor.usd
    before = context.measure(untuned, context.dev, "before").score
    made = Distill().build(context)
    kept = teach(context, mentor.system, inputs(context)).rows
    assert len(kept) > 0.6 * len(context.unlabelled)
    own = right(context.unlabelled, said(untuned, context.unlabelled, context.pool))
    assert right(kept, [row.output for row in kept]) > 0.75 > own
    assert context.measure(made.system, context.dev, "after").score > before
    assert any(note.startswith("on policy: ") and "reverse KL" in note for note in made.notes)
    assert made.spent_usd == 0 and mentor.usd == before_usd, "the server isn't asked"


def test_two_that_are_served_here_are_rivals_of_one_climb_and_the_one_that_knows_more_wins(
    mentor, untuned, student, tmp_path, monkeypatch
):
    monkeypatch.setenv("RUNG_API_KEY", KEY)
    monkeypatch.setenv("RUNG_HOME", str(tmp_path / "home"))
    with Server(f"plain={untuned.folder}", home=tmp_path) as server:
        plain = f"openai:plain@{server.address}/v1"
        cheap = PRICES.model_copy(update={"input_usd_per_m": 0.01, "output_usd_per_m": 0.04})
        prices = {mentor.name: PRICES.model_dump(), plain: cheap.model_dump()}
        task_of(tmp_path, label_rows(270, 6), models=[str(student), mentor.name, plain], prices=prices)
        before_usd = mentor.usd
        result, _ = climb(tmp_path, Options(out=tmp_path / "run", rungs=("api",), budget_s=300), Log())
    knows, guesses = result.results
    assert knows.rung.startswith("api@mentor@") and guesses.rung.startswith("api@plain@")
    assert knows.dev is not None and guesses.dev is not None
    assert knows.dev.score > 0.75 and guesses.dev.score < 0.5
    assert 0 < guesses.usd_per_1000 < knows.usd_per_1000 / 10
    assert result.decision.chosen == result.decision.best == knows.rung
    won = {(c.cheaper, c.dearer) for c in result.decision.comparisons if c.wins}
    assert (guesses.rung, knows.rung) in won
    rows, tests = len(knows.dev.predictions), result.n_test
    spent = knows.usd_per_1000 / 1000 * (rows + tests)
    assert mentor.usd - before_usd == pytest.approx(spent, rel=0.1), "each is billed by its own server"


def test_as_a_rival_it_scores_what_the_system_itself_does_and_costs_tokens_at_their_prices(
    mentor, student, tmp_path, monkeypatch
):
    monkeypatch.setenv("RUNG_API_KEY", KEY)
    monkeypatch.setenv("RUNG_HOME", str(tmp_path / "home"))
    names = {"models": [str(student), mentor.name], "prices": PRICES.model_dump()}
    task_of(tmp_path, label_rows(200, 6), **names)
    before_usd = mentor.usd
    options = Options(out=tmp_path / "run", rungs=("api",), budget_s=300)
    result, run = climb(tmp_path, options, Log())
    paid = [json.loads(line) for line in (run / PAID_FILE).read_text().splitlines()]
    assert sum(line["usd"] for line in paid) == pytest.approx(mentor.usd - before_usd)
    (api,) = result.results
    prepared = prepare(tmp_path, options)
    assert api.dev is not None and len(api.dev.predictions) == len(prepared.splits.dev)
    dev = [replace(row, context=mentor.told) for row in prepared.splits.dev]
    with Pool(threads=1, parallel=4) as pool:
        own = mentor.system.answer(dev, pool)
        bench = Bench(pool=pool, store=Store(tmp_path / "answers"), metric=api.dev.metric)
        assert api.dev.score == evaluate.score_of(dev, own, bench) > 0.75
    given = {one.example_id: one.answer for one in api.dev.predictions}
    assert [given[row.id].value for row in dev] == [answer.value for answer in own]
    assert api.dev.prompt_tokens == pytest.approx(sum(a.prompt_tokens for a in own) / len(own))
    read, written = api.dev.prompt_tokens, api.dev.completion_tokens
    usd = 1000 * (read * PRICES.input_usd_per_m + written * PRICES.output_usd_per_m) / 1e6
    assert answers_usd(api.dev, api.price, load_task(tmp_path)) == pytest.approx(usd)
