"""The learning curve: which rows, what is compared, what is said, and going on where it was."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from rung.climb.budget import guard_s, share_s, weight
from rung.climb.climb import Options, climb, load_climb
from rung.climb.curve import nested, to_come
from rung.errors import TrainingError, WeightsError
from rung.models import head as heads
from rung.records import Example
from rung.rungs import tuning
from rung.rungs.base import Built, Context
from rung.spec import Spec
from rung.system import save
from rung.wording import embedded_text
from tests.fixtures_climb import Log, make_tiny_gguf, write_rows
from tests.fixtures_climb import label_rows as topic_rows


@pytest.fixture
def options(tiny, tmp_path) -> Options:
    return Options(models=(str(tiny),), out=tmp_path / "run", budget_s=600, curve=True, forgetting=False)


@dataclass
class Counting:
    """A rung that learns from the training rows: TF-IDF and a linear layer; it may break on few rows.

    `passes` says how often it went through so many rows.
    """

    name: str = "head"
    breaks_under: int = 0
    passes: Callable[[int], float | None] = lambda rows: None
    given: list[tuple[int, float]] = field(default_factory=list)
    beside: list[tuple[int, str | None]] = field(default_factory=list)

    def skip(self, context: Context) -> str | None:
        return None

    def build(self, context: Context) -> Built:
        self.given.append((len(context.train), context.seconds_left))
        self.beside.append((len(context.train), context.best.rung if context.best else None))
        if len(context.train) < self.breaks_under:
            raise TrainingError("too few for this rung")
        texts = [embedded_text(row) for row in context.train]
        counts = heads.counted(texts)
        made = heads.fit_tfidf(counts, [str(row.output) for row in context.train], 1.0, 0)
        spec = Spec(
            rung=self.name, task="t", kind="label", labels=made.labels, engine="head", features="tfidf"
        )
        return Built(
            system=save(context.work / "s", spec, heads.head_files(made)),
            what="counts",
            passes=self.passes(len(context.train)),
        )


@dataclass
class Lacking(Counting):
    """One whose weights can't be had at first."""

    lacking: bool = True

    def build(self, context: Context) -> Built:
        made = super().build(context)
        if self.lacking:
            raise WeightsError("the weights aren't here")
        return made


def with_ladder(monkeypatch, *rungs):
    monkeypatch.setattr("rung.climb.options.LADDER", rungs)
    return tuple(rung.name for rung in rungs)


def hard_rows(count: int) -> list[dict]:
    """Rows whose label hangs on one of 300 made-up words: each has to be learned by heart."""
    dice = random.Random(5)
    words = ["".join(dice.choices("bcdfghjklmnpqrstvwxz", k=7)) for _ in range(300)]
    label = {word: dice.choice(("left", "right")) for word in words}
    made = {}
    while len(made) < count:
        word = dice.choice(words)
        made[f"{word} {dice.randrange(10**9)}"] = label[word]
    return [{"input": text, "output": output} for text, output in made.items()]


def examples(count: int, group=lambda n: None) -> list[Example]:
    return [
        Example(id=f"{n:03d}", input=str(n), output="a" if n % 4 else "b", group=group(n))
        for n in range(count)
    ]


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_every_beginning_of_the_order_has_the_shares_of_the_labels(share):
    order = nested(examples(200), seed=0)
    counts = Counter(row.output for row in order[: round(share * 200)])
    assert counts == {"a": 150 * share, "b": 50 * share} or abs(counts["b"] - 50 * share) <= 1


def test_the_order_hangs_on_the_seed_and_not_on_the_order_of_the_rows():
    made = examples(60)
    assert nested(made, 0) == nested(made[::-1], 0) != nested(made, 1)
    assert sorted(row.id for row in nested(made, 0)) == [row.id for row in made]


def test_the_rows_of_a_group_come_together():
    order = [row.group for row in nested(examples(60, group=lambda n: f"g{n % 12}"), 0)]
    starts = [g for at, g in enumerate(order) if at == 0 or order[at - 1] != g]
    assert len(starts) == 12


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_groups_of_any_size_keep_the_shares_of_the_labels_too(share):
    made = [
        Example(
            id=f"{n:03d}",
            input=str(n),
            output="a" if n < 150 else "b",
            group=f"g{n // 3}" if n % 50 else None,
        )
        for n in range(200)
    ]
    found = [row.output for row in nested(made, 0)[: round(share * 200)]]
    assert abs(found.count("b") - 50 * share) <= 2


