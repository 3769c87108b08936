"""Rungs that can't win are stopped on the way, and those that don't fit the budget aren't begun."""

import re
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from rung.climb import budget
from rung.climb.climb import Options, climb, load_climb
from rung.climb.decide import ALPHA, decide, to_beat
from rung.errors import RungError
from rung.evaluate import LOOK_ROWS
from rung.models import head as heads
from rung.records import Answer, Candidate, Example, Forecast
from rung.rungs.base import Built, Outlook
from rung.rungs.rival import rival
from rung.scoring.measure import measurement
from rung.spec import Spec
from rung.system import save
from rung.wording import embedded_text
from tests.climb.test_climb import Always, with_ladder
from tests.fixtures_climb import Log, label_rows, write_rows


@pytest.fixture
def options(tiny, tmp_path) -> Options:
    return Options(models=(str(tiny),), out=tmp_path / "run", budget_s=600)


@dataclass
class Counts:
    """A rung that learns the task: counts of words and a linear layer."""

    name: str

    def skip(self, context):
        return None

    def build(self, context):
        texts, targets = [embedded_text(e) for e in context.train], [str(e.output) for e in context.train]
        made = heads.fit_tfidf(heads.counted(texts), targets, 1.0, 0)
        spec = Spec(
            rung=self.name, task="t", kind="label", labels=made.labels, engine="head", features="tfidf"
        )
        return Built(system=save(context.work / "s", spec, heads.head_files(made)), what="counts")


@dataclass
class Told(Always):
    """A rung that says how long it will take."""

    seconds: float = 2.0
    least_s: float = 1.0
    refusal: str | None = None

    def outlook(self, context):
        return Outlook(
            seconds=self.seconds, low_s=1.5, high_s=5.0, least_s=self.least_s, refusal=self.refusal
        )


def test_a_rung_that_cannot_beat_a_cheaper_one_is_stopped_and_said_to_be(task, options, monkeypatch):
    names = with_ladder(monkeypatch, Counts("good"), Always("one"), Always("two"))
    log = Log()
    found, run = climb(task, replace(options, rungs=names), log)
    good, one, two = found.results
    assert good.stopped is None and good.dev is not None and good.dev.n == 54
    for result in (one, two):
        assert result.stopped is not None and result.dev is not None
        assert (result.stopped.rows, result.stopped.of, result.stopped.rival) == (32, 54, "good")
        assert (result.dev.n, result.dev.p50_s, result.stopped.worse) == (32, 0.0, True)
        assert result.test is None
    assert "one: 0." in log.text and "on 32 of 54 dev rows, stopped there: it can't beat good" in log.text
    assert (found.decision.kind, found.decision.chosen, found.openings) == ("clear_winner", "good", 1)
    said = "one was stopped after 32 and two after 32 dev rows: none of them can beat good"
    assert said in found.decision.sentence
    assert load_climb(run) == found
    assert all(len(row.answers) in (1, 3) or row.where for row in found.disagreements)


@dataclass
class Seen(Always):
    """A rung that remembers what it was told of those before it."""

    told: ClassVar[list] = []

    def build(self, context):
        Seen.told.append((context.rival and context.rival.rung, context.best and context.best.rung))
        return super().build(context)


@pytest.mark.parametrize(("metric", "rival"), [("accuracy", "good"), ("macro_f1", None)])
def test_a_rung_is_told_of_the_best_one_so_far_whatever_the_metric(
    tmp_path, tiny, options, monkeypatch, metric, rival
):
    write_rows(tmp_path / "rows.jsonl", label_rows(270))
    task = tmp_path / "task.yaml"
    task.write_text(f"data: {{train: rows.jsonl}}\nmodels: ['{tiny}']\nname: topics\nmetric: {metric}\n")
    monkeypatch.setattr(Seen, "told", [])
    names = with_ladder(monkeypatch, Seen("first"), Counts("good"), Seen("last"))
    climb(task, replace(options, rungs=names), Log())
    assert Seen.told == [(None, None), (rival, "good")]


