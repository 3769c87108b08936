"""The same climb with another budget: what was asked isn't asked again, and what was found stays."""

import json
import shutil
from dataclasses import dataclass, field, replace

import pytest

from rung.checks.rows import prepare
from rung.climb.climb import Options, climb, load_climb
from rung.climb.options import config_of
from rung.climb.rebudget import name_of
from rung.climb.stored import climbs_in
from rung.errors import RunError, RungError, TrainingError
from rung.rungs.base import JOURNAL_FILE
from rung.runs import append_jsonl, open_run, read_jsonl
from rung.system import System
from tests.climb.test_climb import Always, with_ladder
from tests.climb.test_curve import Counting
from tests.climb.test_stopping import Counts, Told
from tests.fixtures_climb import Log, json_rows, write_rows


@pytest.fixture
def options(tiny, tmp_path):
    return Options(models=(str(tiny),), out=tmp_path / "run", budget_s=600)


@dataclass
class Noted(Counts):
    """A rung that notes how much time it was given."""

    given: list[float] = field(default_factory=list)

    def build(self, context):
        self.given.append(context.seconds_left)
        return super().build(context)


def kept(run):
    return {path.name: path.read_bytes() for path in (run / "answers").iterdir()}


def test_a_finished_climb_is_climbed_again_with_more_time_and_stays_readable(task, options, monkeypatch):
    names = with_ladder(monkeypatch, good := Noted("good"), Told("one", least_s=1000.0))
    options = replace(options, rungs=names)
    first, run = climb(task, options, Log())
    (run / "report.html").write_text("the page so far")
    assert [r.dev is None for r in first.results] == [False, True]
    log = Log()
    second, again = climb(task, replace(options, budget_s=6000), log)
    assert again == run and "with a budget of 10 m 00 s and is climbed again with 1 h 40 m" in log.text
    assert "aren't asked again, and the climb so far is kept in earlier/10m00s" in log.text
    assert [r.dev is None for r in second.results] == [False, False]
    assert good.given[0] < 600 < good.given[1]
    earlier = run / "earlier" / "10m00s"
    assert load_climb(earlier) == first and (earlier / "report.html").read_text() == "the page so far"
    assert System.load(earlier / "winner").digest == System.load(run / "winner").digest
    assert System.load(earlier / str(first.results[0].folder)).digest == first.results[0].system
    assert load_climb(run) == second and not (run / "report.html").exists()
    assert json.loads((run / "run.json").read_text())["budget_s"] == 6000
    assert json.loads((earlier / "run.json").read_text())["budget_s"] == 600
    assert second.openings == 1, "the same System on the same rows"
    third, _ = climb(task, replace(options, budget_s=6000), Log())
    assert third == second


def test_nothing_that_is_known_is_asked_again(task, options):
    options = replace(options, rungs=("prompt",))
    first, run = climb(task, options, Log())
    before, races = kept(run), sorted(run.glob("answers/*.race.json"))
    raced = [path.stat().st_mtime_ns for path in races]
    second, _ = climb(task, replace(options, budget_s=900), Log())
    assert races and [path.stat().st_mtime_ns for path in races] == raced
    after = kept(run)
    assert after.keys() == before.keys()
    assert all(after[name] == before[name] for name in before if not name.endswith(".timing.json"))
    assert [r.system for r in second.results] == [r.system for r in first.results]
    anew = {"p50_s": 0.0, "p95_s": 0.0, "memory_mb": 0.0}
    scores = [replace(found.results[0].dev, **anew) for found in (first, second)]
    assert scores[0] == scores[1] and second.decision == first.decision
    told, was = second.results[0].forecast, first.results[0].forecast
    assert told is not None and was is not None and told.seconds is not None and was.seconds is not None
    assert told.seconds < was.seconds, "answers that are known take no time"


