"""A climb that goes on on another machine, or with other engines, says what was timed where."""

import json
from dataclasses import replace

import pytest

from rung.climb.climb import Options, climb, load_climb
from rung.climb.machine import describe_machine
from tests.climb.test_climb import Always, with_ladder
from tests.fixtures_climb import Log

TOLD = "scored on dev on"


@pytest.fixture
def options(tiny, tmp_path, monkeypatch) -> Options:
    names = with_ladder(monkeypatch, Always("one"), Always("two"))
    return Options(models=(str(tiny),), out=tmp_path / "run", budget_s=600, rungs=names)


def told(found) -> list[str]:
    return [one.message for one in found.findings if one.check == "machine"]


def test_rungs_that_another_machine_timed_are_told_of_on_screen_and_in_the_report(task, options, monkeypatch):
    first, run = climb(task, options, Log())
    place = first.results[0].machine
    assert place.startswith(f"{describe_machine()}, torch ") and ", xllamacpp " in place and not told(first)
    log = Log()
    more, _ = climb(task, replace(options, test_all=True), log)
    assert TOLD not in log.text and not told(more), "it's the same machine"
    monkeypatch.setattr("rung.climb.machine.describe_machine", lambda: "a bigger one")
    (run / "rungs" / "two" / "result.json").unlink()
    (run / "climb.json").unlink()
    found, _ = climb(task, options, log)
    (said,) = told(found)
    assert said.startswith(f"one: built and scored on dev on {place}. Here it's a bigger one, torch ")
    assert said in log.lines and load_climb(run) == found
    assert [r.machine.partition(",")[0] == "a bigger one" for r in found.results] == [False, True]


def test_other_versions_of_the_engines_are_told_of_as_other_machines_are(task, options, monkeypatch):
    _, run = climb(task, options, Log())
    (run / "climb.json").unlink()
    monkeypatch.setattr("rung.climb.machine.version", lambda name: "0.1")
    log = Log()
    found, _ = climb(task, options, log)
    (said,) = told(found)
    assert said.startswith("one, two: built") and "xllamacpp 0.1: the seconds" in said and said in log.lines


def test_a_rung_of_an_earlier_version_which_did_not_say_where_is_passed_over(task, options, monkeypatch):
    _, run = climb(task, options, Log())
    for name in ("one", "two"):
        path = run / "rungs" / name / "result.json"
        kept = json.loads(path.read_text())
        del kept["machine"]
        path.write_text(json.dumps(kept))
    (run / "climb.json").unlink()
    monkeypatch.setattr("rung.climb.machine.describe_machine", lambda: "a bigger one")
    found, _ = climb(task, options, Log())
    assert not told(found) and all(r.machine == "" for r in found.results)