def test_all_pairs_of_rungs_share_the_chance_of_a_false_stop(task, options, monkeypatch):
    levels = []

    class Last(Always):
        def build(self, context):
            levels.append(context.rival and context.rival.level)
            return super().build(context)

    names = with_ladder(monkeypatch, Counts("good"), Always("one"), Always("two"), Last("last"))
    climb(task, replace(options, rungs=names), Log())
    assert levels == [pytest.approx(0.05 / 6)]


def test_a_climb_that_is_taken_up_again_stops_a_rung_at_the_same_row(task, options, monkeypatch):
    names = with_ladder(monkeypatch, Counts("good"), Always("one"))
    first, run = climb(task, replace(options, rungs=names), Log())
    (run / "climb.json").unlink()
    (run / "rungs" / "one" / "result.json").unlink()
    answers = sorted(run.glob("answers/*.jsonl"))
    before = [path.read_bytes() for path in answers]
    second, _ = climb(task, replace(options, rungs=names), Log())
    assert [path.read_bytes() for path in answers] == before
    assert second.results[1].stopped == first.results[1].stopped
    assert second.results[1].dev == first.results[1].dev
    assert second.decision == first.decision


def test_a_rung_that_was_stopped_may_be_tested_but_does_not_win(task, options, monkeypatch):
    names = with_ladder(monkeypatch, Counts("good"), Always("one"))
    found, _ = climb(task, replace(options, rungs=names, test_all=True), Log())
    assert [r.test is not None and r.test.n for r in found.results] == [54, 54]
    assert found.decision.chosen == "good" and found.decision.comparisons == ()


def test_with_few_dev_rows_nothing_is_stopped(task, options, monkeypatch):
    names = with_ladder(monkeypatch, Counts("good"), Always("one"))
    found, _ = climb(task, replace(options, rungs=names, dev_rows=40), Log())
    assert [r.stopped for r in found.results] == [None, None]


def test_how_long_a_rung_takes_is_said_before_it_and_kept(task, options, monkeypatch):
    names = with_ladder(monkeypatch, Counts("good"), Told("one"))
    log = Log()
    found, _ = climb(task, replace(options, rungs=names), log)
    said = r"good: at most (5 m 00|4 m 5\d) s, by the budget; how much of that can't be told before it begins"
    assert any(re.fullmatch(said, line) for line in log.lines)
    assert "one: about 2.0 s, 1.5 s to 5.0 s by how long it keeps up with good" in log.lines
    good, one = found.results
    assert good.forecast is not None and good.forecast.seconds is None
    assert one.forecast is not None and (one.forecast.seconds, one.forecast.range_s) == (2.0, (1.5, 5.0))
    assert 0 < one.took_s < 60 and one.build_peak_mb > 10
    assert found.reading_peak_mb > 10 and found.test_peak_mb > 10


def test_a_rung_that_does_not_fit_the_budget_is_skipped_for_good_and_leaves_its_time(
    task, options, monkeypatch
):
    left = []

    class Last(Always):
        def build(self, context):
            left.append(context.seconds_left)
            return super().build(context)

    names = with_ladder(monkeypatch, Always("one"), Told("two", least_s=400.0), Last("three"))
    found, run = climb(task, replace(options, rungs=names), Log())
    assert re.fullmatch(
        r"the dev rows alone would take it 6 m 40 s, and (5 m 00|4 m 5\d) s of the budget can be spared; "
        "raise --budget",
        found.results[1].skipped,
    )
    assert left[0] > 570
    (run / "climb.json").unlink()
    with_ladder(monkeypatch, Always("one"), Told("two", least_s=1.0), Last("three"))
    again, _ = climb(task, replace(options, rungs=names), Log())
    assert again.results[1].skipped == found.results[1].skipped
    with_ladder(monkeypatch, Told("two", least_s=700.0))
    with pytest.raises(RungError, match="no rung could be built: two: the dev rows alone would take it 11 m"):
        climb(task, replace(options, rungs=("two",), out=options.out / "other"), Log())


def test_a_rung_that_finds_out_that_it_is_no_use_is_skipped_with_its_reason(task, options, monkeypatch):
    names = with_ladder(monkeypatch, Always("one"), Told("two", refusal="nothing to learn"))
    log = Log()
    found, _ = climb(task, replace(options, rungs=names), log)
    assert [r.skipped for r in found.results] == [None, "nothing to learn"]
    assert "two skipped: nothing to learn" in log.lines