def test_a_point_of_a_curve_has_no_rung_to_beat(tmp_path, options, monkeypatch):
    tune = Counting("sft")
    names = with_ladder(monkeypatch, Counting(), tune)
    data = write_rows(tmp_path / "rows.jsonl", hard_rows(300))
    climb(data, replace(options, rungs=names), Log())
    whole, *points = tune.beside
    assert whole[1] == "head" and [best for _, best in points] == [None, None]


def test_more_rows_that_teach_more_are_said_to_help(tmp_path, options, monkeypatch):
    names = with_ladder(monkeypatch, Counting())
    data = write_rows(tmp_path / "rows.jsonl", hard_rows(700))
    log = Log()
    result, run = climb(data, replace(options, rungs=names), log)
    (curve,) = result.curves
    assert [p.rows for p in curve.points] == [105, 210, 420]
    scores = [p.score for p in curve.points]
    assert scores == sorted(scores) and scores[2] > scores[1]
    assert curve.points[-1].score == result.results[0].dev.score
    assert curve.gain == pytest.approx(scores[2] - scores[1])
    assert curve.interval is not None and curve.interval.low < curve.gain < curve.interval.high
    assert curve.p is not None and curve.p < 0.05
    assert curve.sentence.startswith("head: doubling the rows to 420 gained ")
    assert curve.sentence.endswith("more rows would probably help.")
    assert load_climb(run) == result
    assert not (run / "curve" / "head-25" / "work").exists()
    assert "head on 25% of the rows: 105 rows, at most" in log.text


def test_more_rows_that_teach_nothing_new_are_not_promised_to_help(tmp_path, options, monkeypatch):
    names = with_ladder(monkeypatch, Counting())
    data = write_rows(tmp_path / "rows.jsonl", topic_rows(1000))
    (curve,) = climb(data, replace(options, rungs=names), Log())[0].curves
    assert curve.points[1].score == curve.points[2].score == 1.0
    assert "gained no more than chance, 0.0 points" in curve.sentence
    assert "would hardly help" in curve.sentence


def test_without_being_asked_for_there_is_no_curve_and_later_it_is_added(tmp_path, options, monkeypatch):
    rung = Counting()
    names = with_ladder(monkeypatch, rung)
    data = write_rows(tmp_path / "rows.jsonl", topic_rows(270))
    plain = replace(options, rungs=names, curve=False)
    first, run = climb(data, plain, Log())
    assert first.curves == () and not (run / "curve").exists()
    second, _ = climb(data, replace(plain, curve=True), Log())
    assert len(second.curves) == 1
    assert (second.decision, second.results, second.openings) == (
        first.decision,
        first.results,
        first.openings,
    )
    log, before = Log(), len(rung.given)
    assert climb(data, replace(plain, curve=True), log)[0] == second
    assert "is complete" in log.text and len(rung.given) == before


def test_points_that_were_made_are_kept_when_a_climb_is_taken_up_again(tmp_path, options, monkeypatch):
    rung = Counting()
    names = with_ladder(monkeypatch, rung)
    data = write_rows(tmp_path / "rows.jsonl", topic_rows(270))
    first, run = climb(data, replace(options, rungs=names), Log())
    (run / "climb.json").unlink()
    (run / "curve" / "head-50" / "point.json").unlink()
    rung.given.clear()
    second, _ = climb(data, replace(options, rungs=names), Log())
    assert [rows for rows, _ in rung.given] == [81]
    assert [(p.rows, p.score) for p in second.curves[0].points] == [
        (p.rows, p.score) for p in first.curves[0].points
    ]
    quarter, half, whole = second.curves[0].points
    assert quarter.peak_mb == first.curves[0].points[0].peak_mb > 10
    assert half.peak_mb > 10 and whole.peak_mb == 0
    assert second.curves[0].sentence == first.curves[0].sentence


