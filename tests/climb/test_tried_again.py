"""A finished climb goes on with a rung that something outside it kept from being scored."""

import json
import shutil
from dataclasses import dataclass, replace

import pytest

from rung.climb.climb import Options, climb
from rung.compare.sides import side
from rung.errors import EngineError, RunError, SystemFolderError, TrainingError
from rung.models._cache import cache_dir, made_once
from rung.rungs.api import Api
from rung.system import System, copy
from tests.climb.test_climb import Always, with_ladder
from tests.climb.test_hosted import of, options, write_task
from tests.fixtures_climb import Log, label_rows
from tests.fixtures_hosted import KEY, Hosted, as_asked


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNG_API_KEY", KEY)
    monkeypatch.setenv("RUNG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("rung.engines.endpoint.BACKOFF_S", 0.01)


def test_a_server_that_refused_is_asked_again_by_the_same_command(tiny, tmp_path, monkeypatch):
    with Hosted(as_asked) as server:
        task = write_task(tmp_path / "task", tiny, server, label_rows(270))
        both = replace(options(tmp_path / "run"), rungs=with_ladder(monkeypatch, Always("one"), Api()))
        server.faults = [(401, {"error": {"message": "bad key"}}, {})] * 8
        result, _ = climb(task, both, Log())
        assert "refused the key" in (of(result).failed or "") and result.decision.chosen == "one"
        server.faults.clear()
        log = Log()
        result, run = climb(task, both, log)
        assert f"going on with {run}: api is tried again" in log.text
        assert of(result).dev is not None and result.decision.chosen == "api" and result.openings == 2
        log = Log()
        climb(task, both, log)
        assert "is complete" in log.text


def test_the_best_on_dev_that_the_cap_keeps_from_the_test_is_not_passed_over(tiny, tmp_path, monkeypatch):
    with Hosted(as_asked) as server:
        task = write_task(tmp_path / "task", tiny, server, label_rows(270))
        both = replace(options(tmp_path / "run"), rungs=with_ladder(monkeypatch, Always("one"), Api()))
        whole, _ = climb(task, replace(both, out=tmp_path / "whole"), Log())
        short, run = climb(task, replace(both, api_usd=0.75 * whole.paid_usd), Log())
        assert short.dev_decision.chosen == "api" and of(short, "one").test is not None
        assert (short.decision.kind, short.decision.chosen, short.winner) == ("no_verdict", None, None)
        assert "No verdict: api, chosen on dev, has no test score ($" in short.decision.sentence
        assert not (run / "winner").exists()
        ended, _ = climb(task, both, Log())
        assert (ended.decision.chosen, of(ended).test.score) == ("api", 1.0)


class Noted(Always):
    """A rung that was built to the cap of what may be paid; it may break."""

    built = 0
    broken = False

    def build(self, context):
        if Noted.broken:
            raise EngineError("it died")
        Noted.built += 1
        cap = f"one more could pass the cap of ${context.pool.till.cap_usd:g}; raise --api-usd"
        return replace(super().build(context), notes=(f"the search ended early: {cap}",))


@pytest.fixture(autouse=True)
def as_new(monkeypatch):
    monkeypatch.setattr(Noted, "built", 0)


def test_a_rung_that_was_built_to_the_cap_is_built_again_under_a_higher_one(tiny, tmp_path, monkeypatch):
    names = with_ladder(monkeypatch, Always("one"), Noted("two"))
    with Hosted(as_asked) as server:
        task = write_task(tmp_path / "task", tiny, server, label_rows(270))
        for cap, built in ((1.0, 1), (1.0, 1), (2.0, 2)):
            climb(task, replace(options(tmp_path / "run", api_usd=cap), rungs=names), Log())
            assert Noted.built == built


@pytest.mark.parametrize(
    ("broken", "why"), [(False, "no time of the budget is left to go on with it"), (True, "it died")]
)
def test_one_that_nothing_more_comes_of_stays_as_it_was(broken, why, tiny, tmp_path, monkeypatch):
    names = with_ladder(monkeypatch, Always("one"), Noted("two"))
    with Hosted(as_asked) as server:
        task = write_task(tmp_path / "task", tiny, server, label_rows(270))
        asked = replace(options(tmp_path / "run", api_usd=1.0), rungs=names)
        first, run = climb(task, asked, Log())
        if not broken:
            (run / "clock.json").write_text(json.dumps({"seconds": 10_000.0, "building": {}}))
        monkeypatch.setattr(Noted, "broken", broken)
        log = Log()
        second, _ = climb(task, replace(asked, api_usd=2.0), log)
        assert f"two stays as it was: {why}" in log.text and Noted.built == 1
        before, after = of(first, "two"), of(second, "two")
        assert before.dev is not None and after.dev == before.dev
        assert (after.system, after.notes) == (before.system, before.notes)
        assert second.decision == first.decision
        log = Log()
        climb(task, replace(asked, api_usd=2.0), log)
        assert "is complete" in log.text


class Trained(Noted):
    """One that needs a minute and a half, and settles whether it has them."""

    def build(self, context):
        if not context.in_time("train", 90.0):
            raise TrainingError("too short a time to train in")
        return super().build(context)


def clock_at(run, seconds: float, **building: float) -> None:
    (run / "clock.json").write_text(json.dumps({"seconds": seconds, "building": building}))


def told(result) -> tuple:
    """What is said of the rung that was built to the cap."""
    two = of(result, "two")
    return two.system, two.dev, two.notes, two.build_s


def test_what_the_clock_settled_for_the_first_building_does_not_hold_for_a_second(
    tiny, tmp_path, monkeypatch
):
    names = with_ladder(monkeypatch, Always("one"), Trained("two"))
    with Hosted(as_asked) as server:
        task = write_task(tmp_path / "task", tiny, server, label_rows(270))
        asked = replace(options(tmp_path / "run", api_usd=1.0), rungs=names)
        first, run = climb(task, asked, Log())
        clock_at(run, 540.0)
        log = Log()
        second, _ = climb(task, replace(asked, api_usd=2.0), log)
        assert "two stays as it was: too short a time to train in" in log.text and Noted.built == 1
        assert told(second) == told(first)
        clock_at(run, 240.0, two=230.0)
        third, _ = climb(task, replace(asked, api_usd=3.0), Log())
        assert Noted.built == 2 and "of $3;" in of(third, "two").notes[0]
        assert of(first, "two").build_s < 100 and of(third, "two").build_s > 230, "both times"
        assert of(third, "two").took_s < 100


def test_what_a_first_building_took_is_not_taken_off_the_seconds_share(tiny, tmp_path, monkeypatch):
    names = with_ladder(monkeypatch, Always("one"), Trained("two"), Trained("three"))
    with Hosted(as_asked) as server:
        task = write_task(tmp_path / "task", tiny, server, label_rows(270))
        asked = replace(options(tmp_path / "run", api_usd=1.0), rungs=names)
        _, run = climb(task, asked, Log())
        assert Noted.built == 2
        clock_at(run, 300.0, two=320.0, three=10.0)
        log = Log()
        climb(task, replace(asked, api_usd=2.0), log)
        assert "two stays as it was" not in log.text and Noted.built == 4


@dataclass
class Turning(Noted):
    """One that gives another label each time that it is built."""

    labels: tuple[str, ...] = ()

    def build(self, context):
        self.label = self.labels[Noted.built]
        return super().build(context)


@pytest.mark.parametrize(("labels", "better"), [(("billing", "two"), False), (("two", "billing"), True)])
def test_a_second_building_takes_the_place_of_the_first_unless_it_is_worse_on_dev(
    labels, better, tiny, tmp_path, monkeypatch
):
    names = with_ladder(monkeypatch, Always("one"), Turning("two", labels=labels))
    with Hosted(as_asked) as server:
        task = write_task(tmp_path / "task", tiny, server, label_rows(270))
        asked = replace(options(tmp_path / "run", api_usd=1.0), rungs=names)
        first, run = climb(task, asked, Log())
        log = Log()
        second, _ = climb(task, replace(asked, api_usd=2.0), log)
        there = System.load(run / "rungs" / "two" / "system").digest
        assert there == of(second, "two").system and Noted.built == 2
        assert (there != of(first, "two").system) == better
        assert ("two stays as it was: built on it is worse on dev, .0" in log.text) != better
        if not better:
            assert told(second) == told(first)
        (run / "climb.json").unlink()
        third, _ = climb(task, replace(asked, api_usd=2.0), Log())
        assert of(third, "two").dev == of(second, "two").dev and Noted.built == 2, "known by now"


@pytest.mark.parametrize("at", ["guarded", "copy", "dump"])
def test_one_that_is_stopped_while_it_is_built_on_has_no_score_of_one_system_and_another_beside_it(
    at, tiny, tmp_path, monkeypatch
):
    def killed(*given):
        raise KeyboardInterrupt

    names = with_ladder(monkeypatch, Always("one"), Turning("two", labels=("two", "billing", "billing")))
    with Hosted(as_asked) as server:
        task = write_task(tmp_path / "task", tiny, server, label_rows(270))
        asked = replace(options(tmp_path / "run", api_usd=1.0), rungs=names)
        first, run = climb(task, asked, Log())
        before = of(first, "two").system
        with monkeypatch.context() as dying, pytest.raises(KeyboardInterrupt):
            dying.setattr(f"rung.climb.climb.{at}", killed)
            climb(task, replace(asked, api_usd=2.0), Log())
        there = System.load(run / "rungs" / "two" / "system").digest
        assert (there == before) == (at != "dump")
        assert (run / "rungs" / "two" / "result.json").exists() == (at == "guarded")
        log = Log()
        again, _ = climb(task, asked, log)
        assert again == first and "is complete" in log.text
        if there == before:
            assert side(f"{run}:two").system.digest == before
        else:
            with pytest.raises(SystemFolderError, match="what was scored is .*: two was built on since"):
                side(f"{run}:two")
        ended, _ = climb(task, replace(asked, api_usd=2.0), Log())
        found = side(f"{run}:two").system.digest
        assert found == of(ended, "two").system != before


def test_no_other_system_stands_for_the_one_that_was_scored(task, tiny, tmp_path, monkeypatch):
    names = with_ladder(monkeypatch, Always("one"), Always("two", label="two"))
    asked = Options(models=(str(tiny),), out=tmp_path / "run", budget_s=600, rungs=names)
    first, run = climb(task, asked, Log())
    assert first.decision.chosen == "one"
    copy(System.load(run / "rungs" / "two" / "system"), run / "rungs" / "one" / "system")
    shutil.rmtree(run / "winner")
    log = Log()
    climb(task, asked, log)
    assert "is gone and can't be had again: " in log.text and not (run / "winner").exists()
    (run / "climb.json").unlink()
    with pytest.raises(RunError, match="holds the System .* have the rung built again, remove '.*rungs/one'"):
        climb(task, asked, Log())


class Bringing(Always):
    """A rung that keeps weights in the cache before it is built."""

    def build(self, context):
        made_once(cache_dir() / "weights" / "made", lambda stage: (stage / "w").write_text("w"))
        return super().build(context)


def test_a_rung_whose_weights_could_not_be_kept_is_tried_again_once_they_can(
    task, tiny, tmp_path, monkeypatch
):
    names = with_ladder(monkeypatch, Always("one"), Bringing("two"))
    asked = Options(models=(str(tiny),), out=tmp_path / "run", budget_s=600, rungs=names)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "file"))
    result, run = climb(task, asked, Log())
    failed = of(result, "two")
    assert failed.weights_missing and "can't write the cache folder" in (failed.failed or "")
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))
    log = Log()
    result, _ = climb(task, asked, log)
    assert f"going on with {run}: two is tried again" in log.text
    assert of(result, "two").dev is not None and not of(result, "two").weights_missing


class Late(Bringing):
    """One that needs a minute and a half before that, and settles whether it has them."""

    def build(self, context):
        if not context.in_time("train", 90.0):
            raise TrainingError("too short a time to train in")
        return super().build(context)


def test_one_that_is_tried_again_has_the_time_that_is_left_now(task, tiny, tmp_path, monkeypatch):
    names = with_ladder(monkeypatch, Always("one"), Late("two"))
    asked = Options(models=(str(tiny),), out=tmp_path / "run", budget_s=600, rungs=names)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "file"))
    first, run = climb(task, asked, Log())
    assert of(first, "two").weights_missing
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))
    clock_at(run, 540.0)
    second, _ = climb(task, asked, Log())
    assert of(second, "two").failed == "too short a time to train in"
