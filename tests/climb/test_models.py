"""A climb on several models: what it is made of, what is compared, and going on where it was."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest

from rung.climb.checking import CheckOptions, check_rows, smallest
from rung.climb.climb import Options, climb, load_climb
from rung.climb.decide import decide
from rung.climb.names import candidate_name, rung_of
from rung.climb.steps import Base, bases, steps_of
from rung.errors import EngineError, ModelError, TaskError
from rung.models.resolve import Model, resolve
from rung.records import Answer, Candidate, Example
from rung.report import summary
from rung.report.html import report_html
from rung.rungs import LADDER
from rung.rungs.base import Built, ModelFree
from rung.rungs.prompt import Prompt
from rung.scoring.measure import measurement
from rung.spec import Spec
from rung.system import System, save
from rung.task import DataFiles, Task, load_task
from tests.fixtures_climb import Log, constant_head, make_tiny_gguf


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, Path]:
    """`wide.gguf` has two layers, `slim.gguf` one."""
    folder = tmp_path_factory.mktemp("models")
    wide = make_tiny_gguf(folder / "wide.gguf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.fixtures_climb.LAYERS", 1)
        return wide, make_tiny_gguf(folder / "slim.gguf")


@dataclass
class Bound:
    """A rung that rests on the model it is given, and notes it; it may fail on one of them."""

    name: str = "sft"
    fails_on: str = ""
    given: list[tuple[str, str, float]] = field(default_factory=list)

    def skip(self, context):
        return None

    def build(self, context):
        self.given.append((context.model.name, context.ref.source, context.seconds_left))
        if context.model.name == self.fails_on:
            raise EngineError("it died")
        return one_label(context, self.name, context.ref)


@dataclass
class Free(Bound):
    """One that rests on none."""

    name: str = "head"
    model_free: Literal[True] = True

    def build(self, context):
        return one_label(context, self.name, None)


def one_label(context, rung, ref):
    """A System that gives every row one label, whatever model it names."""
    labels = context.labels
    spec = Spec(rung=rung, task="t", kind="label", labels=labels, engine="head", features="tfidf", model=ref)
    system = save(context.work / "s", spec, constant_head("billing", labels))
    return Built(system=system, what="one label")


def with_ladder(monkeypatch, *rungs):
    monkeypatch.setattr("rung.climb.options.LADDER", rungs)


def test_rungs_without_a_model_are_climbed_once_and_the_others_on_each_model_smallest_first(
    models, task, tmp_path, monkeypatch
):
    wide, slim = models
    sft = Bound()
    with_ladder(monkeypatch, Free(), Prompt(), sft)
    log = Log()
    options = Options(models=(str(wide), str(slim)), out=tmp_path / "run", budget_s=600)
    result, run = climb(task, options, log)
    names = ["head", "prompt@slim", "prompt@wide", "sft@slim", "sft@wide"]
    assert [r.rung for r in result.results] == names
    assert [r.order for r in result.results] == sorted({r.order for r in result.results})
    assert [r.model for r in result.results] == [None, "slim", "wide", "slim", "wide"]
    assert [(name, Path(source).name) for name, source, _ in sft.given] == [
        ("slim", "slim.gguf"),
        ("wide", "wide.gguf"),
    ]
    assert [name for name, _, _ in result.models] == ["slim", "wide"]
    assert "slim: 0 M parameters, licence mit" in log.text and "wide: 0 M parameters, licence mit" in log.text
    digests = {str(path): resolve(str(path)).digest for path in models}
    for name in names[1:]:
        system = System.load(run / "rungs" / name / "system")
        assert system.spec.model is not None
        assert system.spec.model.digest == digests[system.spec.model.source]
        assert Path(system.spec.model.source).stem == name.partition("@")[2]
        assert system.spec.rung == name.partition("@")[0]
    compared = {(c.cheaper, c.dearer) for c in result.dev_decision.comparisons}
    assert compared <= {(a, b) for at, a in enumerate(names) for b in names[at + 1 :]}
    assert load_climb(run) == result
    page = report_html(result, run)
    assert '<th scope="col" class="l">model</th>' in page and page.count('<td class="l">slim</td>') == 2
    assert [row.model for row in summary.rows(result)] == ["", "slim", "wide", "slim", "wide"]


def test_with_one_model_names_folders_and_the_run_are_as_they_were(models, task, tmp_path, monkeypatch):
    with_ladder(monkeypatch, Free(), Bound())
    result, run = climb(task, Options(models=(str(models[0]),), out=tmp_path / "run", budget_s=600), Log())
    assert [(r.rung, r.order) for r in result.results] == [("head", 0), ("sft", 1)]
    assert sorted(path.name for path in (run / "rungs").iterdir()) == ["head", "sft"]
    assert json.loads((run / "run.json").read_text())["model"] == resolve(str(models[0])).digest
    assert '<th scope="col" class="l">model</th>' not in report_html(result, run)


def test_a_climb_that_is_taken_up_again_builds_only_what_is_missing(models, task, tmp_path, monkeypatch):
    sft = Bound(fails_on="wide")
    with_ladder(monkeypatch, Free(), sft)
    options = Options(models=tuple(map(str, models)), out=tmp_path / "run", budget_s=600)
    first, run = climb(task, options, Log())
    assert [r.failed for r in first.results] == [None, None, "it died"]
    (run / "climb.json").unlink()
    with_ladder(monkeypatch, Free(), again := Bound())
    second, _ = climb(task, options, Log())
    assert [name for name, _, _ in again.given] == ["wide"]
    assert [r.failed for r in second.results] == [None, None, None]
    swapped = replace(options, models=tuple(map(str, reversed(models))))
    with pytest.raises(Exception, match="belongs to another climb: task.models"):
        climb(task, swapped, Log())


def test_the_budget_is_shared_by_all_models(models, task, tmp_path, monkeypatch):
    with_ladder(monkeypatch, sft := Bound())
    options = Options(models=tuple(map(str, models)), out=tmp_path / "run", budget_s=1000.0)
    climb(task, options, Log())
    (_, _, first), (_, _, second) = sft.given
    assert 400 < first < 500 and 800 < second < 1000


def climbing_on(*models: Path) -> Task:
    return Task(data=DataFiles(train=Path("rows.jsonl")), models=tuple(map(str, models)))


def test_one_models_weights_under_two_names_are_refused(models, tmp_path):
    copied = tmp_path / "other.gguf"
    copied.write_bytes(models[0].read_bytes())
    with pytest.raises(TaskError, match="are the same weights; name one"):
        bases(climbing_on(models[0], copied), Log())


def test_models_of_one_name_are_told_apart_by_their_digests(models, tmp_path):
    copied = tmp_path / "wide.gguf"
    copied.write_bytes(models[1].read_bytes())
    labels = [base.label for base in bases(climbing_on(models[0], copied), Log())]
    digests = [resolve(str(path)).digest[:6] for path in (copied, models[0])]
    assert labels == [f"wide-{digest}" for digest in digests]


def model(name: str, parameters: int) -> Base:
    found = Model(
        name=name,
        kind="generate",
        gguf=None,
        folder=None,
        digest=name,
        licence="mit",
        architecture="llama",
        context=512,
        parameters=parameters,
        template=None,
    )
    return Base(model=found, given=name, label=name)


def test_the_steps_of_the_ladder_on_two_models():
    rungs, task = list(enumerate(LADDER)), Task(data=DataFiles(train=Path("rows.jsonl").absolute()))
    steps = steps_of(rungs, [model("a", 1), model("b", 2)], task)
    assert [s.order for s in steps] == sorted({s.order for s in steps})
    for rung in LADDER:
        names = [s.name for s in steps if s.rung is rung]
        free = isinstance(rung, ModelFree)
        assert names == ([rung.name] if free else [f"{rung.name}@a", f"{rung.name}@b"])
    assert {rung.name for rung in LADDER if isinstance(rung, ModelFree)} == {"head", "distill_head", "api"}
    alone = steps_of(rungs, [model("a", 1)], task)
    assert [(s.name, s.order) for s in alone] == [(rung.name, at) for at, rung in rungs]
    assert rung_of(candidate_name("sft", "a@b")) == "sft" == candidate_name("sft", None)


def test_holm_counts_every_candidate_and_the_margin_knows_every_zero_shot():
    rows = [Example(id=f"r{at:03}", input=str(at), output="a") for at in range(200)]

    def candidate(name: str, order: int, right: int) -> Candidate:
        answers = [Answer(text="", value="a" if at < right else "b") for at in range(200)]
        return Candidate(
            rung=name,
            system=name,
            order=order,
            measurement=measurement(
                system=name, split="dev", metric="accuracy", examples=rows, answers=answers
            ),
            usd_per_1000=1.0,
        )

    ladder = [("prompt@a", 100), ("prompt@b", 150), ("sft@a", 158), ("sft@b", 160)]
    found = decide(
        [candidate(name, order, right) for order, (name, right) in enumerate(ladder)],
        targets={row.id: row.output for row in rows},
        groups=None,
        seed=0,
        split="dev",
    )
    from_cheapest = [c for c in found.comparisons if c.cheaper == "prompt@a"]
    assert len(from_cheapest) == 3
    largest = max(from_cheapest, key=lambda c: c.p)
    assert max(c.p_holm for c in from_cheapest) >= largest.p
    # A quarter of the gain over the better zero-shot, 5 points, is under two points.
    assert found.margin == pytest.approx(0.05 / 4)


def test_a_check_goes_by_the_smallest_local_model_that_is_here(models, task, tmp_path):
    wide, slim = map(str, models)
    named = ("openai:gpt-5-mini", "not-here.gguf", wide, slim)
    looked = check_rows(task, CheckOptions(models=named, out=tmp_path / "out", show=1), Log())
    assert looked.shown and smallest(load_task(task).model_copy(update={"models": named})).name == "slim"
    with pytest.raises(ModelError, match="'not-here.gguf' isn't on this machine"):
        check_rows(task, CheckOptions(models=named[:2], out=tmp_path / "out", show=1), Log())
