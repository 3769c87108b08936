"""Rungs that go on from the System of another one."""

from dataclasses import dataclass, replace

import pytest

from rung.climb.below import candidate_below
from rung.climb.climb import Options, climb
from rung.climb.steps import Base, Step
from rung.errors import EngineError
from rung.records import RungResult
from rung.rungs.api import Api
from rung.system import System
from tests.climb.test_climb import Always, with_ladder
from tests.fixtures_climb import Log


@pytest.fixture
def options(tiny, tmp_path):
    return Options(models=(str(tiny),), out=tmp_path / "run", budget_s=600)


@dataclass
class After(Always):
    """Goes on from another rung, and remembers what it was given."""

    after: str = "one"
    reason: str | None = None
    given: tuple[dict[str, System], ...] = ()

    def skip(self, context):
        return self.reason

    def build(self, context):
        self.given += (dict(context.built),)
        return super().build(context)


@dataclass
class Timed(Always):
    """Remembers how long it has."""

    left_s: float = 0.0

    def build(self, context):
        self.left_s = context.seconds_left
        return super().build(context)


def test_it_is_given_the_systems_of_the_rungs_before_it_and_no_others(task, options, monkeypatch):
    after = After("after")
    names = with_ladder(monkeypatch, Always("one"), Always("two", label="two"), after, Always("three"))
    result, run = climb(task, replace(options, rungs=names), Log())
    (given,) = after.given
    assert given.keys() == {"one", "two"}
    assert [given[r.rung].digest for r in result.results[:2]] == [r.system for r in result.results[:2]]
    assert given["one"].folder == run / "rungs" / "one" / "system"


@dataclass
class Upon(After):
    """Tells what it goes on from."""

    def build(self, context):
        return replace(super().build(context), upon=self.after)


def test_a_result_names_what_the_rung_rests_on(task, options, monkeypatch):
    names = with_ladder(monkeypatch, Always("one"), Upon("after"))
    result, _ = climb(task, replace(options, rungs=names), Log())
    assert [r.upon for r in result.results] == [None, "one"]


def test_of_several_models_it_is_the_rung_on_the_same_one_by_its_whole_name():
    before = [RungResult(rung=f"sft@{model}", order=at, model=model) for at, model in enumerate("ab")]
    on_b = Base(model=None, given="b", label="b")  # type: ignore[arg-type]
    step = Step(name="preference@b", order=2, rung=After("preference"), base=on_b)
    assert candidate_below("sft", step, before) == "sft@b"
    assert candidate_below("prompt", step, before) is None and candidate_below(None, step, before) is None
    free = Step(name="api", order=3, rung=Api(), base=on_b)
    assert candidate_below("sft@a", free, before) == "sft@a", "it's told of all models by their whole names"


def test_a_climb_that_is_taken_up_again_gives_it_the_same_systems(task, options, monkeypatch):
    after = After("after")
    names = with_ladder(monkeypatch, Always("one"), after)
    _, run = climb(task, replace(options, rungs=names), Log())
    (run / "rungs" / "after" / "result.json").unlink()
    (run / "climb.json").unlink()
    climb(task, replace(options, rungs=names), Log())
    first, second = after.given
    assert first["one"].digest == second["one"].digest and second["one"].folder.is_dir()


def test_without_that_system_it_is_skipped_with_the_way_out(task, options, monkeypatch):
    after, alone = After("after"), After("alone", after="nine")
    broken = Always("one", fault=EngineError("it died"))
    names = with_ladder(monkeypatch, broken, Always("two"), after, alone)
    result, _ = climb(task, replace(options, rungs=names), Log())
    said = [r.skipped for r in result.results]
    assert said[:2] == [None, None] and result.results[0].failed == "it died"
    assert said[2] is not None and "the System of one, and this run has none" in said[2]
    assert said[3] is not None and "--rungs nine,alone" in said[3]
    assert not after.given and not alone.given


def test_no_time_is_kept_for_one_that_does_not_apply(task, options, monkeypatch):
    left = {}
    for reason in (None, "no preferences"):
        first = Timed("one")
        names = with_ladder(monkeypatch, first, After("after", reason=reason))
        folder = options.out.parent / str(reason)
        climb(task, replace(options, rungs=names, budget_s=100.0, out=folder), Log())
        left[reason] = first.left_s
    assert left[None] < 51 and left["no preferences"] > 60
