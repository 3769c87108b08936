"""The clock of a climb: what is taken from the budget, and who has what is left of it."""

import json
import time
from dataclasses import dataclass, field, replace

import pytest

from rung.climb import sealed
from rung.climb.climb import Options, climb
from rung.errors import EngineError
from tests.climb.test_climb import Always, with_ladder
from tests.fixtures_climb import Log

TEST_S = 0.5


@pytest.fixture
def options(tiny, tmp_path) -> Options:
    return Options(models=(str(tiny),), out=tmp_path / "run", budget_s=600)


@dataclass
class Timed(Always):
    """A rung that notes the time it has, and fails so many times."""

    fails: int = 0
    given: list[float] = field(default_factory=list)

    def build(self, context):
        self.given.append(context.seconds_left)
        if len(self.given) <= self.fails:
            raise EngineError("it died")
        return super().build(context)


def test_the_time_of_the_test_is_not_taken_from_the_budget(task, options, monkeypatch):
    count = sealed.count

    def slow(*given):
        time.sleep(TEST_S)
        count(*given)

    options = replace(options, rungs=with_ladder(monkeypatch, Always("one")))
    with monkeypatch.context() as patch:
        patch.setattr("rung.climb.sealed.count", slow)
        first, run = climb(task, options, Log())
    clock = json.loads((run / "clock.json").read_text())
    assert first.seconds - clock["seconds"] >= TEST_S and clock["after"] >= TEST_S
    (run / "climb.json").unlink()
    second, _ = climb(task, options, Log())
    again = json.loads((run / "clock.json").read_text())
    assert second.seconds > first.seconds and second.seconds - again["seconds"] >= TEST_S
    assert again["seconds"] >= clock["seconds"]


@pytest.mark.parametrize(("curve", "share"), [(False, 1.0), (True, 0.45 / (0.45 + 0.75 * 0.3))])
def test_no_time_is_kept_for_rungs_that_are_done_but_for_their_curves(
    task, options, monkeypatch, curve, share
):
    one = Timed("one", fails=1)
    names = with_ladder(monkeypatch, one, Always("head"), Always("three"))
    options = replace(options, rungs=names)
    first, run = climb(task, options, Log())
    assert first.results[0].failed == "it died" and one.given[0] < 600 * 0.45 / (0.45 + 0.3 + 0.45)
    (run / "climb.json").unlink()
    second, _ = climb(task, replace(options, curve=curve), Log())
    assert second.results[0].dev is not None
    assert 600 * share - 20 < one.given[1] < 600 * share