def test_a_point_that_cannot_be_trained_is_left_out_and_named(tmp_path, options, monkeypatch):
    names = with_ladder(monkeypatch, Counting(breaks_under=60))
    data = write_rows(tmp_path / "rows.jsonl", topic_rows(270))
    (curve,) = climb(data, replace(options, rungs=names), Log())[0].curves
    assert [p.rows for p in curve.points] == [81, 162]
    assert curve.left_out == ("25% of the rows (40): too few for this rung",)
    assert curve.gain is not None


def test_where_half_of_the_rows_could_not_be_trained_nothing_is_told(tmp_path, options, monkeypatch):
    names = with_ladder(monkeypatch, Counting(breaks_under=100))
    data = write_rows(tmp_path / "rows.jsonl", topic_rows(270))
    (curve,) = climb(data, replace(options, rungs=names), Log())[0].curves
    assert (curve.gain, len(curve.left_out)) == (None, 2)
    assert "can't be told: half of them wasn't scored" in curve.sentence


def test_without_time_the_points_are_left_out_and_the_climb_ends_as_ever(tmp_path, options, monkeypatch):
    names = with_ladder(monkeypatch, Counting())
    data = write_rows(tmp_path / "rows.jsonl", topic_rows(270))
    result, _ = climb(data, replace(options, rungs=names, budget_s=0.001), Log())
    (curve,) = result.curves
    assert len(curve.points) == 1 and all("no time of the budget is left" in why for why in curve.left_out)
    assert all(why.endswith("climb again with more, --budget") for why in curve.left_out)
    assert result.decision.chosen == "head"


def test_rungs_that_do_not_train_have_no_curve(tmp_path, options, monkeypatch):
    names = with_ladder(monkeypatch, Counting(name="prompt"))
    data = write_rows(tmp_path / "rows.jsonl", topic_rows(270))
    log = Log()
    assert climb(data, replace(options, rungs=names), log)[0].curves == ()
    assert "no learning curve: none of head and sft has a dev score" in log.text
    again = Log()
    climb(data, replace(options, rungs=names), again)
    assert "is complete" in again.text


def test_each_point_gets_time_by_its_rows_and_what_is_to_come_is_kept_back(tmp_path, options, monkeypatch):
    first, second = Counting(), Counting(name="sft")
    names = with_ladder(monkeypatch, first, second)
    data = write_rows(tmp_path / "rows.jsonl", topic_rows(270))
    climb(data, replace(options, rungs=names, budget_s=1000.0, dev_rows=40), Log())
    head, sft = weight("head"), weight("sft")
    rungs_first = (head + sft + 0.75 * (head + sft)) / 1000
    assert first.given[0][1] == pytest.approx(head / rungs_first, abs=25)
    (quarter, its_s), (half, half_s) = first.given[1:]
    assert (quarter, half) == (44, 88)
    assert its_s == pytest.approx(1000 * 0.25 * head / (0.75 * (head + sft)), abs=25)
    assert half_s > 1.9 * its_s
    assert [rows for rows, _ in second.given] == [177, 44, 88]
    tune_s = share_s("sft", [], 1000.0, to_come(["head", "sft"]))
    assert second.given[0][1] == pytest.approx(tune_s - guard_s("sft", tune_s), abs=25)


@pytest.mark.parametrize(("passes", "part"), [(None, 0.75), (1.0, 0.75), (0.4, 0.0)])
def test_the_last_rung_leaves_the_time_of_the_curves_before_it(passes, part, tmp_path, options, monkeypatch):
    last = Counting(name="last")
    names = with_ladder(monkeypatch, Counting(passes=lambda rows: passes), last)
    data = write_rows(tmp_path / "rows.jsonl", topic_rows(270))
    climb(data, replace(options, rungs=names, budget_s=1000.0, dev_rows=40), Log())
    own = weight("last")
    assert last.given[0][1] == pytest.approx(1000 * own / (own + part * weight("head")), abs=25)


def test_no_time_is_kept_for_curves_that_are_drawn(tmp_path, options, monkeypatch):
    last = Lacking(name="last")
    names = with_ladder(monkeypatch, Counting(), last)
    data = write_rows(tmp_path / "rows.jsonl", topic_rows(270))
    asked = replace(options, rungs=names, budget_s=1000.0, dev_rows=40)
    climb(data, asked, Log())
    last.lacking, own = False, weight("last")
    assert last.given[0][1] < 1000 * own / (own + 0.7 * weight("head"))
    climb(data, asked, Log())
    assert last.given[1][1] > 900


