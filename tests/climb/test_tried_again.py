"""A finished climb goes on with a rung that something outside it kept from being scored."""

import json
from dataclasses import replace

import pytest

from rung.climb.climb import Options, climb
from rung.errors import EngineError
from rung.models._cache import cache_dir, made_once
from tests.climb.test_climb import Always, with_ladder
from tests.climb.test_hosted import of, options, write_task
from tests.fixtures_climb import Log, label_rows
from tests.fixtures_hosted import KEY, Hosted, as_asked


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNG_API_KEY", KEY)
    monkeypatch.setenv("RUNG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("rung.engines.endpoint.BACKOFF_S", 0.01)


def test_a_server_that_refused_is_asked_again_by_the_same_command(tiny, tmp_path):
    with Hosted(as_asked) as server:
        task = write_task(tmp_path / "task", tiny, server, label_rows(270))
        both = replace(options(tmp_path / "run"), rungs=("prompt", "api"))
        server.faults = [(401, {"error": {"message": "bad key"}}, {})] * 8
        result, _ = climb(task, both, Log())
        assert "refused the key" in (of(result).failed or "") and result.decision.chosen == "prompt"
        server.faults.clear()
        log = Log()
        result, run = climb(task, both, log)
        assert f"going on with {run}: api is tried again" in log.text
        assert of(result).dev is not None and result.decision.chosen == "api" and result.openings == 2
        log = Log()
        climb(task, both, log)
        assert "is complete" in log.text


def test_the_best_on_dev_that_the_cap_keeps_from_the_test_is_not_passed_over(tiny, tmp_path):
    with Hosted(as_asked) as server:
        task = write_task(tmp_path / "task", tiny, server, label_rows(270))
        both = replace(options(tmp_path / "run"), rungs=("prompt", "api"))
        whole, _ = climb(task, replace(both, out=tmp_path / "whole"), Log())
        short, run = climb(task, replace(both, api_usd=0.75 * whole.paid_usd), Log())
        assert short.dev_decision.chosen == "api" and of(short, "prompt").test is not None
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