def test_what_a_rung_leaves_of_the_budget_goes_to_all_that_come():
    ladder = ["head", "prompt", "few_shot", "sft"]
    shares = [budget.share_s(name, ladder[at + 1 :], 1000.0) for at, name in enumerate(ladder)]
    assert shares == pytest.approx([300.0, 100 / 0.7, 150 / 0.6, 1000.0])
    assert budget.share_s("prompt", [], 60.0) == 60.0


def test_a_rung_may_exceed_its_share_by_one_pass_over_dev_but_never_the_half_of_what_is_left():
    def told(least_s, last=False):
        found = Outlook(seconds=5.0, low_s=5.0, high_s=900.0, least_s=least_s)
        return budget.too_slow(found, share_s=100.0, left_s=600.0, last=last)

    assert told(299.0) is None and told(599.0, last=True) is None
    assert told(301.0) == (
        "the dev rows alone would take it 5 m 01 s, and 5 m 00 s of the budget can be spared; raise --budget"
    )
    assert budget.too_slow(None, share_s=0.0, left_s=0.0, last=True) is None


def test_one_time_is_told_where_the_ends_are_near_each_other():
    found = Outlook(seconds=9.0, low_s=8.0, high_s=10.0, least_s=1.0)
    told = budget.forecast(found, most_s=20.0, after_s=1.0)
    assert told == Forecast(seconds=9.0, range_s=None, most_s=20.0, after_s=1.0)
    assert budget.said("two", told, "one") == "two: about 9.0 s"


def simulated(dice, truths, dev):
    """The row scores of rungs that are right so often; what is hard for one is hard for all."""
    ease = dice.normal(size=dev)
    own = dice.normal(size=(len(truths), dev))
    mixed = 0.75 * ease + np.sqrt(1 - 0.75**2) * own
    return [mixed[at] < np.quantile(dice.normal(size=20_000), truth) for at, truth in enumerate(truths)]


def decided(scores, *, stopping):
    """The rung that is chosen on these row scores, and how many rows were asked in all."""
    dev = len(scores[0])
    rows = [Example(id=f"{i:04d}", input=str(i), output="yes") for i in range(dev)]
    targets = {e.id: e.output for e in rows}
    ladder: list[Candidate] = []
    for order, right in enumerate(scores):
        answers = [Answer(text="", value="yes" if one else "no") for one in right]
        bar, asked, stopped = to_beat(ladder, targets) if ladder else None, dev, None
        if stopping and bar is not None:
            level = ALPHA / (len(scores) * (len(scores) - 1) / 2)
            best = rival(bar[0].rung, bar[0].measurement, rows, needed=bar[1], level=level)
            assert best is not None
            looks = range(LOOK_ROWS, dev, LOOK_ROWS)
            asked = next((n for n in looks if best.beyond(rows[:n], answers[:n])), dev)
            stopped = best.stopped(rows[:asked], answers[:asked], dev) if asked < dev else None
        found = measurement(
            system="s", split="dev", metric="accuracy", examples=rows[:asked], answers=answers[:asked]
        )
        ladder.append(
            Candidate(
                rung=("head", "prompt", "few_shot", "sft")[order],
                system="s",
                order=order,
                measurement=found,
                usd_per_1000=0.0,
                stopped=stopped,
            )
        )
    said = decide(ladder, targets=targets, groups=None, seed=0, split="dev")
    return said.chosen, sum(len(one.measurement.predictions) for one in ladder)


@pytest.mark.parametrize(
    ("truths", "saved"),
    [((0.8, 0.5, 0.65, 0.88), 0.3), ((0.8, 0.3, 0.5, 0.7), 0.5), ((0.75, 0.75, 0.8, 0.8), 0.0)],
)
def test_stopping_changes_which_rung_ships_at_most_as_often_as_is_stated(truths, saved):
    runs, dev = 40, 400
    dice = np.random.default_rng(3)
    changed, asked = 0, 0
    for _ in range(runs):
        scores = simulated(dice, truths, dev)
        whole, part = decided(scores, stopping=False), decided(scores, stopping=True)
        changed += whole[0] != part[0]
        asked += part[1]
    assert changed / runs <= ALPHA
    assert 1 - asked / (4 * dev * runs) >= saved