def test_a_rung_that_was_stopped_on_dev_has_no_curve_and_says_why(tmp_path, options, monkeypatch):
    names = with_ladder(monkeypatch, Counting(), Counting(name="sft"))
    data = write_rows(tmp_path / "rows.jsonl", topic_rows(270))
    result, _ = climb(data, replace(options, rungs=names), Log())
    head, sft = result.curves
    assert result.results[1].stopped is not None and len(head.points) == 3
    assert sft.points == () and sft.sentence.startswith("No curve of sft: it was stopped after ")
    assert "`--rungs sft`" in sft.sentence and sft.left_out == ()


def test_a_stopped_rung_of_several_models_is_climbed_again_on_its_own_one(
    tmp_path, options, tiny, monkeypatch
):
    wide = tmp_path / "wide.gguf"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.fixtures_climb.LAYERS", 3)
        make_tiny_gguf(wide)
    names = with_ladder(monkeypatch, Counting(), Counting(name="sft"))
    data = write_rows(tmp_path / "rows.jsonl", topic_rows(270))
    result, _ = climb(data, replace(options, rungs=names, models=(str(tiny), str(wide))), Log())
    said = {curve.rung: curve.sentence for curve in result.curves}
    assert f"`--rungs sft --models {wide}` climbs it alone" in said["sft@wide"]


def tuned(tmp_path, options, monkeypatch, passes):
    """The curve of a rung that learns in passes, on rows that help; and how many rows it was given."""
    rung = Counting(passes=passes)
    names = with_ladder(monkeypatch, rung)
    data = write_rows(tmp_path / "rows.jsonl", hard_rows(700))
    (curve,) = climb(data, replace(options, rungs=names), Log())[0].curves
    return curve, [rows for rows, _ in rung.given]


def test_a_tune_that_did_not_see_its_rows_has_no_curve(tmp_path, options, monkeypatch):
    curve, given = tuned(tmp_path, options, monkeypatch, lambda rows: 0.24)
    assert (curve.points, given) == ((), [420])
    assert (
        "it had gone through 24% of its 420 rows, so that more of them would change nothing" in curve.sentence
    )


def test_a_tune_with_fewer_passes_through_half_of_its_rows_proves_no_use_of_more(
    tmp_path, options, monkeypatch
):
    curve, _ = tuned(tmp_path, options, monkeypatch, lambda rows: 3.0 if rows > 300 else 2.3)
    assert curve.p is not None and curve.p < 0.05
    assert "can't be told: half of them had time for 2.3 passes, all of them for 3.0" in curve.sentence
    assert curve.sentence.endswith("climb again with more, --budget.")


def test_a_tune_with_as_many_passes_is_compared_and_its_time_is_named(tmp_path, options, monkeypatch):
    curve, _ = tuned(tmp_path, options, monkeypatch, lambda rows: 3.0 if rows > 300 else 2.5)
    assert curve.sentence.startswith("head: doubling the rows to 420, and the time with them, gained ")
    assert [p.passes for p in curve.points] == [2.5, 2.5, 3.0]


def test_a_share_leaves_room_for_the_curves():
    assert to_come(["head", "prompt", "sft"]) == pytest.approx(0.75 * (weight("head") + weight("sft")))
    assert share_s("sft", [], 100.0) == 100.0
    assert share_s("sft", [], 100.0, to_come(["sft"])) == pytest.approx(100 / 1.75)


def test_a_tune_is_drawn_on_half_of_its_rows_and_not_on_too_few(tmp_path, options, monkeypatch):
    monkeypatch.setattr(tuning, "MOST_EPOCHS", 5)
    data = write_rows(tmp_path / "rows.jsonl", topic_rows(270))
    result, run = climb(data, replace(options, rungs=("sft",), budget_s=900), Log())
    (curve,) = result.curves
    assert curve.left_out == ("25% of the rows (40): 40 training rows; tuning needs at least 50",)
    assert [p.rows for p in curve.points] == [81, 162]
    assert curve.gain is not None and "sft" in curve.sentence
    assert all(point.passes is not None and point.passes >= 1 for point in curve.points)
    assert not (run / "curve" / "sft-50" / "work").exists()