def test_the_times_that_a_limit_hangs_on_are_taken_anew(task, options, monkeypatch):
    names = with_ladder(monkeypatch, Counts("good"))
    _, run = climb(task, replace(options, rungs=names), Log())
    (times,) = run.glob("answers/*.timing.json")
    times.write_text(json.dumps({"p50_s": 9.0, "p95_s": 9.0, "memory_mb": 9_000.0}))
    second, _ = climb(task, replace(options, rungs=names, budget_s=6000), Log())
    for found in (second.results[0].dev, second.results[0].test):
        assert 0 < found.p50_s <= found.p95_s < 9 and found.memory_mb < 9_000


def test_a_finished_climb_stays_as_it_is_with_less_time(task, options, monkeypatch):
    names = with_ladder(monkeypatch, good := Noted("good"))
    first, run = climb(task, replace(options, rungs=names), Log())
    log = Log()
    second, _ = climb(task, replace(options, rungs=names, budget_s=60), log)
    assert second == first and len(good.given) == 1 and not (run / "earlier").exists()
    assert "was climbed with a budget of 10 m 00 s: for one with 1 m 00 s name another --out" in log.text
    assert json.loads((run / "run.json").read_text())["budget_s"] == 600
    more, _ = climb(task, replace(options, rungs=names, budget_s=60, test_all=True), Log())
    assert dict(more.digests) == dict(first.digests) and len(good.given) == 1


@pytest.mark.parametrize("budget_s", [60.0, 6000.0])
def test_an_unfinished_climb_goes_on_with_the_time_that_it_has_now(task, options, monkeypatch, budget_s):
    names = with_ladder(monkeypatch, good := Noted("good"), Told("one", least_s=1000.0), Always("two"))
    options = replace(options, rungs=names)
    first, run = climb(task, options, Log())
    (run / "climb.json").unlink()
    log = Log()
    second, _ = climb(task, replace(options, budget_s=budget_s), log)
    assert "was begun with a budget of 10 m 00 s and goes on with" in log.text
    assert len(good.given) == 1 and second.results[0] == first.results[0]
    assert (second.results[1].dev is not None) == (budget_s == 6000), "it was left out for want of time"
    assert second.results[2] == first.results[2] and not (run / "earlier").exists()
    assert load_climb(run) == second


@dataclass
class Late(Counts):
    """A rung that needs more time than it has at first, and finds that out as its `end` says.

    `begun` are the beginnings that its training knew of, each time that it was built.
    """

    end: BaseException = field(default_factory=lambda: TrainingError("too little time; raise --budget"))
    trains: bool = False
    begun: list[int] = field(default_factory=list)

    def build(self, context):
        journal = context.work / "training" / JOURNAL_FILE
        if self.trains:
            append_jsonl(journal, [{"kind": "start"}])
        self.begun.append(len(read_jsonl(journal)))
        if not context.in_time("train", 1000.0):
            raise self.end
        return super().build(context)


@pytest.mark.parametrize("trains", [False, True])
def test_what_failed_for_want_of_time_is_begun_anew(task, options, monkeypatch, trains):
    names = with_ladder(monkeypatch, Counts("good"), late := Late("late", trains=trains))
    options = replace(options, rungs=names)
    first, run = climb(task, options, Log())
    assert first.results[1].failed == "too little time; raise --budget"
    (run / "climb.json").unlink()
    second, _ = climb(task, replace(options, budget_s=60_000), Log())
    assert second.results[1].dev is not None and late.begun == [trains, trains]
    assert not (run / "rungs" / "late" / "failed.json").exists()


def test_a_tune_that_fails_for_want_of_time_is_begun_anew_though_no_rung_was_built(
    task, options, monkeypatch
):
    names = with_ladder(monkeypatch, Late("late", trains=True))
    with pytest.raises(RungError, match="no rung could be built: late: too little time"):
        climb(task, replace(options, rungs=names), Log())
    second, _ = climb(task, replace(options, rungs=names, budget_s=60_000), Log())
    assert second.results[0].dev is not None


@dataclass
class Noting(Late):
    """The same, which notes the time that it has."""

    given: list[float] = field(default_factory=list)

    def build(self, context):
        self.given.append(context.seconds_left)
        return super().build(context)


def test_the_time_that_was_lost_is_not_taken_from_the_new_share_of_what_is_begun_anew(
    task, options, monkeypatch
):
    names = with_ladder(monkeypatch, late := Noting("late", trains=True), Counts("good"))
    options = replace(options, rungs=names)
    _, run = climb(task, options, Log())
    (run / "climb.json").unlink()
    (run / "rungs" / "good" / "result.json").unlink()
    (run / "clock.json").write_text(json.dumps({"seconds": 310.0, "building": {"late": 300.0, "good": 1.0}}))
    second, _ = climb(task, replace(options, budget_s=900), Log())
    assert 280 < late.given[1] < (900 - 310) / 2
    assert second.results[0].failed == str(late.end) and second.results[0].build_s < 300


@pytest.mark.parametrize("end", [KeyboardInterrupt(), TrainingError("the engines disagree")])
def test_a_model_in_training_is_kept_where_it_was_not_time_that_ended_it(task, options, monkeypatch, end):
    names = with_ladder(monkeypatch, Counts("good"), late := Late("late", end=end, trains=True))
    options = replace(options, rungs=names)
    if isinstance(end, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            climb(task, options, Log())
    else:
        climb(task, options, Log())
        (options.out / "climb.json").unlink()
    late.end = TrainingError("its course was settled when the training began")
    second, _ = climb(task, replace(options, budget_s=60_000), Log())
    assert second.results[1].failed == str(late.end) and late.begun == [1, 2]


def test_one_that_was_killed_while_it_was_put_aside_loses_nothing(task, options, monkeypatch):
    names = with_ladder(monkeypatch, Counts("good"))
    first, run = climb(task, replace(options, rungs=names), Log())
    whole = shutil.copytree(run, run.parent / "copy")

    def killed(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr("rung.climb.rebudget.write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            climb(task, replace(options, rungs=names, budget_s=6000), Log())
    assert load_climb(run / "earlier" / "10m00s") == first
    second, _ = climb(task, replace(options, rungs=names, budget_s=6000), Log())
    assert load_climb(run / "earlier" / "10m00s") == first and second.decision == first.decision
    # The rungs are moved before the record: here the record wasn't.
    (whole / "earlier" / "10m00s").mkdir(parents=True)
    (whole / "rungs").rename(whole / "earlier" / "10m00s" / "rungs")
    third, _ = climb(task, replace(options, rungs=names, out=whole, budget_s=6000), Log())
    assert load_climb(whole / "earlier" / "10m00s") == first and third.decision == first.decision


@dataclass
class Halting(Counts):
    """A rung that may be interrupted."""

    halted: bool = False

    def build(self, context):
        if self.halted:
            raise KeyboardInterrupt
        return super().build(context)


def test_every_climb_that_is_put_aside_is_kept_also_those_of_one_budget(task, options, monkeypatch):
    names = with_ladder(monkeypatch, rung := Halting("good"))
    options = replace(options, rungs=names)
    first, run = climb(task, options, Log())
    rung.halted = True
    with pytest.raises(KeyboardInterrupt):
        climb(task, replace(options, budget_s=6000), Log())
    rung.halted = False
    poorer, _ = climb(task, options, Log())
    log = Log()
    last, _ = climb(task, replace(options, budget_s=6000), log)
    assert "the climb so far is kept in earlier/10m00s-2" in log.text
    folders = [run, run / "earlier" / "10m00s", run / "earlier" / "10m00s-2"]
    assert climbs_in(run) == folders
    assert [load_climb(folder) for folder in folders] == [last, first, poorer]
    assert all(System.load(folder / "rungs" / "good" / "system").digest for folder in folders)


@dataclass
class InParts(Counting):
    """A rung that needs more time for a part of its rows than it has at first; `end` is how that ends.

    `begun` are the beginnings that its training knew of, each time that it was built for a part.
    """

    end: BaseException = field(default_factory=lambda: TrainingError("too little time; raise --budget"))
    trains: bool = False
    begun: list[int] = field(default_factory=list)

    def build(self, context):
        if context.folder.parent.name == "curve":
            journal = context.work / "training" / JOURNAL_FILE
            if self.trains:
                append_jsonl(journal, [{"kind": "start"}])
            self.begun.append(len(read_jsonl(journal)))
            if not context.in_time("fit", 1000.0):
                raise self.end
        return super().build(context)


@pytest.mark.parametrize("trains", [False, True])
def test_a_point_of_a_curve_that_lacked_time_is_begun_anew_with_more(task, options, monkeypatch, trains):
    names = with_ladder(monkeypatch, rung := InParts(trains=trains))
    options = replace(options, rungs=names, curve=True, forgetting=False)
    first, run = climb(task, options, Log())
    left_out = first.curves[0].left_out
    assert len(left_out) == 2 and all(why.endswith("too little time; raise --budget") for why in left_out)
    (run / "climb.json").unlink()
    took = {"head": 1.0, "head on 25% of the rows": 50_000.0, "head on 50% of the rows": 50_000.0}
    (run / "clock.json").write_text(json.dumps({"seconds": 10.0, "building": took}))
    second, _ = climb(task, replace(options, budget_s=60_000), Log())
    assert [point.rows for point in second.curves[0].points] == [40, 81, 162]
    assert second.curves[0].left_out == () and rung.begun == 4 * [int(trains)]


def test_a_point_in_training_keeps_its_course(task, options, monkeypatch):
    names = with_ladder(monkeypatch, rung := InParts(trains=True, end=KeyboardInterrupt()))
    options = replace(options, rungs=names, curve=True, forgetting=False)
    with pytest.raises(KeyboardInterrupt):
        climb(task, options, Log())
    rung.end = TrainingError("its course was settled when the training began")
    second, _ = climb(task, replace(options, budget_s=60_000), Log())
    assert rung.begun == [1, 2, 1] and [point.rows for point in second.curves[0].points] == [81, 162]


def test_the_folder_is_the_same_one_whatever_the_budget(task, options, tmp_path, monkeypatch):
    names = with_ladder(monkeypatch, Counts("good"))
    monkeypatch.chdir(tmp_path)
    options = replace(options, rungs=names, out=None)
    _, first = climb(task, options, Log())
    _, second = climb(task, replace(options, budget_s=900), Log())
    _, other = climb(task, replace(options, seed=7), Log())
    assert first == second != other and len(list((tmp_path / "runs").iterdir())) == 2


def test_other_settings_are_refused_and_the_budget_is_not_what_differs(task, options, monkeypatch):
    names = with_ladder(monkeypatch, Counts("good"))
    climb(task, replace(options, rungs=names), Log())
    with pytest.raises(RunError, match=r"task\.seed is 0 there and 7 here") as caught:
        climb(task, replace(options, rungs=names, budget_s=900, seed=7), Log())
    assert "budget" not in str(caught.value)


def test_a_schema_whose_keys_stand_in_another_order_is_another_climb(tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", json_rows(40))

    def config(*keys: str) -> dict:
        schema = {"type": "object", "properties": {key: {"type": "string"} for key in keys}}
        task = {"data": {"train": data.name}, "output": {"kind": "json", "schema": schema}}
        (tmp_path / "task.yaml").write_text(json.dumps(task))
        return config_of(prepare(tmp_path, Options()), [], Options())

    first, other = config("topic", "first"), config("first", "topic")
    assert name_of(first) == name_of(config("topic", "first")) != name_of(other)
    open_run(tmp_path / "run", first)
    with pytest.raises(RunError, match="belongs to another climb: schema_order is "):
        open_run(tmp_path / "run", other)
